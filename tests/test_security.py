"""Nothing of a stranger's file is run, no list leads elsewhere, no bomb is unpacked, no shell reads
what was typed, and the versions that were tested are written down."""
import argparse
import ast
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import lock
import nbformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tables
import torch
import typed
from nbconvert import HTMLExporter
from PIL import Image
from scipy.io import savemat
from test_page import Tags, findings, image_set
from torch import nn
from traitlets.config.loader import PyFileConfigLoader

from synthnb.browse import write_browser
from synthnb.clip import TextImage, load_text_image
from synthnb.core import load_checkpoint, load_json
from synthnb.data import ImageSet, decode, load_data, read_affectnet, read_celeba
from synthnb.dcgan import DCGAN
from synthnb.diffusion import Diffusion
from synthnb.door import read_pool, read_real
from synthnb.expressions import read_fer2013, square_box
from synthnb.features import extractor
from synthnb.gan import StarGAN, load_official
from synthnb.judges import read_weights as face_api
from synthnb.metrics import check_inception
from synthnb.noise import NoisyClassifier
from synthnb.objects import CAR_FIELDS, car_list, cifar_batch
from synthnb.recognition import (archived_state, bin_pairs, lfw_pairs, load_recogniser, read_faces,
                                 rfw_pairs)
from synthnb.rl import Policy
from synthnb.samplers import Selection
from synthnb.shapevae import load_official_vae
from synthnb.stylegan2 import StyleGAN2, load_stylegan2
from synthnb.train import Classifier, weights_file
from synthnb.vae import VAE

ROOT = Path(__file__).resolve().parent.parent


def calls_of_stylers(code): # whole chains of calls, with `table` in the place of the table
    "The expressions in which a table is styled."
    tree, found = ast.parse(code), []
    for node in ast.walk(tree):
        styler = node
        while isinstance(styler, (ast.Call, ast.Attribute)) and not (
                isinstance(styler, ast.Attribute) and styler.attr == 'style'):
            styler = styler.func if isinstance(styler, ast.Call) else styler.value
        if isinstance(node, ast.Call) and isinstance(styler, ast.Attribute):
            styler.value = ast.Name('table', ast.Load())
            found.append(node)
    return [ast.fix_missing_locations(n) for n in found
            if not any(n is not m and n in [*ast.walk(m)] for m in found)]


# ---- what the code says --------------------------------------------------------------------------
def sources(): # of (name, code)
    for path in (*sorted(ROOT.glob('synthnb/*.py')), *sorted(ROOT.glob('tools/*.py'))):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding='utf-8')
    for path in sorted(ROOT.glob('nbs/*.ipynb')):
        for i, cell in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells']):
            if cell['cell_type'] == 'code': yield f'{path.name}, cell {i}', ''.join(cell['source'])


def said_true(call, name): # a keyword that is there and is True
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is True
               for k in call.keywords)


NEVER = {'pickle.load', 'pickle.loads', 'joblib.load', 'pd.read_pickle', 'pandas.read_pickle',
         'torch.jit.load', 'torch.package.PackageImporter', 'torch.hub.load', 'yaml.load',
         'yaml.unsafe_load', 'yaml.full_load', 'marshal.loads', 'marshal.load', 'shelve.open',
         'os.system', 'os.popen', 'subprocess.getoutput', 'subprocess.getstatusoutput',
         'asyncio.create_subprocess_shell', 'pty.spawn', 'ip.system', 'get_ipython.system'}
UNSAFE = {'joblib', 'dill', 'cloudpickle', 'cPickle', 'shelve', 'marshal'}


def dotted(node): # str, '' for what is no name
    if isinstance(node, ast.Name): return node.id
    if isinstance(node, ast.Call): return dotted(node.func)
    return f'{dotted(node.value)}.{node.attr}' if isinstance(node, ast.Attribute) else ''


def faults_of(code): # list of str
    "What code must not do with a file, or with a shell."
    found, tree = [], ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): found += [a.name for a in node.names if a.name in UNSAFE]
        if isinstance(node, ast.ImportFrom):
            names = [f'{node.module}.{a.name}' for a in node.names]
            found += [n for n in names if n in NEVER or node.module in UNSAFE]
        if not isinstance(node, ast.Call): continue
        name = dotted(node.func)
        if name in NEVER: found.append(name)
        if name == 'torch.load' and not said_true(node, 'weights_only'): found.append(name)
        if name == 'load_state_dict' and not said_true(node, 'weights_only'): found.append(name)
        given = {k.arg: k.value for k in node.keywords}
        for bad in ('allow_pickle', 'shell'):
            v = given.get(bad)
            if v is not None and not (isinstance(v, ast.Constant) and not v.value):
                found.append(f'{name}({bad}=)')
        if 'Unpickler' in name and name != 'pickle.UnpicklingError': found.append(name)
    return found


