"""One door: all forms of real images and pools are read, bad files named, a kill costs little."""
import errno
import io
import json
import os
import shutil
import signal
import time
from pathlib import Path

import bench_door
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from apart import Apart, lines
from PIL import Image

from synthnb import core, data, door
from synthnb.data import AFFECTNET_COLUMNS, Images, ImageSetWriter, decode
from synthnb.door import Real, read_pool, read_real, unreadable_files
from synthnb.gan import StarGANConfig, train_stargan
from synthnb.generators import other_labels
from synthnb.qdgs import Samples
from synthnb.vae import VAE, sample_images

LUCK = np.random.default_rng(0)


def noise(h=20, w=20, c=3): return LUCK.integers(0, 256, (h, w, c), np.uint8)


def put(path, image=None, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(noise()) if image is None else image).save(path, **how)
    return path


def as_bytes(image=None, kind='png'):
    f = io.BytesIO()
    (Image.fromarray(noise()) if image is None else image).save(f, kind)
    return f.getvalue()


def tree(root, *folders, n=6):
    for folder in folders:
        for i in range(n): put(root/folder/f'{i}.png')
    return root


def killed(*_): raise KeyboardInterrupt


@pytest.fixture
def real(tmp_path): return read_real(tree(tmp_path/'real', 'cat', 'dog'), size=16)


# real images: every form

def test_a_folder_with_and_without_splits(tmp_path):
    r = read_real(tree(tmp_path/'a', 'cat', 'dog'), size=16)
    assert isinstance(r, Real) and r.images.classes == ['cat', 'dog'] and {*r.split} == {''}
    assert r.images.size == 16 and all(np.array_equal(decode(f, 16), x)
                                       for f, x in zip(r.images.files(), r.images.images))
    assert r.group.dtype == np.int64 and len({*r.group}) == 12
    parts = tree(tmp_path/'b', *(f'{s}/{c}' for s in ('train', 'test') for c in ('cat', 'dog')))
    r = read_real(parts, size=16)
    assert all(s in f for s, f in zip(r.split, r.images.files(relative=True)))
    r = read_real(tree(tmp_path/'c', 'train/cat', 'train/dog', 'val/cat', 'val/dog'), size=16)
    assert sorted({*r.split}) == ['test', 'train'], 'valid alone is the test set'


def test_a_csv_with_its_splits_persons_and_odd_names(tmp_path):
    names = [f'bild, nr. {i} ä.png' for i in range(8)]
    for name in names: put(tmp_path/name)
    t = pd.DataFrame(dict(file_name=names, Class=['Hündin, alt', 'chat']*4,
                          Split=['train']*6 + ['test']*2,
                          Person=['u', 'u', '', '', 'v', 'v', 'w', None]))
    t.to_csv(tmp_path/'l.csv', index=False)
    r = read_real(tmp_path/'l.csv', size=16)
    assert r.images.classes == ['Hündin, alt', 'chat'] and r.images.files(relative=True) == names
    assert r.split.tolist() == ['train']*6 + ['test']*2
    g = r.group
    assert g[0] == g[1] and g[4] == g[5] and len({*g}) == 6
    assert read_real(tmp_path/'l.csv', ['chat', 'Hündin, alt'], 16).images.labels[0] == 1


def test_affectnet_and_who_is_who(tmp_path):
    lists, known = tmp_path/'Manually_Annotated_file_lists', []
    lists.mkdir()
    for split, n in (('training', 8), ('validation', 4)):
        rows = [(f'1/{split}{i}.jpg', 2, 2, 16, 16, '', i % 2, 0, 0) for i in range(n)]
        for name, *_ in rows: put(tmp_path/'Manually_Annotated_Images'/name)
        pd.DataFrame(rows, columns=AFFECTNET_COLUMNS).to_csv(lists/f'{split}.csv', index=False)
        known.append((rows[0][0], 'anna'))
    pd.DataFrame(known, columns=['path', 'identity']).to_csv(tmp_path/'identities.csv', index=False)
    r = read_real(tmp_path, ['happiness', 'neutral'], 16)
    assert r.split.tolist() == ['train']*8 + ['test']*4 and r.images.labels[:2].tolist() == [1, 0]
    assert r.group[0] == r.group[8] and len({*r.group}) == 11
    assert np.array_equal(r.images.images[0], decode(r.images.files()[0], 16, [2, 2, 16, 16]))


