"""Real data as users have it: what is wrong with it is said, and nothing else is read instead."""
import importlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from synthnb import core, data
from synthnb.data import (ImageSet, ImageSetWriter, Images, decode, import_images, load_data,
                          read_affectnet, read_csv,
                          read_folder)

LUCK = np.random.default_rng(0)
FEW = dict(train=16, valid=4, test=8)


def picture(path, tone=100):
    "A picture that no other is equal to, bytewise either."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((tone + LUCK.integers(-40, 40, (40, 40, 3))).astype(np.uint8)).save(path)
    return path


def tree(root, *folders, n=12):
    "Folders of n pictures; those called dark are dark."
    for folder in folders:
        for i in range(n):
            picture(root/folder/f'{i:02d}.jpg', 60 if 'dark' in folder.lower() else 190)
    return root


def counts(sets): return {name: s.counts.tolist() for name, s in sets.items()}


def dark_is(s): return [float(s.images[s.labels == k].mean()) < 120 for k in range(len(s.classes))]


# masks and dtypes

@pytest.fixture
def pool(tmp_path):
    writer = ImageSetWriter(tmp_path/'pool', 6, 8, ['a', 'b'])
    writer.write(LUCK.integers(0, 256, (6, 8, 8, 3), np.uint8), [0, 1, 0, 1, 0, 1])
    return writer.close()


def ways(s):
    whole = Images.from_sets((s, None))
    return s.gather, lambda r: Images.from_sets((s, r)).pixels, lambda r: whole.subset(r).pixels


@pytest.mark.parametrize('way', range(3))
def test_a_mask_is_the_rows_where_it_is_true(pool, way):
    mask = pool.labels == 1
    for rows in (mask, mask.tolist(), torch.from_numpy(mask), np.flatnonzero(mask)):
        assert np.array_equal(ways(pool)[way](rows), pool.images[[1, 3, 5]])
    assert len(ways(pool)[way](~(mask | True))) == 0


@pytest.mark.parametrize('way', range(3))
@pytest.mark.parametrize('rows',
                         [[True]*5, [True]*7, [0.], [1.9], ['1'], [-1], [6], [[0, 1]], [None]],
                         ids=str)
def test_what_is_no_row_is_refused(pool, way, rows):
    with pytest.raises(IndexError, match='expected row numbers|were asked of 6 images'):
        ways(pool)[way](rows)


# which file a row is

def test_each_row_knows_its_file(tmp_path):
    root = tree(tmp_path/'photos', 'dark', 'light', n=30)
    for torn in (root/'dark'/'03.jpg', root/'light'/'20.jpg'):
        torn.write_bytes(torn.read_bytes()[:400])
    records, classes = read_folder(root)
    s = import_images(records, tmp_path/'set', 20, classes, max_unreadable=.1)
    assert len(s) == 58 and not any('03.jpg' in f and 'dark' in f for f in s.files())
    assert all(np.array_equal(decode(f, 20), image) for f, image in zip(s.files(), s.images))
    assert s.files([57, 3]) == [str(root/'light'/'29.jpg'), str(root/'dark'/'04.jpg')]
    assert s.files(s.labels == 1, relative=True)[0] == 'light/00.jpg'


def test_two_copies_of_the_data_hold_the_same_names(tmp_path):
    one = tree(tmp_path/'one', 'dark', 'light')
    two = Path(shutil.copytree(one, tmp_path/'elsewhere'/'two'))
    sets = [load_data('folder', root, size=12, n=FEW)['train'] for root in (one, two)]
    names = [s.files(relative=True) for s in sets]
    assert names[0] == names[1] and sets[0].folder == sets[1].folder
    for s, root in zip(sets, (one, two)):
        assert all(Path(f).is_file() and Path(f).is_relative_to(root) for f in s.files())


def test_a_pool_names_the_file_that_each_image_was_made_from(tmp_path, pool):
    root = tree(tmp_path/'photos', 'dark', 'light')
    real = load_data('folder', root, size=8, n=FEW)['train']
    pool.add_column('source', [3, 3, 0, 1, 2, 5])
    assert pool.source_files(real, [0, 5]) == real.files([3, 5])
    with pytest.raises(ValueError, match='names no files'): pool.files()
    pool.meta['real'] = 'another'
    with pytest.raises(ValueError, match='another real set'): pool.source_files(real)


