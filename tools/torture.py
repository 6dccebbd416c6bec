"""Bad files, torn checkpoints, kills, lost files, crowds, full disks: `make torture MINUTES=60`.

Everything that a stranger's files or a machine's accidents can do is done to synthnb at random, for
so long. An input may be read, or be refused by one clear error: a ValueError or an OSError that
names the file. A run that was killed or that shared its folder must end in the digits of one that
nobody touched. Anything else is a fault, and the command that repeats it is printed.

`python tools/torture.py --minutes 1 --only fuzz torn --seed 3 --out report.csv`
"""
import argparse
import contextlib
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from apart import Apart, lines
from filelock import FileLock, Timeout
from PIL import Image
from typed import words

from synthnb import core
from synthnb.core import as_changes, name_list, number, read_runs
from synthnb.data import load_data, read_affectnet, read_celeba
from synthnb.dcgan import DCGAN, DCGANConfig
from synthnb.dcgan import Generator as Sampler
from synthnb.door import read_pool, read_real
from synthnb.expressions import read_fer2013
from synthnb.gan import Discriminator, Generator, StarGAN
from synthnb.qdgs import Illumination, SearchConfig, Settled
from synthnb.recognition import bin_pairs, lfw_pairs, rfw_pairs
from synthnb.rl import Policy, RLConfig, fresh_policy, sized_for
from synthnb.stylegan2 import StyleGAN2, StyleGAN2Config, load_stylegan2
from synthnb.train import Classifier, classifier_net
from synthnb.vae import VAE

PATIENCE = 20 # seconds of the processor that one input may take


# ---- valid files ---------------------------------------------------------------------------------
def picture(path, seed, size=(20, 20), **options):
    "Blurred noise, as a file of the kind that its name says."
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    Image.fromarray(x).resize(size).save(path, **options)
    return path


def folder_of(root, kind='png', classes=('cat', 'dog'), each=6): # the first file
    "An ImageFolder."
    files = [picture(root/c/f'{i}.{kind}', 10*j + i) for j, c in enumerate(classes)
             for i in range(each)]
    return files[0]


def table_of(root): # the table
    "A CSV of paths, labels and splits, and its pictures."
    rows = [(picture(root/f'{i}.png', i).name, ('cat', 'dog')[i % 2], ('train', 'test')[i % 3 == 0])
            for i in range(12)]
    pd.DataFrame(rows, columns=['path', 'label', 'split']).to_csv(root/'labels.csv', index=False)
    return root/'labels.csv'


def affectnet_of(root): # the list of training images
    "AffectNet's lists of pictures that are not there: only the list is read."
    head = 'subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression'
    lists = root/'Manually_Annotated_file_lists'
    lists.mkdir(parents=True)
    for split in ('training', 'validation'):
        (lists/f'{split}.csv').write_text('\n'.join([f'{head},valence,arousal', *(
            f'1/{i}.jpg,2,2,16,16,,{i % 9},0.1,0.2' for i in range(20))]) + '\n')
    return lists/'training.csv'


def celeba_of(root, which='list_attr_celeba.txt'): # one of its lists
    "CelebA's lists; its pictures are not opened."
    names, n = ['Black_Hair', 'Blond_Hair', 'Brown_Hair', 'Male', 'Young'], 30
    folder, rng = root/'celeba', np.random.default_rng(0)
    (folder/'img_align_celeba').mkdir(parents=True)
    files = [f'{i + 1:06d}.jpg' for i in range(n)]
    bits = [' '.join(f'{v:2d}' for v in 2*rng.integers(0, 2, 5) - 1) for _ in files]
    (folder/'list_attr_celeba.txt').write_text(
        '\n'.join([str(n), ' '.join(names), *map(' '.join, zip(files, bits))]) + '\n')
    (folder/'list_eval_partition.txt').write_text(
        '\n'.join(f'{f} {i % 3}' for i, f in enumerate(files)) + '\n')
    return folder/which


