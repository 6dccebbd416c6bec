"""The campaign of `make torture` in short, and that it finds what is broken on purpose."""
import json
import subprocess
import time
from pathlib import Path

import apart
import pytest
import torture
from torture import Report, broken_bytes, broken_text, campaign, outcome

pytestmark = [pytest.mark.long, pytest.mark.ci] # see tools/test.py


def test_every_kind_of_file_is_read_or_refused_by_its_name():
    report = campaign(5, ['fuzz'], seed=100, inputs=3)
    assert not report.faults, report.faults
    table = report.table().set_index('what')
    assert {*table.index} == {*torture.TARGETS} and (table.tried == 3).all()
    assert table.refused.sum() > len(table)/2 and table.read.sum() > 3


@pytest.mark.parametrize('seed', [45, 47])
def test_annotations_that_numpy_gives_up_on_are_refused_by_name(seed):
    "Its parser of headers leaves a SystemError here, a TokenError there."
    report = campaign(1, ['fuzz'], seed=seed, targets=['affectnet_later'], inputs=1)
    assert not report.faults and report.table().refused.sum() == 1, report.faults


def test_torn_networks_are_refused():
    report = Report()
    torture.torn(report, time.time() + 300, 0, step=20)
    assert not report.faults and (report.table().refused == 5).all()


def test_a_killed_run_ends_in_the_same_digits():
    report = Report()
    torture.kills(report, time.time(), 1)
    assert not report.faults, report.faults
    assert report.table()['same digits'].sum() == 1


def test_a_wrong_clock_and_a_lost_file_change_no_digit():
    report = Report()
    for part in (torture.clock, torture.lost): part(report, time.time(), 2)
    assert not report.faults, report.faults
    assert report.table()['same digits'].sum() + report.table().refused.sum() == 2


def at_work(path):
    while True: pass


@pytest.mark.parametrize('does, said', [
    (lambda p: {}['x'], 'KeyError'), (lambda p: json.loads('{'), 'bare JSONDecodeError'),
    (lambda p: (_ for _ in ()).throw(ValueError('bad')), 'names no file'),
    (lambda p: time.sleep(9), 'too slow'), (at_work, 'too slow')])
def test_what_counts_as_a_fault(tmp_path, monkeypatch, does, said):
    monkeypatch.setattr(torture, 'in_time', lambda: real_time(.2))
    assert outcome(does, tmp_path/'some.csv').startswith(said)


real_time = torture.in_time


def test_a_clear_error_is_none(tmp_path):
    path = tmp_path/'some.csv'
    def clear(p): raise ValueError(f'{p} is torn')
    assert outcome(clear, path) == 'refused' and outcome(lambda p: 1, path) == 'read'
    report = Report()
    for said in ('read', 'refused', 'KeyError: x', 'same digits'): report.add('fuzz', 'csv', said)
    assert report.table().iloc[0].to_dict() == {
        'part': 'fuzz', 'what': 'csv', 'tried': 4, 'read': 1, 'refused': 1, 'same digits': 1,
        'faults': 1}
    assert len(report.faults) == 1


def test_the_same_seed_breaks_the_same(tmp_path):
    import random
    data = b'path,label\na.png,cat\nb.png,dog\n'
    for breaks in (broken_bytes, broken_text):
        a, b = ([breaks(data, random.Random(s)) for s in range(200)] for _ in range(2))
        assert a == b and len({*a}) > 50


@pytest.mark.parametrize('name, seed', [('door_csv', 1133), ('npz', 1199), ('npz', 5439),
                                        ('stylegan2', 5416)])
def test_what_a_campaign_found_is_mended(tmp_path, monkeypatch, name, seed):
    "A null byte in a path, an archive of a kind that nobody reads, a name changed by a bit."
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path)) # which the input changes
    (tmp_path/name).mkdir()
    torture.one_input(report := Report(), tmp_path, name, seed)
    assert not report.faults and report.counts['fuzz', name]['refused'] == 1, report.faults


def test_a_process_apart_is_forked_from_one_thread_and_says_where_it_hangs():
    "A second thread may hold a lock at the fork, and then no child gets it."
    process = apart.Apart(apart.lines, 'def deep():\n    while True: pass\ndeep()', split=True)
    try:
        server = apart.forkserver._forkserver._forkserver_pid
        threads = Path(f'/proc/{server}/task')
        if threads.exists(): assert len([*threads.iterdir()]) == 1
        with pytest.raises(subprocess.TimeoutExpired) as e: process.communicate(timeout=5)
        assert 'in deep' in e.value.stderr
    finally: process.kill()


def test_a_crowd_makes_a_thing_once_and_a_full_disk_is_said():
    report = Report()
    torture.crowd(report, time.time(), 1, many=3)
    torture.disk(report, time.time(), 1)
    assert not report.faults, report.faults
    table = report.table().set_index('what')
    assert table['same digits']['3 at once'] == 3 and table['same digits']['and then room'] == 1


def test_what_is_found_is_said_and_is_the_exit_status(tmp_path, monkeypatch, capsys):
    args = ['--only', 'fuzz', '--targets', 'csv', '--inputs', '5', '--out', str(tmp_path/'f.csv')]
    assert torture.main(args) == 0
    assert torture.pd.read_csv(tmp_path/'f.csv').iloc[0][['what', 'tried']].tolist() == ['csv', 5]
    build, _ = torture.TARGETS['csv']
    monkeypatch.setitem(torture.TARGETS, 'csv', (build, lambda p: {}['x']))
    capsys.readouterr()
    assert torture.main(args) == 1
    said = capsys.readouterr().out
    assert 'FAULT fuzz, csv: KeyError' in said and '--only fuzz --targets csv --seed 0' in said
