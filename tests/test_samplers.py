"""Properties of samplers that must hold for every pool, and a score that survives SIGKILL."""
import os
import runpy
import signal
import textwrap
import time
import warnings

import numpy as np
import pytest
import torch
from apart import Apart, file
from hypothesis import given, settings
from hypothesis import strategies as st

import synthnb.recent  # noqa: F401, registers the samplers since 2021
from synthnb import beyond, samplers as module
from synthnb.data import ImageSet, ImageSetWriter
from synthnb.arms import arm_values, class_table, compare_arms, sampler_table
from synthnb.beyond import (ball_count, ball_realism, cl_cap_sampler, farthest_first,
                            score_by_features, training_margins)
from synthnb.samplers import (REGISTRY, Scoring, Selection, apportion, class_quota, get_sampler,
                              make_scores, sampler, samplers, select, top_ranked)
from synthnb.scores import (CONFIDENCE_BY, agreement, column_record, make_folds,
                            score_pool)
from synthnb.train import Classifier, PLAIN, classifier_net

RANKED = [n for n in samplers() if get_sampler(n).needs and not get_sampler(n).decides]
# drs has luck, cl-cap puts the highest scores last, and ccs takes some of every score
BY_SCORE = [n for n in RANKED if n not in ('drs', 'cl-cap', 'ccs')]
QUOTED = [*RANKED, 'random']
SHARES = [n for n in QUOTED if get_sampler(n).share == 'pool']
fast = settings(max_examples=60, deadline=None)


class Pool:
    "What `select` needs of an ImageSet, in memory."
    def __init__(self, labels, k, **columns):
        self.labels, self.classes, self.have = (np.asarray(labels),
                                                [f'c{i}' for i in range(k)], columns)
        self.folder, self.fingerprint = 'memory', 'memory'
    def columns(self): return sorted(self.have)
    def column(self, name): return self.have[name]


def pool_of(labels, scores, k):
    return Pool(labels, k, **dict.fromkeys((get_sampler(n).needs for n in RANKED), scores))


def quiet_select(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return select(*args, **kwargs)


@st.composite
def scored(draw, ties=False):
    "(labels, scores, k): a pool of up to 60 images; scores differ unless ties are asked for."
    k, n, seed = draw(st.integers(1, 5)), draw(st.integers(1, 60)), draw(st.integers(0, 999))
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 3, n).astype(np.float32) if ties
              else rng.permutation(n).astype(np.float32))
    return rng.integers(0, k, n), scores, k


@fast
@given(scored(), st.integers(0, 70), st.sampled_from([*BY_SCORE, 'cl-cap']), st.integers(0, 99))
def test_top_k_of_a_permutation_is_the_permutation_of_top_k(pool, budget, name, seed):
    labels, scores, k = pool
    p = np.random.default_rng(seed).permutation(len(labels))
    here = quiet_select(name, pool_of(labels, scores, k), budget).indices
    there = quiet_select(name, pool_of(labels[p], scores[p], k), budget).indices
    assert sorted(p[there]) == sorted(here)


@fast
@given(scored(ties=True), st.integers(0, 70), st.sampled_from(QUOTED),
       st.sampled_from(['pool', 'balanced', 'global']))
def test_the_budget_is_kept_and_used(pool, budget, name, share):
    labels, scores, k = pool
    s = quiet_select(name, pool_of(labels, scores, k), budget, share=share)
    assert len(s) == min(budget, len(labels)) == s.report.kept.sum()
    assert (np.diff(s.indices) > 0).all()
    assert (s.report.kept <= s.report.candidates).all()


@fast
@given(scored(ties=True), st.integers(0, 70), st.sampled_from(BY_SCORE))
def test_nothing_left_behind_in_a_class_is_better_than_what_was_kept(pool, budget, name):
    labels, scores, k = pool
    s = quiet_select(name, pool_of(labels, scores, k), budget)
    kept = np.zeros(len(labels), bool)
    kept[s.indices] = True
    for c in range(k):
        mine = labels == c
        if kept[mine].any() and not kept[mine].all():
            assert scores[mine & kept].min() >= scores[mine & ~kept].max()
            assert s.report.threshold[c] == scores[mine & kept].min()


