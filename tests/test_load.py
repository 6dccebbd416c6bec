"""Nothing grows faster than what it is given: time is linear, memory flat, with many classes too.
What was made quick gives what the plain way gives."""
import builtins
import json
import os
import time
import tracemalloc

import bench_load
import numpy as np
import pandas as pd
import pytest
from test_security import listed, photo

from synthnb import data, door
from synthnb.data import part_sizes, stratified_split
from synthnb.door import array_labels, read_pool, read_real, unreadable_files
from synthnb.samplers import levelling, top_ranked


# ---- as the plain way does it --------------------------------------------------------------------
def plain_split(labels, fractions, seed, groups):
    labels, parts = np.asarray(labels), range(len(fractions))
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    rng, part_of = np.random.default_rng(seed), np.zeros(len(labels), int)
    first = pd.DataFrame(dict(label=labels, group=groups)).groupby('group').label.first()
    for k in np.unique(labels):
        members = rng.permutation(first.index[first == k])
        part = np.repeat(parts, part_sizes(len(members), fractions))
        for p in parts: part_of[np.isin(groups, members[part == p])] = p
    return [np.flatnonzero(part_of == p) for p in parts]


@pytest.mark.parametrize('seed', range(4))
def test_a_split_is_what_it_was(seed):
    luck = np.random.default_rng(seed)
    n, k = int(luck.integers(1, 90)), int(luck.integers(1, 9))
    labels, groups = luck.integers(0, k, n), luck.integers(0, max(1, n//3), n)*7 - 5
    named = np.array([f'class {v}' for v in labels], object)
    for y in (labels, named, labels > k//2):
        for g in (None, groups, np.array([f'g{v}' for v in groups]), groups.astype(object)):
            for fractions in ((.8, .2), (.5, .3, .2)):
                ours, plain = (f(y, fractions, seed, g) for f in (stratified_split, plain_split))
                assert all(np.array_equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize('seed', range(4))
def test_a_ranking_is_what_it_was(seed):
    luck = np.random.default_rng(seed)
    n, k = int(luck.integers(0, 300)), int(luck.integers(1, 20))
    labels, scores = luck.integers(0, k, n), luck.integers(0, 9, n)/3
    scores[luck.random(n) < .1] = np.nan
    quota = luck.integers(0, 12, k)
    order = top_ranked(scores, labels, None, n, seed)
    plain = np.concatenate([order[labels[order] == c][:q] for c, q in enumerate(quota)])
    assert np.array_equal(top_ranked(scores, labels, quota, 0, seed), plain)


def test_levelling_is_what_it_was():
    luck = np.random.default_rng(0)
    for _ in range(200):
        have, budget = luck.integers(0, 12, luck.integers(0, 9)), int(luck.integers(0, 90))
        added = np.zeros(len(have), np.int64)
        for _ in range(min(budget, int((have.max(initial=0) - have).sum()))):
            added[np.argmin(have + added)] += 1
        assert np.array_equal(levelling(have, budget), added)


@pytest.mark.parametrize('y', [
    [0, 2, 1], [True, False, True], ['b ', 'a', '1.0'], [1., 0., 2.], [b'x', b'y', b'x'],
    np.array(['a', 1, 1.], object)])
def test_labels_of_an_array_are_what_they_were(y):
    y = np.asarray(y)
    plain = [data.class_name(v) for v in (np.char.decode(y) if y.dtype.kind == 'S' else y).tolist()]
    assert array_labels(y, 3, 'here').tolist() == plain


def test_labels_of_a_table_are_what_they_were():
    assert door.label_names(pd.Series(['a ', None, 'b', 'a']), None, '').tolist() == [
        'a', None, 'b', 'a']
    assert door.label_names(pd.Series([1., np.nan, 0., -3]), ['x', 'y '], '').tolist() == [
        'y', None, 'x', None]


# ---- with many -----------------------------------------------------------------------------------
def measured(work, *args): # (seconds of the processor, bytes at most)
    tracemalloc.start()
    began = time.process_time()
    try:
        work(*args)
        return time.process_time() - began, tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder for each measurement, with runs of its own."
    def fresh(name):
        (tmp_path/name).mkdir()
        monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/name/'runs'))
        return tmp_path/name
    return fresh


@pytest.mark.parametrize('kind, n', [('through', 2000), ('table', 2000)])
def test_time_is_linear_and_memory_flat(place, kind, n):
    work = getattr(bench_load, kind)
    work(place('warm'), 500, 4)
    (early, low), (late, high) = (measured(work, place(str(m)), m, 4) for m in (n, 5*n))
    assert late < 9*max(early, .2), f'{late/early:.1f} times the time for 5 times the size'
    # of a few thousand, what is loaded once counts
    assert (high - low)/(4*n) < 3*bench_load.HELD, f'{(high - low)/(4*n):.0f} bytes each'


def test_a_thousand_classes_cost_no_more_than_few():
    n, luck = 200_000, np.random.default_rng(0)
    groups = luck.permutation(n)
    def work(k):
        labels = np.arange(n) % k
        stratified_split(labels, (.8, .2), 0, groups)
        top_ranked(luck.random(n), labels, np.full(k, n//k//2), 0)
        levelling(np.bincount(labels)*luck.integers(1, 99, k), 10**7)
    work(10)
    times = []
    for k in (10, 1000):
        began = time.process_time()
        work(k)
        times.append(time.process_time() - began)
    assert times[1] < 3*times[0] + .2, times


def test_notes_of_progress_do_not_grow_with_what_is_unreadable(tmp_path, monkeypatch):
    real, states = read_real((np.zeros((8, 8, 8, 3), np.uint8), ['a', 'b']*4), size=8), []
    folder = tmp_path/'set'
    for i in range(600):
        path = folder/'ab'[i % 2]/f'{i:04d}.png'
        if i % 3: photo(path, i)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('no picture')
    write = data.ImageSetWriter.write
    def noted(self, images, labels, state=None, **columns):
        states.append(len(json.dumps(state)))
        write(self, images, labels, state, **columns)
    monkeypatch.setattr(data.ImageSetWriter, 'write', noted)
    pool = read_pool(folder, real, max_unreadable=1.)
    lost = unreadable_files(pool)
    assert len(states) == 3 and max(states) < 80 and len(pool) == 400 and len(lost) == 200
    assert not (pool.folder/'unread.jsonl').exists()
    assert {int(p[-8:-4]) % 3 for p in lost.path} == {0}
    assert all(int(f[-8:-4]) % 3 for f in pool.files())


def test_a_killed_import_names_what_it_could_not_read(tmp_path):
    notes = door.Unread(tmp_path/'x.jsonl', 0)
    notes.add([[3, 'empty'], [5, 'torn “half”']])
    notes.add([[9, 'written after the last note']])
    again = door.Unread(tmp_path/'x.jsonl', 2)
    again.add([[8, 'a']])
    assert again.rows == [[3, 'empty'], [5, 'torn “half”'], [8, 'a']]
    assert door.Unread(tmp_path/'x.jsonl', 3).rows == again.rows
    with pytest.raises(ValueError, match='x.jsonl has lost lines'):
        door.Unread(tmp_path/'x.jsonl', 4)


def test_slow_reads_wait_side_by_side(place):
    waits = 96*4*.02 # of 96 files, each looked at and opened twice
    fast = time.perf_counter()
    bench_load.slow(place('fast'), 96, 4, 0.)
    fast, slow = time.perf_counter() - fast, time.perf_counter()
    usual = builtins.open, os.stat
    bench_load.slow(place('slow'), 96, 4, .02)
    slow = time.perf_counter() - slow
    assert (builtins.open, os.stat) == usual
    assert slow - fast < .6*waits, f'{slow:.1f} s for {fast:.1f} s without waits, of {waits:.1f} s'


def test_the_lengths_of_files_are_asked_side_by_side(tmp_path, monkeypatch):
    "`load_data` asks for each file's length before it reads any; a file that is gone has none."
    root, look, usual = tmp_path/'set', .02, os.stat
    for i in range(400): photo(root/'ab'[i % 2]/f'{i:03d}.png', i)
    records, _ = data.read_folder(root)
    records.loc[7, 'path'] = str(root/'gone.png')
    plain = data.picture_keys(records)
    def late(path, *args, **kw):
        if str(path).startswith(str(root)): time.sleep(look)
        return usual(path, *args, **kw)
    monkeypatch.setattr(os, 'stat', late)
    began = time.perf_counter()
    lengths = data.lengths_of(records.path.tolist())
    assert time.perf_counter() - began < .3*400*look
    monkeypatch.undo()
    assert lengths == [-1 if i == 7 else os.path.getsize(p) for i, p in enumerate(records.path)]
    keys = data.picture_keys(records, sieve=True)
    assert len({*keys}) == len({*plain}) == 400 and keys[7] == plain[7]


def test_a_table_is_checked_as_quickly_as_it_is_read(tmp_path):
    path = listed(tmp_path, '0.png')
    t = pd.DataFrame(dict(path=[f'images/{i}.png' for i in range(100_000)], label='a'))
    began = time.process_time()
    t.to_csv(path, index=False)
    pd.read_csv(path, dtype=str)
    usual, began = time.process_time() - began, time.process_time()
    full = data.listed_paths(path, t.path)
    assert time.process_time() - began < usual + .2
    assert full[7] == str(tmp_path/'images'/'7.png')
