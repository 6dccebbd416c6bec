"""Trainings to the plateau: as one and alone, killed and gone on, when they stop, refusals."""
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from filelock import FileLock
from test_resume import child

from synthnb import noise, plateau
from synthnb.core import run_to_end
from synthnb.data import Images
from synthnb.drawn import drawn_set
from synthnb.noise import (NOISES, NoiseConfig, NoisyPlateau, fit_noisy_plateau, noise_units,
                           set_signs, signs, without_units)
from synthnb.plateau import (Arm, Job, PlateauConfig, PlateauTraining, check_arm, fit_plateau,
                             order_of, plan_of, stacks_of)
from synthnb.train import classifier_net

N, VALID, K = 48, 24, 3
LUCK = torch.Generator().manual_seed(0)
QUICK = PlateauConfig.of(width=4, crop=16, batch_size=16, look_every=3, least=6, most=6,
                         rise_updates=2)


def images(kind='classes', channels=3):
    "Noise with labels: one class an image, or two attributes."
    pixels = torch.randint(256, (N + VALID, 20, 20, channels), generator=LUCK, dtype=torch.uint8)
    y = torch.arange(N + VALID) % K
    if kind == 'attributes': y = torch.stack([y == 0, torch.arange(N + VALID) % 2 == 0], 1).long()
    return Images(pixels, y, list('ab') if kind == 'attributes' else list('abc'))


def jobs_of(table, n=(48, 32, 20), marks=()):
    "Jobs of several sizes, whose images overlap, the last with every label moved on."
    made = [Job(torch.arange(m), table.labels[:m].clone(), torch.arange(N, N + VALID),
                ('test', j), marks) for j, m in enumerate(n)]
    if table.labels.dim() == 1: made[-1].labels = (made[-1].labels + 1) % K
    return made


class Double(PlateauTraining):
    "The same in float64, all but the loss itself."
    def __init__(self, *args):
        super().__init__(*args)
        self.net.double(), self.average.double()
        self.mean, self.std = self.mean.double(), self.std.double()
    def plan(self, look):
        return {k: v.double() if k == 'share' else v for k, v in super().plan(look).items()}


def train(table, jobs, config, kind=PlateauTraining):
    training = kind(table, jobs, config, 'cpu')
    while training.step < training.total: training.update()
    return training


# ---- as one and alone ----------------------------------------------------------------------------
WAYS = dict(plain={}, jitter=dict(augment='jitter'), mixup=dict(mixup=.4),
            sampling=dict(balance='sampling'), logits=dict(balance='logits'),
            smooth=dict(label_smoothing=.1, augment='none'), rand=dict(augment='rand'))


@pytest.mark.parametrize('kind, way', [*(('classes', w) for w in WAYS), ('attributes', 'jitter'),
                                       ('attributes', 'smooth')])
def test_a_network_has_the_same_numbers_in_company_as_alone(kind, way):
    table, config = images(kind), replace(QUICK, **WAYS[way])
    jobs = jobs_of(table)
    for precision, tolerance in ((PlateauTraining, 1e-3), (Double, 1e-9)):
        if precision is PlateauTraining and way != 'plain': continue
        stack = train(table, jobs, config, precision)
        for j in (0, 2) if way == 'plain' else (2,):
            alone = train(table, jobs[j:j + 1], config, precision)
            for one, other in zip(stack.history[j], alone.history[0]):
                assert abs(one['loss'] - other['loss']) < tolerance
                assert abs(one['valid_loss'] - other['valid_loss']) < 10*tolerance + 1e-6
            if precision is Double:
                for k, v in alone.kept[0]['best'].items():
                    assert (v - stack.kept[j]['best'][k]).abs().max() < 1e-6, k
    losses = [h[0]['loss'] for h in stack.history]
    assert len({round(v, 4) for v in losses}) == len(jobs), 'networks that differ have other losses'


def test_company_decides_neither_luck_nor_labels():
    table = images()
    jobs = jobs_of(table)
    three, two = (PlateauTraining(table, own, replace(QUICK, mixup=.4), 'cpu').plan(1)
                  for own in (jobs, jobs[:0:-1]))
    for k in three: assert three[k][:, 2].equal(two[k][:, 0]), k
    assert three['y'][:, 2].equal((table.labels[three['rows'][:, 2]] + 1) % K)


def test_grey_images_are_trained_on_and_attributes_have_no_prior():
    grey = images(channels=1)
    assert np.isfinite(train(grey, jobs_of(grey)[:2], QUICK).history[1][-1]['valid_loss'])
    with pytest.raises(ValueError, match='needs one class an image'):
        PlateauTraining(images('attributes'), jobs_of(images('attributes')),
                        replace(QUICK, balance='logits'), 'cpu')


