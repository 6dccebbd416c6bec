"""Properties of samplers that must hold for every pool, and a score that survives SIGKILL."""
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synthnb.core import project_root
from synthnb.data import ImageSet, ImageSetWriter
from synthnb.samplers import (CONFIDENCE_BY, Selection, apportion, class_quota, column_record, get_sampler, make_folds,
                              samplers, score_pool, select, top_ranked)

RANKED = [n for n in samplers() if get_sampler(n).needs]
QUOTED = [*RANKED, 'random']
fast = settings(max_examples=60, deadline=None)


class Pool:
    "What `select` needs of an ImageSet, in memory."
    def __init__(self, labels, k, **columns):
        self.labels, self.classes, self.have = np.asarray(labels), [f'c{i}' for i in range(k)], columns
        self.folder, self.fingerprint = 'memory', 'memory'
    def columns(self): return sorted(self.have)
    def column(self, name): return self.have[name]


def pool_of(labels, scores, k): return Pool(labels, k, **dict.fromkeys(('confidence', 'realism', 'oracle'), scores))


def quiet_select(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return select(*args, **kwargs)


@st.composite
def scored(draw, ties=False):
    "(labels, scores, k): a pool of up to 60 images; scores all different unless ties are asked for."
    k, n, seed = draw(st.integers(1, 5)), draw(st.integers(1, 60)), draw(st.integers(0, 999))
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, n).astype(np.float32) if ties else rng.permutation(n).astype(np.float32)
    return rng.integers(0, k, n), scores, k


@fast
@given(scored(), st.integers(0, 70), st.sampled_from(RANKED), st.integers(0, 99))
def test_top_k_of_a_permutation_is_the_permutation_of_top_k(pool, budget, name, seed):
    labels, scores, k = pool
    p = np.random.default_rng(seed).permutation(len(labels))
    here = quiet_select(name, pool_of(labels, scores, k), budget).indices
    there = quiet_select(name, pool_of(labels[p], scores[p], k), budget).indices
    assert sorted(p[there]) == sorted(here)


@fast
@given(scored(ties=True), st.integers(0, 70), st.sampled_from(QUOTED), st.sampled_from(['pool', 'balanced', 'global']))
def test_the_budget_is_kept_and_used(pool, budget, name, share):
    labels, scores, k = pool
    s = quiet_select(name, pool_of(labels, scores, k), budget, share=share)
    assert len(s) == min(budget, len(labels)) == s.report.kept.sum()
    assert (np.diff(s.indices) > 0).all()
    assert (s.report.kept <= s.report.candidates).all()


@fast
@given(scored(ties=True), st.integers(0, 70), st.sampled_from(RANKED))
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
@given(scored(ties=True), st.integers(0, 70), st.integers(0, 70), st.sampled_from(QUOTED), st.integers(0, 9),
       st.sampled_from(['pool', 'balanced', 'global']))
def test_a_smaller_budget_keeps_a_part_of_a_larger_one(pool, a, b, name, seed, share):
    labels, scores, k = pool
    small, large = (quiet_select(name, pool_of(labels, scores, k), n, share=share, seed=seed).indices for n in sorted((a, b)))
    assert set(small) <= set(large)


@fast
@given(scored(), st.lists(st.integers(0, 59), max_size=40), st.integers(0, 70), st.sampled_from(RANKED),
       st.sampled_from([np.nan, np.inf]))
def test_nan_and_plus_infinity_are_never_selected(pool, holes, budget, name, bad):
    labels, scores, k = pool
    holes = np.array([h for h in holes if h < len(labels)], int)
    scores[holes] = bad
    lost = np.setdiff1d(labels, labels[np.isfinite(scores)])
    if len(lost):
        with pytest.raises(ValueError, match='the scorer failed'): quiet_select(name, pool_of(labels, scores, k), budget)
        return
    s = quiet_select(name, pool_of(labels, scores, k), budget)
    assert np.isfinite(scores[s.indices]).all() and len(s) == min(budget, np.isfinite(scores).sum())
    assert s.report['nan'].sum() + s.report.infinite.sum() == len(set(holes))
    assert not len(holes) or any('NaN or plus infinity' in n for n in s.notes)


@fast
@given(scored(), st.integers(0, 70), st.sampled_from(RANKED), st.integers(0, 99))
def test_a_constant_score_is_random_sampling(pool, budget, name, seed):
    labels, scores, k = pool
    flat = pool_of(labels, np.full(len(labels), .7, np.float32), k)
    assert (quiet_select(name, flat, budget, seed=seed).indices == quiet_select('random', flat, budget, seed=seed).indices).all()


def test_ties_are_broken_evenly_over_the_pool():
    kept = sum(np.bincount(top_ranked(np.ones(60), np.zeros(60, int), [20], 20, seed=s), minlength=60) for s in range(1500))
    # each image is kept in a third of the seeds: binomial(1500, 1/3) has sd 18.3, and 60 images stay within 4 of them
    assert abs(kept - 500).max() < 4*18.3


@fast
@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.lists(st.integers(0, 30), min_size=6, max_size=6), st.integers(0, 80))
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
    reports = [quiet_select(name, pool, 5000).report.kept.tolist() for name in QUOTED]
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
    with pytest.raises(ValueError, match='choose one of none, random, cl-sam, cr-sam, oracle'): select('clsam', pool, 1)
    with pytest.raises(ValueError, match="choose 'class' or 'global'"): select('random', pool, 1, quota='any')
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
    from synthnb.samplers import score_pool

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
    env = os.environ | {'PYTHONPATH': str(project_root())}
    half = subprocess.Popen([sys.executable, script, tmp_path/'killed'], env=env)
    note, until = tmp_path/'killed'/'columns'/'.score.part.json', time.time() + 90
    while not note.exists() and half.poll() is None and time.time() < until: time.sleep(.02)
    half.send_signal(signal.SIGKILL)
    assert half.wait() == -signal.SIGKILL and 'score' not in ImageSet(tmp_path/'killed').columns()
    before = (tmp_path/'killed'/'seen.txt').read_text().split()
    after, whole = scorer['score'](tmp_path/'killed'), scorer['score'](tmp_path/'whole')
    assert 0 < len(before) < 31 and len(after) < len(before) + 31, 'it started from the beginning'
    scores = [ImageSet(tmp_path/n).column('score').tobytes() for n in ('killed', 'whole')]
    assert scores[0] == scores[1] and column_record(ImageSet(tmp_path/'killed'), 'score')['n'] == 3050
    assert set(after) == set(whole) and scorer['score'](tmp_path/'killed') == after, 'a finished column is reused'
    torch.set_num_threads(threads)


def test_a_full_disk_while_scoring_is_one_clear_error(tmp_path, monkeypatch):
    w = ImageSetWriter(tmp_path/'pool', 10, 8, ['a'])
    w.write(np.zeros((10, 8, 8, 3), np.uint8), np.zeros(10, int))
    pool = w.close()
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.pwrite', full)
    with pytest.raises(OSError, match='no space left on the device'):
        score_pool(pool, 'score', lambda images, labels, rows: torch.ones(len(images)), device='cpu')
    assert 'score' not in pool.columns()
