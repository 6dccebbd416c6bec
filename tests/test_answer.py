"A pool of digits with planted faults, judged: what helps, what is refused, what goes on."
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from synthnb import answer
from synthnb.answer import (Gain, Heard, Plan, as_heard, gain_of, judge_pool, plan_of, word_of,
                            worth_of)
from synthnb.core import runs_dir

SIZE = 16


@pytest.fixture(scope='module')
def digits():
    d = load_digits()
    x = np.repeat((d.images * 255 / 16).round().astype(np.uint8)[..., None], 3, 3)
    return x.repeat(2, 1).repeat(2, 2), d.target


@pytest.fixture(scope='module')
def planted(digits):
    "60 real digits to train on, 300 to test; a pool of 300: 60 wrong, 30 of the test, 30 blank"
    (x, y), rng = digits, np.random.default_rng(1)
    test, train, rest = np.split(rng.permutation(len(y))[:660], [300, 360])
    pool, label = x[rest].copy(), y[rest].copy()
    wrong, twice, blank = np.split(rng.permutation(300)[:120], [60, 90])
    label[wrong] = (label[wrong] + rng.integers(1, 10, 60)) % 10
    theirs = test[rng.integers(0, 300, 30)]
    noisy = x[theirs] + rng.integers(-6, 7, x[theirs].shape)
    pool[twice], label[twice] = noisy.clip(0, 255).astype(np.uint8), y[theirs]
    pool[blank] = rng.integers(0, 256, (30, 1, 1, 1))
    return dict(train=(x[train], y[train]), test=(x[test], y[test])), (pool, label), wrong


ASKED = dict(size=SIZE, seeds=8, device='cpu', allow_leaks=True)


@pytest.fixture(scope='module')
def judged(planted):
    real, pool, _ = planted
    return judge_pool(real, pool, 'cl-sam', **ASKED)


def test_choosing_repairs_what_taking_any_spoils(judged, planted):
    table = judged.table.set_index('sampler')
    assert word_of(gain_of(judged.heard, 'cl-sam', 'random')) == 'yes'
    assert table['over none']['random'] < table['over none']['cl-sam']
    wrong = np.isin(np.arange(300), planted[2])
    share = {name: wrong[s.indices].mean() for name, s in judged.selections.items()}
    assert share['cl-sam'] < share['random'] / 2


def test_no_selection_has_a_leak_or_but_random_a_blank(judged):
    marks = judged.look.marks
    for name, s in judged.selections.items():
        assert not (marks.leak.to_numpy()[s.indices] >= 0).any()
        if name != 'random': assert not marks.blank.to_numpy()[s.indices].any()
    assert judged.scores['cl-sam'][marks.blank].isna().all()


def test_the_answer_names_what_was_compared(judged):
    said = judged.sentence
    for words in ('chosen by cl-sam', '300 test images', 'at random', 'augmentation', 'balancing',
                  'So ', 'The first look: '):
        assert words in said
    assert [*judged.controls.control] == ['balanced', 'augmented', 'half']
    assert judged.facts['features'].startswith('patches') and '<table' in judged._repr_html_()
    common = judged.agreement.set_index(['sampler', 'other'])
    assert (common.common.between(0, 1) & common['by chance'].between(0, 1)).all()


def test_leaks_are_an_error_that_names_them(planted):
    real, pool, _ = planted
    with pytest.raises(ValueError, match='of 300 pool images repeat test .*array.*allow_leaks'):
        judge_pool(real, pool, **ASKED | dict(allow_leaks=False))


def made(*stages):
    "The artefacts that there are"
    where = runs_dir() / 'artefacts'
    return {p for stage in stages for p in (where / stage).glob('*/artefact.json')}


def test_a_second_call_makes_nothing(judged, planted):
    stages = 'said', 'look', 'strengths', 'seen', 'seen-part', 'view', 'door'
    before = made(*stages)
    again = judge_pool(*planted[:2], 'cl-sam', **ASKED)
    assert made(*stages) == before
    assert again.sentence == judged.sentence and again.table.equals(judged.table)


@pytest.mark.long
def test_a_killed_call_goes_on(planted, monkeypatch):
    asked, whole = ASKED | dict(seed=7, samplers=['random']), answer.progress

    def until(iterable, desc='', **more):
        for i, x in enumerate(whole(iterable, desc=desc, **more)):
            if desc == 'seeds' and i == 3: raise KeyboardInterrupt
            yield x
    before = made('said')
    monkeypatch.setattr(answer, 'progress', until)
    with pytest.raises(KeyboardInterrupt): judge_pool(*planted[:2], 'cl-sam', **asked)
    monkeypatch.undo()
    first = made('said') - before
    assert len(first) == 3
    found = judge_pool(*planted[:2], 'cl-sam', **asked)
    assert len(made('said') - before) == 8 and first < made('said')
    assert found.heard.guess['none'].shape == (8, 300)


def test_a_column_of_the_pool_ranks_it(digits, tmp_path):
    "A CSV of pictures, with the user's own score: only what it likes is taken"
    (x, y), rows = digits, []
    some = np.concatenate([np.flatnonzero(y == c)[:60] for c in range(3)])
    for i in some:
        Image.fromarray(x[i]).save(tmp_path / f'{i}.png')
        rows.append(dict(path=f'{i}.png', label=f'digit {y[i]}', taste=float(i % 7)))
    pd.DataFrame(rows).to_csv(tmp_path / 'pool.csv', index=False)
    own = np.setdiff1d(np.flatnonzero(y < 3), some)
    names = np.array([f'digit {c}' for c in y])
    real = dict(train=(x[own[:30]], names[own[:30]]), test=(x[own[30:150]], names[own[30:150]]))
    found = judge_pool(real, tmp_path / 'pool.csv', 'by:taste', samplers=['random'], size=SIZE,
                       seeds=3, device='cpu', ratio=.5, allow_leaks=True)
    kept = found.pool.column('taste')[found.selections['by:taste'].indices]
    assert len(kept) == 15 and kept.min() >= 5
    with pytest.raises(ValueError, match="no column 'tast'.*taste"):
        judge_pool(real, tmp_path / 'pool.csv', 'by:tast', size=SIZE, device='cpu')