def features(*names):
    "The notes that the library datasets leaves in its tables."
    of = dict(image=dict(_type='Image'), label=dict(names=[*names], _type='ClassLabel'))
    return {b'huggingface': json.dumps(dict(info=dict(features=of))).encode()}


def pictures_table(n=10, **columns):
    raw = [as_bytes() for _ in range(n)]
    cells = [dict(bytes=b, path=f'{i}.png') for i, b in enumerate(raw)]
    t = pa.table(dict(image=cells, label=[i % 2 for i in range(n)], **columns))
    return t.replace_schema_metadata(features('dog', 'cat')), raw


def test_parquet_as_the_hub_has_it(tmp_path):
    for part in ('train-00000-of-00002', 'train-00001-of-00002', 'test-00000-of-00001'):
        t, raw = pictures_table(person=['x', None]*5)
        (tmp_path/'data').mkdir(exist_ok=True)
        pq.write_table(t, tmp_path/'data'/f'{part}.parquet', row_group_size=4)
    r = read_real(tmp_path, size=20)
    assert r.images.classes == ['dog', 'cat'] and len(r.images) == 30
    assert (r.split == 'test').sum() == 10 and len({*r.group}) == 16
    at = r.images.files(relative=True).index(f'data/{part}.parquet#3')
    assert np.array_equal(r.images.images[at], decode(io.BytesIO(raw[3]), 20))


@pytest.mark.parametrize('kind', ['bytes', 'paths', 'names', 'struct with paths'])
def test_parquet_of_other_people(tmp_path, kind, capsys):
    raw, labels = [as_bytes() for _ in range(6)], pa.array(['b', 'a', None, 'b', 'a', 'a'])
    for i, b in enumerate(raw): (tmp_path/f'{i}.png').write_bytes(b)
    cell = dict(bytes=raw, paths=[f'{i}.png' for i in range(6)], names=raw)
    cell['struct with paths'] = [dict(bytes=None, path=f'{i}.png') for i in range(6)]
    column = dict(paths='file_name', names='blob').get(kind, 'image')
    pq.write_table(pa.table({column: cell[kind], 'class': labels}), tmp_path/'t.parquet')
    r = read_real(tmp_path/'t.parquet', size=20)
    assert '1 of 6 pictures have no label' in capsys.readouterr().out
    assert r.images.classes == ['a', 'b'] and r.images.labels.tolist() == [1, 0, 1, 0, 0]
    assert np.array_equal(r.images.images[2], decode(io.BytesIO(raw[3]), 20))


def test_what_datasets_saves_to_disk(tmp_path):
    raws = {}
    for split in ('train', 'validation'):
        t, raws[split] = pictures_table(12)
        (tmp_path/split).mkdir()
        about = dict(_data_files=[dict(filename='data-00000-of-00001.arrow')], _split=split)
        (tmp_path/split/'state.json').write_text(json.dumps(about))
        with pa.ipc.new_stream(tmp_path/split/'data-00000-of-00001.arrow', t.schema) as out:
            out.write_table(t, max_chunksize=5)
    (tmp_path/'dataset_dict.json').write_text(json.dumps(dict(splits=[*raws])))
    r = read_real(tmp_path, size=20)
    assert (r.split == 'train').sum() == (r.split == 'test').sum() == 12
    assert np.array_equal(r.images.images[12 + 11], decode(io.BytesIO(raws['validation'][11]), 20))
    assert read_real(tmp_path/'train', size=20, n=4).images.counts.tolist() == [2, 2]
    about['_indices_data_files'] = [dict(filename='indices.arrow')]
    (tmp_path/'train'/'state.json').write_text(json.dumps(about))
    with pytest.raises(ValueError, match='flatten_indices'): read_real(tmp_path)


