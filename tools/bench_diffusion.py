"""`python tools/bench_diffusion.py 100 101`: 01c's diffusion model against other generators.

All learn from the same 400 drawn faces, one after the other on one thread. Seeds from 100 on are
no experiment's. Rows go to runs/bench/diffusion.csv as they come; what was trained is found again.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from synthnb.core import atomic_path, load_json, project_root
from synthnb.diffusion import DiffusionConfig, fit_diffusion
from synthnb.drawn import drawn_set
from synthnb.gan import StarGANConfig, fit_stargan, pool_of
from synthnb.generators import cvae_config
from synthnb.look import authenticity
from synthnb.metrics import frechet_distance, prdc
from synthnb.scores import wilson_interval
from synthnb.train import augmentation, fit_oracle
from synthnb.vae import fit_vae, sample_images

GUIDANCE = 1., 1.5, 2., 3., 5., 8.
SHORT, LONG = dict(stargan=1600, diffusion=1150, cvae=2500), dict(diffusion=4000, stargan=4700)
ORACLE = dict(width=24, updates=4000, arch='resnet10', stem='small', weights=None, crop=32)
FOUND = project_root()/'runs'/'bench'/'diffusion.csv'


def flat(images): return np.asarray(images).reshape(len(images), -1)


def blocks(images): return torch.as_tensor(np.asarray(images)).split(256)


def features(oracle, images): # float32 (n, f)
    return torch.cat([oracle.features(b).cpu() for b in blocks(images)]).float()


def judged(images, labels, real, reference, oracle): # a part of a row
    "What the oracle and the house's metrics say of some images."
    sees = torch.cat([oracle.logits(b).argmax(1).cpu() for b in blocks(images)]).numpy()
    right, n = int((sees == labels).sum()), len(labels)
    low, high = wilson_interval(right, n)
    f = features(oracle, images)
    return dict(images=n, right=right/n, low=float(low), high=float(high),
                **prdc(reference, f), frechet=frechet_distance(reference, f),
                authentic=authenticity(flat(real), flat(images)))


def timed(fit, *args, **settings): # model, folder, seconds of the processor; NaN: it was there
    start = time.process_time()
    model, folder = fit(*args, **settings)
    took = time.process_time() - start
    wall = load_json(Path(folder)/'artefact.json')['seconds']
    return model, folder, took if took > wall/4 else np.nan


def diffusion_rows(real, seed, updates, labels, scales):
    config = DiffusionConfig.preset('laptop', updates=updates)
    model, _, seconds = timed(fit_diffusion, real, config, seed, 'cpu')
    for w in scales: yield seconds, w, model.sample(labels, seed, guidance=w)


def stargan_row(real, seed, updates, labels):
    config = StarGANConfig.preset('laptop', updates=updates, warmup=300, conv_dim=16, critic_dim=16)
    _, folder, seconds = timed(fit_stargan, real, config, seed, 'cpu')
    pool, rng = pool_of(folder, real, device='cpu'), np.random.default_rng(seed)
    rows = np.empty(len(labels), int)
    for c in range(len(pool.classes)):
        own = np.flatnonzero(labels == c)
        rows[own] = rng.choice(np.flatnonzero(pool.labels == c), len(own), replace=False)
    yield seconds, np.nan, pool.gather(rows)


def cvae_row(real, valid, seed, updates, labels):
    vae, _, seconds = timed(fit_vae, real, valid, conditional=True, seed=seed, device='cpu',
                            **cvae_config(len(real), real.size, updates))
    yield seconds, np.nan, sample_images(vae, len(labels), seed, labels)


def rows_of(seed, n, labels, budgets, oracle, only=None):
    "All rows of one seed."
    real, valid = (drawn_set(m, 36, 'downsampled', seed, part)
                   for m, part in ((n, 'train'), (100, 'valid')))
    reference = drawn_set(1000, 36, 'balanced', seed, 'reference').images
    pixels, seen = real.images, features(oracle, reference)
    for budget, updates in budgets.items():
        for name, u in updates.items():
            if only and name not in only: continue
            made = dict(
                diffusion=lambda u=u, b=budget: diffusion_rows(
                    real, seed, u, labels, GUIDANCE if b == 'long' else (1., 5.)),
                stargan=lambda u=u: stargan_row(real, seed, u, labels),
                cvae=lambda u=u: cvae_row(real, valid, seed, u, labels))[name]()
            for seconds, w, images in made:
                yield dict(seed=seed, n=n, budget=budget, generator=name, updates=u,
                           seconds=seconds, guidance=w,
                           **judged(images, labels, pixels, seen, oracle))


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('seeds', type=int, nargs='+')
    options.add_argument('--n', type=int, default=400, help='real faces')
    options.add_argument('--images', type=int, default=320, help='judged of each generator')
    options.add_argument('--only', choices=('short', 'long'))
    options.add_argument('--of', nargs='+', choices=tuple(SHORT), help='these generators alone')
    options.add_argument('--out', type=Path, default=FOUND)
    options = options.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    oracle = fit_oracle(40_000, 36, (), 'cpu', **ORACLE, **augmentation('crops+mirror', 'shifts'))
    labels = np.arange(options.images) % 8
    budgets = {k: v for k, v in dict(long=LONG, short=SHORT).items() if options.only in (None, k)}
    for seed in options.seeds:
        for row in rows_of(seed, options.n, labels, budgets, oracle, options.of):
            write(row, options.out)


def write(row, path, key=('seed', 'n', 'budget', 'generator', 'guidance')):
    "Add a row to the table, in the place of one of the same key."
    rows = pd.DataFrame([row])
    if path.exists(): # what was found again keeps the time that it took
        old, same = pd.read_csv(path), list(key)
        known = old.merge(rows[same], on=same).seconds
        if len(known) and np.isnan(row['seconds']): rows['seconds'] = known.to_numpy()
        rows = pd.concat([old, rows])
    rows = rows.drop_duplicates(list(key), keep='last').sort_values(list(key))
    with atomic_path(path) as p: rows.to_csv(p, index=False, float_format='%.5g')
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == '__main__':
    main()