def test_sampling_draws_classes_alike_and_epochs_hold_each_image_once():
    y = torch.tensor([0]*45 + [1]*3)
    job = Job(torch.arange(N), y, torch.arange(3), ('even',))
    weights = plateau.class_weights(y, 'sampling', 2)
    drawn = y[torch.cat([order_of(job, i*64, 64, weights) for i in range(20)])]
    assert abs(drawn.double().mean() - .5) < .05
    seen = plan_of(job, 0, replace(QUICK, look_every=6))['image'].flatten()
    assert seen.bincount().tolist() == [2]*N


# ---- the rule of the plateau ---------------------------------------------------------------------
def judged(looks, marks=(), **settings):
    "What `judge` says of made-up looks: the update of the stop, the readings of each look."
    config = PlateauConfig.of(look_every=100, **settings)
    t = SimpleNamespace(config=config, history=[[]], rose=[(0, 0.)], stopped=[0],
                        jobs=[SimpleNamespace(marks=marks)])
    reads = [PlateauTraining.judge(t, 0, dict(update=100*(i + 1), valid_accuracy=a))
             for i, a in enumerate(looks)]
    return t.stopped[0], reads, pd.DataFrame(t.history[0])


def test_it_stops_when_the_score_has_not_risen_for_a_third_of_its_updates():
    flat = judged([.5]*30, least=600, most=3000)
    assert flat[0] == 600 # it rose at 100, and may not stop before
    late = judged([.1]*8 + [.1 + .02*i for i in range(1, 7)] + [.22]*30, least=1000, most=4000)
    assert late[0] == 2300 # the mean of three looks rises by a point until 1,500: 1.5 of it
    assert judged([.01*i for i in range(60)], least=600, most=3000)[0] == 3000
    creeping = judged([.5 + .0001*i for i in range(60)], least=600, most=5000)
    assert creeping[0] < 5000, 'less than a point is no rise'
    assert judged([.5]*9, least=600, most=300)[0] == 300, '`most` counts, also below `least`'


def test_best_is_the_best_mean_of_three_looks_until_the_stop():
    rng = np.random.default_rng(0)
    looks = (.5 + .1*rng.standard_normal(25)).tolist() + [.99]*5
    stop, reads, history = judged(looks, least=600, most=2500)
    means = pd.Series(looks).rolling(3, min_periods=1).mean()
    assert np.allclose(history.score, means)
    before = [i for i in range(len(looks)) if 100*(i + 1) <= stop]
    last = max(i for i, r in enumerate(reads) if 'best' in r)
    assert last == means[before].idxmax() and stop <= 2500


def test_marks_are_read_also_after_the_stop():
    stop, reads, _ = judged([.5]*30, marks=(200, 2500), least=600, most=3000)
    assert stop == 600 and reads[24] == ['at 2500'] and reads[1] == ['at 200']
    table = images()
    short = replace(QUICK, least=3, wait=1., rise=.99, most=15)
    t = train(table, jobs_of(table, (48, 32), (15,)), short)
    assert max(t.stopped) < 15 and all('at 15' in kept for kept in t.kept)
    t = train(table, jobs_of(table, (48, 32)), short)
    assert max(h[-1]['update'] for h in t.history) == max(t.stopped), 'nobody trains for nothing'


# ---- arms ----------------------------------------------------------------------------------------
SMALL = dict(width=4, look_every=5, least=10, most=10, batch_size=32)


@pytest.fixture(scope='module')
def sets():
    return [drawn_set(n, 36, 'balanced', 0, f'test-plateau-{n}') for n in (64, 40, 48)]


def test_a_stack_is_made_once_whoever_else_is_in_it(sets):
    real, valid, test = sets
    few, many = (Arm([(real, rows)], valid, test, 0, (5,), (), SMALL)
                 for rows in (np.arange(24), None))
    half = Arm([(real, np.arange(64) < 32)], valid, test, 0, (5,), (), SMALL) # a mask
    todo = [(arm, j) for arm in (many, few, half) for j in range(2)]
    assert [len(s) for s in stacks_of(todo, 64)] == [2, 4], 'batches of 24, and of 32'
    assert [len(s) for s in stacks_of(todo, 3)] == [2, 3, 1]
    made = lambda some: plateau.as_stacks(some, torch.device('cpu'), 64,
                                          SimpleNamespace(update=lambda: None))
    first = made(todo)
    before = {p: p.stat().st_mtime_ns for p in first.values()}
    assert len(before) == 6 and made(todo) == first and made(todo[1:2])[todo[1]] == first[todo[1]]
    assert {p: p.stat().st_mtime_ns for p in first.values()} == before
    said = np.load(first[half, 1]/'best 1.npy').astype(float)
    one = fit_plateau(half.parts, valid, test, 2, 0, (5,), 'cpu', **SMALL)
    assert np.abs(one.said('best')[1] - said).max() < .02, 'as alone, up to the order of sums'


