"""`python tools/bench_balance.py 102`: what a training of 06a costs, and how far it comes.

For each seed, one training of so many updates without an early end: on 400 drawn faces a class, and
on a tail of ratio 10. CPU seconds and accuracies on 4,000 fresh faces are printed, and written to
runs/bench/balance.csv.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_dcgan import BENCH, CLASSES, write

from synthnb.balance import LAPTOP, BalancedConfig, BalancedTraining, long_tail
from synthnb.core import no_denormals
from synthnb.drawn import drawn_set
from synthnb.plateau import Arm, free_recipe, table_of

TRIALS = {'CNN, width 8': ('cnn', 1000), 'ResNet-10, width 8': ('resnet10', 1200),
          'ResNet-10, width 8, longer': ('resnet10', 2000)}


def trained(sets, rows, arch, updates, seed):
    "A training to its end: its seconds, and what its best look says of the test images."
    recipe = free_recipe('jitter', 'crops+mirror') | LAPTOP[arch] | dict(
        arch=arch, crop=32, batch_size=32, look_every=50, least=updates, most=updates)
    arm = Arm([(sets['train'], rows)], sets['valid'], sets['test'], seed, recipe=recipe)
    table, first = table_of([arm])
    config, job = BalancedConfig.of(**recipe), arm.job(0, table, first)
    training = BalancedTraining(table, [job], config, 'cpu')
    began = time.process_time()
    with no_denormals():
        while training.step < training.total: training.update()
    took, y = time.process_time() - began, np.asarray(sets['test'].labels)
    hit = training.classifier().predict_proba(sets['test']).argmax(1) == y
    return took, [float(hit[y == c].mean()) for c in range(len(CLASSES))]


def rows_of(seed, names, n=400, ratio=10.):
    "A row a trial."
    draw = lambda m, name: drawn_set(m, 36, 'balanced', seed, name, CLASSES)
    k = len(CLASSES)
    sets = dict(train=draw(n*k, 'emotions'), valid=draw(400, 'valid'), test=draw(4000, 'test'))
    order = [sets['train'].classes.index(c) for c in CLASSES]
    tail = long_tail(sets['train'].labels, n, ratio, order, seed)
    for name in names:
        arch, updates = TRIALS[name]
        even, tailed = (trained(sets, own, arch, updates, seed) for own in (None, tail))
        yield dict(setting=name, seed=seed, updates=updates, seconds_even=even[0],
                   seconds_tail=tailed[0], accuracy_even=np.mean(even[1]),
                   accuracy_tail=np.mean(tailed[1]), rarest=tailed[1][order[-1]])


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('seeds', type=int, nargs='*', default=[102])
    options.add_argument('--of', nargs='+', choices=tuple(TRIALS), default=list(TRIALS))
    options.add_argument('--n', type=int, default=400, help='real faces of the largest class')
    options.add_argument('--out', type=Path, default=BENCH)
    o = options.parse_args()
    torch.set_num_threads(1)
    for seed in o.seeds:
        for row in rows_of(seed, o.of, o.n): write(row, o.out/'balance.csv', ('setting', 'seed'))
    print(pd.read_csv(o.out/'balance.csv').round(3).to_string(index=False))


if __name__ == '__main__': main()
