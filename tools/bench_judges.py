"""What the expression judge of 00i_judges confirms of real photographs, for each class and size.

`SYNTHNB_JUDGES=model SYNTHNB_FACES=wildfaces python tools/bench_judges.py` asks about 400 neutral
and 400 happy faces, and all sad, surprised and angry ones but those that are set aside to validate,
at 112 and at 36 px. Rows go to runs/bench/judges.csv: the first picture of 00i_judges is of them.
It takes a minute on one core.
"""
import os
import sys

import numpy as np
import pandas as pd
import torch
from shipped import own_runs

from synthnb.core import atomic_path, project_root
from synthnb.data import load_data
from synthnb.judges import ExpressionJudge, confirmed, said_by

FOUND = project_root()/'runs'/'bench'/'judges.csv'
KINDS = ['neutral', 'happiness', 'sadness', 'surprise', 'anger']
LISTS = 'train', 'test' # AffectNet's two lists of files, but for `valid`, a part of the first


def rows(judge, root, size, most=400): # yields a dict per class
    "How many of at most so many photographs of a class the judge confirms."
    sets = load_data('affectnet', root, KINDS, size, dict(valid=9, test=9999), cap=most)
    yes = [confirmed(said_by(judge, sets[part]), sets[part].labels, KINDS) for part in LISTS]
    yes, labels = np.concatenate(yes), np.concatenate([sets[part].labels for part in LISTS])
    for c, name in enumerate(KINDS):
        own = yes[labels == c][:most]
        yield dict(px=size, expression=name, images=len(own), confirmed=int(own.sum()))


def main():
    folder, root = (os.environ.get(name, '') for name in ('SYNTHNB_JUDGES', 'SYNTHNB_FACES'))
    if not folder or not root: sys.exit('name the folders of the judges and of the photographs: '
                                        'SYNTHNB_JUDGES=... SYNTHNB_FACES=...')
    torch.set_num_threads(1)
    with own_runs():
        judge = ExpressionJudge.load(folder)
        found = pd.DataFrame([row for size in (112, 36) for row in rows(judge, root, size)])
    print(found.assign(share=found.confirmed/found.images).round(3).to_string(index=False))
    with atomic_path(FOUND) as p: found.to_csv(p, index=False)


if __name__ == '__main__':
    main()