def celeba_csv_of(root, which='list_attr_celeba.csv'): # one of its lists
    "The same as CSV files."
    folder = celeba_of(root).parent
    _, names, *rows = (folder/'list_attr_celeba.txt').read_text().splitlines()
    parts = (folder/'list_eval_partition.txt').read_text().splitlines()
    for name, head, body in (('list_attr_celeba', f'image_id {names}', rows),
                             ('list_eval_partition', 'image_id partition', parts)):
        (folder/f'{name}.txt').unlink()
        (folder/f'{name}.csv').write_text(
            '\n'.join(','.join(line.split()) for line in (head, *body)) + '\n')
    return folder/which


def affectnet_later_of(root): # one of its annotations
    "AffectNet as it is given out now: an array of its own for each number of a picture."
    for split in ('train_set', 'val_set'):
        (root/split/'annotations').mkdir(parents=True)
        for i in range(12):
            picture(root/split/'images'/f'{i}.jpg', i)
            for what, value in (('exp', str(i % 2)), ('val', '0.1'), ('aro', '0.2')):
                np.save(root/split/'annotations'/f'{i}_{what}.npy', value)
    return root/'train_set'/'annotations'/'4_exp.npy'


def fer_of(root):
    "FER-2013's CSV, three images of each class in each part."
    parts = ('Training', 'PublicTest', 'PrivateTest')
    rows = [f"{i % 7},{' '.join(['7', '250']*1152)},{parts[i % 3]}" for i in range(21)]
    (root/'fer2013.csv').write_text('\n'.join(['emotion,pixels,Usage', *rows]) + '\n')
    return root/'fer2013.csv'


def bin_of(root):
    "Pairs as insightface packs them."
    pictures = []
    for i in range(4):
        Image.new('RGB', (16, 16), (i, 100, 200)).save(f := io.BytesIO(), 'PNG')
        pictures.append(f.getvalue())
    (root/'lfw.bin').write_bytes(pickle.dumps((pictures, [True, False]), 2))
    return root/'lfw.bin'


def text_of(name, *rows):
    "A text file of these lines."
    def build(root):
        (root/name).write_text('\n'.join(rows) + '\n')
        return root/name
    return build


def record_of(root): # its metrics
    "A record of a run."
    folder = root/'runs'/'07_affectnet'/'default'
    folder.mkdir(parents=True)
    (folder/'params.json').write_text(json.dumps(dict(seed=0, scale='smoke', sampler='none')))
    (folder/'metrics.json').write_text(json.dumps(dict(
        metrics=dict(accuracy=.5, classes=['a', 'b']), provenance=dict(seconds=1.))))
    return folder/'metrics.json'


def network(name, save):
    "A small network as a file."
    def build(root):
        save(root/name)
        return root/name
    return build


def save_classifier(path):
    spec = dict(arch='resnet10', width=8, stem='small', stem_stride=1, in_channels=3)
    Classifier(classifier_net(n_classes=2, weights=None, **spec), ['cat', 'dog'], 16, spec,
               [.5]*3, [.5]*3).save(path)


def save_stargan(path):
    StarGAN(Generator(2, 4, 1), Discriminator(16, 2, 4, 2), ['cat', 'dog'], 16).save(path)


def save_dcgan(path):
    config = DCGANConfig.preset('smoke', width=4)
    g = Sampler(config, 36, 3, 2)
    for p in g.parameters(): torch.nn.init.normal_(p, std=.02) # a training begins with its own
    DCGAN(g, ['cat', 'dog'], 36, 3, config, 'cpu').save(path)


def archive_of(root, which='archive.safetensors'): # one of its two files
    "An archive of a search, written by hand."
    n, rng = 6, np.random.default_rng(0)
    found = Illumination(rng.normal(size=(n, 4)).astype('float32'), np.ones(n, 'float32'),
                         rng.random((n, 2)).astype('float32'), 'cosine', {}, np.arange(n),
                         pd.DataFrame(dict(evaluations=[10, 20], cells=[3, 6])), dict(cells=n),
                         SearchConfig.preset('laptop'),
                         Settled(((0., 1.), (0., 1.)), 0., 0., 0.), None)
    return found.save(root)/which


def arrays_of(root):
    "Images and labels as NumPy packs them."
    np.savez(root/'pool.npz', images=np.zeros((6, 8, 8, 3), np.uint8), labels=np.arange(6) % 2)
    return root/'pool.npz'


