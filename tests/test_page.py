"""What is taken away: lists, links and data sets that others can read, and a page for people."""
import io
import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synthnb import page
from synthnb.core import load_json
from synthnb.data import ImageSetWriter, read_csv, read_folder
from synthnb.page import (Findings, as_findings, fill_dataset, our_folder, page_of, refusals_of,
                          safe_names, selected_table, write_answer, write_dataset, write_links,
                          write_selected)

CLASSES = ['<b>"x"', 'a,b', '怒り']
VOID = {'meta', 'img', 'link', 'br', 'path', 'use'}


def image_set(folder, n, size=12, classes=CLASSES, channels=3, files=None):
    "Noise, in a set with classes in turns."
    meta = dict(root=str(files)) if files else None
    writer = ImageSetWriter(folder, n, size, classes, channels, meta)
    luck = np.random.default_rng(n)
    pixels = luck.integers(0, 256, (n, size, size, channels), np.uint8)
    writer.write(pixels, np.arange(n) % len(classes))
    return writer.close()


def findings(folder, n=30, real=True, **set_options):
    "A pool of which something is blank, a twin, a leak, a copy and suspect."
    pool = image_set(folder/'pool', n, **set_options)
    at = np.arange(n)
    marks = pd.DataFrame(dict(blank=at == 1, twin=np.where(at == 5, 2, -1), own=at/n,
                              leak=np.where((at == 7) | (at == 1), 3, -1), mirrored=at == 7,
                              copy=np.where(at == 8, 4, -1), says=at % 2, suspect=at == 9))
    table = pd.DataFrame({'arm': ['random', 'cl-sam'], 'gain': [-2., 1.5], 'gain lo': [-3., .2],
                          'gain hi': [-1., 2.8]})
    there = image_set(folder/'real', 9, pool.size, pool.classes) if real else None
    return Findings(pool, marks, pd.DataFrame(dict(confidence=at[::-1]/n)),
                    {'random': at[::3], 'cl-sam': at[10:20]}, 'cl-sam', 'It helps.', table, there,
                    ('One image leaks.',), dict(facts=pd.DataFrame(dict(fact=['a'], value=[1.]))))