def test_folds_test_every_image_once_and_split_no_group(digits):
    y = digits[1][:90]
    group = np.arange(90) // 3
    plan = plan_of(y, [''] * 90, group, seeds=6)
    assert plan.folds == 5 and len(plan.test) == 10
    for part in (plan.test[:5], plan.test[5:]):
        assert (np.sort(np.concatenate(part)) == np.arange(90)).all()
    for a, b in zip(plan.train, plan.test): assert not set(group[a]) & set(group[b])


def heard_of(rng, gain, n=240, seeds=12, luck=.05):
    "Seeds that are right in 70% of the images, and an arm that is so much better"
    y, hard = np.arange(n) % 4, rng.random(n)
    none = np.zeros(0, np.int64)

    def said(right): return np.where(hard < right + luck * rng.normal(size=n), y, (y + 1) % 4)[None]
    plan = Plan([none] * seeds, [np.arange(n)] * seeds, [], [], 0, (), none)
    return as_heard(plan, y, np.arange(n), [{'none': said(.7), 'arm': said(.7 + gain)}
                                            for _ in range(seeds)])


def test_intervals_hold_what_they_promise():
    "Of 60 worlds without any gain, at most 6 have an interval that leaves out zero"
    missed = 0
    for world in range(60):
        g = gain_of(heard_of(np.random.default_rng(world), 0), 'arm', draws=300)
        missed += not g.lo <= 0 <= g.hi
    assert missed <= 6
    assert gain_of(heard_of(np.random.default_rng(1), .1), 'arm').lo > 0


def test_an_interval_is_the_wider_one():
    "Where seeds differ much and images do not, the seeds decide, and the other way round"
    y, rng = np.arange(400) % 2, np.random.default_rng(0)

    def flipped(rows): return np.where(np.isin(np.arange(400), rows), 1 - y, y)
    share = [rng.permutation(400)[:k] for k in (0, 200, 0, 200, 20, 180)]
    guess = {'none': np.tile(y, (6, 1)), 'arm': np.stack([flipped(r) for r in share])}
    each = {a: 100 * (g == y).mean(1) for a, g in guess.items()}
    wild = gain_of(Heard(y, np.arange(400), guess, each), 'arm')
    assert wild.over == 'seeds' and np.isclose(wild.gain, each['arm'].mean() - 100)
    guess['arm'] = np.tile(flipped(share[1][:60]), (6, 1))
    calm = Heard(y, np.arange(400), guess, {a: 100 * (g == y).mean(1) for a, g in guess.items()})
    assert gain_of(calm, 'arm').over == 'test images'


def test_the_worth_of_an_image():
    sure = Gain(2., 1., 3., 'seeds', 5)
    assert np.isclose(worth_of(sure, sure, 100, 50), 2)
    assert np.isnan(worth_of(sure, Gain(2., -1., 3., 'seeds', 5), 100, 50))


def test_a_network_trained_from_nothing_reads_the_same_arms(digits):
    (x, y), some = digits, np.flatnonzero(digits[1] < 2)
    real = dict(train=(x[some[:40]], y[some[:40]]), test=(x[some[40:80]], y[some[40:80]]))
    tiny = dict(trainings=1, width=4, look_every=2, least=2, most=4, rise_updates=2)
    found = judge_pool(real, (x[some[80:160]], y[some[80:160]]), 'random', judge='scratch',
                       samplers=['unrefused'], size=SIZE, seeds=2, device='cpu', **tiny)
    assert [*found.controls.control] == ['balanced', 'augmented', 'longer', 'half']
    assert found.heard.guess['unrefused'].shape == (2, 40) and 'longer training' in found.sentence
    with pytest.raises(TypeError, match="no width; settings of a training"):
        judge_pool(real, real['train'], width=4)


def test_what_a_judge_needs_is_said_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="torchvision's resnet18"):
        judge_pool('nowhere', 'nowhere', judge='fine-tune')
    with pytest.raises(FileNotFoundError, match='is no file'):
        judge_pool('nowhere', 'nowhere', judge='fine-tune', features='torchvision:resnet18',
                   weights=tmp_path / 'none.pth')


@pytest.mark.parametrize('views, mirrored, arms, base', [
    (answer.VIEW_NAMES, True, {'none', 'augmented'}, {}),
    (answer.VIEW_NAMES[1:], False, {'none', 'augmented'}, {}),
    ((), False, {'none'}, dict(augment='none'))])
def test_networks_mirror_only_where_views_may(monkeypatch, views, mirrored, arms, base):
    asked = {}
    monkeypatch.setattr(answer, 'ask_trained', lambda q, judge, real, pool: judge(
        dict(none=1, augmented=2)))
    monkeypatch.setattr(answer, 'plateau_judge', lambda feds, **how: asked.update(how, feds=feds))
    nobody = type('Nobody', (), dict(images=None))
    answer.heard_by(None, 'scratch', nobody, None, 'patches', None, 'cpu', {}, views)
    assert {*asked.pop('feds')} == arms
    assert asked == dict(mirrored=mirrored, device='cpu') | base


def test_a_view_that_nobody_makes_is_refused_before_anything_is_read():
    for views in ('mirrored', ('turned',)):
        with pytest.raises(ValueError, match='expected some of mirrored'):
            answer.judge_pool('nowhere', 'nowhere', views=views)