def test_no_code_opens_a_program_or_a_shell():
    n = 0
    for name, code in sources():
        n += 1
        lines = [line for line in code.splitlines() if not re.match(r'\s*%', line)]
        assert not any(re.match(r'\s*!', line) for line in lines), f'{name}: a line for a shell'
        assert not (found := faults_of('\n'.join(lines))), f'{name}: {found}'
    assert n > 1000


@pytest.mark.parametrize('code', [
    'torch.load(p)', 'torch.load(p, weights_only=False)', 'pickle.loads(b)', 'import joblib',
    'np.load(p, allow_pickle=True)', 'np.load(p, allow_pickle=x)', 'yaml.load(f, yaml.Loader)',
    'os.system(x)', 'subprocess.run(x, shell=True)', 'subprocess.Popen(x, shell=y)',
    'from pickle import loads', 'pickle.Unpickler(f).load()', 'torch.jit.load(p)',
    'load_state_dict(p)', 'from os import popen'])
def test_the_search_would_find_it(code): assert faults_of(code)


@pytest.mark.parametrize('code', [
    'torch.load(p, weights_only=True)', 'np.load(p)', 'np.load(p, allow_pickle=False)',
    'subprocess.run([x])', 'yaml.safe_load(f)', 'net.load_state_dict(s)', 'pickle.dumps(x)'])
def test_the_search_leaves_the_rest_alone(code): assert not faults_of(code)


# ---- programs in files ---------------------------------------------------------------------------
class Evil:
    "What a pickle may do."
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return open, (str(self.mark), 'w')


class Writes(nn.Module):
    "A TorchScript module that writes while it is loaded."
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))
    @torch.jit.export
    def __getstate__(self): return self.w, self.training
    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.w, self.training = state[0], state[1]
        torch.save(state[0], 'written while loaded')
    def forward(self, x): return x


def as_bytes(save):
    save(f := io.BytesIO())
    return f.getvalue()


