"""People's files as they have them: each is read, or refused by an error that says what to do."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from here import run_here
from PIL import Image

from synthnb import core, data, samplers
from synthnb.core import Run, artefact, check_parameters, runs_dir
from synthnb.data import (ImageSetWriter, check_few, data_digest, decode, import_images,
                          load_attributes, load_data, read_affectnet, read_celeba, read_folder)
from synthnb.door import read_real, unreadable_files
from synthnb.samplers import Scoring
from synthnb.train import Classifier

ROOT = Path(__file__).resolve().parent.parent
LUCK = np.random.default_rng(0)


def noise(n=40, low=0, high=256): return LUCK.integers(low, high, (n, n, 3)).astype(np.uint8)


def put(path, image=None, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(noise()) if image is None else image).save(path, **how)
    return path


def tree(root, *folders, n=6):
    for folder in folders:
        for i in range(n): put(root/folder/f'{i}.png')
    return root


# ---- folders -------------------------------------------------------------------------------------
def test_what_pillow_reads_is_read_and_the_rest_is_said(tmp_path, capsys):
    root, red = tree(tmp_path, 'cat', 'dog', n=2), Image.new('RGB', (40, 40), 'red')
    kinds = dict(jpe='JPEG', jp2='JPEG2000', tga='TGA', bmp='BMP', ppm='PPM', TIF='TIFF')
    for suffix, kind in kinds.items(): put(root/'cat'/f'red.{suffix}', red, format=kind)
    put(root/'cat'/'3f9a0c', red, format='JPEG') # as a crawler leaves them, by their digest
    (root/'cat'/'LICENSE').write_text('no picture')
    (root/'dog'/'film.mp4').write_bytes(b'?')
    records, classes = read_folder(root)
    said = capsys.readouterr().out
    assert '2 files of' in said and 'none (1, e.g. cat/LICENSE)' in said and '.mp4 (1' in said
    assert records.label.tolist().count(0) == 2 + len(kinds) + 1
    s = import_images(records, tmp_path/'set', 12, classes)
    named = [i for i, f in enumerate(s.files()) if Path(f).stem in ('red', '3f9a0c')]
    assert len(named) == 7 and (s.images[named][..., 0] > 240).all()
    assert (s.images[named][..., 1:] < 20).all()


# ---- labels and lists ----------------------------------------------------------------------------
def affectnet(root, header=lambda names: ','.join(names), box='0,0,40,40', n=12):
    for split in ('training', 'validation'):
        rows = [f'0/{split}{i}.png,{box},,{(0, 1)[i % 2]},0,0' for i in range(n)]
        for i in range(n): put(root/'Manually_Annotated_Images'/'0'/f'{split}{i}.png')
        path = root/'Manually_Annotated_file_lists'/f'{split}.csv'
        path.parent.mkdir(exist_ok=True)
        path.write_text('\n'.join([header(data.AFFECTNET_COLUMNS), *rows]) + '\n')
    return root


@pytest.mark.parametrize('spelt', [
    lambda names: ','.join(f'"{n}"' for n in names), lambda names: ','.join(names).upper(),
    lambda names: ', '.join(n.capitalize() for n in names),
    lambda names: '\ufeff' + ','.join(f"'{n}'" for n in names)], ids=range(4))
def test_headers_of_affectnet_in_other_spellings(tmp_path, spelt):
    t, classes = read_affectnet(affectnet(tmp_path, spelt), 'training', ['happiness', 'neutral'])
    assert t.label.tolist() == [1, 0]*6 and t.width.tolist() == [40.]*12


@pytest.mark.parametrize('box', [(-60, 0, 50, 40), (45, 0, 50, 40), (0, -60, 40, 50),
                                 (0, 45, 40, 50), (10, 10, -5, 20)])
def test_a_box_beside_the_picture_is_no_picture(tmp_path, box):
    with pytest.raises(ValueError, match='nothing lies in its 40 x 40 pixels'):
        decode(str(put(tmp_path/'a.png')), 12, box)


def later(root, numbers=str, n=10):
    "AffectNet as it was given away later."
    for split in ('train_set', 'val_set'):
        (root/split/'annotations').mkdir(parents=True)
        for i in range(n):
            put(root/split/'images'/f'{i}.jpg')
            for what, value in dict(exp=(1, 0, 8)[i % 3], val=.5, aro=.1, lnd=[1., 2.]).items():
                value = numbers(value) if what == 'exp' else value
                np.save(root/split/'annotations'/f'{i}_{what}.npy', value)
    return root


@pytest.mark.parametrize('numbers', [str, int])
def test_the_later_layout_of_affectnet(tmp_path, numbers):
    root, kinds = later(tmp_path/'a', numbers), ['neutral', 'happiness']
    sets = load_data('affectnet', root, kinds, 12)
    assert sum(map(len, sets.values())) == 2*7 and len(sets['test']) == 7
    for split, place in dict(train='train_set', valid='train_set', test='val_set').items():
        for f, label in zip(sets[split].files(relative=True), sets[split].labels):
            assert f.startswith(f'{place}/images/') and label == (int(Path(f).stem) % 3 == 0)
    real = read_real(root, kinds, 12)
    assert (real.split == 'test').sum() == 7 and real.images.counts.tolist() == [6, 8]
    assert len(load_data('affectnet', root, kinds, 12, folds=2)['test']) == 7
    before = data_digest('affectnet', root)
    np.save(root/'val_set'/'annotations'/'0_exp.npy', numbers(0))
    assert data_digest('affectnet', root) != before
    for part in (root, root/'train_set'):
        with pytest.raises(ValueError, match=f'read {root} by data=affectnet'):
            load_data('folder', part, size=12)


@pytest.mark.parametrize('what, said', [(np.array('12'), 'holds 12; expected the code'),
                                        (np.zeros(3), r'holds \(3,\); expected the code'),
                                        (None, 'is torn, or no archive|cannot be read')])
def test_a_bad_annotation_is_named(tmp_path, what, said):
    bad = later(tmp_path)/'train_set'/'annotations'/'4_exp.npy'
    if what is None: bad.write_bytes(bad.read_bytes()[:20])
    else: np.save(bad, what)
    with pytest.raises(ValueError, match=f'4_exp.npy.*({said})'): read_affectnet(tmp_path)


def as_kaggle(root):
    "CSV files, and pictures in a folder in a folder."
    folder = root/'celeba'
    lines = (folder/'list_attr_celeba.txt').read_text().splitlines()[1:]
    part = (folder/'list_eval_partition.txt').read_text().splitlines()
    for name, head, rows in (('list_attr_celeba', ['image_id', *lines[0].split()], lines[1:]),
                             ('list_eval_partition', ['image_id', 'partition'], part)):
        (folder/f'{name}.csv').write_text('\n'.join(
            [','.join(f'"{w}"' for w in head), *(','.join(r.split()) for r in rows)]) + '\n')
        (folder/f'{name}.txt').unlink()
    (folder/'img_align_celeba').rename(folder/'inner')
    (folder/'img_align_celeba').mkdir()
    (folder/'inner').rename(folder/'img_align_celeba'/'img_align_celeba')
    return folder


def as_its_authors(root):
    "Folders for pictures, annotations and partition."
    folder = root/'celeba'
    for part, name in (('Img', 'img_align_celeba'), ('Anno', 'list_attr_celeba.txt'),
                       ('Eval', 'list_eval_partition.txt')):
        (folder/part).mkdir()
        (folder/name).rename(folder/part/name)
    return folder


@pytest.fixture(scope='module')
def celeba(tmp_path_factory):
    from test_celeba import write_celeba
    return write_celeba(tmp_path_factory.mktemp('celeba'))


@pytest.mark.parametrize('form', [as_kaggle, as_its_authors])
def test_celeba_in_other_forms(celeba, tmp_path, form):
    few = dict(train=20, valid=10, test=10)
    root = form(Path(shutil.copytree(celeba, tmp_path/'copy', copy_function=os.link)))
    for (split, t), (_, other) in zip(*(read_celeba(r)[0].items() for r in (celeba, root))):
        assert len(t) == dict(train=260, valid=60, test=60)[split]
        assert t.label.equals(other.label)
        assert [Path(p).name for p in t.path] == [Path(p).name for p in other.path]
    a, b = (load_attributes('celeba', r, 12, few)['test'] for r in (celeba, root))
    assert a.fingerprint == b.fingerprint
    assert data_digest('celeba', root) and data_digest('celeba', root) != ''
    if form is as_kaggle:
        path = root/'list_eval_partition.csv'
        path.write_text(path.read_text().replace('000003.jpg,0', '000003.jpg,7'))
        with pytest.raises(ValueError, match='list_eval_partition.csv, line 4.*000003.jpg 7'):
            read_celeba(root)


@pytest.mark.parametrize('kind', ['parquet', 'arrays'])
def test_one_class_in_two_spellings_wherever_it_comes_from(tmp_path, kind):
    x, y = LUCK.integers(0, 256, (8, 8, 8), np.uint8), ['cat', 'Cat', 'dog', 'dog ']*2
    given = x, y
    if kind == 'parquet':
        raw = [put(tmp_path/f'{i}.png').read_bytes() for i in range(8)]
        pq.write_table(pa.table(dict(image=raw, label=y)), given := tmp_path/'t.parquet')
    with pytest.raises(ValueError, match='differ only in capitals or blanks'):
        read_real(given, size=8)
    real = read_real(given, ['cat', 'Cat', 'dog'], size=8)
    assert real.images.counts.tolist() == [2, 2, 4], 'both were named, and a blank is none'


def test_refusals_of_classes_name_the_place(tmp_path):
    for i in range(12): put(tmp_path/f'{i}.png')
    path = tmp_path/'labels.csv'
    pd.DataFrame(dict(path=[f'{i}.png' for i in range(4)], label=['cat']*4)).to_csv(path)
    with pytest.raises(ValueError, match='labels.csv.*at least two'): read_real(path)
    pd.DataFrame(dict(path=[f'{i}.png' for i in range(12)], label=['a', 'b']*5 + ['a', 'c'],
                      split=['train']*10 + ['test']*2)).to_csv(path)
    with pytest.raises(ValueError, match='labels.csv: no training images of class c'):
        load_data('csv', path, size=8)


def test_one_picture_twice_in_a_csv_under_two_labels_is_a_warning(tmp_path, capsys):
    names = [put(tmp_path/f'{i}.png').name for i in range(20)]
    pd.DataFrame(dict(path=[*names, names[0]], label=['a', 'b']*10 + ['b'])).to_csv(
        tmp_path/'l.csv')
    load_data('csv', tmp_path/'l.csv', size=8)
    said = capsys.readouterr().out
    assert '1 pictures of the' in said and 'under several labels, e.g.' in said and '0.png' in said
    read_real(tmp_path/'l.csv', size=20) # by the door
    said = capsys.readouterr().out
    assert '1 real pictures are there under several labels, e.g. ' in said and '0.png' in said
    x = np.zeros((4, 8, 8, 3), np.uint8)
    x[2:] = 200, 100, 50
    read_real((x, ['a', 'b', 'a', 'a']), size=8)
    assert 'several labels, e.g. array#0 and array#1:' in capsys.readouterr().out
    read_real((x, ['a', 'a', 'b', 'b']), size=8)
    assert 'several labels' not in capsys.readouterr().out


# ---- pixels --------------------------------------------------------------------------------------
@pytest.mark.parametrize('bits', [8, 12, 16])
@pytest.mark.parametrize('kind', ['png', 'tif', '32 bit tif', 'big-endian tif', 'pgm'])
def test_values_of_few_bits_in_a_wide_file_are_seen(tmp_path, bits, kind):
    x = np.linspace(0, 2**bits - 1, 400).round().reshape(20, 20)
    wide = dict(zip(('32 bit tif', 'big-endian tif'), (np.int32, '>u2'))).get(kind, np.uint16)
    if wide == '>u2':
        path, raw = tmp_path/'a.tif', Image.frombytes('I;16B', (20, 20), x.astype('>u2').tobytes())
        raw.save(path)
    else: path = put(tmp_path/f'a.{kind[-3:]}', Image.fromarray(x.astype(wide)))
    seen = decode(str(path), 20).astype(int)
    assert abs(seen[..., 0] - x*255/(2**bits - 1)).max() <= 1 and seen.max() == 255


def png_of_16_bits(path, x): # uint16 (h, w, 3)
    "What Pillow itself cannot write."
    import struct
    import zlib
    def chunk(kind, body):
        return (struct.pack('>I', len(body)) + kind + body
                + struct.pack('>I', zlib.crc32(kind + body)))
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in x)
    head = struct.pack('>IIBBBBB', x.shape[1], x.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head)
                     + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))
    return path


def test_what_would_come_out_black_or_cut_is_refused_by_name(tmp_path):
    x = np.linspace(0, 65535, 1200).reshape(20, 20, 3)
    (tmp_path/'cat').mkdir()
    good = png_of_16_bits(tmp_path/'cat'/'16.png', x.astype(np.uint16))
    assert abs(decode(str(good), 20) - x/257).max() <= 1
    png_of_16_bits(tmp_path/'cat'/'12.png', (x//16).astype(np.uint16))
    put(tmp_path/'cat'/'large.tif', Image.fromarray(np.full((9, 9), 70_000, np.int32)))
    put(tmp_path/'cat'/'minus.tif', Image.fromarray(np.full((9, 9), -3, np.int32)))
    put(tmp_path/'cat'/'real.tif', Image.fromarray(np.full((9, 9), .5, np.float32)))
    tree(tmp_path, 'dog')
    said = dict(zip(('12.png', 'large.tif', 'minus.tif', 'real.tif'),
                    ('use 12', 'from 0 to 70000', 'from -3 to 0', 'floating-point')))
    s = read_real(tmp_path, size=20, max_unreadable=.9).images
    why = {Path(p).name: w for p, w in unreadable_files(s).itertuples(index=False)}
    assert why.keys() == said.keys() and all(said[k] in w for k, w in why.items())
    assert all('save it with 8' in w for w in why.values())


# ---- few and many --------------------------------------------------------------------------------
def test_a_class_of_few_images_is_named_before_anything_is_trained(tmp_path):
    root = tree(tmp_path/'photos', 'a', 'b', n=60)
    tree(root, 'rare', n=3)
    args = '-p', 'scale', 'smoke', '-p', 'data', 'folder', '-p', 'root', str(root)
    for more in (['-p', 'sampler', 'random'], ['-p', 'protocol', 'updates']):
        status, said = run_here(tmp_path/'runs', '07_affectnet', *args, *more)
        assert status and 'need 2 training images of each class, and rare has 1' in said, said
        assert 'leave it out with classes=a,b' in said
        assert not [*(tmp_path/'runs'/'artefacts').glob('[gctm]*')], 'nothing was trained'
    s = load_data('folder', root, size=8)['train']
    assert check_few(s, 1, 'it') is None
    with pytest.raises(ValueError, match='rare has 1'): check_few(s, 2, 'it')


def test_102_classes_at_smoke_scale_are_told_what_they_need(tmp_path):
    root = tree(tmp_path/'flowers', *(f'{i:03d}' for i in range(102)), n=3)
    status, said = run_here(tmp_path/'runs', '07_affectnet', scale='smoke', data='folder',
                            root=str(root))
    assert status and 'classes in all: add images of it, take more of the data (real=' in said, (
        said[-2000:])
    assert not [*(tmp_path/'runs'/'artefacts').glob('[gctm]*')], 'nothing was trained'


@pytest.mark.long
def test_102_classes_go_through_to_the_last_cell_by_their_names(tmp_path, monkeypatch):
    "Drawn pictures, of classes whose names are mathematics, half mathematics, and money."
    names = sorted(f'{i:03d} {("$x_0^2$", "a^b_c", "$5 or $6", "$^")[i % 4]}' for i in range(102))
    for i, name in enumerate(names):
        for j in range(6):
            x = noise(36, high=128) + np.uint8([i*7 % 128, i*29 % 128, i*53 % 128])
            put(tmp_path/'flowers'/name/f'{j}.png', Image.fromarray(x))
    seen, write = {}, Run.write_figure
    def noted(self, name, figure):
        write(self, name, figure)
        seen[name] = {t.get_text(): t.get_parse_math() for t in figure.findobj(plt.Text)}
        return figure
    monkeypatch.setattr(Run, 'write_figure', noted)
    status, said = run_here(
        tmp_path/'runs', '07_affectnet', scale='smoke', data='folder', real=204,
        root=str(tmp_path/'flowers'), changes='n_valid=102,n_test=102,gan_dim=4')
    assert status == 0, said[-3000:]
    record = next((tmp_path/'runs'/'07_affectnet').glob('*/metrics.json')).parent
    assert f'\n{record.name}: ' in said, 'what the last cell prints'
    found = json.loads((record/'metrics.json').read_text())['metrics']
    assert found['classes'] == names and found['n_pool'] == 101*found['n_real'] == 101*204
    assert json.loads((record/'params.json').read_text())['scale'] == 'smoke'
    tables = {p.stem: pd.read_csv(p) for p in (record/'tables').glob('*.csv')}
    assert {*tables} >= {'table2', 'table3', 'readings', 'over_seeds', 'verdicts'}
    assert tables['table3']['class'].tolist() == names
    kept = pd.read_csv(record/'selection.csv')
    assert len(kept) == found['n_added'] == 204 and {*kept['class']} == {*names}
    for file in kept.file: assert (tmp_path/'flowers'/file).is_file()
    assert 'flowers' in (record/'answer.md').read_text()
    drawn = {p.stem for p in (record/'figures').glob('*.png') if p.stat().st_size > 1000}
    assert drawn == {*seen} >= {'real_faces', 'figure1_translations', 'figure2_classes',
                                'figure4_confidence', 'figure5_extremes'}
    for figure, texts in seen.items():
        shown = [n for n in names if any(t.startswith(n) for t in texts)]
        assert shown == names[:dict(plateaus=0, figure2_classes=102).get(figure, 12)], figure
        assert (len(shown) == 12) == ('the first 12 of 102 classes' in texts), figure
        assert not any(texts.values()), f'{figure} reads names as mathematics'


@pytest.mark.parametrize('notebook, most', [('07_affectnet', 7), ('08_celeba', 12)])
def test_more_than_the_pool_will_hold_is_refused_before_a_gan_is_trained(tmp_path, notebook, most):
    status, said = run_here(tmp_path, notebook, scale='smoke', ratio=most + 1)
    assert status and f'ratio={most + 1}: the pool is only {most}x the real set' in said, (
        said[-2000:])
    assert not [*(tmp_path/'artefacts').glob('[gctm]*')], 'nothing was trained'


@pytest.mark.parametrize('given, name', [(2024, '2024'), (7, '7')])
def test_a_place_whose_name_is_a_number(tmp_path, monkeypatch, given, name):
    monkeypatch.chdir(tmp_path)
    declared = dict(root='', seed=0)
    space = declared | dict(root=given)
    with pytest.raises(ValueError, match=f'papermill reads .* write -r root {name}'):
        check_parameters(space, set(), declared)
    (tmp_path/name).mkdir()
    assert check_parameters(space, set(), declared)['root'] == name == space['root']


@pytest.mark.parametrize('given', [None, True, 1.5])
def test_what_is_no_text_is_refused(given):
    with pytest.raises(ValueError, match='expected text'):
        check_parameters(dict(root=given), set(), dict(root=''))


# ---- out -----------------------------------------------------------------------------------------
def own_sampler(): # the front page's lines, without what they print
    own = (ROOT/'README.md').read_text().split('A sampler of your own', 1)[1]
    return own.split('```python\n')[1].split('print(')[0].strip()


def test_a_sampler_of_ones_own_is_no_parameter_and_finds_its_column(tmp_path, monkeypatch):
    monkeypatch.setattr(samplers, 'REGISTRY', {**samplers.REGISTRY})
    monkeypatch.setitem(samplers.DECIDES, 'least-sure', False) # and gone at the end
    declared, space = dict(sampler='least-sure'), {}
    before = {*space, 'before'}
    exec(own_sampler(), space)
    space |= declared # as in a copy of 07: its parameters come after the four lines
    assert len(own_sampler().splitlines()) == 4
    assert check_parameters(space, before, declared) == declared
    with pytest.raises(ValueError, match='unknown parameter least_sur'):
        check_parameters(space | dict(least_sur=1), before, declared)
    real = read_real((LUCK.integers(0, 256, (16, 16, 16), np.uint8), ['cat', 'dog']*8),
                     size=None).images
    writer = ImageSetWriter(tmp_path/'pool', 40, 16, ['cat', 'dog'])
    writer.write(LUCK.integers(0, 256, (40, 16, 16, 3), np.uint8), [0, 1]*20,
                 source=np.arange(40) % 16)
    pool, judge = writer.close(), network('classifier', tmp_path)[0]
    scoring = Scoring(pool, real, real, None, fit=lambda rows, f: Classifier.load(judge),
                      device='cpu')
    column = samplers.make_scores('least-sure', scoring)
    kept = samplers.select('least-sure', pool, 10, column=column).indices
    score = pool.column(column)
    for c in range(2):
        mine = np.intersect1d(kept, np.flatnonzero(pool.labels == c))
        rest = np.setdiff1d(np.flatnonzero(pool.labels == c), kept)
        assert len(mine) == 5 and score[mine].max() <= score[rest].min(), 'the least sure'


def test_names_that_are_half_mathematics_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path))
    run, names = Run('07_affectnet', dict(seed=3), dict(seed=0)), ['$x_1^$', 'b^_{', '$^$ and $_$']
    figure, ax = plt.subplots(layout='constrained')
    ax.bar(names, [1, 2, 3], label=names)
    ax.legend(title=names[0])
    assert run.write_figure('odd', figure) is figure
    assert (run.folder/'figures'/'odd.png').stat().st_size > 1000
    core.as_jpeg(figure)
    assert [t.get_text() for t in ax.get_xticklabels()] == names
    core.as_jpeg(core.show_images(np.zeros((3, 4, 4, 3), np.uint8), cols=names, ncols=3))


def test_how_many_files_may_be_unreadable(tmp_path, capsys):
    root = tree(tmp_path, 'a', 'b', n=20)
    for name in ('a/0.png', 'a/1.png', 'b/0.png'): (root/name).write_text(f'torn {name}')
    with pytest.raises(ValueError, match=r'max_unreadable=.*-p changes unreadable=0\.'):
        load_data('folder', root, size=8)
    for _ in range(2): # made, and found
        sets = load_data('folder', root, size=8, max_unreadable=.9)
        assert sum(map(len, sets.values())) == 37 and 'They are left out' in capsys.readouterr().out
    with pytest.raises(ValueError, match='more than the allowed 0%'):
        load_data('folder', root, size=8, max_unreadable=0)
    with pytest.raises(ValueError, match='a share, from 0 to 1'):
        load_data('folder', root, size=8, max_unreadable=5)
    for name in ('a/1.png', 'b/0.png'): (root/name).unlink()
    assert sum(map(len, load_data('folder', root, size=8).values())) == 37
    assert len(read_real(root, size=8).images) == 37


def test_a_place_of_runs_below_home(tmp_path, monkeypatch):
    import run
    import sprint
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('SYNTHNB_RUNS', '~/x')
    monkeypatch.chdir(tmp_path)
    assert runs_dir() == run.runs_folder() == sprint.runs_folder() == tmp_path/'x'
    assert [p.name for p in tmp_path.iterdir()] == ['x']


def said_by_nobody(what):
    "What somebody reads who may not write: the error's kind and words."
    read, write = os.pipe()
    if not os.fork():
        try:
            if not os.geteuid(): os.setuid(65534)
            try: what()
            except OSError as e: os.write(write, f'{type(e).__name__}: {e}'.encode())
        finally: os._exit(0)
    os.close(write)
    with os.fdopen(read) as f: return f.read()


@pytest.mark.parametrize('what', [
    lambda: artefact('thing', lambda folder: None, dict(n=1), quiet=True), runs_dir,
    lambda: core.save_json(runs_dir()/'a.json', {}),
    lambda: Run('07_affectnet', dict(seed=3), dict(seed=0))],
    ids=['lock', 'runs', 'file', 'record'])
def test_a_place_that_may_only_be_read_is_said_with_the_remedy(monkeypatch, what):
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv('SYNTHNB_RUNS', f'{folder}/runs' if what is runs_dir else folder)
        os.chmod(folder, 0o555)
        said = said_by_nobody(what)
        os.chmod(folder, 0o755)
    assert said.startswith('PermissionError') and folder in said, said
    assert 'cannot be written (Permission denied)' in said and 'SYNTHNB_RUNS' in said


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    "A copy of what git has of this project, without its records."
    copy = tmp_path_factory.mktemp('mine')/'checkout'
    for name in ('Makefile', 'Snakefile', 'settings.ini', 'setup.py', 'pyproject.toml', 'LICENSE',
                 'README.md', 'MANIFEST.in', 'config', 'profiles', 'tools', 'synthnb', 'nbs'):
        (shutil.copytree if (ROOT/name).is_dir() else shutil.copy)(ROOT/name, put_below(copy/name))
    (copy/'runs').mkdir()
    return copy


def put_below(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def with_only_read(place, *command, **env):
    "A command in such a checkout, with a place that may only be read: root needs a mount for that."
    checkout = env.pop('cwd')
    if os.geteuid():
        before = {p: p.stat().st_mode for p in (place, *place.rglob('*')) if p.is_dir()}
        for p in before: p.chmod(0o555)
    else:
        before, mount = {}, 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$PWD"'
        command = ['unshare', '--mount', 'sh', '-c', f'{mount} && shift && exec "$@"', 'sh', place,
                   *command]
        if subprocess.run([*command[:7], 'true'], capture_output=True).returncode:
            pytest.skip('a place of root that may only be read needs a mount')
    env = os.environ | dict(PYTHONPATH=str(checkout), PYTHONDONTWRITEBYTECODE='1') | env
    for name in 'MAKEFLAGS', 'MAKEOVERRIDES', 'MFLAGS', 'MAKELEVEL', 'PY': # of make test
        env.pop(name, None)
    if 'SYNTHNB_RUNS' in env and not env['SYNTHNB_RUNS']: del env['SYNTHNB_RUNS']
    try: return subprocess.run(command, cwd=checkout, env=env, text=True, timeout=120,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    finally:
        for p, mode in before.items(): p.chmod(mode)


@pytest.mark.parametrize('runs', ['', 'readable', 'readable/deeper'])
@pytest.mark.parametrize('goal', ['run', 'tables'])
def test_make_where_nothing_may_be_written_is_one_line(checkout, tmp_path, goal, runs):
    (tmp_path/'readable').mkdir()
    place, given = (tmp_path/'readable', str(tmp_path/runs)) if runs else (checkout, '')
    done = with_only_read(place, 'make', goal, f'PY={sys.executable}', 'SCALE=smoke', cwd=checkout,
                          SYNTHNB_RUNS=given)
    said, *rest = done.stdout.strip().splitlines()
    assert done.returncode and len(rest) == 1 and 'make: ***' in rest[0], done.stdout
    assert re.search(f"^{re.escape(given) or '.*runs'}.* cannot be written \\((Read-only file "
                     "system|Permission denied)\\): give yourself the right to write there, or set "
                     'SYNTHNB_RUNS to a folder of yours$', said), said


def test_make_says_where_it_cannot_make_an_environment(checkout):
    done = with_only_read(checkout, 'make', 'run', f'PYTHON={sys.executable}', cwd=checkout)
    assert done.returncode and len(done.stdout.strip().splitlines()) == 2, done.stdout
    assert done.stdout.startswith(f'.venv cannot be made: {checkout} may only be read.')
    assert 'make PY=/path/to/python' in done.stdout


def test_a_checkout_that_may_only_be_read_can_plan_its_tables(checkout, tmp_path):
    done = with_only_read(checkout, 'make', 'tables', f'PY={sys.executable}', 'TABLE=exposure',
                          'SCALE=smoke', 'SEEDS=0', 'ARGS=--dry-run', cwd=checkout,
                          SYNTHNB_RUNS=str(tmp_path/'runs'))
    assert done.returncode == 0 and 'Traceback' not in done.stdout, done.stdout[-3000:]
    assert re.search('^total +4$', done.stdout, re.M), done.stdout


SAFE = 'classifier', 'policy', 'vae', 'dcgan', 'stylegan2'


def network(name, folder): # its file, and what reads it
    import torture # which brings the server of processes
    build, load = torture.TARGETS[name]
    assert name in torture.NETWORKS
    return build(folder), load


@pytest.mark.parametrize('name', [*SAFE, 'stargan'])
def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path, name):
    path, load = network(name, tmp_path)
    path.write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n')
    with pytest.raises(ValueError, match=f'{path.name}.*git lfs pull'): load(path)


@pytest.mark.parametrize('name, where', [(n, w) for n in SAFE for w in ('a name', 'its note')
                                         if (n, w) != ('stylegan2', 'its note')]) # it needs none
def test_a_changed_bit_in_the_names_of_a_network_is_one_error(tmp_path, name, where):
    path, load = network(name, tmp_path)
    raw = path.read_bytes()
    header = json.loads(raw[8:8 + int.from_bytes(raw[:8], 'little')])
    kind = next(k for k in header['__metadata__'] if k != core.NAMES)
    word = (sorted(set(header) - {'__metadata__'})[0] if where == 'a name' else
            next(iter(json.loads(header['__metadata__'][kind])))).encode()
    path.write_bytes(raw.replace(word, bytes([word[0] ^ 1]) + word[1:], 1))
    with pytest.raises(ValueError, match=path.name): load(path)


def test_an_apostrophe_in_makes_root(tmp_path):
    fake = tmp_path/'python'
    fake.write_text(f'#!{sys.executable}\nimport os, sys\n'
                    'print(repr((sys.argv[1:], os.environ["ROOT"])))\n')
    fake.chmod(0o755)
    for root in ("Anna's faces", 'a "b" $HOME `ls`; #c'):
        done = subprocess.run(['make', '--no-print-directory', 'run', f'PY={fake}',
                               f"ROOT={root.replace('$', '$$')}"],
                              cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == repr((['tools/run.py'], root))


def test_an_official_generator_of_another_size_names_the_parameter(celeba, tmp_path):
    import torch

    from synthnb.gan import Discriminator, Generator
    torch.save(Generator(5, 8).state_dict(), tmp_path/'G.ckpt')
    torch.save(Discriminator(128, 5, 8, 6).state_dict(), tmp_path/'D.ckpt')
    status, said = run_here(tmp_path/'runs', '08_celeba', scale='smoke', data='celeba',
                            root=str(celeba), generator_file=str(tmp_path/'G.ckpt'),
                            discriminator_file=str(tmp_path/'D.ckpt'))
    assert status and '-p changes generator_size=128' in said, said[-2000:]


def test_cl_sam_on_a_foreign_pool_says_what_to_set_before_it_trains(tmp_path):
    real = read_real((LUCK.integers(0, 256, (8, 8, 8), np.uint8), [*'abababab']), size=8).images
    def trains(*_): pytest.fail('it trained')
    scoring = Scoring(real, real, real, None, scorer='cross-fit', fit=trains, device='cpu')
    with pytest.raises(ValueError, match="scorer='seen'"): samplers.make_scores('cl-sam', scoring)
