"""The fair trial of 10_shapes: its record, its equal arms, and the generator's learnt prior."""
import json

import numpy as np
import pandas as pd
import pytest
import test_experiment
import torch

from synthnb import shapevae
from synthnb.core import generator, read_runs
from synthnb.repair import ARCHIVED, shapes_claims
from synthnb.shapevae import FlowVAE, PriorConfig, ShapeVAE, fit_prior

pytestmark = pytest.mark.long # see tools/test.py

TINY = dict(n=64, device='cpu', updates=30, couplings=4, hidden=8, batch=16)


@pytest.fixture(scope='module')
def fair(tmp_path_factory):
    "A finished run of the fair trial, without sweeps."
    runs = tmp_path_factory.mktemp('runs')
    status, output = test_experiment.run_forked(
        runs, '-p', 'trials', '2', '-p', 'trial', 'fair', '-p', 'sweeps', 'False',
        notebook='10_shapes')
    assert status == 0, output[-3000:]
    (folder,) = (runs/'10_shapes').glob('*trial=fair*')
    return runs, folder, json.loads((folder/'metrics.json').read_text())['metrics']


def test_its_record_holds_what_its_claims_read(fair):
    runs, folder, found = fair
    at98 = found['accuracy']['0.98']
    arms = {'random-archive', 'qdgs', 'map-elites'}
    assert set(at98) == {'biased', 'longer', 'random'} | arms | {f'{a}-even' for a in arms}
    assert set(found['accuracy']['0.80']) == {'biased', 'qdgs'}
    assert set(found['accuracy_short']) == set(at98)
    assert set(found['archives']) == {'cma-maega', 'random', 'map-elites'}
    assert {'colour', 'shape'} == set(found['smoothness']) and 'sweeps' not in found
    assert found['protocol']['repair']['tune_updates'] == 4
    short = pd.read_csv(folder/'tables'/'trials_short.csv')
    assert np.isclose(short[short.arm == 'qdgs'].accuracy.mean(), found['accuracy_short']['qdgs'],
                      atol=1e-5)


def test_arms_of_equal_size_are_as_large_as_the_smallest_archive(fair):
    _, folder, found = fair
    n = {k: v['n'] for k, v in found['contents'].items()}
    smallest = min(n[k] for k in ARCHIVED if k in n)
    assert {v for k, v in n.items() if k.endswith('-even')} == {smallest}
    for k, v in found['minority_images'].items():
        c = found['contents'][k]
        assert np.isclose(v, c['n']*(c['blue triangle'] + c['red square']), atol=1e-2)


def test_the_noise_of_the_measures_is_of_the_arms_images(fair):
    _, folder, found = fair
    table = pd.read_csv(folder/'tables'/'noise.csv').set_index('arm')
    assert {'random', 'random-archive', 'qdgs', 'map-elites'} <= set(table.index)
    for arm, row in table.iterrows():
        c = found['contents'][arm]
        assert row.n == c['n'] and np.isclose(row['read'], 1 - c['other'], atol=1e-5)


def test_claims_of_both_trials_read_only_their_own_numbers(fair, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(fair[0]))
    found = read_runs('10_shapes')
    for row in shapes_claims():
        assert len(row['series'](found)) <= 1, row['claim']
    by_claim = {r['claim']: r['series'](found) for r in shapes_claims()}
    even = by_claim['Does the best search repair more than random samples through the same '
                    'archive, at equal size?']
    at98 = found.accuracy.iloc[0]['0.98']
    best = max(at98['qdgs-even'], at98['map-elites-even'])
    assert np.isclose(even.iloc[0], best - at98['random-archive-even'])


def killed_at(update, monkeypatch):
    "Stop each training there as a kill would, saving at every step."
    usual = shapevae.run_to_end
    monkeypatch.setattr(shapevae, 'run_to_end', lambda *args: usual(
        *args, save_seconds=0, stop_after=update))


def test_a_killed_prior_ends_as_one_that_nobody_disturbed(tmp_path, monkeypatch):
    torch.manual_seed(3)
    vae = ShapeVAE(4, 16).eval()
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'whole'))
    whole, _ = fit_prior(vae, **TINY)
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'killed'))
    with monkeypatch.context() as m:
        killed_at(17, m)
        with pytest.raises(KeyboardInterrupt): fit_prior(vae, **TINY)
    again, folder = fit_prior(vae, **TINY)
    for k, v in whole.state_dict().items(): assert torch.equal(v, again.state_dict()[k]), k
    assert not torch.equal(whole.flow[0].net[-1].weight, torch.zeros_like(
        whole.flow[0].net[-1].weight)), 'it has learnt something'
    assert isinstance(again, FlowVAE) and (folder/'history.json').exists()
    u = again.prior(3, generator(0))
    with torch.no_grad():
        assert torch.allclose(again.flow.inverse(again.flow(u))[0], u, atol=1e-4)


def test_another_generator_or_setting_is_another_prior(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path))
    folders = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        folders.add(fit_prior(ShapeVAE(4, 16).eval(), **TINY)[1])
    folders.add(fit_prior(ShapeVAE(4, 16).eval(), **TINY | dict(updates=31))[1])
    assert len(folders) == 3
    with pytest.raises(ValueError, match='couplings=0'): PriorConfig(couplings=0)
