"""CIFAR-10 and Stanford Cars from small files in their exact format, and what is drawn for them."""
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from synthnb.data import LISTS, SOURCES, data_digest, load_data
from synthnb.objects import (CAR_FIELDS, CIFAR10_BATCHES, CIFAR10_CLASSES, car_square, cifar_batch,
                             objects_set, read_cars, read_cifar10)

NAMES = ['Audi TTS Coupe 2012', 'Ford GT Coupe 2006']


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), np.uint8)


def flat(x): return x.transpose(0, 3, 1, 2).reshape(len(x), 3072)


def text2(s):
    return (b'U' + bytes([len(s)]) if len(s) < 256 else b'T' + struct.pack('<i', len(s))) + s


def python2(y, x):
    "Protocol 2 of Python 2's cPickle, with its memo and its order of keys."
    labels = b''.join(b'K' + bytes([v]) for v in y)
    array = (b'cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\t'
             b'U\x01bq\n\x87q\x0bRq\x0c(K\x01M' + struct.pack('<H', len(x)) + b'M\x00\x0c\x86q\r'
             b'cnumpy\ndtype\nq\x0eU\x02u1q\x0fK\x00K\x01\x87q\x10Rq\x11(K\x03U\x01|q\x12NNNJ'
             b'\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x13b\x89' + text2(flat(x).tobytes())
             + b'q\x14tq\x15b')
    return (b'\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04'
            b']q\x05(' + labels + b'eU\x04dataq\x06' + array + b'u.')


def binary(y, x):
    return np.concatenate([np.array(y, np.uint8)[:, None], flat(x)], 1).tobytes()


def write_cifar(folder, suffix='', each=20):
    "All six batches; every class in each."
    folder.mkdir(parents=True)
    for i, name in enumerate(b for v in CIFAR10_BATCHES.values() for b in v):
        y, x = [k % 10 for k in range(each)], pictures(each, i)
        (folder/(name + suffix)).write_bytes((binary if suffix else python2)(y, x))
    return folder


def write_cars(root, n=10):
    kinds = [(f, 'O') for f in CAR_FIELDS]
    (root/'devkit').mkdir(parents=True)
    savemat(root/'devkit'/'cars_meta.mat', dict(class_names=np.array(NAMES, object)[None]))
    for split, path in (('train', root/'devkit'/'cars_train_annos.mat'),
                        ('test', root/'cars_test_annos_withlabels.mat')):
        (root/f'cars_{split}').mkdir()
        t = np.zeros((1, n), kinds)
        for i in range(n):
            name = f'{i + 1:05d}.jpg'
            t[0, i] = 11, 21, 50, 40, i % 2 + 1, name
            Image.fromarray(pictures(1, 100*i + (split == 'test'))[0]).resize((80, 60)).save(
                root/f'cars_{split}'/name)
        savemat(path, dict(annotations=t))
    return root


# ---- CIFAR-10 ------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.sampled_from([2, 3, 4]))
def test_every_way_to_write_a_batch_reads_the_same(tmp_path_factory, y, protocol):
    folder, x = tmp_path_factory.mktemp('batch'), pictures(len(y))
    (folder/'data_batch_1').write_bytes(python2(y, x))
    (folder/'data_batch_1.bin').write_bytes(binary(y, x))
    with open(folder/'later', 'wb') as f:
        pickle.dump({b'labels': y, b'data': flat(x)}, f, protocol)
    for name in ('data_batch_1', 'data_batch_1.bin', 'later'):
        labels, images = cifar_batch(folder/name)
        assert labels.tolist() == y and (images == x).all(), name


def test_python_reads_our_batch_as_its_own(tmp_path):
    y, x = [3, 1, 4], pictures(3)
    theirs = pickle.loads(python2(y, x), encoding='bytes')
    assert theirs[b'labels'] == y and (theirs[b'data'] == flat(x)).all()


@pytest.mark.parametrize('suffix', ['', '.bin'])
@pytest.mark.parametrize('above', [False, True])
def test_all_of_cifar10_from_its_folder_or_the_one_above(tmp_path, suffix, above):
    folder = write_cifar(tmp_path/f"cifar-10-batches-{'bin' if suffix else 'py'}", suffix)
    sets = load_data('cifar10', tmp_path if above else folder, size=32)
    assert {k: len(s) for k, s in sets.items()} == dict(train=90, valid=10, test=20)
    assert sets['train'].classes == CIFAR10_CLASSES
    wanted = {image.tobytes(): i % 10 for i, image in enumerate(pictures(20, 5))}
    for image, label in zip(sets['test'].images, sets['test'].labels):
        assert wanted[image.tobytes()] == label
    assert len(data_digest('cifar10', folder)) == 12


def test_some_classes_in_the_order_asked_for(tmp_path):
    t, classes, _ = read_cifar10(write_cifar(tmp_path/'c'), ['truck', 'cat'])
    assert classes == ['truck', 'cat'] and sorted(t.label.unique()) == [0, 1] and len(t) == 24


class Malice:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)


