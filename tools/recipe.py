"""How real images alone are best trained: the memory of weight decay and the augmentation, by size.

`recipe.py --out FILE.csv [--device cuda]` trains four sets of drawn faces, which no experiment
uses, at four sizes, six memories and two augmentations, as stacks: three minutes on a GPU.
The choice is by the validation images; the test accuracy stands beside it. --tiny: seconds, for a
test of this tool.
"""
import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthnb.core import default_device  # noqa: E402
from synthnb.data import Images  # noqa: E402
from synthnb.drawn import EXPRESSIONS, draw_images, expression_labels  # noqa: E402
from synthnb.plateau import Job, PlateauConfig, PlateauTraining  # noqa: E402

FULL = dict(seeds=4, real=6400, valid=400, test=8000, sizes=(100, 400, 1600, 6400),
            horizons=(4, 8, 16, 32, 64, 128), augments=('jitter', 'crops'), config={})
TINY = dict(seeds=2, real=80, valid=40, test=40, sizes=(64, 80), horizons=(8, 32),
            augments=('jitter',), config=dict(width=8, look_every=5, least=10, most=10))


def faces(plan, device): # one table: of each seed real and validation images; then the test images
    "Drawn faces of streams that are used here alone."
    wanted = [(plan[k], 'downsampled', seed, f'recipe-{name}{seed}')
              for seed in range(plan['seeds']) for k, name in (('real', ''), ('valid', 'valid-'))]
    wanted.append((plan['test'], 'balanced', 0, 'recipe-test'))
    labels = [expression_labels(n, protocol, seed) for n, protocol, seed, _ in wanted]
    pixels = [draw_images(y, 36, seed, name, device=device)[0]
              for y, (_, _, seed, name) in zip(labels, wanted)]
    return Images(torch.cat(pixels), torch.cat(labels), EXPRESSIONS)


def job(plan, table, seed, n, horizon):
    "Real only, n images of a seed."
    first = seed*(plan['real'] + plan['valid'])
    rows, valid = torch.arange(first, first + n), first + plan['real'] + torch.arange(plan['valid'])
    return Job(rows, table.labels[rows], valid, (seed, n), horizon=float(horizon))


def trained(plan, table, augment, device): # a row a training
    "All trainings of one augmentation, as one stack."
    settings = [*product(plan['sizes'], plan['horizons'], range(plan['seeds']))]
    jobs = [job(plan, table, seed, n, horizon) for n, horizon, seed in settings]
    config = PlateauConfig.of(augment=augment, **plan['config'])
    training = PlateauTraining(table, jobs, config, device)
    while training.step < training.total: training.update()
    test = torch.arange(len(table) - plan['test'], len(table))
    said, y = training.probabilities('best', test), table.labels[test.to(table.labels.device)]
    return [dict(augment=augment, n=n, horizon=horizon, seed=seed, stopped=training.stopped[i],
                 valid_accuracy=max(h['score'] for h in training.history[i]),
                 accuracy=float(np.mean(said[i].argmax(1) == y.cpu().numpy())))
            for i, (n, horizon, seed) in enumerate(settings)]


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('--device', default='auto')
    options.add_argument('--tiny', action='store_true')
    options.add_argument('--out', type=Path, required=True)
    options = options.parse_args()
    device, plan = default_device(options.device), TINY if options.tiny else FULL
    table = faces(plan, device).to(device)
    rows = [row for augment in plan['augments'] for row in trained(plan, table, augment, device)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out, index=False, float_format='%.5g')
    print(pd.DataFrame(rows).groupby(['augment', 'n', 'horizon'])[['valid_accuracy', 'accuracy']]
          .mean().mul(100).round(1).to_string())


if __name__ == '__main__': main()
