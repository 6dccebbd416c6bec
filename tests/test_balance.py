"""Ways to balance: killed and gone on, as one and alone, nested tails, what is refused."""
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synthnb import balance
from synthnb.balance import (AnyClassifier, BalancedConfig, BalancedTraining, cheap_pool,
                             class_worth, equivalent, long_tail, recall_gains, recall_table,
                             repeated, tail_counts, train_balanced)
from synthnb.core import run_to_end
from synthnb.data import Images
from synthnb.drawn import drawn_set
from synthnb.plateau import Arm, Job

N, VALID, K = 48, 24, 3
QUICK = BalancedConfig.of(width=4, crop=16, batch_size=16, look_every=3, least=9, most=9,
                          rise_updates=2)
SMALL = dict(width=4, crop=16, look_every=3, least=6, most=6, batch_size=16)


def table():
    luck = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (N + VALID, 20, 20, 3), generator=luck, dtype=torch.uint8)
    return Images(pixels, torch.arange(N + VALID) % K, list('abc'))


def jobs_of(images, n=(48, 32, 20)):
    "Jobs out of balance, of several sizes."
    return [Job(torch.arange(m), (images.labels[:m] > 1).long(), torch.arange(N, N + VALID),
                ('test', j)) for j, m in enumerate(n)]


class Double(BalancedTraining):
    "The same in float64, all but the loss itself."
    def __init__(self, *args):
        super().__init__(*args)
        self.net.double(), self.average.double()
        self.mean, self.std = self.mean.double(), self.std.double()


def train(images, jobs, config, kind=BalancedTraining):
    training = kind(images, jobs, config, 'cpu')
    while training.step < training.total: training.update()
    return training


@pytest.mark.parametrize('way', ['none', 'weights', 'logits', 'sampling'])
def test_a_network_has_the_same_numbers_in_company_as_alone(way):
    images, config = table(), replace(QUICK, balance=way)
    jobs = jobs_of(images)
    stack, alone = (train(images, own, config, Double) for own in (jobs, jobs[2:]))
    for one, other in zip(stack.history[2], alone.history[0]):
        assert abs(one['loss'] - other['loss']) < 1e-9, 'dropout is as alone'
    for k, v in alone.kept[0]['best'].items():
        assert (v - stack.kept[2]['best'][k]).abs().max() < 1e-6, k
    assert len({round(h[0]['loss'], 4) for h in stack.history}) == len(jobs)


@pytest.mark.parametrize('arch', ['cnn', 'resnet10'])
def test_a_killed_training_goes_on_to_the_same_digits(arch, tmp_path):
    images, config = table(), replace(QUICK, arch=arch, balance='weights')
    def made(**how):
        training = BalancedTraining(images, jobs_of(images)[:1], config, 'cpu')
        return run_to_end(training, training.total, 'test', tmp_path/how.pop('where'), 'x', **how)
    with pytest.raises(KeyboardInterrupt):
        made(where='a', stop_after=2, save_seconds=0)
    again, whole = made(where='a'), made(where='b')
    assert again.history == whole.history
    for k, v in again.kept[0]['best'].items(): assert v.equal(whole.kept[0]['best'][k]), k


def test_dropout_is_at_work_and_only_in_training():
    images = table()
    some, none = (train(images, jobs_of(images)[:1], replace(QUICK, dropout=d)) for d in (.4, 0.))
    assert some.history[0][0]['loss'] != none.history[0][0]['loss']
    a, b = (some.probabilities('best', torch.arange(N)) for _ in range(2))
    assert (a == b).all()


def test_weights_of_classes_in_balance_change_no_digit():
    images = table()
    jobs = [Job(torch.arange(N), images.labels[:N], torch.arange(N, N + VALID), ('even',))]
    plain, weighed = (train(images, jobs, replace(QUICK, balance=b)) for b in ('none', 'weights'))
    assert plain.history == weighed.history
    gone = class_worth(torch.tensor([0, 0, 0, 2]), 'weights', 3)
    assert gone.tolist()[::2] == [pytest.approx(2/3), 2.]


@pytest.fixture(scope='module')
def sets(): return [drawn_set(n, 20, 'balanced', 0, f'balance-{n}') for n in (64, 40, 48)]


def test_arms_are_made_once_in_processes_or_as_stacks(sets, monkeypatch):
    real, valid, test = sets
    arms = [Arm([(real, rows)], valid, test, 0, (3,), (), SMALL | dict(balance=way))
            for rows, way in ((None, 'none'), (np.arange(40), 'weights'))]
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    first = train_balanced(arms, 2, 'cpu')
    stood = {p: p.stat().st_mtime_ns for t in first for p in t.where.values()}
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    again = train_balanced(arms, 2, 'cpu')
    assert {p: p.stat().st_mtime_ns for t in again for p in t.where.values()} == stood
    assert first[1].said('at 3').shape == (2, 48, 8) and len(first[0].history()) == 4
    judge = first[0].classifier(1)
    pixels = torch.from_numpy(np.array(test.images))
    assert np.abs(judge.predict_proba(pixels) - first[0].said()[1]).max() < 2e-3
    todo = [(arm, j) for arm in arms for j in range(2)]
    bar = SimpleNamespace(update=lambda: None)
    assert [len(s) for s in balance.balanced_stacks(todo, 64)] == [2, 2]
    found = balance.balanced_as_one(todo, torch.device('cpu'), 64, bar)
    for arm, t in zip(arms, first): # the artefact of `made` is named by what makes it
        for j in range(2):
            said = np.load(found[arm, j]/f'best {j}.npy').astype(float)
            assert np.abs(said - t.said()[j]).max() < .02