@fast
@given(scored(ties=True), st.integers(0, 70), st.integers(0, 70),
       st.sampled_from([n for n in QUOTED if n != 'ccs']), st.integers(0, 9),
       st.sampled_from(['pool', 'balanced', 'global']))
def test_a_smaller_budget_keeps_a_part_of_a_larger_one(pool, a, b, name, seed, share):
    labels, scores, k = pool
    small, large = (quiet_select(name, pool_of(labels, scores, k), n, share=share,
                                 seed=seed).indices for n in sorted((a, b)))
    assert set(small) <= set(large)


@fast
@given(scored(), st.lists(st.integers(0, 59), max_size=40),
       st.integers(0, 70), st.sampled_from(RANKED),
       st.sampled_from([np.nan, np.inf]))
def test_nan_and_plus_infinity_are_never_selected(pool, holes, budget, name, bad):
    labels, scores, k = pool
    holes = np.array([h for h in holes if h < len(labels)], int)
    scores[holes] = bad
    lost = np.setdiff1d(labels, labels[np.isfinite(scores)])
    if len(lost):
        with pytest.raises(ValueError, match='the scorer failed'):
            quiet_select(name, pool_of(labels, scores, k), budget)
        return
    s = quiet_select(name, pool_of(labels, scores, k), budget)
    assert np.isfinite(scores[s.indices]).all() and len(s) == min(budget, np.isfinite(scores).sum())
    assert s.report['nan'].sum() + s.report.infinite.sum() == len(set(holes))
    assert not len(holes) or any('NaN or plus infinity' in n for n in s.notes)


@fast
@given(scored(), st.integers(0, 70),
       st.sampled_from([n for n in RANKED if n in SHARES]), st.integers(0, 99))
def test_a_constant_score_is_random_sampling(pool, budget, name, seed):
    labels, scores, k = pool
    flat = pool_of(labels, np.full(len(labels), .7, np.float32), k)
    assert (quiet_select(name, flat, budget, seed=seed).indices
            == quiet_select('random', flat, budget, seed=seed).indices).all()


@fast
@given(scored(ties=True), st.sampled_from([np.float32, np.float64]), st.integers(0, 99))
def test_floats_rank_as_their_own_type_does(pool, kind, seed):
    "To the last bit and tie: the order of a float32 column is that of its float64."
    labels, scores, k = pool
    scores = (scores/3 + np.random.default_rng(seed)
              .choice([0, 1e-7, np.nan, -np.inf], len(scores))).astype(kind)
    luck = torch.randperm(len(scores), generator=module.generator(seed, 'ties')).numpy()
    order = np.lexsort((luck, -scores))
    order = order[~np.isnan(scores[order])]
    assert top_ranked(scores, labels, None, 60, seed).tolist() == order[:60].tolist()


@pytest.mark.parametrize('kind', [np.uint8, np.uint32, np.uint64, np.int8, np.float16, '>f8'])
@pytest.mark.parametrize('name', [n for n in RANKED if n != 'drs'])
def test_every_type_of_number_keeps_the_same_images(name, kind):
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 3, 90), rng.permutation(90)
    whole, floats = (quiet_select(name, pool_of(labels, scores.astype(t), 3), 30)
                     for t in (kind, np.float64))
    assert whole.indices.tolist() == floats.indices.tolist() and whole.report.equals(floats.report)


@pytest.mark.parametrize('scores', [np.arange(6).astype(str), np.arange(6).astype(object),
                                    np.arange(6)*1j, np.ones((6, 1)),
                                    np.ones((6, 2)), np.arange(6).astype('M8[s]'), np.ones(5)])
