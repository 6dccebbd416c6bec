"""A pool, a table and a folder as large as they get: whether time is linear and memory flat.

`python tools/bench_load.py --images 10000000` takes a pool of so many images of 32 px through
import, scoring and selection (30 GB of disk; a sparse file is what is imported), each size in a
process of its own, from a hundredth of it on. `--rows 5000000` reads a CSV of so many rows, which
name a few pictures again and again; `--classes 1000` has so many classes; `--slow 5` makes every
look at a file of a folder take so many milliseconds, as over a network. SYNTHNB_RUNS says on which
disk it is done.
"""
import argparse
import builtins
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from bench_scores import resident_peak
from PIL import Image

from synthnb import core, door
from synthnb.data import npy_header
from synthnb.door import read_pool, read_real
from synthnb.samplers import select
from synthnb.scores import class_confidence, score_pool
from synthnb.train import PLAIN, Classifier, classifier_net

PIXELS = 32 # a side
HELD = 700 # bytes that an image may take in memory beside its 3,072 of pixels


def in_memory(): # bytes
    "What this process holds; of files that are mapped nothing, for the system takes those back."
    status = Path('/proc/self/status')
    if not status.exists(): return resident_peak()
    return int(status.read_text().split('RssAnon:')[1].split()[0])*1024


class Watch:
    "Seconds of each stage, and the most memory until then."
    def __init__(self):
        self.said, self.began, self.most, self.over = {}, time.perf_counter(), 0, False
        threading.Thread(target=self.look, daemon=True).start()
    def look(self):
        while not self.over:
            self.most = max(self.most, in_memory())
            time.sleep(.02)
    def __call__(self, stage):
        now = time.perf_counter()
        self.said[stage] = dict(seconds=now - self.began, peak=max(self.most, in_memory()))
        self.began = time.perf_counter()
    def end(self): # stage -> seconds, peak
        self.over = True
        return self.said


def names_of(k): return [f'class {i:04d}' for i in range(k)]


def grey(k, size=PIXELS): # a real set of 2 k images
    "What says which classes there are."
    x = np.random.default_rng(0).integers(0, 256, (2*k, size, size), np.uint8)
    return read_real((x, names_of(k)*2), size=size)


def sparse_array(path, n): # (n, 32, 32, 3) of zeros, which take no disk
    header = npy_header((n, PIXELS, PIXELS, 3), np.uint8)
    with open(path, 'wb') as f:
        f.write(header)
        f.truncate(len(header) + n*PIXELS**2*3)
    return np.load(path, mmap_mode='r')


def small_classifier(classes):
    torch.manual_seed(0)
    spec = dict(arch='resnet10', width=4, stem='small', stem_stride=2, in_channels=3)
    return Classifier(classifier_net(n_classes=len(classes), **spec), classes, PIXELS, spec,
                      **PLAIN)


