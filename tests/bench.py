"""`make bench`: the speed and memory table, as ratios measured side by side in one run, on the CPU or on CUDA.

Options: --device auto|cpu|cuda, --only gan|train|scoring|children|search|vae|noise, --out FILE.csv
"""
import argparse
import sys
import time
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from synthnb.core import default_device, provenance, seed_everything  # noqa: E402
from synthnb.data import Images  # noqa: E402
from synthnb.drawn import draw_images, expression_labels, EXPRESSIONS  # noqa: E402
from synthnb.clip import fit_text_image  # noqa: E402
from synthnb.gan import bench_stargan  # noqa: E402
from synthnb.noise import bench_auto_relu  # noqa: E402
from synthnb.qdgs import DETAILED, OBJECTIVES, bench_qdgs  # noqa: E402
from synthnb.rl import bench_children  # noqa: E402
from synthnb.samplers import bench_scoring  # noqa: E402
from synthnb.shapevae import fit_shape_vae  # noqa: E402
from synthnb.train import bench_train  # noqa: E402
from synthnb.vae import bench_vae  # noqa: E402


def gan_rows(device):
    "A StarGAN training iteration at the official widths, against the plain eager float32 loop."
    wanted = 3. if device.type == 'cuda' else 1.3
    for size in (64, 128):
        b = bench_stargan(size, 16, 64, cycles=20 if device.type == 'cuda' else 1, device=device)
        yield f'StarGAN at {size} px, width 64, batch 16: plain eager loop, ms an update', 1e3*b['plain_seconds'], ''
        yield f'StarGAN at {size} px, width 64, batch 16: ours, ms an update', 1e3*b['ours_seconds'], ''
        yield f'StarGAN at {size} px: plain / ours', b['ratio'], wanted


def train_rows(device):
    "A training epoch against ImageFolder and DataLoader, on the same pictures: files of the stored size, and larger ones."
    cuda = device.type == 'cuda'
    stored, crop, arch, width, n = (72, 64, 'resnet18', 64, 8192) if cuda else (36, 32, 'resnet10', 16, 2560)
    y = expression_labels(n, 'downsampled', seed=0)
    for file in (stored, 128):
        pictures = Images(draw_images(y, file, 0)[0], y, EXPRESSIONS)
        b = bench_train(pictures, stored=stored, device=device, arch=arch, width=width, crop=crop)
        name = f'{arch}, width {width}, JPEG files of {file} px'
        yield f'epoch of ImageFolder + DataLoader, images/s ({name})', b['usual_per_s'], ''
        yield f'epoch of ours, images/s ({name})', b['ours_per_s'], ''
        yield f'training epoch: ours / ImageFolder + DataLoader ({name})', b['ratio'], 2.


def scoring_rows(device):
    "Scoring a pool against the bare network, and its peak memory."
    for _, r in bench_scoring(device=device).iterrows(): yield r.measure, r.value, r.wanted


def children_rows(device):
    "The reinforcement learner's children, several in a batch against one at a time."
    for _, r in bench_children(device=device).iterrows(): yield r.measure, r.value, r.wanted


def search_rows(device):
    "A quality-diversity search against a plain loop of one emitter and one pass a gradient; missing models are made first."
    vae, clip = fit_shape_vae(device=device)[0].to(device), fit_text_image(device=device)[0]
    found = bench_qdgs(vae, OBJECTIVES['splatters'], DETAILED, clip, 'laptop', device=device)
    for _, r in found.iterrows(): yield r.measure, r.value, r.wanted


def vae_rows(device):
    "A training step of the thesis's autoencoder at its batch of 16, against the plain eager float32 loop."
    wanted = 3. if device.type == 'cuda' else 1.3
    for size in (32, 64, 128):
        b = bench_vae(size=size, batch=16, device=device)
        yield f'VAE at {size} px, batch 16: plain eager loop, ms a step', b['plain_ms'], ''
        yield f'VAE at {size} px, batch 16: ours, ms a step', b['ours_ms'], ''
        yield f'VAE at {size} px: plain / ours', b['ratio'], wanted


def noise_rows(device):
    "A training step of ResNet-18 with AutoReLU at the first unit of each block, against ReLU."
    for width in ((64,) if device.type == 'cuda' else (8, 64)):
        b = bench_auto_relu(arch='resnet18', width=width, batch=64, device=device)
        yield f"{b['what']}: ReLU, ms a step", b['relu_ms'], ''
        yield f"{b['what']}: AutoReLU, ms a step", b['auto_ms'], ''
        yield f"{b['what']}: overhead of AutoReLU, %", 100*b['overhead'], '< 10'


ROWS = dict(gan=gan_rows, train=train_rows, scoring=scoring_rows, children=children_rows, search=search_rows, vae=vae_rows,
            noise=noise_rows)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('--device', default='auto')
    options.add_argument('--only', choices=list(ROWS))
    options.add_argument('--out', type=Path, help='also write the table here, as CSV')
    options = options.parse_args()
    device, rows, start = default_device(options.device), [], time.time()
    for name, make in ROWS.items():
        if options.only not in (None, name): continue
        seed_everything(0)
        for measure, value, wanted in make(device):
            at_least = f'>= {wanted:g}' if isinstance(wanted, float) else wanted
            rows.append(dict(measure=measure, value=f'{value:,.3g}' if value < 1000 else f'{value:,.0f}', wanted=at_least))
            print(f"{measure:<105} {rows[-1]['value']:>10}  {at_least}", flush=True)
    about = provenance()
    print(f"\n{about['device']}, {torch.get_num_threads()} threads, torch {about['torch']}, {time.time() - start:.0f} s")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).assign(device=about['device'], threads=about['threads']).to_csv(options.out, index=False)


if __name__ == '__main__':
    main()
