"""What each generator costs of a processor, and the `budget` that gives all of them the same.

`python tools/bench_budget.py --seconds 150` trains every generator twice, briefly, on 400 drawn
faces of 36 px, and says how long an update and all the rest take. From these: how long its own
budget takes, and which `budget` of 07_affectnet takes the seconds: none where the pool alone takes
more. `--only dcgan,qdgs` asks some. It runs on one thread; a diffusion model takes a quarter of an
hour, the others a minute each.
"""
import argparse

import numpy as np
import pandas as pd
import torch
from shipped import own_runs

from synthnb import search # noqa: F401, registers qdgs
from synthnb.core import SPENT, spent
from synthnb.drawn import drawn_set
from synthnb.gan import StarGANConfig
from synthnb.generators import GENERATORS, Order, generated, own_updates
from synthnb.plateau import free_recipe

LAPTOP = dict(updates=1600, conv_dim=16, critic_dim=16) # 07's StarGAN at laptop scale
OF_VAE = 2500 # its updates of a VAE there


def cost(name, real, valid, updates): # CPU seconds
    "Training a generator for so many updates, and its pool of seven times the real set."
    gan = StarGANConfig.preset('laptop', **LAPTOP | dict(updates=updates, warmup=1))
    short = dict(crop=32, arch='resnet10', width=16, least=100, most=100) | free_recipe('jitter')
    with own_runs():
        SPENT.clear()
        generated(name, Order(real, valid, gan, updates, 0, 'cpu', 'laptop', short))
        return sum(spent('drawn').values())


def rows(seconds, only=(), few=24, many=96, n=400): # yields a dict per generator
    "Two lengths, whole epochs of 400 images, give the seconds of an update and of all the rest."
    real, valid = (drawn_set(m, 36, 'downsampled', 0, f'bench-{part}')
                   for m, part in ((n, 'train'), (64, 'valid')))
    for name in only or GENERATORS:
        a, b = (cost(name, real, valid, u) for u in (few, many))
        each = max((b - a)/(many - few), 1e-6)
        rest = max(a - few*each, 0.)
        own = LAPTOP['updates'] if name == 'stargan' else own_updates(name, 'laptop', OF_VAE)
        yield dict(generator=name, update_ms=1000*each, rest_s=rest, updates=own,
                   own_s=rest + own*each,
                   budget=np.nan if seconds <= rest else (seconds - rest)/each/own)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=150, help='of a processor, for each')
    parser.add_argument('--only', default='', help='generators, by name')
    parser.add_argument('--out', default='', help='a CSV file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    only = [name for name in args.only.split(',') if name]
    if odd := sorted({*only} - {*GENERATORS}):
        parser.error(f'{", ".join(odd)}: no generator; there are {", ".join(GENERATORS)}')
    found = []
    for row in rows(args.seconds, only):
        found.append(row)
        print(pd.DataFrame([row]).round(2).to_string(index=False), flush=True)
        if args.out: pd.DataFrame(found).to_csv(args.out, index=False)
