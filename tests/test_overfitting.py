"""13_overfitting as a user runs it, a training with noise that is killed, and what is refused."""
import json

import numpy as np
import pandas as pd
import pytest
import test_experiment
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resume import child, kill_when

miniature = test_experiment.miniature # AffectNet's layout


def run(runs, *args):
    "13_overfitting at smoke scale: (exit status, output)."
    return test_experiment.run(runs, *args, notebook='13_overfitting')


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    "One finished run, which the tests below share."
    runs = tmp_path_factory.mktemp('runs')
    status, output = test_experiment.run_forked(runs, '-p', 'seed', '3', notebook='13_overfitting')
    assert status == 0, output[-3000:]
    return runs, runs/'13_overfitting'/'scale=smoke,seed=3'


CHILD = '''
import os, sys, time, torch
from synthnb import noise
from synthnb.drawn import drawn_set
torch.set_num_threads(1)
os.environ['SLOW'] = sys.argv[1] # and no constant of the code below, which is part of the names
update = noise.NoisyTraining.update
def slowly(self): time.sleep(float(os.environ['SLOW'])); return update(self)
noise.NoisyTraining.update = slowly
loop = noise.run_to_end
noise.run_to_end = lambda *args, **kw: loop(*args, save_seconds=0., **kw)
sets = [drawn_set(n, 36, 'balanced', seed=0, name=name)
        for n, name in ((128, 'train'), (64, 'valid'), (64, 'test'))]
noise.fit_noisy(*sets, method='dynamic', seed=5, device='cpu', preset='smoke', epochs=8, w0=.0005)
'''


def test_a_training_killed_by_the_system_comes_to_the_same_network(tmp_path):
    a, b, script = tmp_path/'a', tmp_path/'b', CHILD
    assert child(a, script=script).wait(timeout=120) == 0
    kill_when(child(b, .05, script=script),
              lambda: list(b.glob('artefacts/noise/*.part/training.pt')))
    assert not list(b.glob('artefacts/noise/*/best.safetensors'))
    assert child(b, script=script).wait(timeout=120) == 0
    whole, again = (next(r.glob('artefacts/noise/*/best.safetensors')).parent for r in (a, b))
    for name in ('best.safetensors', 'last.safetensors'):
        assert (whole/name).read_bytes() == (again/name).read_bytes()
    histories = [pd.read_csv(f/'history.csv').drop(columns='seconds') for f in (whole, again)]
    pd.testing.assert_frame_equal(*histories)
    assert histories[0].flipped.max() > 0, ('nothing ever flipped: the test would '
                                            'not see a lost sign')


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(0, 400))
def test_the_periodic_schedule_is_algorithm_1(interval, steps):
    "The paper's loop, line by line: `step` is counted first, the flag looked at, then toggled."
    from synthnb.noise import Periodic
    schedule, step, flag = Periodic(interval), 0, False
    for done in range(steps):
        step += 1
        assert schedule.sign(done, 0, []) == (-1 if flag else 1)
        if step % interval == interval - 1: flag = not flag


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.floats(.01, .9), st.booleans(), st.integers(1, 4))
def test_below_the_cliff_autorelu_is_a_relu_of_one_sign(seed, size, flipped, channels):
    from synthnb.noise import AutoReLU
    x = torch.randn(2, channels, 5, 5,
                    generator=torch.Generator().manual_seed(seed)).requires_grad_()
    unit, s = AutoReLU(channels, w0=size), -1. if flipped else 1.
    with torch.no_grad(): unit.w.mul_(s)
    out, g = unit(x), torch.randn(x.shape)
    assert torch.equal(out, torch.relu(s*x))
    out.backward(g); mine, x.grad = x.grad, None
    torch.relu(s*x).backward(g)
    assert torch.equal(mine, x.grad) and not unit.w.grad.any()


@pytest.mark.parametrize('build', ['resnet18', 'resnet50', 'convnext_tiny', 'efficientnet_b0'])
def test_torchvisions_networks_take_noise_and_give_it_back(build):
    import torchvision.models as models
    from synthnb.noise import inject, noise_units, set_signs, signs, without_noise
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64)
    for how in ('periodic', 'dynamic'):
        # features of a network that has seen nothing are large
        far = dict(cliff=1e9) if how == 'dynamic' else {}
        net = getattr(models, build)(num_classes=5).eval()
        with torch.no_grad():
            plain = net(x)
            assert torch.equal(inject(net, how, **far)(x), plain), (
                'with positive signs it is the same network')
            turned = set_signs(net, -1)(x)
            size = plain.abs().max() # of EfficientNet, 1e-13
            assert (not torch.allclose(turned/size, plain/size) and (signs(net) == -1).all()
                    and len(noise_units(net)) > 5)
            with without_noise(net): assert torch.equal(net(x), plain)
            other = inject(getattr(models, build)(num_classes=5), how, **far).eval()
            other.load_state_dict(net.state_dict())
            assert torch.equal(other(x), turned), 'the signs are saved with the weights'


