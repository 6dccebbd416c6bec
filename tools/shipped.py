"""`make shipped`: the networks that come with the book, trained anew. ARGS="--only oracle".

Each is trained from scratch on one thread, rounded to float16, measured before and after, and
written to synthnb/shipped in one step. A rounding that costs accuracy is refused. What made a
network stands in its file, and `core.shipped` uses it only where the same would be made.
"""
import argparse
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import typed

from synthnb import clip, core, people, train, words
from synthnb.drawn import EVEN_RATES, drawn_attributes, drawn_set

FACES = dict(size=36, arch='resnet10', stem='small', crop=32,
             **train.augmentation('crops+mirror', 'shifts'))
RECIPES = dict(oracle=dict(n=40_000, width=24, updates=4000, **FACES),    # of 07_affectnet
               attributes=dict(n=20_000, width=16, updates=2500, **FACES), # of 08_celeba
               clip=dict(size=64),                                         # of 10_shapes
               people=dict(),                                              # of 01g_people
               words=words.SETTINGS)                                       # of 03b_words
COSTS = .002 # the most that rounding may cost, as a share


# those whose settings are one object, and which keep a checkpoint
WHOLE = dict(clip=(clip.ClipConfig, clip.asked_clip),
             people=(people.PeopleConfig, people.asked_people),
             words=(clip.ClipConfig, words.asked_words))


def asked(stage, recipe):
    "The network as `shipped` and `ship` take it: its stage, its maker, its parameters."
    if stage in WHOLE:
        config, ask = WHOLE[stage]
        return ask(config.of(**recipe))
    return (train.asked_oracle if stage == 'oracle' else train.asked_attribute_oracle)(**recipe)


def trained(stage, recipe, folder):
    "The network, trained on the CPU."
    make = asked(stage, recipe)[1]
    if stage not in WHOLE: return make(device='cpu', **recipe)
    return make(folder/'training', WHOLE[stage][0].of(**recipe), device='cpu')


def loaded(stage, path):
    "A network that was written."
    kinds = dict(clip=clip.TextImage, words=clip.TextImage, people=people.StyleGAN2)
    return kinds.get(stage, train.Classifier).load(path, 'cpu')


def scores(stage, network, fresh, size):
    "What it finds right, {of what: share}: of fresh faces, people or pictures' sentences."
    if stage == 'people': # how near its colours are: 1 less the mean distance
        z = torch.randn(fresh//8, people.DIM, generator=core.generator('shipped people'))
        with torch.no_grad(): made = torch.cat([network(part) for part in z.split(64)])
        wanted = people.draw_people(z, network.size)
        return {'colours': 1 - float((made*.5 + .5 - wanted).abs().mean())}
    if stage == 'words': # how often a measure puts the right one of two people first
        table = words.heard_table(network, fresh//2, seed='shipped')
        return {r.measure: getattr(r, r.own) for r in table.itertuples()}
    if stage == 'clip':
        table = clip.retrieval_table(network, fresh//4, seed='shipped')
        return {f'{pairs} pairs': part.right.mean() for pairs, part in table.groupby('pairs')}
    if stage == 'oracle':
        faces = drawn_set(fresh, size, 'balanced', seed=0, name='shipped',
                          classes=network.classes)
        return {'faces': (network.predict_proba(faces).argmax(1) == faces.labels).mean()}
    faces = drawn_attributes(fresh, size, seed=0, name='shipped', rates=EVEN_RATES)
    right = (network.predict_proba(faces) > .5) == (faces.attribute_matrix > 0)
    return {'attributes': right.mean(), 'faces with all five': right.all(1).mean()}


@contextmanager
def own_runs():
    "Artefacts in a folder of their own, so that nothing stands there already."
    before = os.environ.get('SYNTHNB_RUNS')
    with tempfile.TemporaryDirectory() as folder:
        os.environ['SYNTHNB_RUNS'] = folder
        try: yield Path(folder)
        finally:
            if before is None: del os.environ['SYNTHNB_RUNS']
            else: os.environ['SYNTHNB_RUNS'] = before


def remake(stage, fresh=4000, costs=COSTS, **changes):
    "Train a network, measure it, put it with the book: where it was written."
    recipe, began = RECIPES[stage] | changes, time.time()
    what = asked(stage, recipe)
    with own_runs() as folder:
        network = trained(stage, recipe, folder)
        seconds, saved = time.time() - began, network.save(folder/'network.safetensors')
        rounded = loaded(stage, core.ship(saved, *what, folder=folder))
        before, after = (scores(stage, n, fresh, recipe.get('size')) for n in (network, rounded))
        said = ', '.join(f'{after[k]:.2%} of {k} right ({v:.2%} before rounding)'
                         for k, v in before.items())
        if any(v - after[k] > costs for k, v in before.items()): sys.exit(
            f'{stage}: rounding to float16 costs more than {costs:.1%}: {said}. Nothing was '
            'written; leave the network wider, or keep its matrices in float32')
        path = core.ship(saved, *what)
    print(f'{stage:<12} {path.stat().st_size/1e6:.2f} MB, {said}; trained in {seconds:.0f} s',
          flush=True)
    return path


def main(*arguments):
    parser = argparse.ArgumentParser(prog='make shipped', description=__doc__.split('\n')[0])
    parser.add_argument('--only', nargs='+', choices=RECIPES, default=[*RECIPES],
                        help='which of them; default: all')
    torch.set_num_threads(1) # sums of several threads are of another order
    wanted = parser.parse_args(arguments).only
    for stage in wanted: # read now, for what is edited meanwhile did not train them
        core.code_of(asked(stage, RECIPES[stage])[1], written=True)
    for stage in wanted: remake(stage)


if __name__ == '__main__': main(*sys.argv[1:], *typed.words('ARGS'))