@pytest.mark.parametrize('change, said', [
    (dict(marks=(7,)), 'multiples of look_every=3'), (dict(start=('a',)), 'cannot start'),
    (dict(recipe=dict(SMALL, balance='smote')), 'balance'),
    (dict(recipe=dict(SMALL, arch='vgg')), 'arch'),
    (dict(recipe=dict(SMALL, dropout=.7)), 'dropout')])
def test_an_arm_that_cannot_be_meant_is_refused(sets, change, said):
    real, valid, test = sets
    arm = Arm(**(dict(parts=[(real, None)], valid=valid, test=test, recipe=SMALL) | change))
    with pytest.raises(ValueError, match=said): train_balanced([arm], 2, 'cpu')


def test_a_file_of_another_kind_is_one_clear_error(tmp_path):
    (tmp_path/'torn.safetensors').write_bytes(b'garbage')
    with pytest.raises(ValueError, match='not a classifier'):
        AnyClassifier.load(tmp_path/'torn.safetensors')


def test_tails_are_nested_whatever_the_order_and_the_seed():
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(5), 100))
    for order in (None, [4, 2, 0, 1, 3]):
        rows = [set(long_tail(y, 100, r, order, 3)) for r in (1, 3, 10, 30, 100)]
        assert all(b <= a for a, b in zip(rows, rows[1:])) and len(rows[0]) == 500
        assert (np.bincount(y[list(rows[2])])[order or range(5)] == tail_counts(5, 100, 10)).all()
    assert set(long_tail(y, 100, 10, seed=3)) != set(long_tail(y, 100, 10, seed=4))
    some = long_tail(y, 60, 10)
    assert (np.bincount(y[repeated(y, some)]) == 60).all()


@pytest.mark.parametrize('labels, head, ratio, said', [
    ([], 4, 2, 'empty'), ([0, 1, np.nan], 2, 1, 'NaN'), ([0, 0, 0], 2, 1, 'at least 2'),
    ([0, 0, 1, 1], 2.5, 1, 'head'), ([0, 0, 1, 1], 2, np.inf, 'ratio'),
    ([0, 0, 1, 1], 2, np.nan, 'ratio'), ([0, 0, 1], 2, 1, 'class 1 has 1 images')])
def test_tails_of_garbage(labels, head, ratio, said):
    with pytest.raises(ValueError, match=said): long_tail(labels, head, ratio)


def test_copies_come_from_their_class_and_are_the_same_again(sets, tmp_path, monkeypatch):
    real = sets[0]
    pool = cheap_pool(real, np.arange(32), {1: 9, 3: 2}, 5)
    y, source = pool.labels, pool.column('source')
    assert np.bincount(y, minlength=8).tolist() == [0, 9, 0, 2, 0, 0, 0, 0]
    assert (real.labels[source] == y).all() and source.max() < 32
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path))
    assert cheap_pool(real, np.arange(32), [0, 9, 0, 2, 0, 0, 0, 0], 5).images.tobytes() == \
        pool.images.tobytes()
    for wanted, policy, said in (({}, 'trivial', 'nothing to make'), ([1], 'trivial', '8 classes'),
                                 ([-1]*8, 'trivial', 'whole number'), ([1]*8, 'blur', 'policy')):
        with pytest.raises(ValueError, match=said): cheap_pool(real, None, wanted, 0, policy)


def test_intervals_of_recalls_hold_what_was_put_in():
    rng, y = np.random.default_rng(0), np.arange(900) % 3
    def said(right): # (3, 900, 3), right with these chances
        hit = rng.random((3, 900)) < np.array(right)[y]
        return np.eye(3)[np.where(hit, y, (y + 1) % 3)]
    found = recall_table(said([.8, .6, .7]), y, list('abc'), said([.8, .8, .4]))
    assert [(r.lo > 0) - (r.hi < 0) for r in found.itertuples()][1:3] == [-1, 1]
    assert abs(found.gain[:3].mean() - found.gain[3]) < 1e-9 and (found.lo <= found.gain).all()
    with pytest.raises(ValueError, match='expected'): recall_table(np.ones((900, 3)), y, 'abc', 0)
    gains = recall_gains(dict(a=[[.5, .7], [.6, .7]]), [[.4, .8], [.5, .8]], ['x', 'y'])
    assert np.allclose(gains.gain, [10, -10, 0]) and gains.seeds.tolist() == [2]*3
    with pytest.raises(ValueError, match='same seeds'):
        recall_gains(dict(a=[[.5, .7]]), [[.4, .8], [.5, .8]], ['x', 'y'])


def test_equivalence_of_garbage_and_of_nothing_at_all():
    assert equivalent([0., 0., 0.], 1).said == 'equivalent'
    assert equivalent([5., 5., 5.], 1).said == 'different'
    for values, margin in (([1.], 1), ([1, 2], 0), ([1, np.nan], 1), ([], 1), ([1, 2], np.nan)):
        with pytest.raises(ValueError): equivalent(values, margin)