def test_the_record_is_complete_and_its_numbers_are_its_tables(first):
    runs, folder = first
    found = json.loads((folder/'metrics.json').read_text())['metrics']
    table = {p.stem: pd.read_csv(p) for p in (folder/'tables').glob('*.csv')}
    assert set(table) >= {'curves', 'table1', 'sweep', 'units', 'claims',
                          'over_seeds', 'optimism', 'verdict'}
    assert {p.stem for p in (folder/'figures').glob('*.png')} >= {
        'training_images', 'overfitting', 'figure3_4', 'figure5_6', 'figure7_8',
        'figure9', 'figure10_11', 'portable', 'differences', 'optimism', 'gap', 'sweep'}
    assert set(table['claims'].key) == set(found['claims']) and len(found['methods']) == 12
    said = table['verdict'].verdict
    assert (said.str.startswith('undecided') | said.str.startswith('not ')).all(), (
        'one seed decides nothing')
    for name, m in found['methods'].items():
        curve = table['curves'][table['curves'].method == name]
        chosen = curve[curve.epoch == m['chosen_epoch']].iloc[0]
        assert (np.isclose(chosen.valid_f1, m['valid_f1_max'], atol=1e-5)
                and np.isclose(curve.valid_f1.max(), m['valid_f1_max'], atol=1e-5))
        assert np.isclose(m['optimism'], m['valid_f1_max'] - m['test_f1'])
    plain, periodic = (found['methods'][k] for k in ('plain', 'periodic'))
    assert np.isclose(found['claims']['periodic'], 100*(periodic['test_f1'] - plain['test_f1']))
    assert plain['turns'] == 0 < periodic['turns'] and plain['test_f1'] == plain['test_f1_off']


def test_the_fair_trial_has_three_places_and_the_first_trials_records_stay(first):
    runs, folder = first
    status, output = run(runs, '-p', 'seed', '3', '-p', 'trial', 'fair')
    assert status == 0, output[-3000:]
    record = folder.parent/'scale=smoke,seed=3,trial=fair'
    found = json.loads((record/'metrics.json').read_text())['metrics']
    assert {k: {*v} for k, v in found['places'].items()} == dict(
        variants={'small', 'at_once'}, bare={'plain', 'periodic', 'dynamic', 'small'},
        mild={'plain', 'periodic', 'dynamic'})
    assert found['settings']['augment'] == 'crops' and found['settings']['mirror'] is True
    assert len(found['methods']) == 7 and not found['units']
    assert found['n_mild'] == 3*found['n_train']
    plain, bare = found['methods']['plain'], found['places']['bare']['plain']
    assert np.isclose(found['claims']['augmented'], 100*(plain['test_f1'] - bare['test_f1']))
    table = pd.read_csv(record/'tables'/'places_over_seeds.csv')
    assert table.place.value_counts().to_dict() == dict(augmented=5, bare=4, mild=3)
    assert 'seeds: 1' in output, 'the two trials are no seeds of each other'


@pytest.mark.parametrize('arch', ['resnet50', 'convnext'])
def test_newer_networks_are_trained_with_turning_signs_and_kept(arch, tmp_path):
    from synthnb.data import Images
    from synthnb.drawn import drawn_set
    from synthnb.noise import NoiseConfig, NoisyClassifier, NoisyTraining, noise_units, train_noisy
    sets = [Images.from_sets((drawn_set(32, 32, 'balanced', 0, k), None))
            for k in ('train', 'valid')]
    config = NoiseConfig.preset('smoke', arch=arch, width=8, crop=32, batch_size=16, interval=1)
    done = train_noisy(NoisyTraining(*sets, 'periodic', config, 0, 'cpu'))
    assert [h['flipped'] for h in done.history] == [0, 1, 0, 1]
    model = done.classifier('last')
    assert len(noise_units(model.net)) == dict(resnet50=16, convnext=18)[arch]
    same = NoisyClassifier.load(model.save(tmp_path/'net'))
    x = sets[1].pixels
    assert np.array_equal(same.predict_proba(x), model.predict_proba(x))
    again = NoisyTraining(*sets, 'periodic', config, 0, 'cpu')
    other = NoisyTraining(*sets, 'periodic', config, 1, 'cpu')
    one, two, three = (next(t.net.parameters()) for t in (
        NoisyTraining(*sets, 'plain', config, 0, 'cpu'), again, other))
    assert torch.equal(one, two) and not torch.equal(two, three), 'the seed decides the start'


def test_a_second_run_makes_nothing_again(first):
    runs, folder = first
    before = json.loads((folder/'metrics.json').read_text())['metrics']
    status, output = run(runs, '-p', 'seed', '3')
    assert status == 0 and 'made in' not in output
    assert json.loads((folder/'metrics.json').read_text())['metrics'] == before


def test_photographs_in_affectnets_layout(miniature, tmp_path):
    status, output = run(tmp_path, '-p', 'data', 'affectnet', '-p', 'root', str(miniature),
                         '-p', 'classes', 'neutral,happiness',
                         '-p', 'sweeps', 'False', '-p', 'epochs', '2')
    assert status == 0, output[-3000:]
    record = next(tmp_path.glob('13_overfitting/*/metrics.json')).parent
    assert str(tmp_path) not in (record/'params.json').read_text(), (
        'a record must not hold a path of the machine')
    assert (json.loads((record/'metrics.json').read_text())['metrics']['classes']
            == ['neutral', 'happiness'])


@pytest.mark.parametrize('args, said', [
    (['-p', 'interval', '-3'], 'an integer at least 0'),
    (['-p', 'data', 'affectnet', '-p', 'root', 'nowhere'], 'nowhere does not exist'),
])
def test_bad_parameters_are_refused_with_advice(tmp_path, args, said):
    status, output = run(tmp_path, *args)
    assert status != 0 and said in output, output[-2000:]
    assert not list(tmp_path.glob('13_overfitting/*/metrics.json'))