def scripted(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.script(module).save(str(path))
    return path


def programs(mark, folder): # kind -> bytes
    evil = dict(g_ema=Evil(mark), state_dict=Evil(mark), images=Evil(mark))
    objects = np.empty(4, object)
    objects[:] = [Evil(mark)]*4
    return dict(
        pickle=pickle.dumps(evil), old=pickle.dumps(evil, 0), torch=as_bytes(lambda f: torch.save(
            evil, f)), old_torch=as_bytes(lambda f: torch.save(
                evil, f, _use_new_zipfile_serialization=False)),
        npz=as_bytes(lambda f: np.savez(f, images=objects, labels=objects)),
        npy=as_bytes(lambda f: np.save(f, objects)),
        script=scripted(Writes(), folder/'script').read_bytes())


def of_folder(load): return lambda p: load(p.parent)


def a_pool(p):
    real = read_real((np.zeros((8, 8, 8, 3), np.uint8), ['a', 'b']*4), size=8)
    return read_pool(p, real, max_unreadable=0)


LOADERS = dict(
    checkpoint=('a.pt', load_checkpoint), json=('a.json', load_json),
    classifier=('a.safetensors', Classifier.load), weights=('a.pth', weights_file),
    safe_weights=('a.safetensors', weights_file), noisy=('a.safetensors', NoisyClassifier.load),
    stargan=('a.pt', StarGAN.load), official_G=('200000-G.ckpt', load_official),
    vae=('a.safetensors', VAE.load), policy=('a.safetensors', Policy.load),
    shapes_vae=('vae-shapes.pt', load_official_vae), dcgan=('a.safetensors', DCGAN.load),
    diffusion=('a.safetensors', Diffusion.load), stylegan2=('a.safetensors', StyleGAN2.load),
    nvlabs=('ffhq.pkl', load_stylegan2), rosinality=('ffhq.pt', load_stylegan2),
    safe_generator=('ffhq.safetensors', load_stylegan2),
    clip=('ViT.pt', lambda p: load_text_image('ViT-B-32', p, 'cpu')),
    safe_clip=('ViT.safetensors', lambda p: load_text_image('ViT-B-32', p, 'cpu')),
    own_clip=('own.pt', TextImage.load),
    recogniser=('adaface.ckpt', lambda p: load_recogniser(p, 'bgr')),
    safe_recogniser=('r.safetensors', lambda p: load_recogniser(p, 'bgr')),
    inception=('i.pth', check_inception),
    torchvision=('r.pth', lambda p: extractor('torchvision:resnet18', p)),
    timm=('t.pth', lambda p: extractor('timm:resnet18', p)),
    open_clip=('o.pt', lambda p: extractor('open_clip:ViT-B-32', p)),
    judge=('face_expression_model-weights_manifest.json', of_folder(
        lambda f: face_api(f, 'face_expression_model'))),
    bin=('lfw.bin', bin_pairs), cifar=('data_batch_1', cifar_batch),
    cifar_bin=('data_batch_1.bin', cifar_batch),
    cars=('cars.mat', lambda p: car_list(p, p.parent, ['a'], ['a'])),
    npz=('pool.npz', a_pool), parquet=('pool.parquet', a_pool), arrow=('pool.arrow', a_pool),
    csv=('pool.csv', a_pool), csv_data=('data.csv', lambda p: load_data('csv', p, size=8)),
    fer=('fer2013.csv', read_fer2013), lfw=('pairs.txt', lfw_pairs),
    rfw=('African_pairs.txt', rfw_pairs), selection=('selection.npy', of_folder(Selection.load)),
    columns=('labels.npy', of_folder(ImageSet)))


@pytest.fixture(scope='module')
def kinds(tmp_path_factory): # the file that none of them may make, and the programs
    folder = tmp_path_factory.mktemp('programs')
    return folder/'ran', programs(folder/'ran', folder)


@pytest.mark.parametrize('name', LOADERS)
def test_no_program_in_a_file_is_run(tmp_path, monkeypatch, kinds, name):
    monkeypatch.chdir(tmp_path)
    file, load = LOADERS[name]
    path, (mark, files) = tmp_path/'given'/file, kinds
    image_set(tmp_path/'given', 4, classes=['a', 'b'])
    (tmp_path/'given'/'selection.json').write_text('{"kept": 4, "report": {}, "about": {}}')
    for kind, data in files.items():
        path.write_bytes(data)
        with pytest.raises((ValueError, OSError)) as e: load(path)
        text = str(e.value)
        named = path.name in text or path.stem in text or 'given' in text
        assert named or name == 'columns', f'{kind}: {text}' # these are the book's own
        assert not mark.exists() and not Path('written while loaded').exists(), kind


def test_the_programs_would_run(tmp_path, monkeypatch, kinds):
    mark, files = kinds
    monkeypatch.chdir(tmp_path)
    for kind, load in dict(
            pickle=pickle.loads, old=pickle.loads, npy=lambda b: np.load(
                io.BytesIO(b), allow_pickle=True), torch=lambda b: torch.load(
                io.BytesIO(b), weights_only=False)).items():
        load(files[kind])
        assert mark.exists(), kind
        mark.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.load(io.BytesIO(files['script']))
    assert Path('written while loaded').exists()


def test_an_extension_of_arrow_is_no_program(tmp_path, kinds):
    mark, files = kinds
    about = {b'ARROW:extension:name': b'arrow.py_extension_type',
             b'ARROW:extension:metadata': files['pickle']}
    schema = pa.schema([pa.field('image', pa.binary(), metadata=about), pa.field('label', 'str')])
    with pa.OSFile(str(tmp_path/'a.arrow'), 'wb') as f, pa.ipc.new_file(f, schema) as w:
        w.write(pa.record_batch([pa.array([b'x']*4, pa.binary()), ['a', 'b']*2], schema))
    pq.write_table(pa.ipc.open_file(str(tmp_path/'a.arrow')).read_all(), tmp_path/'a.parquet')
    for path in (tmp_path/'a.arrow', tmp_path/'a.parquet'):
        with pytest.raises(ValueError): a_pool(path)
        assert not mark.exists()


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.halves, self.lists = nn.Linear(2, 3).half(), nn.ModuleList([nn.BatchNorm1d(2)])
        self.tied, self.scale, self.words = self.halves.weight, 2.5, ['a', 'b']
        self.register_buffer('n', torch.tensor(7))
        self.register_buffer('none', torch.zeros(0, 3, dtype=torch.bool))
    def forward(self, x): return x


def test_an_archive_of_torchscript_is_read_without_its_program(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)).eval()
        torch.jit.trace(net, torch.zeros(1, 3, 8, 8)).save(str(tmp_path/'traced.pt'))
        for path in (scripted(Whole(), tmp_path/'whole.pt'), tmp_path/'traced.pt'):
            ours, theirs = archived_state(path), torch.jit.load(str(path)).state_dict()
            assert ours.keys() == theirs.keys() and len(ours) >= 9
            assert all(torch.equal(v, theirs[k]) and v.dtype == theirs[k].dtype
                       for k, v in ours.items())