# ---- what reads them -----------------------------------------------------------------------------
def all_runs(path):
    os.environ['SYNTHNB_RUNS'] = str(path.parents[2])
    return read_runs('07_affectnet')


def pool_from(path):
    real = read_real((np.zeros((8, 8, 8, 3), np.uint8), ['0', '1']*4), size=8)
    return read_pool(path, real, max_unreadable=1.)


def as_parameter(path): # the text of a file as a notebook's parameter
    "Each rule, as a person's text would meet it."
    text = path.read_bytes().decode(errors='replace')
    for rule in (as_changes, name_list, number(0, 100)):
        try: rule(text)
        except ValueError as e: say = str(e)
        else: continue
        if not say: raise AssertionError(f'{rule} refused {text!r} without a word')


TARGETS = dict(
    jpg=(lambda r: folder_of(r/'set', 'jpg'), lambda p: load_data('folder', p.parents[1], size=16)),
    png=(lambda r: folder_of(r/'set', 'png'), lambda p: load_data('folder', p.parents[1], size=16)),
    tif=(lambda r: folder_of(r/'set', 'tif'), lambda p: load_data('folder', p.parents[1], size=16)),
    gif=(lambda r: folder_of(r/'set', 'gif'), lambda p: load_data('folder', p.parents[1], size=16)),
    door=(lambda r: folder_of(r/'set', 'webp'), lambda p: read_real(p.parents[1], size=16)),
    csv=(table_of, lambda p: load_data('csv', p, size=16)),
    door_csv=(table_of, lambda p: read_real(p, size=16)),
    npz=(arrays_of, pool_from),
    affectnet=(affectnet_of, lambda p: read_affectnet(p.parents[1])),
    celeba=(celeba_of, lambda p: read_celeba(p.parents[1], ['Male', 'Young'])),
    celeba_parts=(lambda r: celeba_of(r, 'list_eval_partition.txt'),
                  lambda p: read_celeba(p.parents[1], ['Male', 'Young'])),
    affectnet_later=(affectnet_later_of, lambda p: read_affectnet(p.parents[2])),
    celeba_csv=(celeba_csv_of, lambda p: read_celeba(p.parents[1], ['Male', 'Young'])),
    celeba_csv_parts=(lambda r: celeba_csv_of(r, 'list_eval_partition.csv'),
                      lambda p: read_celeba(p.parents[1], ['Male', 'Young'])),
    fer2013=(fer_of, read_fer2013),
    bin=(bin_of, lambda p: bin_pairs(p, 16, 2)),
    lfw=(text_of('pairs.txt', '1\t2', 'A\t1\t2', 'B\t10\t2', 'A\t1\tB\t2', 'C\t1\tD\t1'),
         lfw_pairs),
    rfw=(text_of('African_pairs.txt', *(f'm.{i}\t1\t2' if i % 2 else f'm.{i}\t1\tm.{i + 1}\t2'
                                        for i in range(20))), rfw_pairs),
    record=(record_of, all_runs),
    classifier=(network('classifier.safetensors', save_classifier), Classifier.load),
    stargan=(network('stargan.pt', save_stargan), StarGAN.load),
    policy=(network('policy.safetensors', lambda p: fresh_policy(
        ['cat', 'dog'], sized_for(RLConfig(width=4), 160, 18)).save(p)), Policy.load),
    vae=(network('vae.safetensors', lambda p: VAE(4, 16, 2, 2).save(p)), VAE.load),
    dcgan=(network('dcgan.safetensors', save_dcgan), DCGAN.load),
    stylegan2=(network('people.safetensors', lambda p: StyleGAN2(
        StyleGAN2Config((8, 8), 8, 8, 2)).save(p)), load_stylegan2),
    archive=(archive_of, lambda p: Illumination.load(p.parent)),
    archive_said=(lambda r: archive_of(r, 'illumination.json'),
                  lambda p: Illumination.load(p.parent)),
    parameters=(text_of('changes', "n_train=200,rl.episodes=9,gan='laptop',dims=(1, 2)"),
                as_parameter))
TEXTS = {'csv', 'door_csv', 'affectnet', 'celeba', 'celeba_parts', 'celeba_csv',
         'celeba_csv_parts', 'fer2013', 'lfw', 'rfw', 'record', 'parameters', 'archive_said'}
