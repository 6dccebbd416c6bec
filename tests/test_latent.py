"""12_latent as a user runs it, an autoencoder's training that is killed in the middle, and what is refused."""
import json

import numpy as np
import pandas as pd
import pytest
import test_experiment
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resume import child, kill_when

miniature = test_experiment.miniature # AffectNet's layout


def run(runs, *args):
    "12_latent at smoke scale, in a process of its own: (exit status, output)."
    return test_experiment.run(runs, *args, notebook='12_latent', timeout=600)


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    "One finished run, which the tests below share."
    runs = tmp_path_factory.mktemp('runs')
    status, output = run(runs, '-p', 'seed', '3')
    assert status == 0, output[-3000:]
    return runs, runs/'12_latent'/'scale=smoke,seed=3'


CHILD = '''
import sys, time, torch
from synthnb import vae
from synthnb.drawn import drawn_set
torch.set_num_threads(1)
slow = float(sys.argv[1])
update = vae.LatentTraining.update
def slowly(self): time.sleep(slow); update(self)
vae.LatentTraining.update = slowly
train = vae.train_vae
vae.train_vae = lambda *args, **kw: train(*args, save_seconds=0., **kw)
sets = [drawn_set(n, 32, 'balanced', seed=0, name=name) for n, name in ((64, 'train'), (32, 'valid'))]
vae.fit_vae(*sets, strategy='bandit', conditional=True, seed=5, device='cpu', preset='smoke', size=32, epochs=6)
'''


def test_a_training_killed_by_the_system_comes_to_the_same_autoencoder(tmp_path):
    a, b, script = tmp_path/'a', tmp_path/'b', CHILD
    assert child(a, script=script).wait(timeout=120) == 0
    kill_when(child(b, .03, script=script), lambda: list(b.glob('artefacts/vae/*.part/checkpoint.pt')))
    assert not list(b.glob('artefacts/vae/*/vae.safetensors'))
    assert child(b, script=script).wait(timeout=120) == 0
    whole, again = (next(r.glob('artefacts/vae/*/vae.safetensors')).parent for r in (a, b))
    for name in ('vae.safetensors', 'snapshots.npy', 'decisions.json'): assert (whole/name).read_bytes() == (again/name).read_bytes()
    pd.testing.assert_frame_equal(*(pd.read_csv(f/'history.csv').drop(columns='seconds') for f in (whole, again)))


def test_the_networks_are_the_thesiss():
    from synthnb.vae import VAE, WideVAE, count_flops, parameter_counts
    assert parameter_counts(VAE()) == dict(encoder=65_952, heads=524_416, decoder_input=266_240, decoder=102_819, total=959_427)
    assert count_flops(VAE()) == 207_253_960
    assert parameter_counts(WideVAE())['total'] == 12_724_227


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_a_spread_kernel_is_upsampling_and_convolution(seed, b, c_in, c_out, h, w):
    from synthnb.vae import UpConv
    gen = torch.Generator().manual_seed(seed)
    layer, x = UpConv(c_in, c_out).double(), torch.randn(b, c_in, h, w, generator=gen, dtype=torch.float64).requires_grad_()
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode='nearest'), layer.weight, layer.bias, padding=1)
    assert torch.allclose(layer(x), plain, atol=1e-12)
    g = torch.randn(plain.shape, dtype=torch.float64)
    inputs = (x, layer.weight, layer.bias)
    for mine, theirs in zip(torch.autograd.grad(layer(x), inputs, g), torch.autograd.grad(plain, inputs, g)):
        assert torch.allclose(mine, theirs, atol=1e-11)


@settings(deadline=None)
@given(st.lists(st.floats(.001, .4), min_size=1, max_size=9))
def test_the_category_is_the_listings(losses):
    "The listing, line by line: `medium` is asked before `high`."
    from synthnb.vae import loss_category
    trend, mean = np.diff(losses[-3:]), np.mean(losses[-3:])
    if np.all(trend < 0) and mean < .05: said = 'low'
    elif np.all(trend < 0) and mean > .05: said = 'medium'
    elif np.all(trend < 0) and mean > .15: said = 'high'
    else: said = 'high'
    assert loss_category(losses) == said
    if (trend < 0).all() and mean > .15: assert loss_category(losses, 'intended') == 'high' != said


def test_the_record_is_complete_and_its_numbers_are_its_tables(first):
    runs, folder = first
    found = json.loads((folder/'metrics.json').read_text())['metrics']
    table = {p.stem: pd.read_csv(p) for p in (folder/'tables').glob('*.csv')}
    assert set(table) >= {'models', 'history', 'augmentations', 'scores', 'thesis', 'classifier', 'claims', 'over_seeds', 'verdicts'}
    assert {p.stem for p in (folder/'figures').glob('*.png')} >= {'real', 'figure4_1', 'figureC12_C14', 'figure5_1', 'samples',
        'figureC1_C6', 'figure5_2', 'figureC10_C11', 'pools', 'against_none'}
    assert len(found['scores']) == 11 and len(found['classifier']) == 7
    for s in found['scores'].values(): assert np.isclose(s['RMSE']**2, s['MSE']) and np.isclose(np.exp(s['LMSE']), s['MSE'])
    assert set(table['claims'].key) == set(found['claims']) and not table['claims'].key.duplicated().any()
    none, cutout = found['scores']['none'], found['scores']['cutout']
    assert np.isclose(found['claims']['MSE cutout none'], -100*(cutout['MSE']/none['MSE'] - 1))
    assert (table['verdicts'].verdict == 'undecided (only 1 seed)').all(), 'one seed decides nothing'
    assert found['models']["the thesis's VAE, 128 px"]['parameters'] == 959_427 and found['extractor'].startswith('resnet10-drawn')


def test_photographs_in_affectnets_layout(miniature, tmp_path):
    status, output = run(tmp_path, '-p', 'data', 'affectnet', '-p', 'root', str(miniature), '-p', 'classes', 'neutral,happiness')
    assert status == 0 and 'training4.jpg' in output and 'They are left out' in output, output[-3000:]
    record = next(tmp_path.glob('12_latent/*/metrics.json')).parent
    found = json.loads((record/'metrics.json').read_text())['metrics']
    assert str(tmp_path) not in (record/'params.json').read_text() + json.dumps(found), 'a record must not hold a path of the machine'
    assert 'drawn' not in found['extractor'], 'photographs are not judged by a network that learned from drawings'


@pytest.mark.parametrize('args, said', [
    (['-p', 'kl', 'median'], 'choose one of mean, sum'),
    (['-p', 'data', 'csv', '-p', 'root', 'nowhere.csv'], 'nowhere.csv'),
])
def test_bad_parameters_are_refused_with_advice(tmp_path, args, said):
    status, output = run(tmp_path, *args)
    assert status != 0 and said in output, output[-2000:]
    assert not list(tmp_path.glob('12_latent/*/metrics.json'))