@pytest.mark.parametrize('kind', ['affectnet', 'csv', 'celeba'])
def test_names_are_relative_to_what_the_user_gives(tmp_path, kind):
    if kind == 'affectnet':
        for split, n in (('training', 24), ('validation', 8)):
            rows = [(f'0/{split}{i}.jpg', 0, 0, 40, 40, '', i % 2, 0, 0) for i in range(n)]
            for name, *_ in rows: picture(tmp_path/'a'/'Manually_Annotated_Images'/name)
            lists = tmp_path/'a'/'Manually_Annotated_file_lists'
            lists.mkdir(exist_ok=True)
            pd.DataFrame(rows, columns=data.AFFECTNET_COLUMNS).to_csv(lists/f'{split}.csv',
                                                                      index=False)
        sets, start = load_data('affectnet', tmp_path/'a', ['neutral', 'happiness'],
                                12), 'Manually_Annotated_Images/0/'
    elif kind == 'csv':
        for i in range(40): picture(tmp_path/'a'/'pictures'/f'{i}.jpg')
        table = pd.DataFrame(dict(path=[f'pictures/{i}.jpg' for i in range(40)],
                                  label=['a', 'b']*20))
        table.to_csv(tmp_path/'a'/'list.csv', index=False)
        sets, start = load_data('csv', tmp_path/'a'/'list.csv', size=12), 'pictures/'
    else:
        import test_celeba
        sets = data.load_attributes('celeba', test_celeba.write_celeba(tmp_path/'a'), 12,
                                    dict(train=20, valid=10, test=10))
        start = 'img_align_celeba/'
    for s in sets.values():
        assert all(f.startswith(start) for f in s.files(relative=True))
        assert Path(s.files()[0]).is_file()


# what an import is known by

@pytest.fixture
def photos(tmp_path):
    records, classes = read_folder(tree(tmp_path/'photos', 'dark', 'light'))
    return records.assign(left=0, top=0, width=40, height=40), classes


def rewritten(path, by):
    "Another content under the same name, length and time."
    was, raw = os.stat(path), bytearray(path.read_bytes())
    raw[-9] ^= by
    path.write_bytes(bytes(raw))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.mark.parametrize('what',
                         ['labels', 'boxes', 'files', 'content', 'size', 'classes', 'more',
                          'fewer'])
@pytest.mark.parametrize('finished', [True, False])
def test_a_folder_is_never_taken_for_another_import(tmp_path, photos, monkeypatch, finished, what):
    records, classes = photos
    if not finished: monkeypatch.setattr(ImageSetWriter, 'close', killed)
    monkeypatch.setattr(data, 'PIECE', 8)
    try: import_images(records, tmp_path/'set', 12, classes)
    except KeyboardInterrupt: monkeypatch.undo()
    size, meta = 12, {}
    if what == 'labels': records = records.assign(label=records.label.to_numpy()[::-1])
    if what == 'boxes': records = records.assign(width=20)
    if what == 'files': records = records[::-1]
    if what == 'content': rewritten(Path(records.path[20]), 1)
    if what == 'size': size = 10
    if what == 'classes': classes = ['d', 'l']
    if what == 'more': meta = dict(note='another')
    if what == 'fewer': records = records[:20]
    again = lambda folder: import_images(records, folder, size, classes, meta=meta)
    if finished:
        with pytest.raises(ValueError, match='made from something else') as e: again(tmp_path/'set')
        assert dict(more='note', fewer='files').get(what, what) in str(e.value)
    else:
        a, b = again(tmp_path/'set'), again(tmp_path/'fresh')
        assert np.array_equal(a.images, b.images) and np.array_equal(a.labels, b.labels)
        assert a.files() == b.files()
        assert a.meta == b.meta


def killed(*_): raise KeyboardInterrupt


def test_a_killed_import_goes_on_and_ends_the_same(tmp_path, photos, monkeypatch):
    records, classes = photos
    Path(records.path[2]).write_bytes(b'torn')
    calls, real = [], data.try_decode
    def dies(record, size):
        calls.append(record)
        if len(calls) > 13: raise KeyboardInterrupt
        return real(record, size)
    monkeypatch.setattr(data, 'PIECE', 6)
    monkeypatch.setattr(data, 'try_decode', dies)
    with pytest.raises(KeyboardInterrupt):
        import_images(records, tmp_path/'set', 12, classes, .1)
    monkeypatch.undo()
    seen, count = [], data.try_decode
    monkeypatch.setattr(data, 'try_decode', lambda r, size: (seen.append(r), count(r, size))[1])
    again = import_images(records, tmp_path/'set', 12, classes, .1)
    assert len(seen) == len(records) - 12, 'the first two pieces were noted'
    whole = import_images(records, tmp_path/'whole', 12, classes, .1)
    assert np.array_equal(again.images, whole.images)
    assert again.files() == whole.files() == records.path.drop(2).tolist()
    for name in ('set.json', 'files.csv', 'unreadable.csv'):
        assert (again.folder/name).read_bytes() == (whole.folder/name).read_bytes()