@pytest.mark.parametrize('said, change', [
    ('', lambda whole: whole[:4000]),
    ("kind b'f4'", lambda whole: whole.replace(b'U\x02u1', b'U\x02f4')),
    ('a label 77', lambda whole: whole.replace(b'(K\x00K\x01K\x02', b'(K\x4dK\x01K\x02')),
    ('asks for os.system', lambda whole: whole.replace(b'cnumpy\nndarray\n', b'cos\nsystem\n')),
    ('cut off', lambda whole: whole.replace(b'M\x00\x0c\x86', b'M\x01\x0c\x86'))])
def test_a_batch_that_is_none_is_refused_and_not_run(tmp_path, said, change):
    (tmp_path/'b').write_bytes(change(python2([0, 1, 2], pictures(3))))
    with pytest.raises(ValueError, match='nothing of it was run') as e: cifar_batch(tmp_path/'b')
    assert said in str(e.value)


def test_a_binary_batch_that_is_cut_off_is_refused(tmp_path):
    (tmp_path/'b.bin').write_bytes(binary([0, 1, 2], pictures(3))[:4000])
    with pytest.raises(ValueError, match='4,000 bytes.*cut off'): cifar_batch(tmp_path/'b.bin')


def test_a_program_in_a_batch_is_not_run(tmp_path):
    (tmp_path/'b').write_bytes(pickle.dumps({b'labels': [0], b'data': Malice(tmp_path/'run')}, 2))
    with pytest.raises(ValueError, match='nothing of it was run'): cifar_batch(tmp_path/'b')
    assert not (tmp_path/'run').exists()


def test_a_batch_that_is_missing_is_named(tmp_path):
    folder = write_cifar(tmp_path/'c')
    (folder/'data_batch_3').unlink()
    with pytest.raises(FileNotFoundError, match='lacks data_batch_3'): read_cifar10(folder)


# ---- Stanford Cars -------------------------------------------------------------------------------
@pytest.mark.parametrize('above', [False, True])
def test_cars_with_their_names_and_squares(tmp_path, above):
    root = write_cars(tmp_path/'stanford_cars')
    parts, classes, _ = read_cars(tmp_path if above else root)
    assert classes == NAMES and parts['train'].label.tolist() == [0, 1]*5
    assert parts['train'][['left', 'top', 'width', 'height']].iloc[0].tolist() == [10, 10, 40, 40]
    sets = load_data('cars', tmp_path, NAMES[::-1], 24)
    assert sets['test'].classes == NAMES[::-1] and sets['test'].counts.tolist() == [5, 5]


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 400), st.integers(0, 400))
def test_the_square_is_square_and_holds_the_box_in_its_middle(x, y, w, h):
    left, top, width, height = car_square(x, y, x + w, y + h)
    assert width == height == max(w, h) + 1
    assert left + width/2 == x - 1 + (w + 1)/2 and top + height/2 == y - 1 + (h + 1)/2


def test_test_pictures_without_their_classes_name_the_list_that_has_them(tmp_path):
    root = write_cars(tmp_path/'c')
    (root/'cars_test_annos_withlabels.mat').unlink()
    t = np.zeros((1, 1), [(f, 'O') for f in CAR_FIELDS if f != 'class'])
    t[0, 0] = 1, 1, 2, 2, '00001.jpg'
    savemat(root/'devkit'/'cars_test_annos.mat', dict(annotations=t))
    with pytest.raises(ValueError, match='cars_test_annos_withlabels.mat'): read_cars(root)


# ---- what is drawn -------------------------------------------------------------------------------
def test_drawn_objects_need_no_root_and_share_nothing(tmp_path):
    sets = load_data('drawn-objects', n=dict(train=60, valid=20, test=30), size=32, seed=1)
    seen = [image.tobytes() for s in sets.values() for image in s.images]
    assert len({*seen}) == 110 and sets['test'].counts.tolist() == [3]*10
    again = objects_set('drawn-objects', 60, 32, 1, 'train')
    assert (again.images == sets['train'].images).all()
    assert data_digest('drawn-objects') == ''


def test_sources_are_known_and_what_is_no_list_has_no_folds(tmp_path):
    assert {'cifar10', 'cars', 'drawn-objects', 'drawn-cars'} <= {*SOURCES}
    assert {'cifar10', 'cars'} <= {*LISTS}
    with pytest.raises(ValueError, match='has no folds'): load_data('drawn-cars', folds=2)
    with pytest.raises(ValueError, match='needs root'): load_data('cifar10')


def test_a_drawing_that_was_killed_goes_on(tmp_path, monkeypatch):
    from synthnb import objects
    whole = objects_set('drawn-objects', 700, 8, 5, 'killed')
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path))
    draw, calls = objects.DRAWN['drawn-objects'][0], []

    def once(*args):
        calls.append(1)
        if len(calls) == 2: raise KeyboardInterrupt
        return draw(*args)
    labels = objects.drawn_labels(700, whole.classes, whole.classes, 5, 'killed')
    monkeypatch.setitem(objects.DRAWN, 'drawn-objects', (once, *objects.DRAWN['drawn-objects'][1:]))
    made = lambda folder: objects.write_objects(folder, 'drawn-objects', labels, 8, 5, 'killed',
                                                whole.classes)
    with pytest.raises(KeyboardInterrupt): made(tmp_path/'set')
    assert (made(tmp_path/'set').images == whole.images).all() and len(calls) == 3