# ---- lists that lead elsewhere -------------------------------------------------------------------
def photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(x).save(path)
    return path


@pytest.fixture
def place(tmp_path): # a folder with pictures in it, two floors below a picture that is not its own
    for i in range(12): photo(tmp_path/'up'/'own'/f'{i}.png', i)
    photo(tmp_path/'secret.png', 99)
    for name in ('x', 'a..b'): (tmp_path/'up'/'own'/name).mkdir()
    return tmp_path/'up'/'own'


def listed(folder, first):
    "A CSV whose first path is this one."
    names = [str(first), *(f'{i}.png' for i in range(1, 12))]
    pd.DataFrame(dict(path=names, label=['a', 'b']*6)).to_csv(folder/'list.csv', index=False)
    return folder/'list.csv'


READ = dict(data=lambda p: load_data('csv', p, size=8), real=lambda p: read_real(p, size=8),
            pool=a_pool)


@pytest.mark.parametrize('way', READ)
@pytest.mark.parametrize('to', ['../../secret.png', 'full', './x/../../../secret.png'])
def test_a_csv_stays_with_its_folder_unless_you_allow_it(place, monkeypatch, way, to):
    secret = place.parents[1]/'secret.png'
    path = listed(place, secret if to == 'full' else to)
    with pytest.raises(ValueError, match='lies outside') as e: READ[way](path)
    assert 'list.csv, line 2' in str(e.value) and str(secret) in str(e.value)
    allow = re.search(r'SYNTHNB_OUTSIDE=(\S+) in', str(e.value))[1]
    monkeypatch.setenv('SYNTHNB_OUTSIDE', f'/nowhere{os.pathsep}{allow}')
    assert READ[way](path)


@pytest.mark.parametrize('way', READ)
def test_what_lies_beside_or_is_a_link_or_was_read_before_may_be_named(place, way):
    photo(place.parent/'images'/'x.png', 7)
    (place/'link.png').symlink_to(place.parents[1]/'secret.png')
    (place/'folder').symlink_to(place.parents[1])
    for to in ('../images/x.png', place.parent/'images'/'x.png', place/'0.png', 'link.png',
               'folder/secret.png', 'a..b/../0.png'):
        assert READ[way](listed(place, to)), to
    for i in range(12): photo(place.parents[1]/'known'/'ab'[i % 2]/f'{i}.png', i)
    to = place.parents[1]/'known'/'a'/'0.png'
    with pytest.raises(ValueError, match='lies outside'): READ[way](listed(place, to))
    read_real(place.parents[1]/'known', size=8)
    assert READ[way](listed(place, to))


def test_nothing_lies_beside_a_home_or_a_disk(monkeypatch, tmp_path):
    from synthnb.data import own_ground
    monkeypatch.setenv('HOME', str(tmp_path/'home'/'me'))
    me = tmp_path/'home'/'me'
    assert own_ground(me/'data', True) == [str(me/'data')]
    assert own_ground(me, True) == [str(me)] and own_ground('/list', True) == ['/list']
    assert own_ground(me/'data'/'x', True) == [str(me/'data'/'x'), str(me/'data')]
    assert own_ground(me/'data'/'x', False) == [str(me/'data'/'x')]