def test_the_same_import_is_returned_at_once(tmp_path, photos, monkeypatch):
    records, classes = photos
    first = import_images(records, tmp_path/'set', 12, classes)
    monkeypatch.setattr(data, 'try_decode', killed)
    assert import_images(records, tmp_path/'set', 12, classes).files() == first.files()


def test_a_file_changed_in_place_is_imported_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(core, 'SETTLED', -1e18) # as if all were long on the disk
    root = tree(tmp_path/'photos', 'dark', 'light')
    padded = lambda raw: raw + bytes(5000 - len(raw)) # what follows a JPEG's end is not read
    for p in root.rglob('*.jpg'): p.write_bytes(padded(p.read_bytes()))
    first = load_data('folder', root, size=12)['train']
    path = Path(first.files()[0])
    assert load_data('folder', root, size=12)['train'].folder == first.folder
    was = os.stat(path)
    path.write_bytes(padded(picture(tmp_path/'other.jpg', 60).read_bytes()))
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    known = [(s.st_size, s.st_mtime_ns, s.st_ino) for s in (was, os.stat(path))]
    assert known[0] == known[1], 'the time of change alone tells'
    again = load_data('folder', root, size=12)['train']
    assert not np.array_equal(again.images[0], first.images[0])
    assert np.array_equal(again.images[0], decode(str(path), 12))


# splits

@pytest.mark.parametrize('names',
                         ['Train Test', 'TRAIN TEST', 'training testing', 'train_set test_set',
                          'Training val', 'train validation',
                                   'train_set val_set', 'trainset testset', 'train dev',
                                   'train2017 val2017', 'train eval test'])
def test_folders_of_splits_are_no_classes(tmp_path, names, capsys):
    parts = names.split()
    root = tree(tmp_path, *(f'{part}/{c}' for part in parts for c in ('dark', 'light')))
    sets = load_data('folder', root, size=12)
    n_train = 12 if len(parts) == 3 else 11
    assert counts(sets)['train'] == [n_train]*2 and counts(sets)['test'] == [12, 12]
    assert dark_is(sets['test']) == [True, False]
    assert all('/'+parts[-1]+'/' in f for f in sets['test'].files())
    with pytest.raises(ValueError, match='not classes: read each'): read_folder(root)


@pytest.mark.parametrize('folders, said', [
    ('train/dark train/light', 'neither test/ nor val/'),
    ('Test/dark Test/light', 'Test/ but neither train/'),
    ('train/dark train/light extra/dark', 'a split or a class'),
    ('dark light test/dark test/light', 'a split or a class'),
    ('train/dark train/light Training/dark test/dark test/light', 'several folders for one split'),
    ('seg_train/dark seg_train/light seg_test/dark seg_test/light',
     'read like splits: rename them'),
    ('dark/train dark/test light/train light/test', 'inside a class'),
    ('train bus', 'a split or a class'),
    ('train/dark train/light test/Dark test/light', 'differ only in capitals'),
    ('train/dark train/light test/dark test/light test/medium',
     'no training images of class medium'),
])
def test_folders_that_could_be_either_are_refused(tmp_path, folders, said):
    with pytest.raises(ValueError, match=said):
        load_data('folder', tree(tmp_path, *folders.split()), size=12)


def test_a_class_may_be_called_train(tmp_path, capsys):
    root = tree(tmp_path, 'train', 'bus', 'dark')
    sets = load_data('folder', root, ['bus', 'train'], size=12)
    assert sets['train'].classes == ['bus', 'train'] and sum(map(len, sets.values())) == 24
    root = tree(tmp_path/'b', 'train/dark', 'train/light', 'test/dark', 'test/light', 'notes')
    load_data('folder', root, size=12)
    assert 'left out: notes' in capsys.readouterr().out


def listed(tmp_path, **columns):
    "A CSV in the folder, with a picture for each of its paths."
    for i, p in enumerate(columns['path']):
        if not (tmp_path/p).exists(): picture(tmp_path/p)
    pd.DataFrame(columns).to_csv(tmp_path/'list.csv', index=False)
    return tmp_path/'list.csv'