def test_arrays_of_every_kind(tmp_path, capsys):
    x, y = noise(8, 8, 12).transpose(2, 0, 1), ['a', 'b']*6
    r = read_real((x, y), size=None)
    assert r.images.size == 8 and r.images.files()[3] == 'array#3' and {*r.split} == {''}
    for same in (x[..., None], torch.from_numpy(x), x.repeat(3).reshape(12, 8, 8, 3), x/255):
        assert np.array_equal(read_real((same, y), size=8).images.images[..., 1], x)
    clear = np.concatenate([x.repeat(3).reshape(12, 8, 8, 3), np.zeros((12, 8, 8, 1), np.uint8)], 3)
    assert (read_real((clear, y), size=8).images.images == 255).all(), 'transparent lies on white'
    r = read_real(dict(train=(x[:8], [3, 10]*4), test=(x[8:], [10, 3]*2)), size=8)
    assert r.images.classes == ['3', '10'] and r.images.files()[9] == 'test#1'
    assert r.split.tolist() == ['train']*8 + ['test']*4
    r = read_real((x, np.array([[0], [1]]*6)), classes=['zero', 'one'], size=8)
    assert r.images.classes == ['zero', 'one'] and '1 is one' in capsys.readouterr().out
    r = read_real(((x//16 + (x > 250)).astype(float), y), size=8) # 0 to 16
    assert 'as in scikit-learn' in capsys.readouterr().out and r.images.images.max() == 255
    np.savez(tmp_path/'m.npz', x_train=x[:8], y_train=y[:8], x_test=x[8:], y_test=y[8:])
    r = read_real(tmp_path/'m.npz', size=8)
    assert Path(r.images.files()[9]).name == 'm.npz#test1' and (r.split == 'test').sum() == 4
    assert np.array_equal(r.images.images[..., 0], x)


def test_image_sets_as_load_data_gives_them(tmp_path):
    sets = data.load_data('folder', tree(tmp_path, 'cat', 'dog', n=20), size=16)
    r = read_real(sets, size=None)
    assert [int((r.split == s).sum()) for s in sets] == [len(s) for s in sets.values()]
    assert r.images.files() == [f for s in sets.values() for f in s.files()]
    assert np.array_equal(r.images.images, np.concatenate([s.images for s in sets.values()]))
    assert read_real(r) is r and read_real(sets['test'], size=None).split[0] == ''


def test_a_sample_keeps_the_shares_and_another_seed_is_another(tmp_path):
    x, y = LUCK.integers(0, 256, (100, 8, 8), np.uint8), ['a']*80 + ['b']*20
    r, other = (read_real((x, y), size=8, n=50, seed=s).images for s in (0, 1))
    assert r.counts.tolist() == [40, 10] and r.files() != other.files()


def test_equal_pictures_are_of_one_group(tmp_path):
    tree(tmp_path, 'cat', 'dog')
    shutil.copy(tmp_path/'cat'/'2.png', tmp_path/'dog'/'copy.png')
    r = read_real(tmp_path, size=16)
    g = dict(zip(r.images.files(relative=True), r.group))
    assert g['cat/2.png'] == g['dog/copy.png'] and len({*r.group}) == 12


# pools

def test_a_csv_pool_keeps_its_numbers_beside_the_right_pictures(tmp_path, real):
    tone = lambda i: Image.new('RGB', (30, 18), (10*i,)*3)
    for i in range(12): put(tmp_path/'out'/f'{i}.png', tone(i))
    (tmp_path/'out'/'4.png').write_bytes(b'torn')
    t = pd.DataFrame(dict(path=[f'out/{i}.png' for i in range(12)], label=['dog', 'cat']*6,
                          tone=range(12), clip=[.5]*11 + [None], prompt='a dog', state=2))
    t.to_csv(tmp_path/'p.csv', index=False)
    pool = read_pool(tmp_path/'p.csv', real, max_unreadable=.1)
    assert pool.classes == real.images.classes and pool.size == 16 and len(pool) == 11
    assert pool.columns() == ['clip', 'state_given', 'tone']
    assert np.array_equal(pool.images[:, 0, 0, 0], 10*pool.column('tone'))
    assert np.isnan(pool.column('clip')[-1]) and pool.labels[0] == 1
    assert unreadable_files(pool).path.tolist() == [str(tmp_path/'out'/'4.png')]


def test_a_pool_of_one_class_in_every_form(tmp_path, real, capsys):
    tree(tmp_path/'p', 'dog')
    listed = pd.DataFrame(dict(path=[f'p/dog/{i}.png' for i in range(6)], label='dog'))
    listed.to_csv(tmp_path/'p.csv')
    t, _ = pictures_table(6, seed=range(6))
    pq.write_table(t, tmp_path/'p.parquet')
    x = LUCK.integers(0, 256, (6, 9, 9), np.uint8)
    np.savez(tmp_path/'p.npz', images=x, labels=['dog']*6)
    files = (tmp_path/name for name in ('p', 'p.csv', 'p.npz'))
    for pool in (*files, str(tmp_path/'p'), (x, ['dog']*6)):
        assert read_pool(pool, real).counts.tolist() == [0, 6]
        assert 'the pool has no images of cat' in capsys.readouterr().out
    pool = read_pool(tmp_path/'p.parquet', real, dict(cat=None))
    assert pool.counts.tolist() == [0, 3] and pool.column('seed').tolist() == [0, 2, 4]


def test_image_sets_pass_or_are_made_to_fit(tmp_path, real):
    w = ImageSetWriter(tmp_path/'pool', 6, 16, ['cat', 'dog'])
    w.write(LUCK.integers(0, 256, (6, 16, 16, 3), np.uint8), [0, 1]*3, source=[0, 1, 2, 3, 4, 5])
    pool = w.close()
    assert read_pool(pool, real) is pool
    part = read_pool(pool, real, n=4)
    assert part.counts.tolist() == [2, 2]
    assert np.array_equal(part.images, pool.images[part.column('source')])
    x = LUCK.integers(0, 256, (4, 8, 8), np.uint8)
    other = read_real((x, ['dog', 'cat']*2), ['dog', 'cat'], 8)
    small = read_pool(pool, other)
    assert small.size == 8 and small.labels.tolist() == [1, 0]*3
    assert small.column('source_given').tolist() == [*range(6)], 'there is no row 5 of 4'


def test_whose_classes(tmp_path, real):
    x = LUCK.integers(0, 256, (4, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="give mapping={0: 'cat', 1: 'dog'}"):
        read_pool((x, [0, 1, 0, 1]), real)
    with pytest.raises(ValueError, match="what is horse.*mapping={'horse': None}"):
        read_pool((x, ['cat', 'horse']*2), real)
    with pytest.raises(ValueError, match="mapping={'Dogs': 'dog'}"):
        read_pool((x, ['cat', 'Dogs']*2), real)
    assert read_pool((x, [0, 1, 0, 1]), real, {0: 'dog', 1: 'cat'}).labels.tolist() == [1, 0, 1, 0]
    assert read_pool((x, ['cat', 'horse']*2), real, dict(horse=None)).counts.tolist() == [2, 0]
    numbers = read_real((x, [0, 1, 0, 1]), size=8)
    with pytest.raises(ValueError, match="mapping={'cat': '0', 'dog': '1'}"):
        read_pool((x, ['cat', 'dog']*2), numbers)


class Sampler:
    def __init__(self): self.seen = []
    def sample(self, labels, seed):
        self.seen.append((list(labels), seed))
        return np.stack([np.full((9, 12, 3), (seed + int(k)) % 250, np.uint8) for k in labels])


class Steady:
    def sample(self, labels, seed):
        luck = np.random.default_rng(seed)
        return luck.integers(0, 256, (len(labels), 9, 12, 3), np.uint8)


def test_what_samples(real):
    s = Sampler()
    pool = read_pool(s, real, n=50)
    assert pool.counts.tolist() == [50, 50] and [len(y) for y, _ in s.seen] == [64, 36]
    assert s.seen[0][1] != s.seen[1][1] and pool.files()[3] == 'Sampler#3'
    assert np.array_equal(pool.images[:64, 0, 0, 0], (s.seen[0][1] + pool.labels[:64]) % 250)
    s = Sampler()
    read_pool(s, real, {207: 'dog', 281: 'cat'}, n=2)
    assert s.seen[0][0] == [207, 281]*2


def test_what_translates_never_sees_the_test_set(tmp_path):
    x = LUCK.integers(0, 256, (12, 8, 8), np.uint8)
    r = read_real(dict(train=(x[:8], ['a', 'b']*4), test=(x[8:], ['a', 'b']*2)), size=8)
    class Negative:
        def translate(self, images, labels): return 255 - images
    pool = read_pool(Negative(), r)
    source = pool.column('source')
    assert sorted(source) == [*range(8)] and (pool.labels != r.images.labels[source]).all()
    assert np.array_equal(pool.images, 255 - r.images.images[source])


def test_ours_pass_through_the_same_door(tmp_path, real):
    few = Images.from_sets((real.images, None))
    config = StarGANConfig.preset('laptop', updates=2, conv_dim=4, critic_dim=4, warmup=1)
    gan = train_stargan(few, config, tmp_path/'gan', 0, torch.device('cpu'))
    pool = read_pool(gan, real)
    want = gan.translate(real.images.gather(pool.column('source')), torch.as_tensor(pool.labels))
    assert np.array_equal(np.sort(pool.labels), np.sort(other_labels(real.images)))
    assert np.array_equal(pool.images, want)

    class OurVAE:
        def __init__(self, vae): self.vae = vae
        def sample(self, labels, seed): return sample_images(self.vae, len(labels), seed, labels)
    torch.manual_seed(0)
    assert read_pool(OurVAE(VAE(4, 16, 2, halvings=2).eval()), real, n=3).counts.tolist() == [3, 3]

    z, m = LUCK.normal(size=(6, 4)).astype(np.float32), np.float32([[-.5], [.5], [.5]]*2)
    archive = Samples(z, np.arange(6, dtype=np.float32), m).to_pool(
        VAE(4, 16, halvings=2).eval(), tmp_path/'archive', label_by=0, classes=('cat', 'dog'))
    elites = read_pool(archive, real)
    assert elites.column('objective').tolist() == archive.column('objective').tolist()


# bad files

def bomb(path):
    "10,000 x 10,000 pixels in a file of some 100 kB."
    put(path, Image.new('L', (10_000, 10_000)))


def test_every_bad_file_is_named_and_no_good_one_is_wrong(tmp_path, capsys):
    a, ramp = tree(tmp_path/'set', 'Katze, süß', 'dog', n=4)/'dog', np.arange(400).reshape(20, 20)
    plain = Image.fromarray((ramp*255/399).astype(np.uint8))
    put(a/'16 bit.png', Image.fromarray((ramp*65535/399).astype(np.uint16)))
    put(a/'cmyk.jpg', Image.new('CMYK', (20, 20), (0, 255, 255, 0)), quality=95)
    put(a/'alpha.png', Image.new('RGBA', (20, 20), (0, 0, 0, 0)))
    put(a/'palette.png', Image.new('P', (20, 20), 1, ).convert('RGB').quantize())
    put(a/'moves.gif', Image.new('RGB', (20, 20), 'blue'), save_all=True,
        append_images=[Image.new('RGB', (20, 20), 'red')])
    put(a/'moves.webp', Image.new('RGB', (20, 20), 'blue'), save_all=True, lossless=True,
        append_images=[Image.new('RGB', (20, 20), 'red')])
    turned = Image.Exif()
    turned[0x0112] = 3 # upside down
    put(a/'turned.png', plain, exif=turned)
    bad = a/'bad'
    bad.mkdir()
    (bad/'torn, half.jpg').write_bytes(as_bytes(Image.fromarray(noise(200, 200)), 'jpeg')[:900])
    (bad/'empty.png').touch()
    (bad/'text.png').write_text('Error 404: not found')
    bomb(bad/'bomb.png')
    r = read_real(tmp_path/'set', size=20, max_unreadable=.5)
    why = {Path(p).name: w for p, w in unreadable_files(r.images).itertuples(index=False)}
    said = capsys.readouterr().out
    assert {*why} == {p.name for p in bad.iterdir()} and all(name in said for name in why)
    assert 'truncated' in why['torn, half.jpg'] and why['empty.png'] == 'the file is empty'
    assert "text, no picture: 'Error 404" in why['text.png']
    assert 'taken for a bomb' in why['bomb.png']
    assert said.count('several pictures') == 1 and 'moves' in said
    x = {Path(f).name: im.astype(int) for f, im in zip(r.images.files(), r.images.images)}
    grey = np.asarray(plain)[..., None].repeat(3, 2).astype(int)
    assert abs(x['16 bit.png'] - grey).max() <= 1 and x['16 bit.png'].max() == 255
    assert np.array_equal(x['turned.png'], grey[::-1, ::-1])
    assert (x['alpha.png'] == 255).all() and (x['moves.gif'] == x['moves.webp']).all()
    assert (x['moves.gif'][0, 0] == [0, 0, 255]).all() and x['cmyk.jpg'][0, 0].argmax() == 0
    assert r.images.classes == ['Katze, süß', 'dog'] and r.images.counts.tolist() == [4, 11]


def test_bytes_are_as_bad_as_files(tmp_path):
    cells = [as_bytes() for _ in range(18)] + [b'', None]
    pq.write_table(pa.table(dict(image=cells, label=['a', 'b']*10)), tmp_path/'t.parquet')
    r = read_real(tmp_path/'t.parquet', size=20, max_unreadable=.2)
    lost = unreadable_files(r.images)
    assert lost.path.tolist() == [f'{tmp_path}/t.parquet#{i}' for i in (18, 19)]
    assert len(r.images) == len(r.group) == 18
    with pytest.raises(ValueError, match='more than the allowed 1%'):
        read_real(tmp_path/'t.parquet', size=20)
    (tmp_path/'u.parquet').write_bytes((tmp_path/'t.parquet').read_bytes()[:-20])
    with pytest.raises(ValueError, match='no whole table'): read_real(tmp_path/'u.parquet')


def test_tables_that_lack_something_say_what_they_have(tmp_path):
    pq.write_table(pa.table(dict(image=[as_bytes()], seed=[1])), tmp_path/'a.parquet')
    with pytest.raises(ValueError, match='no column of labels; it has image, seed'):
        read_real(tmp_path/'a.parquet')
    pq.write_table(pa.table(dict(pixels=[[1, 2]], label=['a'])), tmp_path/'b.parquet')
    with pytest.raises(ValueError, match='no column of pictures; it has pixels, label'):
        read_real(tmp_path/'b.parquet')


# kills, a full disk, memory

def test_a_full_disk_is_said_and_the_import_goes_on(tmp_path, monkeypatch):
    root, write = tree(tmp_path, 'cat', 'dog'), os.pwrite
    def full(*_): raise OSError(errno.ENOSPC, 'full')
    monkeypatch.setattr(os, 'pwrite', full)
    with pytest.raises(OSError, match='no space left on the device.*SYNTHNB_RUNS'): read_real(root)
    monkeypatch.setattr(os, 'pwrite', write)
    assert len(read_real(root).images) == 12


@pytest.mark.parametrize('kind', ['folder', 'parquet', 'npz', 'sampler'])
def test_a_killed_import_goes_on_and_ends_the_same(tmp_path, monkeypatch, kind, real):
    x = LUCK.integers(0, 256, (200, 8, 8), np.uint8)
    raw = [as_bytes(Image.fromarray(p)) for p in x]
    raw[70] = b'torn'
    if kind == 'folder':
        for i, b in enumerate(raw):
            (tmp_path/'f'/('cat', 'dog')[i % 2]).mkdir(parents=True, exist_ok=True)
            (tmp_path/'f'/('cat', 'dog')[i % 2]/f'{i}.png').write_bytes(b)
    t = pa.table(dict(image=raw, label=['cat', 'dog']*100, score=range(200)))
    pq.write_table(t, tmp_path/'t.parquet', row_group_size=30)
    np.savez(tmp_path/'t.npz', images=x, labels=['cat', 'dog']*100)
    pool = dict(folder=tmp_path/'f', parquet=tmp_path/'t.parquet', npz=tmp_path/'t.npz',
                sampler=Steady())[kind]
    monkeypatch.setattr(door, 'PIECE', 64)
    own, calls = Image.Image.resize, []
    def counted(*args, **how):
        calls.append(1)
        return own(*args, **how)
    def dies(*args, **how): return killed() if len(calls) > 140 else counted(*args, **how)
    read = lambda: read_pool(pool, real, n=100 if kind == 'sampler' else None)
    monkeypatch.setattr(Image.Image, 'resize', dies)
    with pytest.raises(KeyboardInterrupt): read()
    calls.clear()
    monkeypatch.setattr(Image.Image, 'resize', counted)
    again, torn = read(), kind in ('folder', 'parquet')
    assert len(calls) in (200 - 64 - torn, 200 - 128), 'what was noted is not decoded again'
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    fresh = read()
    assert fresh.folder != again.folder and fresh.folder.name == again.folder.name
    for name in ('set.json', 'files.csv', 'labels.npy', 'images.npy'):
        assert (fresh.folder/name).read_bytes() == (again.folder/name).read_bytes()
    assert len(again) == 200 - torn
    if kind == 'parquet': assert again.column('score').tolist() == [*range(70), *range(71, 200)]


def test_the_same_import_is_found_and_a_changed_one_made_anew(tmp_path, monkeypatch):
    root = tree(tmp_path, 'cat', 'dog')
    first = read_real(root, size=16).images
    with monkeypatch.context() as m:
        m.setattr(Image.Image, 'resize', killed)
        assert read_real(root, size=16).images.folder == first.folder
    put(root/'cat'/'0.png')
    again = read_real(root, size=16).images
    assert again.folder != first.folder and not np.array_equal(again.images[0], first.images[0])


def test_a_process_that_dies_leaves_what_the_next_goes_on_from(tmp_path):
    x = LUCK.integers(0, 256, (1500, 64, 64), np.uint8)
    np.savez(tmp_path/'t.npz', images=x, labels=['cat', 'dog']*750)
    code = f'from synthnb.door import read_real; read_real({str(tmp_path/"t.npz")!r}, size=200)'
    child = Apart(lines, code, env=dict(SYNTHNB_RUNS=str(tmp_path/'runs')))
    notes = lambda: [*(tmp_path/'runs').glob('artefacts/door/*.part/progress.json')]
    seen = lambda: json.loads(notes()[0].read_text())['done'] if notes() else 0
    end = time.time() + 60
    while seen() < 256 and time.time() < end and child.poll() is None: time.sleep(.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 256 <= seen() < 1500
    done, before = seen(), notes()[0].parent
    held = np.load(before/'images.npy', mmap_mode='r')[:done].sum()
    with pytest.MonkeyPatch.context() as m:
        m.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
        asked, own = [], Image.Image.resize
        m.setattr(Image.Image, 'resize', lambda *a, **how: asked.append(1) or own(*a, **how))
        s = read_real(tmp_path/'t.npz', size=200).images
    assert len(asked) == 1500 - done and len(s) == 1500 and s.images[:done].sum() == held
    assert s.folder.name == before.stem


def test_files_are_read_in_turns_and_remembered_by_one_name(tmp_path, monkeypatch):
    paths = np.array([str(tmp_path/f'{i}.jpg') for i in range(1030)], object)
    for p in paths: Path(p).write_text(p)
    asked, known = [], {**core.REMEMBERED}
    monkeypatch.setattr(door, 'file_digests', lambda part: asked.append(len(part)) or
                        core.file_digests(part))
    fresh = [door.files_hash(paths) for _ in range(2)] # what may yet change is read each time
    assert asked == [1024, 6]*2
    monkeypatch.setattr(core, 'SETTLED', -1e18)
    names = [door.files_hash(paths) for _ in range(2)]
    assert asked == [1024, 6]*3 and core.REMEMBERED == known
    assert {*fresh, *names} == {core.hash_of([core.hash_of(core.file_digests(paths.tolist()))])}
    Path(paths[7]).write_text('another')
    Path(paths[8]).unlink()
    others = [door.files_hash(paths) for _ in range(2)] # one is missing
    assert others[0] == others[1] != names[0] and asked == [1024, 6]*5


def test_a_file_changed_within_a_tick_of_the_clock_is_noticed(tmp_path, monkeypatch):
    "Of the same length and time of change, while its folder is fresh: nothing else tells."
    paths = np.array([str(tmp_path/f'{i}.jpg') for i in range(3)], object)
    for p in paths: Path(p).write_text('before')
    stamps = {p: core.stamp_of(p) for p in paths}
    def changed(text):
        was = os.stat(paths[1])
        Path(paths[1]).write_text(text)
        os.utime(paths[1], ns=(was.st_atime_ns, was.st_mtime_ns))
        return door.files_hash(paths)
    before = door.files_hash(paths)
    after = changed('after!')
    assert after != before == changed('before'), 'by the time of change of the inode'
    monkeypatch.setattr(core, 'stamp_of', lambda p: stamps[str(p)]) # a clock of coarse ticks
    assert before == door.files_hash(paths) and changed('after!') == after, 'it is read again'
    monkeypatch.setattr(core, 'SETTLED', -1e18) # as if it had lain there for long
    assert door.files_hash(paths) == changed('before') == after, 'it was remembered'


@pytest.mark.long
@pytest.mark.ci
def test_memory_does_not_grow_with_the_files(tmp_path):
    peaks = bench_door.bench_memory(tmp_path, (500, 5000), size=40)
    assert peaks[500] > 1e8 and peaks[5000] < 1.05*peaks[500]


def test_the_bench_compares_the_same_pictures(tmp_path):
    rate = bench_door.bench_rate(tmp_path, 24, 16, repeats=1)
    assert min(rate.values()) > 0
    assert len({p.read_bytes() for p in (tmp_path/'images-24').rglob('*.jpg')}) == 24