def in_files(folder, names):
    "A pool that was read from files, and its findings."
    made = folder/'made'
    f = findings(folder, len(names), real=False, files=made)
    for i, name in enumerate(names):
        (made/name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(f.pool.images[i]).resize((40, 30)).save(made/name, 'png')
    pd.DataFrame(dict(file=names)).to_csv(f.pool.folder/'files.csv', index=False)
    return f, made


# ---- the list ------------------------------------------------------------------------------------
def test_every_image_stands_in_the_list_with_names_in_place_of_row_numbers(tmp_path):
    f = findings(tmp_path)
    t = selected_table(f.pool, f.marks, f.scores, f.selections, f.real)
    assert len(t) == 30 and t.path[3] == 'pool#3' and t.label[4] == 'a,b'
    assert t.twin[5] == 'pool#2' and t.leak[7] == 'real#3' and t['copy'][8] == 'real#4'
    assert (t.twin == '').sum() == 29 and t.says[1] == 'a,b'
    said = {1: 'leak blank', 5: 'twin', 7: 'leak'}
    assert t.refused.tolist() == [said.get(i, '') for i in range(30)]
    assert t.kept_by[12] == 'random cl-sam' and t.kept_by[13] == 'cl-sam' and t.kept_by[1] == ''
    bare = selected_table(f.pool, f.marks[['blank']], pd.DataFrame(index=range(30)), {})
    assert [*bare] == ['path', 'label', 'blank', 'kept_by', 'refused']
    assert set(refusals_of(f.marks, ('leak', 'blank'))) == {'', 'twin'}


def test_the_list_of_what_was_kept_is_a_csv_that_the_book_reads(tmp_path):
    names = [f'{c}/ü, "{i}".png' for i in range(30) for c in 'x']
    f, made = in_files(tmp_path, names)
    records, classes = read_csv(write_selected(f, tmp_path/'out'))
    assert classes == sorted(CLASSES)
    assert records.path.tolist() == [str(made/n) for n in names[10:20]]
    whole = pd.read_csv(tmp_path/'out'/'pool.csv', keep_default_na=False)
    assert len(whole) == 30 and whole.refused[1] == 'leak blank'


def test_an_answer_is_taken_by_its_own_names(tmp_path):
    f = findings(tmp_path)
    look = SimpleNamespace(marks=f.marks, said=['One.'], counts=pd.DataFrame({'class': CLASSES}),
                           facts=dict(copying=1.5, coverage={'a,b': .25}, natural=dict(low=1)))
    answer = SimpleNamespace(look=look, pool=f.pool, real=SimpleNamespace(images=f.real),
                             scores=f.scores, selections=f.selections, table=f.table,
                             sentence='Yes.', controls=f.table, agreement=f.table[:0],
                             sampler='random', facts=dict(features='patches', plan=('a', 'b')))
    got = as_findings(answer)
    controls, counts, facts = got.tables.values()
    assert got.sampler == 'random' and got.real is f.real and as_findings(f) is f
    assert counts.coverage.fillna(0).tolist() == [0, .25, 0]
    assert facts.to_numpy().tolist() == [['features', 'patches'], ['plan', 'a; b'],
                                         ['copying', 1.5]]
    assert 'Yes.' in page_of(answer) and 'patches' in page_of(answer)


# ---- folders -------------------------------------------------------------------------------------
def test_a_folder_of_links_is_one_that_the_book_reads(tmp_path):
    f, made = in_files(tmp_path, [f'{i} (copy).png' for i in range(30)])
    links = write_links(f, tmp_path/'links')
    records, folders = read_folder(links)
    named = load_json(links/'classes.json')
    assert {*named.values()} == {*CLASSES} and {*folders} == {*named}
    for path, label in zip(records.path, records.label):
        i = int(os.path.basename(path)[:7])
        assert os.path.realpath(path) == str(made/f'{i} (copy).png')
        assert named[folders[label]] == CLASSES[f.pool.labels[i]]
    assert len(records) == 10


def test_where_there_can_be_no_links_files_are_copied(tmp_path, monkeypatch):
    f, made = in_files(tmp_path, [f'{i}.png' for i in range(30)])
    def none(self, target): raise OSError(1, 'not permitted')
    monkeypatch.setattr(page.Path, 'symlink_to', none)
    there = [*write_links(f, tmp_path/'links').glob('*/*.png')]
    assert len(there) == 10 and not any(p.is_symlink() for p in there)
    assert (made/'10.png').read_bytes() in [p.read_bytes() for p in there]


@pytest.mark.parametrize('channels', [1, 3])
def test_what_has_no_file_is_written_as_png(tmp_path, channels):
    f = findings(tmp_path, real=False, channels=channels)
    for path in write_links(f, tmp_path/'links').glob('*/*.png'):
        x = np.asarray(Image.open(path))
        assert (x.reshape(12, 12, channels) == f.pool.images[int(path.name[:7])]).all()


def test_names_of_folders_are_safe_and_no_two_alike():
    given = ['..', '.', '', ' ', 'a/b', 'a\\b', 'A/b', 'nul.txt', '__pycache__', 'x'*400, 'x'*401,
             '\ud800', 'tab\there', '@eaDir', 'fine', 'é'*90]
    safe = safe_names(given)
    assert len({s.casefold() for s in safe}) == len(given) and safe[14] == 'fine'
    for s in safe:
        assert 0 < len(s.encode()) < 120 and not re.search(r'[/\\<>:"|?*\x00-\x1f]', s)
        assert not s.startswith(('.', '__', '@')) and not s.endswith(('.', ' '))


def test_somebody_elses_files_are_never_lost(tmp_path):
    f, out = findings(tmp_path), tmp_path/'out'
    write_answer(f, out, links=True)
    (out/'notes.txt').write_text('mine')
    (out/'links'/'mine').mkdir()
    (out/'links'/'mine'/'photo.png').write_bytes(b'x')
    write_answer(f, out)
    assert (out/'notes.txt').read_text() == 'mine'
    assert (out/'links'/'mine'/'photo.png').exists() and len([*out.rglob('*.png')]) == 1
    (out/'dataset').mkdir()
    (out/'dataset'/'data').write_text('mine') # in the way of what is to be written
    before = sorted(map(str, out.rglob('*')))
    with pytest.raises(ValueError, match='put there by somebody else'):
        write_answer(f, out, dataset=True)
    assert sorted(map(str, out.rglob('*'))) == before


@pytest.mark.parametrize('what', ['folder', 'file'])
def test_what_is_not_ours_is_refused(tmp_path, what):
    there = tmp_path/'thesis'
    if what == 'file': there.write_text('mine')
    else: (there/'chapter').mkdir(parents=True)
    for write in (write_answer, write_links, write_dataset):
        f = findings(tmp_path/write.__name__)
        with pytest.raises(ValueError, match='not written by synthnb'): write(f, there)
    assert there.exists() and not [*tmp_path.glob('.thesis*')]


def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path, monkeypatch):
    f, out = findings(tmp_path), tmp_path/'out'
    write_answer(f, out)
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(page, 'as_png', full)
    with pytest.raises(OSError, match='no space left .* Make room'):
        write_answer(f, out, links=True)
    assert sorted(p.name for p in out.iterdir() if p.name[0] != '.') == [
        'browse.html', 'index.html', 'pool.csv', 'selected.csv'] and not [*tmp_path.glob('.out*')]