def csv_of(tmp_path, n=40, **columns):
    return listed(tmp_path, path=[f'{i}.jpg' for i in range(n)],
                  **dict(label=['a', 'b']*(n//2)) | columns)


@pytest.mark.parametrize('column', ['split', 'Split', ' SPLIT '])
@pytest.mark.parametrize('words', ['Train Test', 'training_set test_set', 'trn eval'])
def test_a_column_of_splits_is_respected(tmp_path, column, words):
    a, b = words.split()
    sets = load_data('csv', csv_of(tmp_path, **{column: [a]*30 + [b]*10}), size=12)
    assert sorted(sets['test'].files(relative=True)) == sorted(f'{i}.jpg' for i in range(30, 40))


def test_a_column_of_splits_under_another_name_is_not_overlooked(tmp_path):
    with pytest.raises(ValueError, match="column 'subset' reads like a split"):
        load_data('csv', csv_of(tmp_path, subset=['train']*30 + ['test']*10), size=12)
    with pytest.raises(ValueError, match='train and test'):
        load_data('csv', csv_of(tmp_path, split=['test']*40), size=12)


# one picture on two sides

def test_many_of_the_test_pictures_in_training_are_refused(tmp_path):
    root = tree(tmp_path, 'train/dark', 'train/light', 'test/dark', 'test/light')
    for i in range(6): shutil.copy(root/f'train/dark/{i:02d}.jpg', root/f'test/dark/copy{i}.jpg')
    said = r'6 of 30 test images are in the train or valid set too, e.g. \S+/test/dark/copy'
    with pytest.raises(ValueError, match=said):
        load_data('folder', root, size=12, n=dict(valid=2))


def test_one_path_in_two_splits_is_refused(tmp_path):
    paths = [f'{i}.jpg' for i in range(40)] + [f'{i}.jpg' for i in range(20)]
    table = listed(tmp_path, path=paths, label=['a', 'b']*30, split=['train']*40 + ['test']*20)
    with pytest.raises(ValueError, match='20 of 20 test images are in the train or valid set too'):
        load_data('csv', table, size=12)
    table = listed(tmp_path, path=paths, label=['a', 'b']*30, split=['valid']*40 + ['test']*20)
    with pytest.raises(ValueError, match='train and test'): load_data('csv', table, size=12)


def test_a_handful_is_left_out_of_training_and_named(tmp_path, capsys):
    root = tree(tmp_path, 'train/dark', 'train/light', 'val/dark', 'val/light', 'test/dark',
                'test/light', n=25)
    shutil.copy(root/'test/dark/07.jpg', root/'train/dark/copy.jpg')
    shutil.copy(root/'test/light/03.jpg', root/'val/light/copy.jpg')
    sets = load_data('folder', root, size=12)
    assert counts(sets) == dict(train=[25, 25], valid=[25, 25], test=[25, 25])
    said = capsys.readouterr().out
    for text in ('2 of 50 test images are in the train or valid set too',
                 '2 are left out of train and valid',
                 'duplicates.csv'):
        assert text in said
    t = pd.read_csv(sets['train'].folder/'duplicates.csv')
    assert t.path.tolist() == [str(root/'train/dark/copy.jpg')]
    assert t.same_as.tolist() == [str(root/'test/dark/07.jpg')]
    assert not any('copy' in f for s in sets.values() for f in s.files())


@pytest.mark.parametrize('data_is', ['folder', 'csv'])
def test_our_own_splits_keep_equal_pictures_together(tmp_path, data_is, capsys):
    root = tree(tmp_path, 'dark', 'light')
    for c in ('dark', 'light'):
        for i in range(12): shutil.copy(root/c/f'{i:02d}.jpg', root/c/f'{i:02d} copy.jpg')
    records, _ = read_folder(root)
    where = root
    if data_is == 'csv':
        where = tmp_path/'list.csv'
        pd.DataFrame(dict(path=records.path, label=records.label)).to_csv(where, index=False)
    for seed in range(3):
        sets = load_data(data_is, where, size=12, seed=seed)
        content = {k: {Path(f).read_bytes() for f in s.files()} for k, s in sets.items()}
        assert sum(map(len, content.values())) == 24 == sum(map(len, sets.values()))//2
    assert 'warning' not in capsys.readouterr().out


def test_without_equal_pictures_the_split_is_as_it_was(tmp_path):
    records, _ = read_folder(tree(tmp_path, 'dark', 'light', n=30))
    shutil.copy(records.path[3], records.path[4]) # on one side, with seed 0
    for seed in range(4):
        rows = data.stratified_split(records.label, (.8, .2), seed)
        if len({*rows[0]} & {3, 4}) != 1:
            assert all(a.equals(records.iloc[b]) for a,
                       b in zip(data.split_records(records, (.8, .2), seed), rows))


def test_one_picture_under_two_labels_is_a_warning(tmp_path, capsys):
    root = tree(tmp_path, 'train/dark', 'train/light', 'test/dark', 'test/light')
    shutil.copy(root/'train/dark/00.jpg', root/'train/light/copy.jpg')
    load_data('folder', root, size=12, n=dict(valid=2))
    said = capsys.readouterr().out
    assert '1 pictures of the' in said and 'under several labels' in said and 'copy.jpg' in said


def test_two_faces_of_one_photograph_are_two_pictures(tmp_path):
    picture(tmp_path/'both.jpg')
    records = pd.DataFrame(dict(path=str(tmp_path/'both.jpg'), label=[0, 1], left=[0, 20], top=0,
                                width=20, height=40))
    chosen, out = data.drop_leaks(dict(train=records[:1], valid=records[1:],
                                       test=records[1:].assign(left=10)))
    assert len(chosen['train']) == 1 and not len(out)


# labels

@pytest.mark.parametrize('labels, classes, wanted', [
    (['ant', ' ant', 'bee ', 'bee'], ['ant', 'bee'], ()),
    (['0', '0.0', '1', '1.0'], ['0', '1'], ()),
    (['0', '0.0', '1', '1.0'], ['1', '0'], [1, 0.0]),
    (['ant', 'ant ', 'bee', 'wasp'], ['bee', 'ant'], [' bee', 'ant ']),
    (['A', 'a', 'b', 'b'], ['a', 'A'], ['a', 'A']),
])
def test_one_class_has_one_name(tmp_path, labels, classes, wanted):
    records, found = read_csv(csv_of(tmp_path, 8, label=labels*2), wanted)
    assert found == classes and len(records) == 8 - 2*('wasp' in labels) - 4*('A' in labels)


def test_names_that_differ_in_capitals_are_refused(tmp_path):
    table = csv_of(tmp_path, 8, label=['ant', 'bee', 'Ant', 'bee']*2)
    for wanted in ((), ['ant', 'bee']):
        with pytest.raises(ValueError,
                           match=r'line 2 \(ant\) and line 4 \(Ant\) differ only in capitals'):
            read_csv(table, wanted)
    root = tree(tmp_path, 'x/Dark', 'x/dark', 'x/light', 'y/dark', 'y/dark ', n=2)/'x'
    with pytest.raises(ValueError,
                       match="folder 'Dark' and the folder 'dark' differ only in capitals"):
        read_folder(root)
    assert read_folder(root, ['dark', 'Dark'])[1] == ['dark', 'Dark']
    with pytest.raises(ValueError, match='differ only in capitals or blanks'):
        read_folder(tmp_path/'y')
    with pytest.raises(ValueError, match='line 3: an empty path or label'):
        read_csv(csv_of(tmp_path, 4, label=['a', '  ', 'b', 'b']))


# files

def test_hidden_folders_are_passed_over(tmp_path):
    root = tree(tmp_path, 'dark', 'light', n=3)
    for inside in ('.ipynb_checkpoints', 'more/.thumbs', '__MACOSX/dark', '@eaDir'):
        picture(root/'dark'/inside/'00.jpg')
    picture(root/'dark'/'more'/'seen.jpg')
    assert [os.path.relpath(p, root) for p in read_folder(root)[0].path] == [
        'dark/00.jpg', 'dark/01.jpg', 'dark/02.jpg', 'dark/more/seen.jpg', 'light/00.jpg',
        'light/01.jpg', 'light/02.jpg']


def test_the_order_is_that_of_sorted_paths(tmp_path):
    root = tree(tmp_path, 'dark', 'dark/a', 'dark/a b', 'dark/a.b/c', 'light/0', 'light/é', n=3)
    for name in ('a.jpg', 'a-b.jpg', 'A.jpg', '_.jpg', 'é.jpg'): picture(root/'dark'/name)
    old = [str(p) for c in ('dark',
                            'light') for p in sorted((root/c).rglob('*')) if p.suffix == '.jpg']
    assert read_folder(root)[0].path.tolist() == old


def test_links_are_followed_but_not_in_circles(tmp_path):
    root = tree(tmp_path/'a', 'dark', 'light', n=2)
    tree(tmp_path/'else', 'more', n=3)
    (root/'dark'/'linked').symlink_to(tmp_path/'else'/'more')
    (root/'dark'/'circle').symlink_to(root/'dark')
    (tmp_path/'else'/'more'/'back').symlink_to(root/'dark')
    assert read_folder(root)[0].label.value_counts().to_dict() == {0: 5, 1: 2}


def test_gif_jfif_and_avif_are_read_and_the_rest_is_named(tmp_path, capsys):
    root = tree(tmp_path, 'dark', 'light', n=2)
    frames = [Image.new('RGB', (40, 40), c) for c in ('red', 'blue')]
    frames[0].save(root/'dark'/'moving.gif', save_all=True, append_images=frames[1:])
    frames[0].save(root/'dark'/'saved.jfif', 'JPEG')
    if '.avif' in data.IMAGE_SUFFIXES: frames[0].save(root/'dark'/'new.avif')
    for name in ('a.heic', 'b.heic', 'notes.txt'): (root/'light'/name).write_bytes(b'?')
    picture(root/'loose.jpg')
    records, classes = read_folder(root)
    said = capsys.readouterr().out
    for text in ('3 files of', '.heic (2, e.g. light/a.heic)', '.txt (1', 'e.g. loose.jpg'):
        assert text in said
    names = {Path(p).name for p in records.path}
    assert {'moving.gif', 'saved.jfif'} <= names
    s = import_images(records, tmp_path/'set', 12, classes)
    red = s.gather([i for i,
                    f in enumerate(s.files()) if Path(f).stem in ('moving', 'saved',
                                                                  'new')]).numpy()
    assert (red[..., 0] > 200).all() and (red[..., 2] < 60).all(), 'the first frame is red'


def test_paths_written_on_windows_are_read(tmp_path):
    for i in range(4): picture(tmp_path/'sub'/f'{i}.jpg')
    pd.DataFrame(dict(path=[f'sub\\{i}.jpg' for i in range(4)],
                      label=['a', 'b']*2)).to_csv(tmp_path/'list.csv', index=False)
    records, classes = read_csv(tmp_path/'list.csv')
    assert len(import_images(records, tmp_path/'set', 12, classes)) == 4


# numbers that mean nothing

@pytest.mark.parametrize('n',
                         [dict(train=-5), dict(train=0), dict(trian=10), dict(test=2.5),
                          dict(valid='many')], ids=str)
def test_sizes_that_mean_nothing_are_refused(tmp_path, n):
    with pytest.raises(ValueError, match='how many images at most'):
        load_data('folder', tree(tmp_path, 'dark', 'light'), size=12, n=n)
    with pytest.raises(ValueError, match='how many images at most'):
        data.load_attributes('celeba', tmp_path, n=n)


def test_a_picture_listed_twice_by_celeba_is_refused(tmp_path):
    import test_celeba
    root = test_celeba.write_celeba(tmp_path)
    path = root/'celeba'/'list_attr_celeba.txt'
    whole = path.read_text().splitlines()
    path.write_text('\n'.join(whole + [whole[2].replace('-1', ' 1')]) + '\n')
    with pytest.raises(ValueError, match='000001.jpg is listed more than once'):
        data.read_celeba(root)
    path.write_text('\n'.join(['99', *whole[1:]]) + '\n')
    with pytest.raises(ValueError, match='says that it lists 99 pictures'): data.read_celeba(root)


def test_a_box_that_is_nowhere_is_no_whole_picture(tmp_path):
    records = pd.DataFrame(dict(path=str(picture(tmp_path/'a.jpg')), label=[0, 1, 0],
                                left=[0, 100, np.nan], top=[0, 0, np.nan],
                                width=[40, 20, np.nan], height=[40, -20, np.nan]))
    s = import_images(records, tmp_path/'set', 12, ['a', 'b'], max_unreadable=.5)
    assert len(s) == 2 and 'nothing lies' in pd.read_csv(tmp_path/'set'/'unreadable.csv').reason[0]


def test_affectnets_empty_path_is_named(tmp_path):
    lists = tmp_path/'Manually_Annotated_file_lists'
    lists.mkdir()
    rows = [('0/a.jpg', 0, 0, 9, 9, '', 0, 0, 0), ('', 0, 0, 9, 9, '', 1, 0, 0)]
    pd.DataFrame(rows, columns=data.AFFECTNET_COLUMNS).to_csv(lists/'training.csv', index=False)
    with pytest.raises(ValueError, match='line 3: an empty path'): read_affectnet(tmp_path)


def test_a_set_that_is_rewritten_is_no_set_until_it_is_done(pool):
    pool.add_column('score', np.arange(6))
    writer = ImageSetWriter(pool.folder, 2, 8, ['a', 'b'])
    with pytest.raises(FileNotFoundError): ImageSet(pool.folder)
    writer.write(np.zeros((2, 8, 8, 3), np.uint8), [0, 1])
    assert writer.close().columns() == []


# the down-sampled protocol

@pytest.mark.parametrize('cap, most', [(None, 16), (10, 10), (99, 16)])
def test_a_cap_is_of_what_is_trained_on(tmp_path, cap, most):
    "Of 30 pictures a class and 5 rare ones: 32 + 8 are 17 or 18 and 5, of which a fifth validates."
    for name, n in (('many', 30), ('more', 30), ('rare', 5)): tree(tmp_path/'train', name, n=n)
    tree(tmp_path/'test', 'many', 'more', 'rare', n=4)
    sets = load_data('folder', tmp_path, size=12, n=FEW | dict(train=32, valid=8), cap=cap)
    *large, rare = sets['train'].counts
    assert max(large) <= most and rare == 4, counts(sets)
    assert (min(large) == most) == (cap == 10) and sets['valid'].counts.sum() >= 7, counts(sets)


def test_sizes_know_no_cap(tmp_path):
    with pytest.raises(ValueError, match='how many images at most'):
        load_data('folder', tree(tmp_path, 'a', 'b'), n=dict(train=4, cap=2))


# folds, by person

KINDS = ['neutral', 'happiness', 'anger']


def affectnet(root, n=36, people=12, lists=('training', 'validation')):
    "Pictures of three expressions, each person under all of them; identities.csv says who."
    names = [f'{i % 3}/{picture(root/"Manually_Annotated_Images"/str(i % 3)/f"{i}.png").name}'
             for i in range(n)]
    rows = [(name, 0, 0, 40, 40, '', [0, 1, 6][i % 3], -2, -2) for i, name in enumerate(names)]
    (root/'Manually_Annotated_file_lists').mkdir()
    for half, name in zip((rows[:-6], rows[-6:]), lists):
        pd.DataFrame(half, columns=data.AFFECTNET_COLUMNS).to_csv(
            root/'Manually_Annotated_file_lists'/f'{name}.csv', index=False)
    who = [f'p{i//3 % people}' for i in range(n)]
    pd.DataFrame({data.AFFECTNET_COLUMNS[0]: names, 'identity': who}).to_csv(
        root/'identities.csv', index=False)
    return root


def of_folds(root, folds=4, seeds=range(4), **kw):
    return [load_data('affectnet', root, KINDS, 12, seed=s, folds=folds, **kw) for s in seeds]


def test_folds_of_affectnet_test_both_lists_once_and_part_persons(tmp_path, capsys):
    root = affectnet(tmp_path/'a')
    who = dict(pd.read_csv(root/'identities.csv').to_numpy())
    tested = []
    for sets in of_folds(root):
        people = {name: {who['/'.join(Path(f).parts[-2:])] for f in s.files()}
                  for name, s in sets.items()}
        assert not people['test'] & (people['train'] | people['valid'])
        assert not people['train'] & people['valid'] and all(people.values())
        for s in sets.values():
            assert s.column('person').dtype == np.int64
            assert len(set(s.column('person'))) == len({who['/'.join(Path(f).parts[-2:])]
                                                        for f in s.files()})
        tested += sets['test'].files(relative=True)
    assert len(tested) == len(set(tested)) == 36 and 'of its own' not in capsys.readouterr().out


def test_a_person_has_one_number_in_all_folds(tmp_path):
    number = {}
    for sets in of_folds(affectnet(tmp_path/'a'), seeds=range(8)):
        for s in sets.values():
            for f, p in zip(s.files(relative=True), s.column('person')):
                assert number.setdefault(f, p) == p
    assert sorted(set(number.values())) == list(range(12))


def test_no_folds_is_as_before(tmp_path):
    root = affectnet(tmp_path/'a')
    before = load_data('affectnet', root, KINDS, 12, FEW, 1)
    of_folds(root, n=FEW)
    after = load_data('affectnet', root, KINDS, 12, FEW, 1, folds=0)
    assert {k: s.folder for k, s in before.items()} == {k: s.folder for k, s in after.items()}
    assert all('/anger' not in f for s in after.values() for f in s.files()) # lists as they were
    assert len(after['test']) == 6


def test_the_digest_counts_who_is_who_only_where_it_is_asked(tmp_path):
    root = affectnet(tmp_path/'a')
    plain, folded = (data.data_digest('affectnet', root, f) for f in (0, 5))
    t = pd.read_csv(root/'identities.csv')
    t.loc[0, 'identity'] = 'p5'
    t.to_csv(root/'identities.csv', index=False)
    assert data.data_digest('affectnet', root) == plain != folded
    assert data.data_digest('affectnet', root, 5) != folded
    assert data.data_digest('drawn', '', 5) == ''


def test_equal_pictures_are_of_one_person(tmp_path):
    root = affectnet(tmp_path/'a')
    images = root/'Manually_Annotated_Images'
    shutil.copy(images/'0'/'0.png', images/'2'/'35.png') # of p0 and of p11
    numbers = {}
    for sets in of_folds(root):
        for s in sets.values():
            numbers |= dict(zip(map(lambda f: Path(f).name, s.files()), s.column('person')))
    assert numbers['0.png'] == numbers['35.png'] == numbers['33.png']
    assert len(set(numbers.values())) == 11


def test_pictures_without_a_person_are_persons_and_said(tmp_path, capsys):
    root = affectnet(tmp_path/'a')
    t = pd.read_csv(root/'identities.csv')
    t.iloc[3:].to_csv(root/'identities.csv', index=False)
    sets, = of_folds(root, seeds=[0])
    assert '3 of 36 pictures have no person' in capsys.readouterr().out
    assert max(s.column('person').max() for s in sets.values()) == 13
    (root/'identities.csv').unlink()
    sets, = of_folds(root, seeds=[0])
    assert 'nobody says who is who' in capsys.readouterr().out
    assert len(set(sets['test'].column('person'))) == len(sets['test'])


def edited(root, change):
    path = root/'identities.csv'
    path.write_text(change(path.read_text()))
    return root


@pytest.mark.parametrize('change, said', [
    (lambda t: t.replace('identity', 'who'), 'expected subDirectory_filePath and identity'),
    (lambda t: t + '0/0.png,p9\n', '0/0.png has two identities'),
    (lambda t: t.replace('.png', '.jpg'), 'names none of the pictures, which are called as')])
def test_a_wrong_list_of_persons_is_named(tmp_path, change, said):
    root = edited(affectnet(tmp_path/'a'), change)
    with pytest.raises(ValueError, match=said): of_folds(root, seeds=[0])


@pytest.mark.parametrize('folds', [1, -3, True, 2.5])
def test_wrong_folds_are_refused(tmp_path, folds):
    with pytest.raises(ValueError, match='2 or more'): of_folds(
        affectnet(tmp_path/'a'), folds, seeds=[0])


def test_folds_need_persons_and_a_list(tmp_path, capsys):
    root = affectnet(tmp_path/'a')
    with pytest.raises(ValueError, match='12 persons'): of_folds(root, 13, seeds=[0])
    importlib.import_module('synthnb.drawn')
    with pytest.raises(ValueError, match='more seeds'): load_data('drawn', folds=5)
    two = affectnet(tmp_path/'b', people=2)
    with pytest.raises(ValueError, match='1 persons are left'): of_folds(two, 2, seeds=[0])


def test_a_class_of_few_persons_is_a_warning(tmp_path, capsys):
    table = [(f'{i}.png', 'ab'[i < 3], i) for i in range(20)]
    for name, *_ in table: picture(tmp_path/name)
    pd.DataFrame(table, columns=['path', 'label', 'Person']).to_csv(tmp_path/'l.csv', index=False)
    load_data('csv', tmp_path/'l.csv', size=12, folds=5)
    out = capsys.readouterr().out
    assert 'warning: b has 3 persons for 5 folds' in out and 'no person' not in out


def test_more_real_images_of_a_fold_show_nobody_of_the_others(tmp_path):
    from synthnb.samplers import fresh_images
    root = affectnet(tmp_path/'a', n=72, people=24)
    sets = load_data('affectnet', root, KINDS, 12, dict(train=9, valid=6), seed=1, folds=4)
    more, rows = fresh_images(sets, 9, 'affectnet', root, 1, folds=4)
    people = set(more.column('person'))
    assert not people & {*sets['test'].column('person'), *sets['valid'].column('person')}
    files = more.files(rows)
    assert len(files) >= 9 and not {*files} & {*sets['train'].files()}


def test_folds_of_a_folder_join_its_splits(tmp_path):
    root = tree(tmp_path/'f', 'train/dark', 'train/light', 'val/dark', 'val/light', n=6)
    sets = [load_data('folder', root, size=12, folds=3, seed=s)['test'] for s in range(3)]
    assert sorted(f for s in sets for f in s.files(relative=True)) == sorted(
        f'{s}/{c}/{i:02d}.jpg' for s in ('train', 'val') for c in ('dark', 'light')
        for i in range(6))