NETWORKS = 'classifier', 'stargan', 'policy', 'vae', 'dcgan', 'stylegan2', 'archive'
NAMELESS = {'parameters', 'record'} # what is refused in the name of something else


# ---- mutations -----------------------------------------------------------------------------------
def broken_bytes(data, luck): # bytes -> bytes
    "Bits flipped, a part lost, doubled, zeroed or replaced."
    data, how = bytearray(data), luck.randrange(7)
    a = luck.randrange(len(data) + 1)
    b = min(len(data), a + luck.choice((1, 3, 16, 200, len(data))))
    if how == 0:
        for _ in range(luck.choice((1, 2, 8, 64))):
            if data: data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
    elif how == 1: del data[a:]
    elif how == 2: del data[a:b]
    elif how == 3: data[a:a] = data[a:b]
    elif how == 4: data[a:b] = bytes(b - a)
    elif how == 5: data[a:b] = luck.randbytes(b - a)
    else: data = bytearray(luck.choice((b'', b'\x00', b'\xff\xfe', b'\x80\x02.', b'PK\x03\x04',
                                        b'version https://git-lfs.github.com/spec/v1\n')))
    return bytes(data)


ODD = ('', ' ', 'nan', 'inf', '-1', '1e309', '9'*30, 'None', '0.0', 'é', '\u202e', '"', "'",
       '$x_1^', '../../etc/passwd', '/etc/passwd', 'C:\\x.jpg', '\x00', '🙂', '=1+1', '0x10',
       'True', '[1', '{')


def broken_text(data, luck): # bytes -> bytes
    "A cell, a column, a line or the coding changed, as people and programs change them."
    rows = data.decode(errors='replace').split('\n')
    how, i = luck.randrange(10), luck.randrange(len(rows))
    comma = ',' if ',' in data.decode(errors='replace') else '\t' if b'\t' in data else ' '
    cells = rows[i].split(comma)
    j = luck.randrange(len(cells))
    if how == 0: cells[j] = luck.choice(ODD)
    elif how == 1: del cells[j]
    elif how == 2: cells.insert(j, luck.choice(ODD))
    if how < 3: rows[i] = comma.join(cells)
    elif how == 3: del rows[i]
    elif how == 4: rows.insert(i, rows[luck.randrange(len(rows))])
    elif how == 5: rows = [r.replace(comma, luck.choice((';', '\t', ' ', ',')))for r in rows]
    elif how == 6: luck.shuffle(rows)
    text = '\n'.join(rows)
    if how == 7: return text.replace('\n', luck.choice(('\r\n', '\r', '\n\n'))).encode()
    if how == 8: return text.encode(luck.choice(('utf-16', 'utf-8-sig', 'utf-32')))
    return broken_bytes(text.encode(), luck) if how == 9 else text.encode()


# ---- one input -----------------------------------------------------------------------------------
class TooSlow(BaseException): "It has not ended in time."


@contextlib.contextmanager
def in_time(seconds=PATIENCE):
    "Raise TooSlow inside after so many seconds of the processor; where it waits, after 15 times."
    def ring(*_): raise TooSlow(f'more than {seconds} s')
    clocks = {signal.SIGPROF: (signal.ITIMER_PROF, seconds),
              signal.SIGALRM: (signal.ITIMER_REAL, 15*seconds)} # other programs run, too
    before = {s: signal.signal(s, ring) for s in clocks}
    for timer, limit in clocks.values(): signal.setitimer(timer, limit)
    try: yield
    finally:
        for timer, _ in clocks.values(): signal.setitimer(timer, 0)
        for s, handler in before.items(): signal.signal(s, handler)


def outcome(read, path, nameless=False): # 'read', 'refused', or what is wrong
    "What a reader makes of a file."
    said = io.StringIO()
    try:
        with (in_time(), warnings.catch_warnings(), contextlib.redirect_stdout(said),
              contextlib.redirect_stderr(said)):
            warnings.simplefilter('ignore')
            read(path)
    except (ValueError, OSError) as e:
        text = str(e)
        if isinstance(e, (UnicodeError, json.JSONDecodeError)):
            return f'bare {type(e).__name__}: {e}'
        names = {path.name, *(p.name for p in path.parents if p.name)}
        if not nameless and not any(n in text for n in names): return f'names no file: {text[:200]}'
        return 'refused'
    except TooSlow as e: return f'too slow: {e}'
    except BaseException as e: return f'{type(e).__name__}: {str(e)[:200]}' # noqa: B036
    return 'read'