def test_a_folder_behind_a_link_stays_behind_it(tmp_path):
    (tmp_path/'disk').mkdir()
    (tmp_path/'out').symlink_to(tmp_path/'disk')
    for _ in range(2):
        with our_folder(tmp_path/'out') as new: (new/'a').write_text('a')
    assert (tmp_path/'out').is_symlink() and (tmp_path/'disk'/'a').exists()


# ---- the data set --------------------------------------------------------------------------------
def test_a_data_set_has_files_as_they_are_and_says_what_its_columns_are(tmp_path):
    f, made = in_files(tmp_path, [f'{i}.png' for i in range(30)])
    file, = write_dataset(f, tmp_path/'set').glob('data/*')
    t = pq.read_table(file)
    assert file.name == 'train-00000-of-00001.parquet'
    assert b'"ClassLabel"' in t.schema.metadata[b'huggingface']
    cells = t['image'].to_pylist()
    assert [c['path'] for c in cells] == [f'{i}.png' for i in range(10, 20)]
    assert all(c['bytes'] == (made/c['path']).read_bytes() for c in cells)
    assert t['label'].to_pylist() == f.pool.labels[10:20].tolist()


def test_a_large_data_set_has_several_files_and_what_is_gone_comes_from_the_pixels(tmp_path):
    f, made = in_files(tmp_path, [f'{i}.png' for i in range(250)])
    (made/'240.png').unlink()
    f = f._replace(selections={'cl-sam': np.arange(250)})
    files = sorted(fill_dataset(f, tmp_path/'set', shard=1).glob('data/*'))
    assert [p.name for p in files] == [f'train-{i:05d}-of-00003.parquet' for i in range(3)]
    last = pq.read_table(files[-1])['image'].to_pylist()[40]
    assert (np.asarray(Image.open(io.BytesIO(last['bytes']))) == f.pool.images[240]).all()
    empty = fill_dataset(f._replace(selections={'cl-sam': []}), tmp_path/'none')
    assert pq.read_table(empty/'data').num_rows == 0


