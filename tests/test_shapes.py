"""10_shapes as a user runs it, a search that is killed in the middle, and what is refused."""
import json

import numpy as np
import pandas as pd
import pytest
import test_experiment
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resume import child, kill_when

ARMS = {'biased', 'longer', 'random', 'random-label', 'random-quadrant', 'random-archive',
        'qdgs', 'qdgs-tuned', 'generator-set',
        'balanced'}


def run(runs, *args):
    "10_shapes at smoke scale: (exit status, output)."
    return test_experiment.run(runs, *args, notebook='10_shapes')


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    "One finished run, which the tests below share."
    runs = tmp_path_factory.mktemp('runs')
    status, output = test_experiment.run_forked(runs, '-p', 'trials', '2', '-p', 'seed', '3',
                                                notebook='10_shapes')
    assert status == 0, output[-3000:]
    return runs, runs/'10_shapes'/'scale=smoke,seed=3,trials=2'


def test_the_record_is_complete_and_its_numbers_are_its_tables(first):
    runs, folder = first
    found = json.loads((folder/'metrics.json').read_text())['metrics']
    table = {p.stem: pd.read_csv(p) for p in (folder/'tables').glob('*.csv')}
    assert set(table) >= {'archives', 'history', 'contents', 'objectives', 'measures', 'sweeps',
                          'trials', 'figure1', 'within', 'verdict'}
    assert {p.stem for p in (folder/'figures').glob('*.png')} >= {
        'figure1', 'figure3_archives', 'figure3_counts', 'figure3_images',
        'figure5_domain', 'figure5_reconstructions', 'figure6_objectives',
        'figure7_prompts', 'history', 'history_seeds'}
    trials = table['trials']
    assert set(trials[trials.bias == .98].arm) == ARMS and set(found['accuracy']['0.98']) == ARMS
    assert set(trials[trials.bias == .8].arm) == {'biased', 'longer', 'random-archive', 'qdgs'}
    groups = trials[['red triangle', 'blue triangle', 'red square', 'blue square']]
    assert np.allclose(groups.mean(axis=1), trials.accuracy), 'accuracy is the mean over the groups'
    for arm, mean in trials[trials.bias == .98].groupby('arm').accuracy.mean().items():
        assert np.isclose(mean, found['accuracy']['0.98'][arm], atol=1e-5)
    counts = table['contents'].set_index('arm').n
    assert (counts[['random', 'balanced']] == counts['qdgs']).all(), (
        'every control has as many images as the search')
    assert len(set(table['archives'].evaluations)) == 1, 'all searches have equal evaluations'
    assert not any('second' in k for a in found['archives'].values()
                   for k in a), ('times are no numbers of a search')


def test_the_pools_are_what_the_judge_says(first):
    from synthnb.data import ImageSet
    from synthnb.repair import TOLERANT
    from synthnb.shapes import read_shapes
    runs, folder = first
    contents = pd.read_csv(folder/'tables'/'contents.csv').set_index('arm')
    others = []
    for path in runs.glob('artefacts/shapes-pool/*/set.json'):
        pool = ImageSet(path.parent)
        x = pool.gather(range(len(pool))).permute(0, 3, 1, 2).float()/255
        others.append((len(pool), float((read_shapes(x, TOLERANT)['group'] == 4).float().mean())))
        assert 'objective' in pool.columns() and np.isfinite(pool.column('measure_1')).all()
    seen = {(n, round(o, 4)) for n, o in others}
    assert {(int(contents.n[a]), round(contents.other[a], 4))
            for a in ('random', 'random-archive', 'qdgs')} <= seen


def test_a_second_run_makes_nothing_again(first):
    runs, folder = first
    before = json.loads((folder/'metrics.json').read_text())['metrics']
    status, output = run(runs, '-p', 'trials', '2', '-p', 'seed', '3')
    assert status == 0 and 'made in' not in output
    assert json.loads((folder/'metrics.json').read_text())['metrics'] == before


CHILD = '''
import os, sys, time, torch
from synthnb import qdgs
torch.set_num_threads(1)
# no constant of the code below, which is part of the names
guide, os.environ['SLOW'] = qdgs.SphereGuide(), sys.argv[1]
evaluate = guide.evaluate
def slowly(*args, **kw): time.sleep(float(os.environ['SLOW'])); return evaluate(*args, **kw)
guide.evaluate = slowly
search = qdgs.qdgs
qdgs.qdgs = lambda *args, **kw: search(*args, save_seconds=0., **kw)
config = qdgs.SearchConfig(evaluations=3000, emitters=2, batch_size=8, dims=(20, 20))
qdgs.fit_qdgs(guide, config, 5)
'''


def test_a_search_killed_by_the_system_comes_to_the_same_archive(tmp_path):
    a, b = tmp_path/'a', tmp_path/'b'
    assert child(a, script=CHILD).wait(timeout=120) == 0
    kill_when(child(b, .02, script=CHILD),
              lambda: list(b.glob('artefacts/qdgs/*.part/training.pt')))
    assert not list(b.glob('artefacts/qdgs/*/archive.safetensors'))
    assert child(b, script=CHILD).wait(timeout=120) == 0
    whole, again = (next(r.glob('artefacts/qdgs/*/archive.safetensors')) for r in (a, b))
    assert whole.read_bytes() == again.read_bytes()
    history = [json.loads((p.parent/'illumination.json').read_text())['history']['coverage']
               for p in (whole, again)]
    assert history[0] == history[1] and history[0][-1] > .1


@pytest.mark.parametrize('args, said', [
    (['-p', 'preset', 'papers'], 'choose one of paper, official'),
    (['-p', 'prompts', 'short'], 'choose one of detailed, terse'),
    (['-p', 'trials', '0'], 'an integer at least 1 and at most 1000'),
    (['-p', 'sampler', 'cl-sam'], 'unknown parameter sampler'),
    (['-p', 'vae_file', 'nowhere.pt'], 'nowhere.pt'),
])
def test_bad_parameters_are_refused_with_advice(tmp_path, args, said):
    status, output = run(tmp_path, *args)
    assert status != 0 and said in output, output[-2000:]
    assert not list(tmp_path.glob('10_shapes/*/metrics.json'))


def test_an_official_generator_of_another_size_is_refused(tmp_path):
    from synthnb.shapevae import ShapeVAE
    torch.manual_seed(0)
    torch.save(ShapeVAE().state_dict(), tmp_path/'vae-shapes.pt')
    status, output = run(tmp_path/'runs', '-p', 'vae_file', str(tmp_path/'vae-shapes.pt'))
    assert status != 0 and 'the generator makes 128 px' in output, output[-2000:]
    params = next((tmp_path/'runs').glob('10_shapes/*/params.json')).read_text()
    assert str(tmp_path) not in params, 'a record must not hold a path of the machine'


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=80), st.integers(0, 90), st.integers(0, 5))
def test_balanced_rows_are_as_even_as_they_can_be(codes, budget, seed):
    from synthnb.repair import balanced_rows
    rows = balanced_rows(codes, budget, seed)
    assert len(rows) == min(budget, len(codes)) == len(set(rows.tolist()))
    taken, have = (np.bincount(np.array(codes, int)[rows], minlength=4),
                   np.bincount(np.array(codes, int), minlength=4))
    for i in range(4): # whoever has rows left has at most one fewer than anybody else
        assert taken[i] <= have[i] and (taken[i] == have[i] or taken[i] >= taken.max() - 1)
