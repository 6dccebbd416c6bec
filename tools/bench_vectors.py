"""`python tools/bench_vectors.py 100 101 102`: 06b's arms, and what fresh faces would teach.

Three ResNet-10 a seed, trained on a long tail of 862 drawn faces. Seeds from 100 on are no
experiment's. Rows go to runs/bench/vectors.csv; what was trained is found again.
"""
import sys

import numpy as np
import pandas as pd
import torch

from synthnb.arms import trainings_numbers
from synthnb.core import atomic_path, project_root
from synthnb.drawn import drawn_set
from synthnb.plateau import fit_plateau
from synthnb.vectors import (
    VECTOR_ARMS,
    HeadConfig,
    head_probabilities,
    network_features,
    train_head,
    vector_arms,
)

CLASSES = ['happiness', 'neutral', 'sadness', 'fear', 'anger']
FOUND = project_root()/'runs'/'bench'/'vectors.csv'


def rows_of(seed, head=400, ratio=10):
    "A row an arm: recall of each class, their mean, the log-loss."
    real, valid, test, fresh = (drawn_set(5*n, 36, 'balanced', seed, name, CLASSES) for name, n in (
        ('train', head), ('valid', head//4), ('test', head), ('fresh', head)))
    rows = np.sort(np.concatenate([np.flatnonzero(real.labels == c)[:round(head*ratio**(-c/4))]
                                   for c in range(5)]))
    trained = fit_plateau([(real, rows)], valid, test, 3, seed, device='cpu', arch='resnet10',
                          width=16, crop=32, mirror=True)
    nets = [trained.classifier(j) for j in range(trained.k)]
    said = {'the network': trained.said()} | vector_arms(
        nets, real, rows, valid, test, seed=seed, arms=[*VECTOR_ARMS, 'limit'])
    best = []
    for net in nets:
        h, h_valid, h_test = (network_features(net, s) for s in (fresh, valid, test))
        layer = train_head(h, fresh.labels, 5, (h_valid, valid.labels), HeadConfig())
        best.append(head_probabilities(layer, h_test))
    for arm, p in (said | {'fresh faces': np.stack(best)}).items():
        n = trainings_numbers(p, test.labels)
        yield dict(seed=seed, arm=arm, mean=n['mean_class_accuracy'], log_loss=n['log_loss'],
                   **dict(zip(CLASSES, n['class_accuracy'])))


def main():
    torch.set_num_threads(1)
    found = pd.DataFrame([row for seed in map(int, sys.argv[1:]) for row in rows_of(seed)])
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(FOUND) as p: found.to_csv(p, index=False, float_format='%.5g')


if __name__ == '__main__':
    main()