def test_lists_of_data_sets_stay_below_their_pictures(place, tmp_path):
    import torture
    lists = torture.affectnet_of(tmp_path/'affectnet')
    lists.write_text(lists.read_text().replace('1/3.jpg', '../../secret.png'))
    with pytest.raises(ValueError, match='training.csv, image .*lies outside'):
        read_affectnet(tmp_path/'affectnet')
    attributes = torture.celeba_of(tmp_path/'c')
    for f in (attributes, attributes.with_name('list_eval_partition.txt')):
        f.write_text(f.read_text().replace('000003.jpg', '/etc/passwd'))
    with pytest.raises(ValueError, match='row 3: /etc/passwd lies outside'):
        read_celeba(tmp_path/'c', ['Male', 'Young'])
    (tmp_path/'pairs.txt').write_text('1\t1\n../../x\t1\t2\nB\t1\tC\t2\n')
    with pytest.raises(ValueError, match='file 1 of the list.*lies outside'):
        read_faces(tmp_path, lfw_pairs(tmp_path/'pairs.txt'), 8)
    t = np.zeros((1, 1), [(f, 'O') for f in CAR_FIELDS])
    t[0, 0] = 1, 1, 9, 9, 1, '../../secret.png'
    savemat(tmp_path/'cars.mat', dict(annotations=t))
    with pytest.raises(ValueError, match='cars.mat, picture 1.*lies outside'):
        car_list(tmp_path/'cars.mat', place, ['a'], ['a'])
    (place/'net-weights_manifest.json').write_text(json.dumps(
        [dict(paths=['../../secret.png'], weights=[])]))
    with pytest.raises(ValueError, match='manifest.json.*lies outside'): face_api(place, 'net')


def test_tables_of_paths_and_notes_of_datasets_stay_with_their_folder(place):
    names = ['../../secret.png', *(f'{i}.png' for i in range(1, 12))]
    for column in (names, [dict(bytes=None, path=n) for n in names]):
        pq.write_table(pa.table(dict(image=column, label=['a', 'b']*6)), place/'t.parquet')
        with pytest.raises(ValueError, match='t.parquet.*lies outside'): a_pool(place/'t.parquet')
    (place/'state.json').write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(ValueError, match='state.json.*lies outside'): read_real(place)
    (place/'dataset_dict.json').write_text('{"splits": ["../.."]}')
    with pytest.raises(ValueError, match='dataset_dict.json.*lies outside'): read_real(place)


# ---- bombs ---------------------------------------------------------------------------------------
def bomb(path, side=50_000):
    "A PNG that says how large it is; no row of it is there."
    def chunk(kind, data):
        body = kind + data
        return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))
    head = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head)
                     + chunk(b'IDAT', zlib.compress(bytes(9))) + chunk(b'IEND', b''))
    return path


@pytest.mark.parametrize('side', [9000, 50_000])
def test_every_reader_of_pictures_refuses_a_bomb(tmp_path, side):
    path = bomb(tmp_path/'set'/'a'/'0.png', side)
    for i in range(3): photo(tmp_path/'set'/'a'/f'{i + 1}.png', i)
    for i in range(4): photo(tmp_path/'set'/'b'/f'{i}.png', 9 + i)
    with pytest.raises(ValueError, match='bomb'): decode(path, 8)
    for read in (lambda: load_data('folder', tmp_path/'set', size=8, max_unreadable=0),
                 lambda: read_real(tmp_path/'set', size=8, max_unreadable=0),
                 lambda: a_pool(tmp_path/'set')):
        with pytest.raises(ValueError, match='0.png: .*bomb'): read()
    assert np.isnan(square_box(path)).all()
    pq.write_table(pa.table(dict(image=[path.read_bytes()]*4, label=['a', 'b']*2)),
                   tmp_path/'t.parquet')
    with pytest.raises(ValueError, match='parquet#0: .*bomb'): a_pool(tmp_path/'t.parquet')
    data = pickle.dumps(([path.read_bytes()]*4, [True, False]), 2)
    (tmp_path/'a.bin').write_bytes(data)
    with pytest.raises(ValueError, match='a.bin: picture 0 .*bomb'): bin_pairs(tmp_path/'a.bin')
    (tmp_path/'pairs.txt').write_text('1\t1\nA\t1\t2\nB\t1\tC\t2\n')
    for f in ('A/A_0001', 'A/A_0002', 'B/B_0001', 'C/C_0002'): bomb(tmp_path/f'{f}.jpg', side)
    with pytest.raises(ValueError, match='A_0001.jpg is no picture: .*bomb'):
        read_faces(tmp_path, lfw_pairs(tmp_path/'pairs.txt'), 8)


def test_postscript_is_not_run(tmp_path):
    (tmp_path/'a.png').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'
                                  '%%EndComments\nshowpage\n')
    with pytest.raises(ValueError, match='PostScript'): decode(tmp_path/'a.png', 8)


def npz(path, **members): # name -> (shape that the header says, bytes)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, (shape, data) in members.items():
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, dict(
                descr='|u1', fortran_order=False, shape=shape))
            z.writestr(f'{name}.npy', head.getvalue() + data)
    return path