def test_what_is_no_score_is_refused_by_name(scores):
    for name in RANKED:
        with pytest.raises(ValueError, match=f"the column '{get_sampler(name).needs}'"):
            select(name, pool_of([0]*6, scores, 1), 2)


@pytest.mark.parametrize('scores', [np.linspace(-9, 5, 40).astype(np.float16),
                                    np.linspace(0, 1, 40), np.arange(40, dtype=np.uint8)])
def test_a_histogram_shows_all_images_of_a_score_of_any_range(scores):
    import matplotlib.pyplot as plt
    fig = module.confidence_histogram(Pool(np.arange(40) % 2, 2, mine=scores), 'mine')
    for ax in fig.axes[:2]: assert np.isclose(sum(ax.patches[0].get_data().values), 100)
    plt.close(fig)


def test_a_gallery_frames_what_a_mask_keeps():
    import matplotlib.pyplot as plt
    from types import SimpleNamespace
    source, n = np.arange(12.) % 4, 12
    def gather(rows): return np.zeros((len(rows), 8, 8, 3), np.uint8)
    def pool(source):
        return SimpleNamespace(column=lambda name: source, gather=gather,
                               classes=['a', 'b', 'c'], labels=np.arange(n) // 4)
    real = SimpleNamespace(gather=gather, classes=['a', 'b', 'c'], labels=np.zeros(4, int))
    def framed(kept, scores=np.zeros(n), source=source):
        fig = module.translation_gallery(pool(source), real, [0, 1], scores, kept)
        plt.close(fig)
        return [ax.spines['top'].get_visible() for ax in fig.axes]
    mask = np.isin(np.arange(n), [4, 5, 7])
    assert framed(mask) == framed([4, 5, 7]) and sum(framed(mask)) == 2
    for bad in (mask[:9], [n], [.5], [-1]):
        with pytest.raises(IndexError, match='the rows kept'): framed(bad)
    with pytest.raises(ValueError, match='expected one number'): framed(mask, np.zeros(9))
    with pytest.raises(ValueError, match="the column 'source'"):
        framed(mask, source=np.where(source == 2, np.nan, source))


def test_ties_are_broken_evenly_over_the_pool():
    kept = sum(np.bincount(top_ranked(np.ones(60), np.zeros(60, int), [20], 20, seed=s),
                           minlength=60) for s in range(1500))
    # each image is kept in a third of the seeds: binomial(1500, 1/3) has sd 18.3, and 60 images
    # stay within 4 of them
    assert abs(kept - 500).max() < 4*18.3


@fast
@given(st.lists(st.floats(0, 10), min_size=1, max_size=6),
       st.lists(st.integers(0, 30), min_size=6, max_size=6), st.integers(0, 80))
def test_apportionment_is_monotone_capped_and_complete(weights, caps, budget):
    caps = np.array(caps[:len(weights)])
    now, more = apportion(weights, budget, caps), apportion(weights, budget + 1, caps)
    open_to = caps[np.asarray(weights) > 0].sum()
    assert (now <= caps).all() and now.sum() == min(budget, open_to)
    assert (more >= now).all() and more.sum() - now.sum() == (budget < open_to)


@fast
@given(st.lists(st.integers(1, 2000), min_size=2, max_size=8), st.integers(1, 500))
def test_apportionment_is_near_the_exact_shares(weights, budget):
    exact = np.array(weights)*budget/sum(weights)
    assert abs(apportion(weights, budget) - exact).max() < 2


def test_random_and_ranked_keep_the_same_class_counts_at_affectnets_frequencies():
    labels = np.repeat(np.arange(8), [7487, 13441, 2545, 1409, 637, 380, 2488, 375])
    scores = np.random.default_rng(0).random(len(labels))
    pool = pool_of(labels, scores, 8)
    reports = [quiet_select(name, pool, 5000).report.kept.tolist() for name in SHARES]
    assert all(r == reports[0] for r in reports) and (np.array(reports[0]) > 0).all()
    assert class_quota(labels, 5000).counts.tolist() == reports[0]


@fast
@given(st.integers(2, 6), st.integers(0, 99))
def test_folds_are_stratified_and_keep_people_together(folds, seed):
    labels = np.repeat([0, 1], [120, 60])
    fold_of = make_folds(labels, folds, seed)
    for c in (0, 1): assert np.ptp(np.bincount(fold_of[labels == c], minlength=folds)) <= 1
    people = np.arange(180)//5
    grouped = make_folds(labels, folds, seed, groups=people)
    assert all(len(set(grouped[people == p])) == 1 for p in range(36))


def test_unknown_names_list_the_choices():
    pool = pool_of([0], np.ones(1), 1)
    with pytest.raises(ValueError, match='choose one of none, random, cl-sam, cr-sam, oracle'):
        select('clsam', pool, 1)
    with pytest.raises(ValueError, match="choose 'pool'"):
        select('random', pool, 1, share='any')
    with pytest.raises(ValueError, match='whole number'): select('random', pool, -1)
    assert CONFIDENCE_BY == ('seen', 'cross-fit')


def test_a_torn_selection_is_refused(tmp_path):
    s = quiet_select('random', pool_of([0, 0, 1], np.ones(3), 2), 2)
    s.save(tmp_path)
    assert (Selection.load(tmp_path).indices == s.indices).all()
    np.save(tmp_path/'selection.npy', s.indices[:1])
    with pytest.raises(ValueError, match='select again'): Selection.load(tmp_path)
    (tmp_path/'selection.npy').unlink()
    with pytest.raises(FileNotFoundError, match='select again'): Selection.load(tmp_path)


SCORER = '''
    import sys, time, torch
    from pathlib import Path
    from synthnb.data import ImageSet
    from synthnb.scores import score_pool

    def score(folder, pause=0.):
        torch.set_num_threads(1); torch.manual_seed(0)
        net = torch.nn.Linear(8*8*3, 1)
        seen = open(folder/'seen.txt', 'a')
        def fn(images, labels, rows):
            time.sleep(pause); print(rows[0], file=seen, flush=True)
            return net(images.flatten(1).float()/255).squeeze(1) + labels
        score_pool(ImageSet(folder), 'score', fn, key='linear', batch_size=100, device='cpu')
        return (folder/'seen.txt').read_text().split()

    if __name__ == '__main__': score(Path(sys.argv[1]), .15)
'''


def test_scoring_killed_with_sigkill_ends_with_the_same_column(tmp_path):
    script, threads = tmp_path/'scorer.py', torch.get_num_threads()
    script.write_text(textwrap.dedent(SCORER))
    scorer = runpy.run_path(str(script))
    for name in ('killed', 'whole'):
        w = ImageSetWriter(tmp_path/name, 3050, 8, ['a', 'b'])
        pixels = np.random.default_rng(0).integers(0, 256, (3050, 8, 8, 3), np.uint8)
        w.write(pixels, np.arange(3050) % 2)
        w.close()
    half = Apart(file, script, tmp_path/'killed')
    note, until = tmp_path/'killed'/'columns'/'.score.part.json', time.time() + 90
    while not note.exists() and half.poll() is None and time.time() < until: time.sleep(.02)
    half.send_signal(signal.SIGKILL)
    assert half.wait() == -signal.SIGKILL and 'score' not in ImageSet(tmp_path/'killed').columns()
    before = (tmp_path/'killed'/'seen.txt').read_text().split()
    after, whole = scorer['score'](tmp_path/'killed'), scorer['score'](tmp_path/'whole')
    assert 0 < len(before) < 31 and len(after) < len(before) + 31, 'it started from the beginning'
    scores = [ImageSet(tmp_path/n).column('score').tobytes() for n in ('killed', 'whole')]
    assert (scores[0] == scores[1]
            and column_record(ImageSet(tmp_path/'killed'), 'score')['n'] == 3050)
    assert set(after) == set(whole) and scorer['score'](tmp_path/'killed') == after, (
        'a finished column is reused')
    torch.set_num_threads(threads)


def test_a_full_disk_while_scoring_is_one_clear_error(tmp_path, monkeypatch):
    w = ImageSetWriter(tmp_path/'pool', 10, 8, ['a'])
    w.write(np.zeros((10, 8, 8, 3), np.uint8), np.zeros(10, int))
    pool = w.close()
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.pwrite', full)
    with pytest.raises(OSError, match='no space left on the device'):
        score_pool(pool, 'score',
                   lambda images, labels, rows: torch.ones(len(images)), device='cpu')
    assert 'score' not in pool.columns()


@fast
@given(scored(ties=True), st.sampled_from(QUOTED), st.integers(0, 99))
def test_the_same_seed_keeps_the_same_and_no_or_all_budget_is_no_edge(pool, name, seed):
    labels, scores, k = pool
    p = pool_of(labels, scores, k)
    half = len(labels)//2
    assert (quiet_select(name, p, half, seed=seed).indices
            == quiet_select(name, p, half, seed=seed).indices).all()
    assert len(quiet_select(name, p, 0, seed=seed)) == 0
    assert (quiet_select(name, p, len(labels), seed=seed).indices == np.arange(len(labels))).all()


def test_rejection_sampling_has_luck_and_prefers_the_real():
    labels, odds = np.zeros(4000, int), np.repeat([-3., -1.], 2000)
    odds[-1] = 0
    pool = pool_of(labels, odds, 1)
    kept = [select('drs', pool, 1000, seed=s).indices for s in (0, 1)]
    assert set(kept[0]) != set(kept[1])
    assert all(.7 < (k >= 2000).mean() < 1 for k in kept)


@fast
@given(scored(), st.integers(0, 9))
def test_the_capped_share_comes_after_all_others(pool, seed):
    labels, scores, k = pool
    order = cl_cap_sampler(scores, labels, len(labels),
                           quota=np.bincount(labels, minlength=k), seed=seed)
    for c in range(k):
        mine = scores[order[labels[order] == c]]
        if not len(mine): continue
        cut = np.quantile(mine, .75)
        easy = mine > cut
        assert (np.diff(easy.astype(int)) >= 0).all(), 'an easy one comes before another'
        assert (np.diff(mine[~easy]) < 0).all() and (np.diff(mine[easy]) > 0).all()


def test_balanced_by_itself_unless_told_otherwise():
    labels = np.repeat([0, 1], [300, 100])
    pool = pool_of(labels, np.random.default_rng(0).random(400), 2)
    assert select('cl-cap', pool, 100).report.kept.tolist() == [50, 50]
    assert select('cl-cap', pool, 100).about['share'] == 'balanced'
    assert select('cl-cap', pool, 100, share='real',
                  real_counts=[9, 1]).report.kept.tolist() == [90, 10]
    assert select('cl-sam', pool, 100).report.kept.tolist() == [75, 25]


def test_a_sampler_that_decides_is_asked_about_the_whole_pool():
    def half(scores, labels, budget, *, quota, seed):
        assert budget == len(labels) == 8 and quota.sum() == 7
        return np.flatnonzero(np.nan_to_num(scores) > .5)
    sampler('half', needs='confidence', decides=True)(half)
    try:
        pool = pool_of([0]*4 + [1]*4, np.array([.9, .1, .2, .8, .7, .6, .3, np.nan], np.float32), 2)
        with pytest.warns(UserWarning, match='NaN') as caught:
            chosen = select('half', pool, 2, strict=True)
        assert (chosen.indices.tolist() == [0, 3, 4, 5] and chosen.budget == 8
                and len(caught) == len(chosen.notes) == 1)
    finally: REGISTRY.pop('half')


def test_cl_sam_ranks_as_cleanlab_does():
    from cleanlab.rank import get_self_confidence_for_each_label
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 5, 600), rng.dirichlet(np.ones(5), 600).astype(np.float32)
    pixels = torch.from_numpy(p).view(600, 1, 1, 5)
    class Given:
        net, classes = torch.nn.Identity(), list('abcde')
        def logits(self, images): return images.flatten(1).log()
    ours = module.class_confidence(Given(), device='cpu')(pixels, torch.from_numpy(labels),
                                                          np.arange(600)).numpy()
    theirs = get_self_confidence_for_each_label(labels, p)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    kept = select('cl-sam', pool_of(labels, ours, 5), 200)
    for c, n in enumerate(kept.report.kept):
        mine = np.flatnonzero(labels == c)
        assert (set(mine[np.argsort(-theirs[mine])][:n])
                == set(kept.indices[labels[kept.indices] == c]))