# ---- in a process of their own -------------------------------------------------------------------
def through(folder, n, k): # stage -> seconds, peak
    "A pool through import, a cheap score, a classifier's confidence, and three selections."
    real, watch = grey(k), Watch()
    watch('start')
    labels = np.arange(n) % k
    pool = read_pool((sparse_array(folder/'sparse.npy', n), labels), real,
                     mapping=dict(zip(map(str, range(k)), names_of(k))))
    watch('import')
    luck = torch.Generator().manual_seed(0)
    def bright(images, labels, rows): return images[:, ::8, ::8].float().mean((1, 2, 3)) + (
        torch.rand(len(rows), generator=luck))
    score_pool(pool, 'bright', bright, device='cpu')
    watch('a cheap score')
    score_pool(pool, 'confidence', class_confidence(small_classifier(real.images.classes)),
               device='cpu')
    watch('confidence')
    for name, options in (('random', {}), ('cl-sam', dict(share='balanced')),
                          ('cl-sam', dict(column='bright', share='global'))):
        kept = select(name, pool, n//10, **options)
        assert len(kept) == n//10
    watch('three selections')
    return watch.end()


def few_pictures(folder, many=50):
    "JPEGs that a table names again and again."
    luck = np.random.default_rng(0)
    for i in range(many):
        x = luck.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(x).resize((PIXELS, PIXELS)).save(folder/f'{i:02d}.jpg')
    return [f'{i:02d}.jpg' for i in range(many)]


def table(folder, n, k): # stage -> seconds, peak
    "A CSV read as data, as the door reads it, and (of fewer rows) into an image set."
    from synthnb.data import read_csv
    few = few_pictures(folder)
    with open(folder/'rows.csv', 'w') as f:
        f.write('path,label,split,score\n')
        for at in range(0, n, 100_000):
            f.write(''.join(f'{few[i % 50]},class {i % k:04d},{("train", "test")[i % 5 == 0]},'
                            f'{i % 97}\n' for i in range(at, min(n, at + 100_000))))
    watch = Watch()
    records, classes = read_csv(folder/'rows.csv')
    assert len(records) == n and len(classes) == k
    del records
    watch('read_csv')
    found = door.found_csv(folder/'rows.csv')
    watch('the door: table and checks')
    assert len(found.rows) == n and len(found.columns['score']) == n
    found.content(np.arange(n))
    watch('the door: a name for all files')
    return watch.end()


def slow(folder, n, k, delay): # stage -> seconds, peak
    "A folder whose every file takes a while to be looked at, and to be opened."
    few = few_pictures(folder)
    for i in range(n):
        place = folder/'set'/names_of(k)[i % k]
        place.mkdir(parents=True, exist_ok=True)
        data = (folder/few[i % 50]).read_bytes() + i.to_bytes(8, 'little')
        (place/f'{i:06d}.jpg').write_bytes(data)
    real, inside, usual = grey(k), str(folder/'set'), (builtins.open, os.stat)
    def late(do):
        def other(path, *args, **kw):
            if str(path).startswith(inside): time.sleep(delay)
            return do(path, *args, **kw)
        return other
    builtins.open, os.stat = map(late, usual)
    watch = Watch()
    try: read_pool(folder/'set', real)
    finally: builtins.open, os.stat = usual
    watch('import')
    return watch.end()


# ---- what is measured ----------------------------------------------------------------------------
def apart(kind, n, k, delay=0.): # stage -> seconds, peak bytes
    "One size of one kind, in a process and a folder of its own."
    with tempfile.TemporaryDirectory(dir=os.environ.get('SYNTHNB_RUNS') or None) as folder:
        env = os.environ | dict(PYTHONPATH=os.pathsep.join(p or os.getcwd() for p in sys.path),
                                SYNTHNB_RUNS=f'{folder}/runs', IN_TEST='1')
        child = subprocess.run([sys.executable, __file__, '--only', kind, '--in', folder,
                                *map(str, (n, k, delay))], capture_output=True, text=True, env=env)
    if child.returncode: raise RuntimeError(f'{kind} of {n:,} failed: {child.stderr[-1500:]}')
    return json.loads(child.stdout.splitlines()[-1])


def growth(kind, sizes, k): # yields measure, value, wanted
    "Time and memory at two sizes: what each further image or row costs."
    low, high = (apart(kind, n, k) for n in sizes)
    more, times = sizes[-1] - sizes[0], sizes[-1]/sizes[0]
    for stage, there in high.items():
        if stage == 'start': continue
        each = there['seconds']/sizes[-1]*1e6
        yield f'{kind}, {stage}: microseconds each, of {sizes[-1]:,}', each, ''
        yield (f'{kind}, {stage}: time / its part of {times:g} times the size',
               there['seconds']/(times*max(low[stage]['seconds'], .02)), '<= 1.5')
    peaks = [max(s['peak'] for s in said.values()) for said in (low, high)]
    yield f'{kind}: peak memory at {sizes[-1]:,}, MB', peaks[1]/1e6, ''
    yield (f'{kind}: memory for each after {sizes[0]:,}, bytes', (peaks[1] - peaks[0])/more,
           f'<= {HELD}')


def bench_load(images=(20_000, 200_000), rows=(20_000, 200_000), classes=1000, slow_ms=5.,
               files=1000): # yields measure, value, wanted
    "Whether anything grows faster than what it is given."
    yield from growth('through', images, 8)
    yield from growth('table', rows, 8)
    yield from ((f'{classes:,} classes: {m}', v, w)
                for m, v, w in growth('through', (images[0], 4*images[0]), classes))
    fast, late = (apart('slow', files, 4, ms/1000)['import']['seconds'] for ms in (0, slow_ms))
    waits = files*4*slow_ms/1000 # a file is looked at twice, and opened twice
    yield f'{files:,} files, each look {slow_ms:g} ms late: seconds more', late - fast, ''
    yield 'the same / all waits one after the other', (late - fast)/waits, '<= 0.5'


def rows(device): return bench_load()


def child(folder, kind, n, k, delay):
    torch.set_num_threads(1)
    core.REMEMBERED.clear()
    do = dict(through=through, table=table, slow=slow)[kind]
    print(json.dumps(do(folder, n, k, *((delay,) if kind == 'slow' else ()))))


def main():
    options = argparse.ArgumentParser(description=__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--only', choices=('through', 'table', 'slow'))
    options.add_argument('--in', dest='place', nargs=4, help=argparse.SUPPRESS)
    options.add_argument('--images', type=int, default=10_000_000)
    options.add_argument('--rows', type=int, default=5_000_000)
    options.add_argument('--classes', type=int, default=8)
    options.add_argument('--slow', type=float, default=5., help='milliseconds')
    given = options.parse_args()
    if given.place:
        folder, n, k, delay = given.place
        return child(Path(folder), given.only, int(n), int(k), float(delay))
    k = given.classes
    asked = dict(through=given.images, table=given.rows)
    for kind, n in asked.items():
        if given.only not in (None, kind): continue
        for measure, value, wanted in growth(kind, (max(1000, n//100), n), k):
            print(f'{measure:<85} {value:>12,.3f}  {wanted}', flush=True)
    if given.only in (None, 'slow'): print(apart('slow', 1000, k, given.slow/1000))


if __name__ == '__main__': main()