class Report:
    "What was tried, and what went wrong."
    def __init__(self): self.counts, self.faults = {}, {}
    def add(self, part, what, said, repeat=''):
        fault = said not in ('read', 'refused', 'same digits')
        kind = 'faults' if fault else said
        self.counts.setdefault((part, what), Counter())[kind] += 1
        if fault: self.faults.setdefault((part, what, said.split(':')[0]), (said, repeat))
    def table(self):
        rows = [dict(part=p, what=w, tried=sum(c.values())) | {
            k: c.get(k, 0) for k in ('read', 'refused', 'same digits', 'faults')}
            for (p, w), c in self.counts.items()]
        return pd.DataFrame(rows)


def fuzz(report, until, seed, only=None, at_most=10**9):
    "Every kind of file in turn, changed at random, until the time is over."
    names, i = [n for n in TARGETS if not only or n in only], 0
    with tempfile.TemporaryDirectory() as folder:
        valid = {n: (Path(folder)/n/'valid') for n in names}
        for n in names:
            valid[n].mkdir(parents=True)
            os.environ['SYNTHNB_RUNS'] = str(Path(folder)/n/'runs')
            path = TARGETS[n][0](valid[n])
            said = outcome(TARGETS[n][1], path, n in NAMELESS)
            if said != 'read': report.add('fuzz', n, f'the valid file is not read: {said}')
        while time.time() < until and i < at_most*len(names):
            one_input(report, Path(folder), names[i % len(names)], seed + i//len(names))
            i += 1


def one_input(report, folder, name, seed):
    "A fresh copy of a valid set with one file changed, read once."
    build, read = TARGETS[name]
    luck, root = random.Random(f'{name} {seed}'), folder/name/'try'
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    os.environ['SYNTHNB_RUNS'] = str(root/'.runs')
    path = build(root)
    data = path.read_bytes()
    by = broken_text if name in TEXTS and luck.random() < .7 else broken_bytes
    path.write_bytes(by(data, luck))
    said = outcome(read, path, name in NAMELESS)
    if said in ('read', 'refused') and (left := [p for p in root.rglob('*.part') if p.is_file()]):
        said = f'half a file is left: {left[0].name}'
    report.add('fuzz', name, said, f'--only fuzz --targets {name} --seed {seed} --inputs 1')


def torn(report, until, seed, step=1):
    "A network's file cut at each per cent of its length: refused, and by its name."
    for name in NETWORKS: # each of them whole
        if time.time() > until: return
        with tempfile.TemporaryDirectory() as folder:
            path = TARGETS[name][0](Path(folder))
            data = path.read_bytes()
            for per_cent in range(0, 100, step):
                path.write_bytes(data[:len(data)*per_cent//100])
                said = outcome(TARGETS[name][1], path)
                report.add('torn', name, 'read though torn' if said == 'read' else said,
                           f'{name} cut at {per_cent}%')


# ---- kills, crowds, disks ------------------------------------------------------------------------
SMALL = '''
import sys, numpy as np, torch
torch.set_num_threads(1)
from synthnb import gan
from synthnb.core import save_json, hash_of
from synthnb.drawn import drawn_set
from synthnb.train import fit_classifier
train = gan.train_stargan
gan.train_stargan = lambda *args, **kw: train(*args, save_seconds=0, **kw)
config = gan.StarGANConfig.preset('laptop', updates=30, batch=8, warmup=4)
real = drawn_set(64, 36, 'balanced', seed=0, name='train')
_, folder = gan.fit_stargan(real, config, seed=0, device='cpu')
pool = gan.pool_of(folder, real, device='cpu')
c = fit_classifier([(real, None), (pool, np.arange(64))], real, updates=20, seed=0, device='cpu',
                   arch='resnet10', width=8, stem='small', crop=32)
print('digits', hash_of(np.asarray(pool.images), c.predict_proba(real)), flush=True)
'''
NOTEBOOKS = ('07_affectnet', '08_celeba', '09_emotions', '10_shapes', '11_faces', '12_latent',
             '13_overfitting', '15_when', '16_yours')
SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT


def small(runs): # a process
    return Apart(lines, SMALL, env=dict(SYNTHNB_RUNS=str(runs), OMP_NUM_THREADS='1'), split=True)


def smoke_run(notebook): # a function of the folder of runs that gives a process
    "An experiment at smoke scale, as papermill runs it."
    root = Path(__file__).resolve().parents[1]
    def begin(runs):
        env = os.environ | dict(SYNTHNB_RUNS=str(runs), OMP_NUM_THREADS='1', MPLBACKEND='agg')
        return subprocess.Popen(
            [sys.executable, str(root/'tools'/'execute.py'), f'nbs/{notebook}.ipynb',
             '{"scale": "smoke"}'], cwd=root, env=env, start_new_session=True, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return begin


def ended(process, patience=900): # (exit status, output)
    "Wait for a process."
    out, err = process.communicate(timeout=patience)
    return process.returncode, (out or '') + (err or '')


def digits(runs, notebook=None): # what must be the same, or None
    "A run's numbers without its times."
    if not notebook: return None
    def plain(v):
        if isinstance(v, dict): return {k: plain(x) for k, x in v.items() if not timed(k)}
        return [plain(x) for x in v] if isinstance(v, list) else v
    found = [json.loads(p.read_text())['metrics'] for p in sorted(
        Path(runs).glob(f'{notebook}/*/metrics.json'))]
    return json.dumps([plain(f) for f in found], sort_keys=True)


TIMES = 'second', 'minutes', 'spent', 'room', 'memory', 'per_s'


def timed(key): return any(w in key for w in TIMES)


def left_behind(runs): # text, or nothing
    "Half files, and locks that somebody still holds."
    parts = [p.name for p in Path(runs).rglob('*.part')]
    torn_files = [p.name for p in Path(runs).rglob('.*.tmp')]
    held = [p.name for p in Path(runs).rglob('*.lock') if is_held(p)]
    return f'left behind: {(parts + torn_files + held)[:3]}' if parts + torn_files + held else ''


def is_held(path):
    "Whether a process has this lock."
    try: FileLock(path, timeout=0).acquire().lock.release()
    except Timeout: return True
    return False


def finished(runs): # {file: when it was written}
    "What says that an artefact is whole; nothing may make it again."
    return {p: p.stat().st_mtime_ns for p in Path(runs).rglob('artefact.json')}


def undisturbed(runs): # (digits, seconds)
    "The small run that nothing happens to."
    began = time.time()
    return digits_said(ended(small(runs))[1]), time.time() - began


def digits_said(text): return next((w for w in text.splitlines() if w.startswith('digits')), None)


def kills(report, until, seed, notebooks=()):
    "Stopped at random moments by random signals, up to three times; then left to end."
    luck = random.Random(seed)
    for name in (None, *notebooks):
        begin = smoke_run(name) if name else small
        with tempfile.TemporaryDirectory() as folder:
            start = time.time()
            status, out = ended(begin(Path(folder)/'whole'))
            took = time.time() - start
            wanted = digits(Path(folder)/'whole', name) or digits_said(out)
            if status or not wanted:
                report.add('kills', name or 'small', f'the whole run failed: {out[-300:]}')
                continue
            share, i = (until - time.time())/max(1, len(notebooks) + 1 - bool(name)), 0
            end = time.time() + share
            while time.time() + took < end or not i:
                one_kill(report, begin, Path(folder)/f'{i}', luck, took, name, wanted)
                i += 1


def one_kill(report, begin, runs, luck, took, name, wanted):
    "One run, stopped up to three times."
    how = []
    for _ in range(luck.randint(1, 3)):
        process, s = begin(runs), luck.choice(SIGNALS)
        time.sleep(luck.uniform(.2, 1)*took)
        if process.poll() is not None:
            ended(process)
            break
        how.append(signal.Signals(s).name)
        with contextlib.suppress(ProcessLookupError): os.kill(process.pid, s)
        try: ended(process, 600)
        except subprocess.TimeoutExpired as e:
            at = e.stderr[-600:] if isinstance(e.stderr, str) else '' # of an Apart
            report.add('kills', name or 'small', f'alive ten minutes after {how}: {at}')
            for end in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError): end(process.pid, signal.SIGKILL)
            return
    whole = finished(runs)
    status, out = ended(begin(runs))
    now, again = digits(runs, name) or digits_said(out), whole.items() - finished(runs).items()
    said = (f'failed after {how}: {out[-300:]}' if status else
            f'made again after {how}: {min(again)[0].parent}' if again else
            'same digits' if now == wanted else f'other digits after {how}')
    report.add('kills', name or 'small', left_behind(runs) or said)
    shutil.rmtree(runs, ignore_errors=True)


def aged(runs, seconds):
    "Every file of a folder as if the clock had been changed by so much since it was written."
    for path in Path(runs).rglob('*'):
        if path.is_file(): os.utime(path, (time.time() + seconds,)*2)


def clock(report, until, seed):
    "A run is stopped, the clock goes back or ahead by up to fifty years, and the run goes on."
    luck = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        (wanted, took), first = undisturbed(Path(folder)/'whole'), True
        while first or time.time() + took < until:
            first, runs = False, Path(folder)/f'{time.time()}'
            process = small(runs)
            time.sleep(luck.uniform(.3, .9)*took)
            with contextlib.suppress(ProcessLookupError): os.kill(process.pid, signal.SIGKILL)
            ended(process)
            aged(runs, luck.choice((-1, 1))*86400*365*luck.choice((.003, 1, 50)))
            status, out = ended(small(runs))
            same = not status and digits_said(out) == wanted
            report.add('clock', 'set back or ahead',
                       'same digits' if same else f'failed: {out[-300:]}')


def lost(report, until, seed):
    "A file of a finished artefact goes missing, or is cut, before the next run reads it."
    luck = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, runs, first = Path(folder)/'whole', Path(folder)/'runs', True
        wanted, took = undisturbed(whole)
        files = sorted(p.relative_to(whole) for p in whole.rglob('*')
                       if p.is_file() and p.stat().st_size and 'digests' not in p.name)
        while first or time.time() + took < until:
            first = False
            shutil.copytree(whole, runs)
            victim, how = luck.choice(files), luck.choice(('missing', 'cut'))
            if how == 'missing': (runs/victim).unlink()
            else: os.truncate(runs/victim, (runs/victim).stat().st_size//2)
            status, out = ended(small(runs))
            said = 'same digits' if not status and digits_said(out) == wanted else (
                'refused' if status and victim.parts[1] in out and 'Error' in out
                else f'{victim} {how}: {out[-300:]}')
            report.add('lost', how, said, f'{victim}')
            shutil.rmtree(runs)


def crowd(report, until, seed, many=8): # processes
    "Several processes that want the same things at the same moment, in one folder of runs."
    with tempfile.TemporaryDirectory() as folder:
        wanted, _ = undisturbed(Path(folder)/'alone')
        first = True
        while first or time.time() < until - 30:
            first, runs = False, Path(folder)/f'{time.time()}'
            made = 0
            for status, out in map(ended, [small(runs) for _ in range(many)]):
                made, said = made + len(re.findall('^gan .* made in', out, re.M)), digits_said(out)
                ok = said == wanted and not status
                report.add('crowd', f'{many} at once',
                           'same digits' if ok else f'failed: {out[-300:]}')
            if made != 1: report.add('crowd', f'{many} at once', f'the GAN was made {made} times')
            if left := left_behind(runs): report.add('crowd', f'{many} at once', left)


def disk(report, until, seed):
    "A file that may not grow, a small disk, and a disk that may only be read."
    with tempfile.TemporaryDirectory() as folder:
        wanted, _ = undisturbed(Path(folder)/'alone')
        luck, first = random.Random(seed), True
        while first or time.time() < until - 30:
            first, runs = False, Path(folder)/f'{time.time()}'
            most = luck.randrange(1000, 300_000)
            process = Apart(lines, f'import resource, signal\n'
                            f'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
                            f'resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, -1))\n' + SMALL,
                            env=dict(SYNTHNB_RUNS=str(runs), OMP_NUM_THREADS='1'), split=True)
            status, out = ended(process)
            clear = 'Error' in out and ('space' in out or 'large' in out or 'SYNTHNB_RUNS' in out)
            said = 'refused' if status and clear else 'same digits' if (
                not status and digits_said(out) == wanted) else f'unclear: {out[-300:]}'
            report.add('disk', 'no file above a size', said, f'RLIMIT_FSIZE {most}')
            status, out = ended(small(runs))
            report.add('disk', 'and then room', 'same digits' if digits_said(out) == wanted
                       else f'failed: {out[-300:]}')
        mounted_disk(report, Path(folder), wanted)


def mounted_disk(report, folder, wanted):
    "The same on a file system of 3 MB, which then is only to be read, and then has room."
    place = folder/'mounted'
    place.mkdir()
    if not shutil.which('mount') or os.geteuid() or subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', place],
            capture_output=True).returncode:
        print('no disk may be mounted here: a small and a read-only one are not tried')
        return
    try:
        for what, options in (('3 MB', ''), ('read only', 'remount,ro'),
                              ('60 MB', 'remount,rw,size=60m')):
            if options: subprocess.run(['mount', '-o', options, place], check=True)
            status, out = ended(small(place))
            if what == '60 MB': said = 'same digits' if digits_said(out) == wanted else out[-300:]
            elif status > 0 and 'SYNTHNB_RUNS' in out: said = 'refused'
            else: said = f'unclear: {out[-300:]}'
            report.add('disk', what, said)
    finally: subprocess.run(['umount', place])


PARTS = dict(fuzz=fuzz, torn=torn, kills=kills, clock=clock, lost=lost, crowd=crowd, disk=disk)
SHARES = dict(fuzz=.4, torn=.05, kills=.3, clock=.05, lost=.05, crowd=.05, disk=.1)


def campaign(minutes, parts, seed, notebooks=(), targets=None, inputs=10**9): # a Report
    "Every part for its share of the time."
    report, kept = Report(), os.environ.get('SYNTHNB_RUNS')
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    core.REMEMBERED.clear()
    total = sum(SHARES[p] for p in parts)
    try:
        for part in parts:
            until = time.time() + 60*minutes*SHARES[part]/total
            more = dict(fuzz=dict(only=targets, at_most=inputs),
                        kills=dict(notebooks=notebooks)).get(part, {})
            try: PARTS[part](report, until, seed, **more)
            except Exception as e: # of the campaign itself: what was found before is reported
                report.add(part, 'the campaign', f'{type(e).__name__}: {str(e)[:300]}')
    finally:
        if kept is None: os.environ.pop('SYNTHNB_RUNS', None)
        else: os.environ['SYNTHNB_RUNS'] = kept
    return report


def main(argv=None): # exit status
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    env = os.environ.get
    parser.add_argument('--minutes', type=float, default=float(env('MINUTES') or 1))
    parser.add_argument('--only', nargs='+', choices=PARTS, default=[*PARTS])
    parser.add_argument('--seed', type=int, default=int(env('SEED') or 0))
    parser.add_argument('--targets', nargs='+', choices=TARGETS, help='kinds of files for fuzz')
    parser.add_argument('--inputs', type=int, default=10**9, help='for each kind, at most')
    parser.add_argument('--notebooks', nargs='*', choices=NOTEBOOKS, help='experiments to kill, '
                        'besides a small script; from 30 minutes on all of them')
    parser.add_argument('--out', default='', help='a CSV file for the report')
    args = parser.parse_args(sys.argv[1:] + words('ARGS') if argv is None else argv)
    torch.set_num_threads(1)
    if args.notebooks is None: args.notebooks = NOTEBOOKS*(args.minutes >= 30)
    report = campaign(args.minutes, args.only, args.seed, args.notebooks, args.targets, args.inputs)
    table = report.table()
    print(table.to_string(index=False))
    for (part, what, _), (said, repeat) in report.faults.items():
        print(f'FAULT {part}, {what}: {said}\n      {repeat}')
    if args.out: table.to_csv(args.out, index=False)
    return bool(report.faults)


if __name__ == '__main__': sys.exit(main())