@pytest.mark.parametrize('images, labels, said', [
    (((10**9, 10**4, 10**4, 3), bytes(99)), ((4,), bytes(4)), 'its header says'),
    (((4, 8, 8, 3), bytes(768)), ((10**14,), bytes(4)), 'its header says'),
    (((2**62, 2**62, 4), bytes(99)), ((4,), bytes(4)), 'its header says'),
    (((1, 9000, 9000), bytes(81_000_000)), ((1,), bytes(1)), 'taken for a bomb')])
def test_a_member_of_absurd_size_is_refused_by_its_header(tmp_path, images, labels, said):
    path = npz(tmp_path/'pool.npz', images=images, labels=labels)
    with pytest.raises(ValueError, match=f'pool.npz.*{said}'): a_pool(path)


def test_labels_of_gigabytes_are_refused_unread(tmp_path, monkeypatch):
    from synthnb import door
    monkeypatch.setattr(door, 'MOST_BYTES', 2**20)
    path = npz(tmp_path/'pool.npz', images=((4, 8, 8, 3), bytes(768)),
               labels=((2**21,), bytes(2**21)))
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match='pool.npz, labels: .*bomb'): a_pool(path)


def test_a_table_that_unpacks_to_gigabytes_is_refused_by_its_footer(tmp_path, monkeypatch):
    from synthnb import door
    path, t = tmp_path/'t.parquet', pa.table(dict(image=[bytes(2**16)]*64, label=['a', 'b']*32))
    pq.write_table(t, path, compression='zstd', use_dictionary=False)
    monkeypatch.setattr(door, 'MOST_BYTES', 2**20)
    with pytest.raises(ValueError, match="t.parquet, the column 'image': .*bomb"): a_pool(path)
    monkeypatch.setattr(door, 'MOST_ROWS', 63)
    with pytest.raises(ValueError, match='t.parquet says that it has 64 rows'): a_pool(path)


def test_a_table_of_arrow_that_lies_about_its_lengths_is_refused(tmp_path):
    offsets = pa.py_buffer(np.array([0, 1, 2, 10**9, 4], np.int32).tobytes())
    lying = pa.Array.from_buffers(pa.binary(), 4, [None, offsets, pa.py_buffer(b'abcd')])
    schema = pa.schema(dict(image=pa.binary(), label=pa.string()))
    with pa.OSFile(str(tmp_path/'a.arrow'), 'wb') as f, pa.ipc.new_file(f, schema) as w:
        w.write(pa.RecordBatch.from_arrays([lying, pa.array(['a', 'b']*2)], schema=schema))
    with pytest.raises(ValueError, match='a.arrow'): a_pool(tmp_path/'a.arrow')


# ---- what is typed, and what is shown ------------------------------------------------------------
def test_make_shows_no_shell_what_was_typed(tmp_path):
    text = (ROOT/'Makefile').read_text()
    recipes = [line for line in text.splitlines() if line.startswith('\t')]
    used = {*re.findall(r'(?<!\$)\$\((\w+)\)', '\n'.join(recipes))}
    assert used <= {'PY', 'PYTHON', 'VENV', 'BIN', 'MAKEFILE_LIST'} and len(recipes) > 20
    evil = f"x'; touch {tmp_path}/a; `touch {tmp_path}/b` | \"touch {tmp_path}/c"
    names = 'ARGS NOTEBOOK NAMES ROOT CLASSES SAMPLER DATA TABLE SEEDS FILE LIST'.split()
    goals = 'help run tables sprint sprint-in test lab bench torture shipped lock audit'
    for goal in goals.split():
        done = subprocess.run(['make', goal, 'PY=echo', *(f'{n}={evil}' for n in names)], cwd=ROOT,
                              capture_output=True, text=True, env=os.environ | dict(MAKEFLAGS=''))
        assert done.returncode == 0, done.stderr
    assert not [*tmp_path.iterdir()]


def test_what_is_typed_is_cut_into_words(monkeypatch):
    monkeypatch.setenv('ARGS', "--only gan -k 'a or b' --out=\"c d\" $(x)")
    assert typed.words('ARGS') == ['--only', 'gan', '-k', 'a or b', '--out=c d', '$(x)']
    assert typed.words('ARGS') == [] # another process does not see it
    monkeypatch.setenv('ARGS', "it's")
    with pytest.raises(SystemExit, match="ARGS=it's"): typed.words('ARGS')


PAPERMILL = """
import json, os, sys
with open(os.environ['TOLD'], 'a') as f: f.write(json.dumps(sys.argv[1:]) + chr(10))
"""


