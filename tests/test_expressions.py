"""FER-2013, KDEF and RAF-DB from small files in their exact format, whole, broken and killed."""
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synthnb import expressions
from synthnb.core import one_of
from synthnb.data import LISTS, SOURCES, data_digest, load_data
from synthnb.drawn import EXPRESSIONS
from synthnb.expressions import (FER2013_CLASSES, KDEF_ANGLES, POSTER_CLASSES, RAFDB_CLASSES, WORDS,
                                 expression_name, rafdb_list, read_fer2013, read_kdef, read_rafdb)

LUCK = np.random.default_rng(0)


def picture(path, size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(LUCK.integers(0, 256, (*size[::-1], 3), np.uint8)).save(path)


def fer_rows(n=70):
    usage = ['Training']*(n*6//10) + ['PublicTest']*(n*2//10) + ['PrivateTest']*(n*2//10)
    return [(i % 7, ' '.join(map(str, LUCK.integers(0, 256, 2304))), u)
            for i, u in enumerate(usage)]


def write_fer(path, rows, later=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = 'emotion, Usage, pixels' if later else 'emotion,pixels,Usage'
    lines = [f'{e},{u},{p}' if later else f'{e},{p},{u}' for e, p, u in rows]
    path.write_text('\n'.join([head, *lines]) + '\n')
    return path


# ---- words ---------------------------------------------------------------------------------------
def test_words_are_the_books_and_of_one_meaning():
    assert set(WORDS) == set(EXPRESSIONS)
    assert sum(map(len, map(str.split, WORDS.values()))) == len(expressions.EXPRESSION_OF)
    assert {expression_name(c) for c in FER2013_CLASSES + RAFDB_CLASSES} <= set(EXPRESSIONS)
    assert expression_name('FEARFUL ') == 'fear' and expression_name(3) == '3'


def test_experiments_accept_them():
    for name in ('fer2013', 'rafdb', *KDEF_ANGLES):
        assert one_of(*sorted(SOURCES))(name) == name and name in LISTS


# ---- FER-2013 ------------------------------------------------------------------------------------
def test_fer_in_its_three_parts_and_pixel_for_pixel(tmp_path):
    rows = fer_rows()
    path = write_fer(tmp_path/'fer2013.csv', rows)
    sets = load_data('fer2013', path, ['happy', 'neutral', 'sad', 'fear', 'angry'], 48)
    assert {k: len(s) for k, s in sets.items()} == dict(train=30, valid=10, test=10)
    assert sets['train'].classes == POSTER_CLASSES
    for s in sets.values():
        for image, label, file in zip(s.images, s.labels, s.files(relative=True)):
            emotion, pixels, _ = rows[int(file.split('line')[1][:-4]) - 2]
            assert FER2013_CLASSES[emotion] == POSTER_CLASSES[label]
            assert (image == np.array(pixels.split(), int).reshape(48, 48, 1)).all()


def test_fer_under_its_other_names(tmp_path):
    rows = fer_rows()
    first, _, folder = read_fer2013(write_fer(tmp_path/'a/fer2013.csv', rows))
    for path in (tmp_path/'a', write_fer(tmp_path/'b/icml_face_data.csv', rows, True).parent,
                 write_fer(tmp_path/'c/fer2013/fer2013.csv', rows).parent.parent):
        again, _, where = read_fer2013(path)
        assert path.name == 'b' or where == folder # made once, whatever the place
        assert again[['label', 'split']].equals(first[['label', 'split']])
    assert data_digest('fer2013', tmp_path/'a/fer2013.csv') == data_digest(
        'fer2013', tmp_path/'c/fer2013/fer2013.csv')


@pytest.mark.parametrize('bad, words', [
    ((0, '1 2 3', 'Training'), '3 pixels, expected 2304'),
    ((0, ' '.join(['256'] + ['1']*2303), 'Training'), "a pixel '256'"),
    ((0, ' '.join(['-1'] + ['1']*2303), 'Training'), "a pixel '-1'"),
    ((9, ' '.join(['1']*2304), 'Training'), "emotion '9'"),
    (('', ' '.join(['1']*2304), 'Training'), "emotion ''"),
    ((0, ' '.join(['1']*2304), 'Test'), "Usage 'Test'")])
def test_a_broken_line_is_named(tmp_path, capsys, bad, words):
    path = write_fer(tmp_path/'fer2013.csv', [*fer_rows(120), bad])
    t = read_fer2013(path)[0] # one of 121 may be broken
    said = capsys.readouterr().out
    assert len(t) == 120 and f'fer2013.csv, line 122: {words}' in said
    with pytest.raises(ValueError, match='more than the allowed 1%'):
        read_fer2013(write_fer(tmp_path/'fer2013.csv', [*fer_rows(20), bad, bad]))


def test_you_say_how_many_lines_may_be_broken(tmp_path, capsys):
    path = write_fer(tmp_path/'fer2013.csv', [*fer_rows(), *[(0, f'1 {i}', 'Training')
                                                            for i in range(3)]])
    for folds in (0, 2): # the second time the faces are there
        given = dict(root=path, size=16, folds=folds)
        with pytest.raises(ValueError, match=r'3 of 73 .*(.|\n)*-p changes unreadable=0\.05'):
            load_data('fer2013', **given)
        capsys.readouterr()
        sets = load_data('fer2013', max_unreadable=.1, **given)
        assert sum(map(len, sets.values())) == 70 and 'line 74' in capsys.readouterr().out


def test_a_killed_import_of_fer_goes_on(tmp_path, monkeypatch):
    path = write_fer(tmp_path/'fer2013.csv', fer_rows())
    whole, left = tmp_path/'whole', tmp_path/'left'
    for f in (whole, left): f.mkdir()
    expressions.write_fer(whole, path, piece=10)
    true, calls = expressions.keep_face, []

    def dies(folder, line, *rest):
        calls.append(line)
        if line == 35 and calls.count(35) == 1: raise KeyboardInterrupt
        return true(folder, line, *rest)
    monkeypatch.setattr(expressions, 'keep_face', dies)
    with pytest.raises(KeyboardInterrupt): expressions.write_fer(left, path, piece=10)
    expressions.write_fer(left, path, piece=10)
    assert calls.count(20) == 1 and calls.count(35) == 2
    files = sorted(p.relative_to(whole) for p in whole.rglob('*.*'))
    assert files == sorted(p.relative_to(left) for p in left.rglob('*.*')) and len(files) == 71
    assert all((whole/f).read_bytes() == (left/f).read_bytes() for f in files)


def test_fer_in_folders(tmp_path):
    for split, n in (('train', 8), ('test', 3)):
        for word in ('angry', 'happy', 'fear'):
            for i in range(n): picture(tmp_path/split/word/f'{i}.png')
    sets = load_data('fer2013', tmp_path, ['fearful', 'happiness'], 16)
    assert sets['test'].classes == ['fear', 'happiness'] and sets['test'].counts.tolist() == [3, 3]
    folded = load_data('fer2013', tmp_path, (), 16, folds=2)
    assert folded['test'].classes == ['anger', 'fear', 'happiness']
    picture(tmp_path/'train/anger/1.png')
    with pytest.raises(ValueError, match='both anger'): load_data('fer2013', tmp_path, (), 16)


@pytest.mark.parametrize('text, words', [
    ('emotion,pixels\n0,1', 'usage missing'), ('', 'missing'),
    ('emotion,pixels,Usage\n', 'no line with a face')])
def test_a_csv_that_is_not_fer(tmp_path, text, words):
    (tmp_path/'fer2013.csv').write_text(text)
    with pytest.raises(ValueError, match=words): read_fer2013(tmp_path)


# ---- KDEF ----------------------------------------------------------------------------------------
@pytest.fixture
def kdef(tmp_path):
    for person in ('F01', 'F02', 'F03', 'M01', 'M02', 'M03'):
        for end in ('AFS', 'AFHR', 'HAS', 'HAFL'):
            for s in 'AB': picture(tmp_path/f'KDEF/{s}{person}/{s}{person}{end}.JPG', (56, 76))
    return tmp_path


@pytest.mark.parametrize('data, n', [('kdef', 24), ('kdef-half', 36), ('kdef-all', 48)])
def test_kdef_shares_no_person(kdef, data, n):
    sets = load_data(data, kdef, ['happy', 'afraid'], 16)
    persons = [set(s.column('person').tolist()) for s in sets.values()]
    assert sum(map(len, sets.values())) == n and len(set.union(*persons)) == 6
    assert sum(map(len, persons)) == 6 and sets['test'].classes == ['happiness', 'fear']


def test_kdef_reads_names_and_squares(kdef):
    t, classes, root = read_kdef(kdef, None, ('HR',))
    assert root == kdef/'KDEF' and {classes[i] for i in t.label} == {'fear'}
    assert t.person.value_counts().to_dict() == dict.fromkeys(
        ['F01', 'F02', 'F03', 'M01', 'M02', 'M03'], 2)
    assert t[['left', 'top', 'width', 'height']].iloc[0].tolist() == [0, 10, 56, 56]
    picture(kdef/'KDEF/AF01/odd.jpg')
    with pytest.raises(ValueError, match='e.g. odd.jpg'): read_kdef(kdef)
    with pytest.raises(ValueError, match='choose from S, HL'): read_kdef(kdef, None, ('X',))


# ---- RAF-DB --------------------------------------------------------------------------------------
def raf(folder, train=20, test=8):
    lines = [f'{s}_{i:05d}.jpg {i % 7 + 1}' for s, n in (('train', train), ('test', test))
             for i in range(1, n + 1)]
    for line in lines: picture(folder/f'Image/aligned/{line.split(".")[0]}_aligned.jpg')
    (folder/'EmoLabel').mkdir()
    (folder/'EmoLabel/list_patition_label.txt').write_text('\n'.join(lines) + '\n')
    return folder


def test_raf_by_its_list(tmp_path):
    folder = raf(tmp_path/'basic')
    parts, classes, root = read_rafdb(tmp_path, ['happy', 'neutral'])
    assert root == folder and {k: len(v) for k, v in parts.items()} == dict(train=6, test=2)
    for path, label in parts['train'].to_numpy():
        number = int(path.split('train_')[1][:5])
        assert RAFDB_CLASSES[number % 7] == classes[label]
    sets = load_data('rafdb', folder, ['happy', 'neutral'], 16, folds=2)
    assert sum(map(len, sets.values())) == 8
    pd.DataFrame(dict(path=[p[len(f'{folder}/'):] for p in parts['train'].path],
                      identity='a')).to_csv(folder/'identities.csv', index=False)
    assert LISTS['rafdb'](folder, ['happy', 'neutral'])[0].person.notna().sum() == 6


def test_raf_in_kaggles_folders(tmp_path):
    for split, n in (('train', 12), ('test', 3)):
        for code in '147':
            for i in range(n): picture(tmp_path/'DATASET'/split/code/f'{split}_{i}_aligned.jpg')
    sets = load_data('rafdb', tmp_path, ['neutral', 'surprised'], 16)
    assert sets['test'].classes == ['neutral', 'surprise'] and len(sets['test']) == 6
    assert load_data('rafdb', tmp_path, (), 16)['test'].classes == ['surprise', 'happiness',
                                                                    'neutral']


@pytest.mark.parametrize('text, words', [
    ('train_00001.jpg 8', 'line 1'), ('train_00001.jpg 5\ntrain_00002.jpg', 'line 2'),
    ('valid_1.jpg 5', 'line 1'), ('', 'is it whole')])
def test_a_broken_list_of_raf(tmp_path, text, words):
    (tmp_path/'list.txt').write_text(text)
    with pytest.raises(ValueError, match=words): rafdb_list(tmp_path/'list.txt')


def test_raf_without_its_pictures(tmp_path):
    folder = raf(tmp_path/'basic')
    (folder/'Image/aligned').rename(folder/'Image/other')
    with pytest.raises(FileNotFoundError, match='aligned.zip'): read_rafdb(folder)
    with pytest.raises(FileNotFoundError, match='does not exist'): read_rafdb(tmp_path/'none')
