"""`make bench`: the table of speed and memory, as ratios measured side by side in one run.

Each bench_*.py holds one comparison, with the plain way of doing it. Options:
--device auto|cpu|cuda, --out FILE.csv,
--only gan|train|scoring|children|search|vae|noise|many|door|recent|load
"""
import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

import pandas as pd
import torch
from typed import words

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthnb.core import default_device, provenance, seed_everything  # noqa: E402

PARTS = dict(gan='bench_gan', train='bench_train', scoring='bench_scores', children='bench_rl',
             search='bench_qdgs', vae='bench_vae', noise='bench_noise', many='bench_plateau',
             door='bench_door', recent='bench_recent', load='bench_load')


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument('--device', default='auto')
    options.add_argument('--only', choices=list(PARTS))
    options.add_argument('--out', type=Path, help='also write the table here, as CSV')
    options = options.parse_args(sys.argv[1:] + words('ARGS'))
    device, rows, start = default_device(options.device), [], time.time()
    about = provenance(device)
    for name, module in PARTS.items():
        if options.only not in (None, name): continue
        seed_everything(0)
        for measure, value, wanted in import_module(module).rows(device):
            at_least = f'>= {wanted:g}' if isinstance(wanted, float) else wanted
            said = f'{value:,.3g}' if value < 1000 else f'{value:,.0f}'
            rows.append(dict(measure=measure, value=said, wanted=at_least))
            print(f'{measure:<105} {said:>10}  {at_least}', flush=True)
            if options.out: write(rows, about, options.out) # a run that is cut keeps its rows
    print(f"\n{about['device']}, {torch.get_num_threads()} threads, torch {about['torch']},"
          f' {time.time() - start:.0f} s')


def write(rows, about, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows).assign(device=about['device'], threads=about['threads'])
    table.to_csv(path, index=False)


if __name__ == '__main__':
    main()