@pytest.mark.long
@pytest.mark.parametrize('name', ["a b'c\"d$(touch x);e", '`touch x` #y: {z} [0]'])
def test_a_folder_of_any_name_comes_whole_through_make_tables(tmp_path, name):
    "Make, tools/tables.py, Snakemake and the shell of its rule hand it on; papermill is a stub."
    for i in range(8): photo(tmp_path/'data'/name/'ab'[i % 2]/f'{i}.png', i)
    (tmp_path/'stub'/'papermill').mkdir(parents=True)
    for file, text in ('__init__', ''), ('__main__', PAPERMILL):
        (tmp_path/'stub'/'papermill'/f'{file}.py').write_text(text)
    told, root = tmp_path/'told', tmp_path/'data'/name
    done = subprocess.run(
        ['make', 'tables', f'PY={sys.executable}', 'TABLE=own', 'DATA=folder', 'SEEDS=0',
         'SCALE=smoke', f"ROOT={str(root).replace('$', '$$')}", 'CORES=1'], cwd=ROOT, text=True,
        env=os.environ | dict(
            SYNTHNB_RUNS=str(tmp_path/'runs'), TOLD=str(told), PYTHONDONTWRITEBYTECODE='1',
            PYTHONPATH=os.pathsep.join(filter(None, [str(tmp_path/'stub'), os.environ.get(
                'PYTHONPATH')]))), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200)
    assert told.exists(), done.stdout[-3000:]
    first = json.loads(told.read_text().splitlines()[0])
    assert first[first.index('root') + 1] == str(root), first
    assert first[first.index('data') + 1] == 'folder' and 'scale' in first
    assert not (ROOT/'x').exists() and not [*tmp_path.rglob('x')], 'something was executed'


@pytest.mark.parametrize('text', ['007', '1e3', 'true', '[1, 2]', 'a: b', "'q'", 'x #y', '{', '"',
                                  'back\\slash', ' é 🙂', '0,1', '*a', '@b', '- c', '~', 'null'])
def test_what_snakemake_is_told_is_what_was_typed(text):
    from snakemake.cli import parse_config
    assert parse_config([tables.as_config('root', text)]) == dict(root=text)


EVIL = ['</script><script>alert(1)</script>', '<img src=x onerror=alert(1)>', '"><svg onload=x>']


class Started(Tags):
    "The tags of a page that closes only what has to be closed."
    def handle_endtag(self, tag): pass
    def handle_starttag(self, tag, attrs): self.found.append((tag, dict(attrs)))


def test_no_name_can_break_the_browser_of_a_pool(tmp_path):
    f = findings(tmp_path, classes=EVIL, real=False)
    names = [f'{"<b onclick=x>"*(i % 2)}&amp;"{i}.png' for i in range(len(f.pool))]
    pd.DataFrame(dict(file=names)).to_csv(f.pool.folder/'files.csv', index=False)
    f = f._replace(selections={'<i>': f.selections['cl-sam']}, sampler='<i>')
    text = write_browser(f, tmp_path/'page', title='</title><script>').read_text('utf-8')
    tags = Started(text)
    assert text.count('<script') == 2 == len(tags.all('script')) and len(tags.all('title')) == 1
    assert not any(tags.all(tag) for tag in ('b', 'i', 'svg'))
    assert not any('onerror' in a for a in tags.all('img'))


def test_tables_of_an_answer_are_escaped():
    from types import SimpleNamespace

    from synthnb.answer import Answer
    t = pd.DataFrame({'arm': EVIL, '<u>': [1., 2., 3.]})
    a = SimpleNamespace(sentence=EVIL[0], table=t, controls=t,
                        facts=dict(plan=[EVIL[1]], features=EVIL[2]))
    tags = Started(Answer._repr_html_(a))
    assert not any(tags.all(tag) for tag in ('script', 'img', 'svg', 'u'))


STYLED = [pytest.param(node, id=f'{path.stem}-{i}') for path in sorted(ROOT.glob('nbs/*.ipynb'))
          for i, cell in enumerate(load_json(path)['cells'])
          if cell['cell_type'] == 'code' and '.style.' in (code := ''.join(cell['source']))
          for node in calls_of_stylers(code)]


@pytest.mark.parametrize('call', STYLED)
def test_styled_tables_are_escaped(call):
    "A call on the Styler of a table, as a notebook writes it."
    names = ['<img src=x onerror=alert(1)>', "a & b's"]
    table = pd.DataFrame({'class': names, 'gain': [.25, None]})
    page = eval(compile(ast.Expression(call), '<notebook>', 'eval'), dict(table=table)).to_html()
    assert '<img' not in page and '&lt;img src=x' in page and 'a &amp; b' in page