def brute_distances(a, b): return np.sqrt(((a[:, None].astype(float) - b[None])**2).sum(-1))


@fast
@given(st.integers(3, 30), st.integers(1, 20), st.integers(1, 6), st.integers(0, 999))
def test_ball_scores_are_their_definitions(n, m, k, seed):
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    own, across, k = brute_distances(real, real), brute_distances(fake, real), min(k, n - 1)
    radii = np.sort(own, 1)[:, k]
    x, y = torch.from_numpy(real), torch.from_numpy(fake)
    counts = (ball_count(x, k)(y)*k).numpy()
    assert (np.floor(counts + 1e-9) == (across < radii).sum(1)).all()
    nearest = (across/radii).min(1)
    np.testing.assert_allclose(counts % 1, .999/(1 + nearest), rtol=1e-5)
    small = radii <= np.sort(radii)[(n - 1)//2]*(1 + 1e-9)
    np.testing.assert_allclose(ball_realism(x, k)(y),
                               (radii[small]/across[:, small]).max(1), rtol=1e-6)


@fast
@given(st.integers(1, 25), st.integers(1, 10), st.integers(0, 999))
def test_farthest_first_takes_the_farthest(n, m, seed):
    rng = np.random.default_rng(seed)
    free, have = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
    turn = farthest_first(torch.from_numpy(free), torch.from_numpy(have), seed)
    assert sorted(turn) == list(range(n))
    centres, left = list(have), list(range(n))
    for row in np.argsort(turn):
        near = brute_distances(free[left], np.array(centres)).min(1)
        assert np.isclose(near[left.index(row)], near.max(), atol=1e-9)
        centres.append(free[row])
        left.remove(row)


class MadeCritic:
    "In the place of a StarGAN: brightness, which real images have more of."
    def __init__(self): self.D = torch.nn.Linear(1, 1)
    def critic_score(self, images, labels): return images.float().mean((1, 2, 3))


@pytest.fixture(scope='module')
def scoring(tmp_path_factory):
    "A toy Scoring: 8 px, 3 classes, colour shows the label; every second pool label is wrong"
    folder, rng = tmp_path_factory.mktemp('toy'), np.random.default_rng(0)
    def made(name, n, offset, wrong=False):
        labels = np.arange(n) % 3
        shown = np.where(wrong & (np.arange(n)//3 % 2 == 1), (labels + 1) % 3, labels)
        pixels = rng.integers(0, 60, (n, 8, 8, 3)) + offset
        pixels[np.arange(n), :, :, shown] += 90
        w = ImageSetWriter(folder/name, n, 8, list('abc'))
        w.write(pixels.astype(np.uint8), labels, source=np.arange(n) % 60, right=shown == labels)
        return w.close()
    real, pool = made('real', 60, 40), made('pool', 360, 20, wrong=True)
    torch.manual_seed(0)
    spec = dict(arch='resnet10', width=4, stem='small', stem_stride=2, in_channels=3)
    blind = Classifier(classifier_net(n_classes=3, **spec), list('abc'), 8, spec, **PLAIN)
    old, os.environ['SYNTHNB_RUNS'] = os.environ.get('SYNTHNB_RUNS'), str(folder/'runs')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Scoring(pool, real, real, blind, MadeCritic(), device='cpu',
                  recipe=dict(width=4, crop=8, augment='none', updates=40))
    torch.set_num_threads(threads)
    os.environ.pop('SYNTHNB_RUNS')
    if old: os.environ['SYNTHNB_RUNS'] = old


NEW = ['cl-sam', 'cr-sam', 'drs', 'gold', 'instance-selection', 'precision',
       'density', 'k-centre', 'aum', 'cl-cap']


@pytest.mark.parametrize('name', NEW)
def test_every_sampler_from_scoring_to_selection(scoring, name, capsys):
    column = make_scores(name, scoring)
    scores = scoring.pool.column(column)
    assert scores.shape == (360,) and np.isfinite(scores).all()
    for budget in (0, 77, 360):
        chosen = select(name, scoring.pool, budget, column=column, seed=3)
        assert len(chosen) == budget and len(set(chosen.indices)) == budget
        assert np.ptp(chosen.report.kept) <= 1, ('the classes of the toy pool are equal, '
                                                 'so are their quotas')
        assert (select(name, scoring.pool, budget, column=column, seed=3).indices
                == chosen.indices).all()
    capsys.readouterr()
    assert make_scores(name, scoring) == column
    assert 'images in' not in capsys.readouterr().out, 'scores that were there have been made again'
    assert scoring.pool.column(column).tobytes() == scores.tobytes()


@pytest.mark.parametrize('name', ['cl-sam', 'gold', 'aum'])
def test_scores_of_labels_know_half_the_labels_to_be_wrong(scoring, name):
    column = make_scores(name, scoring)
    right = scoring.pool.column('right')
    auc = agreement(scoring.pool.column(column), right, scoring.pool.labels).auc
    assert auc.mean() > .6, auc.tolist()


def test_scorings_that_lack_something_say_what(scoring):
    bare = Scoring(scoring.pool, scoring.real, scoring.valid, scoring.classifier)
    with pytest.raises(ValueError, match="'oracle' needs a judge"): make_scores('oracle', bare)
    for name in ('cr-sam', 'drs', 'gold'):
        with pytest.raises(ValueError, match='give it gan='): make_scores(name, bare)
    assert make_scores('none', bare) is None and make_scores('random', bare) is None


class Broken:
    "A classifier whose features are NaN for dark images"
    net, classes = torch.nn.Linear(1, 1), list('abc')
    def __init__(self, dark): self.dark = dark
    def to(self, device): return self
    def features(self, images):
        f = images.float().mean((1, 2))
        return torch.where(f.mean(1, keepdim=True) < self.dark, torch.nan, f)


@pytest.mark.parametrize('name', ['instance-selection', 'precision', 'density', 'k-centre'])
def test_features_that_are_nan(scoring, name, tmp_path):
    everywhere = Scoring(scoring.pool, scoring.real, scoring.valid, Broken(dark=256), device='cpu')
    with pytest.raises(ValueError, match='features of 60 of 60 real images'):
        make_scores(name, everywhere)
    bright = scoring.pool.images.mean((1, 2, 3))
    # all real images are brighter, parts of the pool are not
    dark = scoring.real.images.mean((1, 2, 3)).min() - 1e-3
    some = Scoring(scoring.pool, scoring.real, scoring.valid, Broken(dark), device='cpu')
    Broken.net = torch.nn.Linear(1, 1) # another key
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        column = make_scores(name, some)
    assert ((bright < dark).any()
            and (np.isnan(scoring.pool.column(column)) == (bright < dark)).all())


def test_a_class_with_few_real_images(scoring, tmp_path):
    def of(counts):
        labels = np.repeat([0, 1, 2], counts)
        w = ImageSetWriter(tmp_path/'-'.join(map(str, counts)), len(labels), 8, list('abc'))
        w.write(np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3), np.uint8), labels)
        return Scoring(scoring.pool, w.close(), scoring.valid, scoring.classifier, device='cpu')
    with pytest.warns(UserWarning, match='c: 3 real images, so 2 neighbours'):
        make_scores('density', of([9, 9, 3]))
    assert np.isfinite(scoring.pool.column('density')).all()
    with pytest.raises(ValueError, match='b: 1 real image'): make_scores('precision', of([9, 1, 9]))


def test_blocks_stay_small_whatever_the_pool(scoring, monkeypatch):
    seen, blocks = [], beyond.distance_blocks
    def watched(*args, **kwargs):
        for i, j, d in blocks(*args, **kwargs): seen.append(d.numel()); yield i, j, d
    monkeypatch.setattr(beyond, 'distance_blocks', watched)
    x, y = torch.randn(5000, 2), torch.randn(512, 2)
    ball_count(x)(y)
    ball_realism(x)(y)
    assert max(seen) <= 2048*512
    parts = torch.cat([ball_count(x)(part) for part in y.split(100)])
    torch.testing.assert_close(parts, ball_count(x)(y), rtol=1e-9, atol=1e-9)


def test_margins_meet_every_image_and_are_those_of_the_batches(scoring):
    from synthnb.data import Images
    train = Images.from_sets((scoring.real, None), (scoring.pool, None))
    a, b = (training_margins(train, 1, 'cpu', width=4, crop=8, batch_size=32) for _ in range(2))
    assert np.isfinite(a).all() and (a == b).all()
    wrong = ~scoring.pool.column('right')
    assert a[60:][wrong].mean() < a[60:][~wrong].mean()


def test_score_by_features_fits_once_and_is_reused(scoring, capsys):
    fitted = []
    def fit(real):
        fitted.append(len(real))
        return lambda f: f.sum(1)
    for _ in range(2): score_by_features(scoring, 'total', fit, flavour=1)
    assert fitted == [20, 20, 20] and 'reused' in capsys.readouterr().out
    score_by_features(scoring, 'total', fit, flavour=2)
    assert len(fitted) == 6, 'another option is another score'


def made_records(seeds=5):
    import pandas as pd
    rows = [dict(sampler=s, ratio=r, seed=i, arm_mean_class_accuracy=.5 + .01*i + gain,
                 control_mean_class_accuracy=.5 + .01*i, n_real=100,
                 baseline_mean_class_accuracy=.5 + .01*i,
                 n_added=260 if s == 'rl' else 100*r, classes=['x', 'y'],
                 arm_class_accuracy=[.5, None], baseline_class_accuracy=[.4, .6], preserved_kept=.8)
            for i in range(seeds) for s, r, gain in (('random', 1, 0), ('random', 2, .01),
                                                     ('cl-sam', 1, .02), ('rl', 1, .03))]
    return pd.DataFrame(rows)


def test_the_learner_is_compared_at_its_own_size():
    records = made_records()
    table = sampler_table(records, 2).set_index('sampler')
    assert table.index.tolist() == ['rl', 'random'] and table.added.tolist() == [2.6, 2]
    assert table.loc['rl', 'vs random'] == pytest.approx(2) # against random at 2x, not at 1x
    assert sampler_table(records, 1).set_index('sampler').loc['rl', 'vs random'] == pytest.approx(2)
    assert compare_arms(records, ('rl', 1), ('random', 1)).difference == pytest.approx(3)
    assert (arm_values(records, ('rl', 7)) == arm_values(records, ('rl', 1))).all()
    assert (np.isnan(table.loc['rl', 'coverage'])
            and table.loc['rl', 'labels preserved'] == pytest.approx(80))
    by_class = class_table(records, {('rl', 1): {'x': 9.}})
    assert by_class[(by_class.sampler == 'rl')
                    & (by_class['class'] == 'x')]['the paper, %'].tolist() == [9.]
