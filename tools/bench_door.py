"""Importing a folder of JPEGs against the bare decoder, and whether memory grows with the files.

`python tools/bench_door.py --images 1000000` measures both on so many images of 256 px.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from bench_scores import resident_peak
from PIL import Image, ImageFilter
from stopwatch import seconds

from synthnb import core, door
from synthnb.data import decode
from synthnb.door import read_pool, read_real

MANY = 1000 # files of one content, which differ in their last bytes or are links to one another


def bench_folder(root:Path, n:int, size:int=256, # files, in two classes; their pixels
                ) -> Path:
    "JPEGs of blurred noise, each with a content of its own as long as there are few."
    luck, pictures = np.random.default_rng(0), []
    for i in range(16):
        im = Image.fromarray(luck.integers(0, 256, (size, size, 3), np.uint8))
        im.filter(ImageFilter.GaussianBlur(2)).save(root/'one.jpg', quality=90)
        pictures.append((root/'one.jpg').read_bytes())
    folders = [root/f'images-{n}'/name for name in ('cat', 'dog')]
    for f in folders: f.mkdir(parents=True)
    own = max(16, min(n, n//MANY + 8000)) # contents; more files than that are links
    for i in range(n):
        path, first = (folders[j % 2]/f'{j:07d}.jpg' for j in (i, i % own))
        if i < own: path.write_bytes(pictures[i % 16] + i.to_bytes(8, 'little'))
        else: os.link(first, path)
    return root/f'images-{n}'


def bench_rate(root:Path, n:int=1000, size:int=64, repeats:int=3, # images, stored pixels
              ) -> dict: # images a second, of both, their ratio; and that of processor time
    "Reading, hashing, decoding and writing a folder, and the decoder alone, in turns."
    folder, cpu = bench_folder(root, n), torch.device('cpu')
    paths, usual = sorted(map(str, folder.rglob('*.jpg'))), os.environ.get('SYNTHNB_RUNS', '')
    def bare():
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(lambda p: decode(p, size), paths): pass
    def whole():
        for known in (core.REMEMBERED, door.HASHED): known.clear()
        read_real(folder, size=size)
    def rate(work): # images a second; a second of the processors'
        began = time.process_time()
        return n/seconds(work, cpu), n/(time.process_time() - began)
    bare()
    rates = []
    for i in range(repeats):
        os.environ['SYNTHNB_RUNS'] = str(root/f'runs-{i}')
        try: rates.append(rate(bare) + rate(whole))
        finally: os.environ['SYNTHNB_RUNS'] = usual
    plain, plain_cpu, ours, ours_cpu = np.array(rates).max(0).tolist()
    return dict(bare=plain, door=ours, ratio=ours/plain, cpu_ratio=ours_cpu/plain_cpu)


def import_peaks(folders:list, size:int=64) -> list: # bytes, after each
    "The peak of memory of importing folders as pools, one after the other."
    torch.set_num_threads(1)
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 8), np.uint8)
    real, peaks = read_real((grey, ['cat', 'dog']*4), size=size), []
    for folder in folders:
        read_pool(folder, real)
        peaks.append(resident_peak())
    return peaks


def bench_memory(root:Path, sizes:tuple=(1000, 8000), # images
                 size:int=256, # pixels of the files
                ) -> dict: # {images: peak bytes}
    "The peak memory of importing folders, the smallest first, in a process of its own."
    folders = [root/f'images-{n}' for n in sizes]
    for n, folder in zip(sizes, folders):
        if not folder.exists(): bench_folder(root, n, size)
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(p or os.getcwd() for p in sys.path),
                            SYNTHNB_RUNS=str(root/'runs-of-memory'))
    child = subprocess.run([sys.executable, __file__, '--peak', *map(str, folders)],
                           capture_output=True, text=True, env=env)
    if child.returncode: raise RuntimeError(f'the imports failed: {child.stderr[-500:]}')
    return dict(zip(sizes, map(int, child.stdout.splitlines()[-1].split())))


def bench_door(n:int=1000, sizes:tuple=(1000, 8000), repeats:int=3, size:int=256,
               far:tuple=(8000, 64_000), # images of 32 px, where what is needed once is there
              ): # yields measure, value, wanted
    "How fast the door is beside the bare decoder, and whether its memory grows."
    with tempfile.TemporaryDirectory() as folder:
        rate = bench_rate(Path(folder), n, repeats=repeats)
        peaks = list(bench_memory(Path(folder), sizes, size).values())
    with tempfile.TemporaryDirectory() as folder:
        low, high = bench_memory(Path(folder), far, 32).values()
    yield f'decoding JPEGs of {size} px to 64 px, images/s', rate['bare'], ''
    yield 'importing them: read, named, decoded and written, images/s', rate['door'], ''
    yield 'importing / decoding alone', rate['ratio'], '>= 0.8'
    yield 'importing / decoding alone, by processor time', rate['cpu_ratio'], '>= 0.8'
    for m, peak in zip(sizes, peaks): yield f'peak memory importing {m:,} images, MB', peak/1e6, ''
    yield 'peak memory, largest / smallest', peaks[-1]/peaks[0], '<= 1.05'
    each = (high - low)/(far[1] - far[0])
    yield f'memory for each image after {far[0]:,} (its pixels are 12,288), bytes', each, '<= 700'


def rows(device): return bench_door()


if __name__ == '__main__':
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('--peak', nargs='+', help='import these folders, print peaks in bytes')
    options.add_argument('--images', type=int, default=8000)
    options = options.parse_args()
    if options.peak: print(*import_peaks(options.peak))
    else:
        n = options.images
        for measure, value, wanted in bench_door(n, (max(16, n//8), n), repeats=1):
            print(f'{measure:<80} {value:>12,.3f}  {wanted}')