# ---- the page ------------------------------------------------------------------------------------
class Tags(HTMLParser):
    "What a page consists of; tags that are not closed as they were opened are an error."
    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.texts = [], [], []
        self.feed(text)
        assert not self.open, self.open
    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID: self.open.append(tag)
    def handle_startendtag(self, tag, attrs): self.found.append((tag, dict(attrs)))
    def handle_endtag(self, tag):
        if tag not in VOID: assert self.open.pop() == tag, tag
    def handle_data(self, data): self.texts.append(data)
    def all(self, tag): return [a for t, a in self.found if t == tag]


def test_the_page_is_whole_loads_nothing_and_can_be_read_without_eyes(tmp_path):
    text = page_of(findings(tmp_path))
    tags = Tags(text)
    assert not tags.all('script') and not tags.all('link') and not tags.all('iframe')
    for tag, a in tags.found:
        for k in ('src', 'href', 'xlink:href', 'data', 'action'):
            assert a.get(k, '#').startswith(('#', 'data:image/jpeg;base64,')), (tag, a)
        assert not any(k.startswith('on') for k in a), (tag, a)
    assert "default-src 'none'" in tags.all('meta')[1]['content']
    assert len(tags.all('img')) > 40 and all(a['alt'] for a in tags.all('img'))
    assert {a['href'][1:] for a in tags.all('a')} <= {a.get('id') for _, a in tags.found}
    ids = [a['id'] for _, a in tags.found if 'id' in a]
    assert len({*ids}) == len(ids)
    assert tags.all('html')[0]['lang'] == 'en' and all(a.get('scope') for a in tags.all('th'))
    for words in ('It helps.', 'One image leaks.', '+1.5 [+0.2, +2.8]', 'Leaks: they repeat test'):
        assert words in text, words


def test_no_name_can_break_the_page(tmp_path):
    f = findings(tmp_path, classes=['<b>"x"', '</style><script>alert(1)</script>',
                                    "{{ 7*7 }}' onload='x"])
    f = f._replace(sentence='</p><script>', said=('<img src=x>',), table=f.table.assign(
        arm=['<g>', '$x$']), tables={'<h1>': pd.DataFrame({'<i>': ['&amp;']})})
    tags = Tags(page_of(f))
    assert not any(tags.all(tag) for tag in ('script', 'b', 'i')) and len(tags.all('h1')) == 1
    said = ''.join(tags.texts)
    for words in (*f.pool.classes, f.sentence, f.said[0], '<g>', '$x$', '<h1>', '<i>', '&amp;'):
        assert words in said, words


def test_light_and_dark_can_be_read():
    def shade(colour):
        c = colour[1:] if len(colour) == 7 else ''.join(2*x for x in colour[1:])
        v = np.array([int(c[i:i + 2], 16)/255 for i in (0, 2, 4)])
        return np.where(v < .04, v/12.92, ((v + .055)/1.055)**2.4) @ [.2126, .7152, .0722] + .05
    light, dark = (dict(re.findall(r'--(\w+): (#\w+)', part))
                   for part in page.STYLE.split('@media')[:2])
    for name, theme in dict(light=light, dark=light | dark).items():
        for ink in ('ink', 'soft', 'real', 'kept', 'refused', 'suspect'):
            for ground in ('ground', 'card'):
                a, b = sorted((shade(theme[ink]), shade(theme[ground])))
                assert b/a > 4.5, (name, ink, ground) # WCAG 2.1, AA
    assert light.keys() == dark.keys()


@pytest.mark.parametrize('n, size, classes', [(3000, 64, 10), (400, 256, 4), (3000, 16, 500)])
def test_a_page_of_a_large_pool_can_be_mailed(tmp_path, n, size, classes):
    f = findings(tmp_path, n, size=size, classes=[f'class {i}' for i in range(classes)])
    f = f._replace(marks=f.marks.assign(leak=np.where(f.marks.index % 3, -1, 4)))
    text = page_of(f)
    assert len(text) < 5e6 and len(Tags(text).all('details')) == min(classes, 60)
    assert ('440 more classes' in text) == (classes == 500)
