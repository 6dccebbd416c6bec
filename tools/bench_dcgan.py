"""`python tools/bench_dcgan.py speed` and `quality 100 101`: the GANs of 01e, their cost and worth.

`speed`: all GANs of a run as one, against the same GANs one after the other, side by side; a row a
setting and number of threads in runs/bench/dcgan.csv. `quality`: settings of an equal budget of
seconds on one thread, judged by the oracle of drawn faces; rows in runs/bench/dcgan_quality.csv.

DiffAugment at the whole budget, on a long tail, as 01e tells of it:
`python tools/bench_dcgan.py quality 100 --of hinge DiffAugment --counts 400 225 126 71 40
--updates 1800 --images 2000`.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from synthnb.core import atomic_path, generator, no_denormals, project_root
from synthnb.data import Images
from synthnb.dcgan import DCGANConfig, DCGANTraining, spread, train_dcgan
from synthnb.drawn import EXPRESSIONS, drawn_set
from synthnb.metrics import frechet_distance, prdc
from synthnb.poster import first_of_each
from synthnb.scores import wilson_interval
from synthnb.train import augmentation, fit_oracle

BENCH = project_root()/'runs'/'bench'
CLASSES = ['happiness', 'neutral', 'sadness', 'fear', 'anger']
ORACLE = dict(width=24, updates=4000, arch='resnet10', stem='small', weights=None, crop=32)
SPEED = {'laptop': {}, 'half as wide': dict(width=16), 'batches of 4': dict(batch=4),
         'attention': dict(attention=True)}
ALL = 'color,translation,cutout'
BASE = dict(width=32, batch=16, lr=.001, loss='hinge', spectral=True, diffaugment='')
QUALITY = {
    'hinge': {}, 'DiffAugment': dict(diffaugment=ALL), 'conditional': dict(conditional=True),
    'attention': dict(attention=True), 'original loss': dict(loss='original'),
    'no spectral norm': dict(spectral=False), 'wgan-gp': dict(loss='wgan-gp'),
    'translation': dict(diffaugment='translation'), 'rate of .002': dict(lr=.002),
    'batches of 32': dict(batch=32), 'half as wide': dict(width=16),
    'poster': dict(loss='original', spectral=False, lr=2e-4, beta2=.999)}


def one_class(images, c):
    own = images.labels == c
    return Images(images.pixels[own], images.labels[own]*0, [images.classes[c]])


def seconds(training, n):
    "Of n updates, after three."
    for _ in range(3): training.update()
    start = time.perf_counter()
    for _ in range(n): training.update()
    if training.device.type == 'cuda': torch.cuda.synchronize()
    return time.perf_counter() - start


def speed_rows(threads, device, rounds, n):
    "As one and one after the other, in turns; the fastest round of each counts."
    torch.set_num_threads(threads)
    gen, k = generator('bench'), len(CLASSES)
    pixels = torch.randint(256, (100*k, 36, 36, 3), generator=gen, dtype=torch.uint8)
    images = Images(pixels, torch.arange(100*k) % k, CLASSES)
    for name, settings in SPEED.items():
        config = DCGANConfig.preset('laptop', **settings)
        fresh = lambda own: DCGANTraining(own, config, 0, device, grids=1)
        took = []
        with no_denormals():
            for _ in range(rounds):
                alone = sum(seconds(fresh(one_class(images, c)), n) for c in range(k))
                took.append((seconds(fresh(images), n)/n, alone/n))
        together, alone = np.min(took, 0)
        yield dict(setting=name, device=device, threads=threads, gans=k,
                   together=together, one_after_the_other=alone, ratio=alone/together)


def judged(model, real, reference, oracle, labels):
    "What the oracle and the house's metrics say of a model's images."
    features = lambda x: torch.cat([oracle.features(b).cpu() for b in x.split(256)]).float()
    images = model.sample(labels, 1)
    own = [EXPRESSIONS.index(c) for c in CLASSES]
    sees = torch.cat([oracle.logits(b)[:, own].argmax(1).cpu() for b in images.split(256)]).numpy()
    right, n = int((sees == labels).sum()), len(labels)
    each = [float((sees == labels)[labels == c].mean()) for c in range(len(CLASSES))]
    low, high = wilson_interval(right, n)
    f, r = features(images), features(reference)
    spreads = [spread(images[labels == c])[0]/spread(real.pixels[real.labels == c][:200])[0]
               for c in range(len(CLASSES))]
    return dict(images=n, right=right/n, low=float(low), high=float(high), least=min(each),
                most=max(each), **prdc(r, f),
                frechet=frechet_distance(r, f), diversity=min(spreads))


def trained(real, config, seed, budget, updates=0):
    "A model of so many seconds, or updates; the seconds, and the updates that they were."
    if not updates:
        trial = DCGANTraining(real, config, seed, 'cpu', grids=1)
        for _ in range(3): trial.update()
        start = time.process_time()
        for _ in range(10): trial.update()
        updates = max(10, round(10*budget/(time.process_time() - start)))
    config = DCGANConfig.of(**vars(config) | dict(updates=updates))
    start = time.process_time()
    model = train_dcgan(DCGANTraining(real, config, seed, 'cpu', grids=1))
    return model, time.process_time() - start, updates


def quality_rows(seed, counts, budget, names, images=500, updates=0):
    oracle = fit_oracle(40_000, 36, (), 'cpu', **ORACLE, **augmentation('crops+mirror', 'shifts'))
    k = len(CLASSES)
    drawn = drawn_set(max(counts)*k, 36, 'balanced', seed, 'train', classes=CLASSES)
    rows = np.sort(first_of_each(drawn.labels, counts, seed))
    real, labels = Images.from_sets((drawn, rows)), np.arange(images) % k
    reference = drawn_set(1000, 36, 'balanced', seed, 'reference', classes=CLASSES)
    reference = torch.as_tensor(np.array(reference.images))
    for name in names:
        config = DCGANConfig.preset('laptop', **BASE | QUALITY[name])
        model, took, done = trained(real, config, seed, budget, updates)
        yield dict(setting=name, seed=seed, n=' '.join(map(str, sorted({*counts}, reverse=True))),
                   budget=0. if updates else budget, seconds=took, updates=done,
                   **judged(model, real, reference, oracle, labels))


def write(row, path, key):
    "Add a row to the table, in the place of one of the same key."
    rows = pd.DataFrame([row])
    if path.exists(): rows = pd.concat([pd.read_csv(path, dtype=dict(n=str)), rows])
    rows = rows.drop_duplicates(list(key), keep='last').sort_values(list(key))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as p: rows.to_csv(p, index=False, float_format='%.5g')
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('part', choices=('speed', 'quality'))
    options.add_argument('seeds', type=int, nargs='*', default=[100, 101])
    options.add_argument('--n', type=int, default=400, help='real faces of each class')
    options.add_argument('--counts', type=int, nargs=len(CLASSES), help='or of these each')
    options.add_argument('--images', type=int, default=500, help='to judge by')
    options.add_argument('--budget', type=float, default=60., help='seconds of one thread')
    options.add_argument('--of', nargs='+', choices=tuple(QUALITY), default=list(QUALITY))
    options.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    options.add_argument('--device', default='cpu')
    options.add_argument('--rounds', type=int, default=4)
    options.add_argument('--updates', type=int, help='of a round; of `quality`: of each GAN, '
                         'in the place of a budget')
    options.add_argument('--out', type=Path, default=BENCH)
    o = options.parse_args()
    if o.part == 'speed':
        for threads in o.threads:
            for row in speed_rows(threads, o.device, o.rounds, o.updates or 10):
                write(row, o.out/'dcgan.csv', ('setting', 'device', 'threads'))
        return
    torch.set_num_threads(1)
    for seed in o.seeds:
        for row in quality_rows(seed, o.counts or [o.n]*len(CLASSES), o.budget, o.of, o.images,
                                o.updates or 0):
            write(row, o.out/'dcgan_quality.csv', ('setting', 'seed', 'n', 'budget'))


if __name__ == '__main__': main()
