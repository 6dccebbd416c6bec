"""The samplers that look at a whole class at once, on 100,000 images whose features are given."""
import time

import numpy as np

from synthnb.recent import (ccs_sampler, covariance_order, cover_order, message_order,
                            middle_first)


def drawn_features(n:int, d:int, seed:int=0): # rows, features, of the random numbers
    "Features of a network's last layer, more or less: correlated, and none below 0."
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(size=(n, d)) @ rng.normal(size=(d, d))/d**.5, 0)


def rows(device='cpu', # looked at by no sampler: they run on one core
         n:int=100_000, k:int=8, d:int=64, real:int=2000): # images, classes, features; of a class
    "What was measured, a sampler at a time: seconds for all classes, and what is wanted."
    f, theirs = drawn_features(n//k, d), drawn_features(real, d, 1)
    easy, labels = np.random.default_rng(2).random(n), np.arange(n) % k
    quota = [n//k//4]*k
    work = {'cov-match': lambda: covariance_order(f, theirs),
            'd2': lambda: message_order(f, easy[:n//k]), 'moderate': lambda: middle_first(f),
            'acs': lambda: cover_order(f)}
    for name, one_class in work.items():
        began = time.perf_counter()
        one_class()
        yield (f'{name}: {n:,} images of {k} classes, given {d} features, s',
               k*(time.perf_counter() - began), '< 60')
    began = time.perf_counter()
    ccs_sampler(easy, labels, sum(quota), quota=quota, seed=0)
    yield f'ccs: {n:,} images, given scores, s', time.perf_counter() - began, '< 60'