@pytest.mark.parametrize('change, said', [
    (dict(marks=(7,)), 'multiples of look_every=5'), (dict(marks=(20,)), 'up to most=10'),
    (dict(start=(Path('a'),)), 'cannot start from 1'),
    (dict(recipe=dict(SMALL, augment='flip')), "augment"),
    (dict(recipe=dict(SMALL, epochs=3)), 'epochs')])
def test_an_arm_that_cannot_be_meant_is_refused(sets, change, said):
    real, valid, test = sets
    arm = Arm(**(dict(parts=[(real, None)], valid=valid, test=test, recipe=SMALL) | change))
    with pytest.raises(ValueError, match=said): check_arm(arm, 2)


def test_labels_that_are_too_few_and_mixed_attributes_are_refused(sets):
    real, valid, test = sets
    with pytest.raises(ValueError, match='3 labels for 5 images'):
        fit_plateau([(real, np.arange(5), np.arange(3))], valid, test, 1, device='cpu', **SMALL)
    class Named(list): attributes = ('a', 'b')
    with pytest.raises(ValueError, match='attributes are not mixed'):
        check_arm(Arm([(real, None)], Named('abc'), test, recipe=SMALL | dict(mixup=.2)))


# ---- a kill --------------------------------------------------------------------------------------
SCRIPT = '''
import numpy as np
from synthnb.drawn import drawn_set
from synthnb.plateau import Arm, train_arms
real, valid, test = (drawn_set(n, 36, 'balanced', 0, f'kill-{n}') for n in (64, 40, 48))
recipe = dict(width=8, look_every=10, least=20, most=60)
arms = [Arm([(real, np.arange(n))], valid, test, 0, (10,), (), recipe) for n in (40, 64)]
for made in train_arms(arms, 2, 'cpu'):
    for j in range(2): print(made.where[j])
'''


def folders(out): return [Path(line) for line in out.splitlines() if '/trainings/' in line]


@pytest.mark.long
@pytest.mark.ci
def test_a_killed_map_goes_on_and_leaves_nobody_behind(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    process, where = child(tmp_path, script=SCRIPT), tmp_path/'artefacts'/'trainings'
    end = time.time() + 300
    while not (list(where.glob('*/artefact.json')) and list(where.glob('*.part'))):
        assert process.poll() is None and time.time() < end, process.communicate()[1][-2000:]
        time.sleep(.02)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2, 'the work is done by processes of their own'
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, [p.cmdline() for p in alive]
    for path in where.glob('*.lock'):
        with FileLock(path, timeout=0): pass # held by nobody
    stood = {p: p.stat().st_mtime_ns for p in where.glob('*/artefact.json')}
    assert 1 <= len(stood) < 4
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    out, err = child(tmp_path, script=SCRIPT).communicate(timeout=300)
    again = folders(out)
    assert len(again) == 4 and not list(where.glob('*.part')), err[-2000:]
    assert {p: p.stat().st_mtime_ns for p in stood} == stood, 'what stood is taken'
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'whole'))
    exec(SCRIPT, {}) # in one go, in this process
    for folder in again:
        other = tmp_path/'whole'/'artefacts'/'trainings'/folder.name
        for name in [p.name for p in folder.iterdir() if p.suffix in ('.npy', '.csv')]:
            assert (folder/name).read_bytes() == (other/name).read_bytes(), name


def test_processes_write_where_this_one_looks_now(tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    for name in ('one', 'two'): # the server of processes began with the first
        monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/name))
        real, valid, test = [drawn_set(n, 36, 'balanced', 0, f'moved-{n}') for n in (64, 40, 48)]
        plateau.in_processes([(Arm([(real, None)], valid, test, seed, recipe=SMALL), 0)
                              for seed in range(2)], SimpleNamespace(update=lambda: None))
        assert len([*(tmp_path/name).glob('artefacts/trainings/*/*.npy')]) == 2