def test_all_styled_tables_are_found(): assert len(STYLED) >= 3


# ---- versions ------------------------------------------------------------------------------------
def test_the_lock_has_all_that_is_needed_and_says_nothing_else():
    head, *lines = lock.LOCK.read_text().splitlines()
    found = dict(re.fullmatch(r'([a-z0-9-]+)==([\w.]+)', line).groups() for line in lines)
    assert head.startswith('# make lock') and len(found) == len(lines) > 100
    assert [*found] == sorted(found)
    for r in lock.named():
        version = found[lock.canonicalize_name(r.name)]
        assert r.specifier.contains(version), f'{r} is locked at {version}: run `make lock`'


def test_the_lock_is_what_is_installed_and_needed(tmp_path):
    lock.write(tmp_path/'requirements.lock')
    lines = (tmp_path/'requirements.lock').read_text().splitlines()
    assert f"torch=={torch.__version__.split('+')[0]}" in lines
    assert not any('pip-audit' in line or 'synthnb' in line for line in lines)
    with pytest.raises(SystemExit, match='no-such-package is not installed'):
        lock.closure([lock.Requirement('no-such-package')])


def test_what_pip_audit_says_of_the_lock_comes_back(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(SystemExit, match='no pip-audit on the PATH: pip install pip-audit'):
        lock.audit()
    tool = tmp_path/'pip-audit'
    tool.write_text(f'#!{sys.executable}\nimport json, pathlib, sys\n'
                    f'pathlib.Path({str(tmp_path/"asked")!r}).write_text(json.dumps(sys.argv[1:]))'
                    '\nsys.exit(7)\n')
    tool.chmod(0o755)
    for of in ([], [tmp_path/'other.lock']):
        assert lock.audit(*of) == 7
        assert load_json(tmp_path/'asked') == [
            '--requirement', str(*of or [lock.LOCK]), '--no-deps', '--disable-pip', '--strict']


def test_locked_versions_are_asked_for(monkeypatch, tmp_path):
    import environment
    asked = []
    def popen(command, **_):
        asked.append(command)
        return argparse.Namespace(stdout=[], wait=lambda: 0)
    monkeypatch.setattr(environment.subprocess, 'Popen', popen)
    monkeypatch.setenv('LOCK', '1')
    environment.install(tmp_path)
    monkeypatch.delenv('LOCK')
    environment.install(tmp_path)
    assert asked[0] == [*asked[1], '--constraint', 'requirements.lock']


# ---- a name in the page of `make run` ------------------------------------------------------------
def test_no_name_of_a_class_is_a_live_tag_in_the_page():
    name = '<img src=x onerror=alert(1)>'
    named, new = pd.DataFrame({'class': [name]}), nbformat.v4
    said = f'* 3 of {name}, [a](javascript:alert(1)) <script>alert(1)</script> **bold** `a<b`'
    shown = [{'text/markdown': said}, {'text/html': named._repr_html_()},
             {'text/html': f"<table><tr><td style='color:red'>{name}</td></tr></table>"},
             {'image/png': 'iVBORw0KGgo='}, {'application/javascript': 'alert(1)'}]
    book = new.new_notebook(cells=[
        new.new_markdown_cell('# Head\n\n> quoted\n\n![a](images/a.jpg)\n\n|a|\n|-|\n|1|'),
        new.new_code_cell('a < b', outputs=[new.new_output('display_data', d) for d in shown])])
    settings = PyFileConfigLoader(str(ROOT/'tools'/'page.py')).load_config()
    pages = [HTMLExporter(config=c).from_notebook_node(book)[0] for c in (None, settings)]
    before, page = (p.partition('<body')[2] for p in pages)
    live = '<[^>]*(onerror|javascript:)|<script[^>]*>[^<]*alert'
    assert re.search(live, before), 'nothing was to be mended'
    assert not re.search(live, page), re.search(live, page)
    for shows in ('>Head<', '<blockquote>', 'src="images/a.jpg"', '<strong>bold</strong>', '<th>',
                  'data:image/png', 'class="dataframe"', 'color:', 'a&lt;b', '<style scoped'):
        assert shows in page, shows
    assert "'tools'/'page.py'" in (ROOT/'tools'/'run.py').read_text()
