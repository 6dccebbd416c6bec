"""Scoring a pool from disk against the bare network, and whether its memory grows with the pool."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from stopwatch import seconds

from synthnb.core import default_device, save_json
from synthnb.data import ImageSet, ImageSetWriter, centre_crop, npy_header, to_float
from synthnb.scores import ScoreColumn, class_confidence, score_pool, stream_scores
from synthnb.train import PLAIN, Classifier, classifier_net, normalise


def bench_pool(folder:Path, n:int, size:int, k:int=8, # images, their pixels, and classes
               sparse:bool=False, # all zeros, which costs no disk
              ) -> ImageSet:
    "A pool without content to measure on: random pixels, or a sparse file of zeros."
    meta, rows = dict(classes=[f'c{i}' for i in range(k)]), np.arange(n) % k
    if not sparse:
        w, luck = ImageSetWriter(folder, n, size, meta['classes']), np.random.default_rng(0)
        for at in range(0, n, 8192):
            b = min(8192, n - at)
            w.write(luck.integers(0, 256, (b, size, size, 3), np.uint8), rows[at:at + b])
        return w.close()
    folder.mkdir(parents=True)
    header = npy_header((n, size, size, 3), np.uint8)
    with open(folder/'images.npy', 'wb') as f:
        f.write(header)
        f.truncate(len(header) + n*size*size*3)
    np.save(folder/'labels.npy', rows)
    save_json(folder/'set.json', meta)
    return ImageSet(folder)


def bench_rate(classifier, # a Classifier on its device
               folder:Path, # where a pool for the measurement is made
               n:int=4096, size:int=36, # images, and their stored pixels
               batch_size:int=512, repeats:int=9, device='auto',
              ) -> dict: # images a second, of both, and the ratio
    "Scoring a pool from disk against the network's bare forward passes over floats in memory."
    device, pool = default_device(str(device)), bench_pool(Path(folder)/'rate',
                                                           n, size, len(classifier.classes))
    fn = class_confidence(classifier, device=device)
    floats = lambda b: normalise(centre_crop(b, classifier.crop), classifier.mean, classifier.std)
    preloaded = [floats(b.to(device)).contiguous(memory_format=torch.channels_last)
                 for _, b in pool.batches(batch_size)]
    def bare():
        with torch.inference_mode():
            for x in preloaded: classifier.net(x)
    def score():
        stream_scores(pool, fn, ScoreColumn(pool, 'bench', None, batch_size), batch_size, device)
    def rate(work): return n/seconds(work, device)
    rate(bare), rate(score)
    rates = np.array([(rate(bare), rate(score)) for _ in range(repeats)])
    bare_rate, score_rate = rates.max(0).tolist()
    return dict(bare=bare_rate, score=score_rate, ratio=score_rate/bare_rate)


def resident_peak() -> int: # bytes
    "The most memory that this process has held, not counting what its parent held before."
    status = Path('/proc/self/status')
    if status.exists(): return int(status.read_text().split('VmHWM:')[1].split()[0])*1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(
        1 if sys.platform == 'darwin' else 1024)


def scoring_peak(folder:str, batch_size:int=512) -> int: # bytes
    "The peak of memory of scoring the image set in a folder, in a process of its own."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU(),
                              torch.nn.Flatten(), torch.nn.LazyLinear(8)).eval()
    def fn(images, labels, rows):
        return net(to_float(images)).softmax(1).gather(1, labels[:, None]).squeeze(1)
    score_pool(ImageSet(Path(folder)), 'confidence', fn, batch_size=batch_size, device='cpu')
    return resident_peak()


def bench_memory(folder:Path, # where sparse pools are made
                 sizes:tuple=(100_000, 1_000_000), # images
                 size:int=16, # pixels
                ) -> dict: # {images: peak bytes}
    "The peak memory of scoring pools of different sizes, each in a fresh process."
    peaks = {}
    env = os.environ | {'PYTHONPATH': os.pathsep.join(p or os.getcwd() for p in sys.path)}
    for n in sizes:
        pool = bench_pool(Path(folder)/f'sparse-{n}', n, size, sparse=True)
        child = subprocess.run([sys.executable, __file__, str(pool.folder)],
                               capture_output=True, text=True, env=env)
        if child.returncode:
            raise RuntimeError(f'scoring {n:,} images failed: {child.stderr[-500:]}')
        peaks[n] = int(child.stdout.split()[-1])
    return peaks


def bench_scoring(n:int|None=None, # images for the rate; default: 4,096 on a CPU, 65,536 on CUDA
                  sizes:tuple=(100_000, 1_000_000), # images for the memory
                  device='auto', repeats:int=9,
                 ): # yields measure, value, wanted
    "How fast scoring is beside the bare network, and whether its memory grows with the pool."
    device = default_device(str(device))
    cuda = device.type == 'cuda'
    spec = dict(arch='resnet18' if cuda else 'resnet10', width=64 if cuda else 16,
                stem='small', stem_stride=2, in_channels=3)
    size, crop = (72, 64) if cuda else (36, 32)
    classes = [f'c{i}' for i in range(8)]
    scorer = Classifier(classifier_net(n_classes=8, **spec),
                        classes, crop, spec, **PLAIN).to(device)
    with tempfile.TemporaryDirectory() as folder:
        rate = bench_rate(scorer, Path(folder), n or (65_536 if cuda else 4096),
                          size, repeats=repeats, device=device)
        peaks = list(bench_memory(Path(folder), sizes).values())
    yield f"bare forward, {spec['arch']} at {crop} px, images/s", rate['bare'], ''
    yield 'scoring a pool from disk, images/s', rate['score'], ''
    yield 'scoring / bare forward', rate['ratio'], '>= 0.9'
    for m, peak in zip(sizes, peaks): yield f'peak memory scoring {m:,} images, MB', peak/1e6, ''
    yield 'peak memory, largest / smallest', peaks[-1]/peaks[0], '<= 1.05'


def rows(device): return bench_scoring(device=device)


if __name__ == '__main__': print(scoring_peak(sys.argv[1]))