# ---- with noise ----------------------------------------------------------------------------------
@pytest.mark.parametrize('method', ['periodic', 'dynamic'])
def test_a_turned_sign_is_a_norm_with_negative_weights(method):
    fresh = lambda: classifier_net('resnet10', 5, 8).eval()
    noisy, x = noise.noisy_net(fresh(), method, NoiseConfig.preset('smoke')).eval(), torch.randn(
        6, 3, 32, 32, generator=LUCK)
    with torch.no_grad():
        for p in noisy.parameters(): p.add_(.05*torch.randn(p.shape, generator=LUCK))
    seen = {}
    for turn in (1, -1):
        set_signs(noisy, turn)
        (plain := fresh()).load_state_dict(without_units(noisy.state_dict()))
        seen[turn] = plain(x)
        torch.testing.assert_close(seen[turn], noisy(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(seen[1], seen[-1], atol=1e-2)


def noisy(name, monkeypatch, most=15, table=None, **changes):
    monkeypatch.setitem(NOISES, name, NOISES[name] | changes)
    table, config = table or images(), replace(QUICK, least=most, most=most, lr=.01)
    return NoisyPlateau(table, jobs_of(table)[0], config, 'cpu', name)


def test_a_periodic_sign_turns_and_the_average_begins_anew(monkeypatch):
    training, turns, fresh = noisy('periodic', monkeypatch, interval=5), [], []
    one = plateau.PlateauTraining.run_update
    def watched(self, p, t):
        turns.append(signs(self.net).unique().tolist() + signs(self.average).unique().tolist())
        same = [torch.equal(a, b) for a, b in zip(self.net.parameters(),
                                                  self.average.parameters())]
        fresh.append(all(same))
        one(self, p, t)
    monkeypatch.setattr(plateau.PlateauTraining, 'run_update', watched)
    run_to_end(training, training.total)
    assert turns == [[1, 1]]*5 + [[-1, -1]]*5 + [[1, 1]]*5
    assert [t for t, f in enumerate(fresh) if f] == [0, 5, 10]
    assert not [k for own in training.kept for v in own.values() for k in v if 'noise' in k]


def test_a_dynamic_sign_turns_by_itself_and_small_noise_never(monkeypatch):
    dynamic, seen = noisy('dynamic', monkeypatch, w0=.005, gradient='exact'), []
    one = plateau.PlateauTraining.run_update
    def watched(self, p, t):
        seen.append(signs(self.net).unique().tolist())
        one(self, p, t)
    monkeypatch.setattr(plateau.PlateauTraining, 'run_update', watched)
    run_to_end(dynamic, dynamic.total)
    assert seen[0] == [1] and [-1] in seen and {*map(len, seen)} == {1}, seen
    assert all(u.w.abs().max() < .05 for u in noise_units(dynamic.net)), 'it is drawn to zero'
    small = noisy('gaussian', monkeypatch)
    run_to_end(small, small.total)
    plain = train(small.table, small.jobs, small.config)
    assert not noise_units(small.net) and small.kept[0]['best'].keys() == plain.kept[0][
        'best'].keys()
    assert small.history[0][-1]['loss'] != plain.history[0][-1]['loss']


@pytest.mark.parametrize('name, changes', [('periodic', dict(interval=4)), ('gaussian', {}),
                                           ('dynamic', dict(w0=.005))])
def test_noise_killed_and_gone_on_is_the_same(name, changes, monkeypatch, tmp_path):
    begin = partial(noisy, name, monkeypatch, table=images(), **changes)
    whole = begin()
    run_to_end(whole, whole.total)
    with pytest.raises(KeyboardInterrupt):
        part = begin()
        run_to_end(part, part.total, folder=tmp_path, name='noise', save_seconds=0, stop_after=2)
    again = begin()
    run_to_end(again, again.total, folder=tmp_path, name='noise')
    assert again.history == whole.history
    assert all(torch.equal(v, again.kept[0]['best'][k]) for k, v in whole.kept[0]['best'].items())


def test_noise_is_a_part_of_the_name_and_what_is_no_noise_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path))
    sets = {k: drawn_set(24, 20, 'balanced', 0, k) for k in ('train', 'valid', 'test')}
    own = dict(arch='resnet10', width=4, crop=16, look_every=3, least=6, most=6, batch_size=12)
    fit = lambda name: fit_noisy_plateau([(sets['train'], None)], sets['valid'], sets['test'], 2,
                                         device='cpu', noise=name, **own)
    each = {name: fit(name) for name in ('periodic', 'gaussian')}
    assert len({f for t in each.values() for f in t.where.values()}) == 4
    assert each['gaussian'].said().shape == (2, 24, 8) and not np.array_equal(
        each['gaussian'].said(), each['periodic'].said())
    said = each['gaussian'].classifier(1).predict_proba(sets['test'])
    np.testing.assert_allclose(said, each['gaussian'].said()[1], atol=2e-3)
    assert fit('gaussian').where == each['gaussian'].where
    with pytest.raises(ValueError, match='choose one of periodic, dynamic, gaussian'): fit('mixup')
