"""`make sprint`: its list, its clock, its pack; what is killed, typed wrongly, or handed in."""
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import sprint
import yaml
from sprint import Job, Sprint, forget, is_ours, plan, read_pack, unpack, write_pack

ROOT = Path(__file__).resolve().parent.parent
EXECUTE, SPRINT = ROOT/'tools'/'execute.py', ROOT/'tools'/'sprint.py'
RECORD = '15_when/{}/metrics.json'


@pytest.fixture
def runs(tmp_path, monkeypatch):
    "A folder of runs, for a sprint in this process."
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    for name in ('MINUTES', 'SCALE', 'JOBS', 'LIST', 'SPRINT', 'OUT', 'ROOT', 'FILE'):
        monkeypatch.delenv(name, raising=False)
    (tmp_path/'runs').mkdir()
    return tmp_path/'runs'


def script(folder, name, *lines):
    "A script that begins with a path in its first argument."
    path = folder/f'{name}.py'
    path.write_text('\n'.join(['import os, sys, time, subprocess',
                               'from pathlib import Path', *lines]) + '\n')
    return path


LEAVE = ('place = Path(sys.argv[1])', 'place.parent.mkdir(parents=True, exist_ok=True)',
         "(place.parent/'params.json').write_text('{}')",
         """place.write_text('{"metrics": {}, "provenance": {}}')""")


def leaves(folder, name, *then, **about):
    "A run that leaves a record, and then does what it is told."
    place = sprint.runs_folder()/RECORD.format(name)
    return Job(name, RECORD.format(name), [str(script(folder, name, *LEAVE, *then)), str(place)],
               **about)


def work(jobs, runs, seconds=20, at_once=2):
    made = Sprint(jobs, at_once, time.time() + seconds, runs/'pack.tar.gz')
    try: made.work()
    finally: made.stop()
    return made


def names(pack):
    with tarfile.open(pack) as tar: return {*tar.getnames()}


def alive(pid):
    try: return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
    except OSError: return False


def until(seen, patience=20):
    end = time.time() + patience
    while not seen():
        assert time.time() < end, 'nothing was seen'
        time.sleep(.02)


# ---- what is typed -------------------------------------------------------------------------------
@pytest.mark.parametrize('typed, said', [
    (dict(MINUTES='abc'), 'MINUTES=abc: expected a number of minutes above 0'),
    (dict(MINUTES='0'), 'MINUTES=0: expected'), (dict(MINUTES='-3'), 'MINUTES=-3: expected'),
    (dict(MINUTES='inf'), 'MINUTES=inf: expected'), (dict(MINUTES='nan'), 'MINUTES=nan: expected'),
    (dict(SCALE='tiny'), 'SCALE=tiny: leave it out'), (dict(JOBS='0'), 'JOBS=0: expected'),
    (dict(JOBS='many'), 'JOBS=many: expected'), (dict(SPRINT='/'), 'SPRINT=/ is a folder'),
    (dict(SPRINT='/proc/x/y.tar.gz'), 'the folder /proc/x cannot be used'),
    (dict(LIST='nowhere.yaml'), 'nowhere.yaml cannot be read as YAML')])
def test_what_cannot_be_meant_is_one_line(runs, monkeypatch, typed, said):
    for name, value in typed.items(): monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end: sprint.main()
    assert said in str(end.value) and '\n' not in str(end.value)
    assert not [*runs.rglob('*')], 'nothing was begun'


def test_a_python_that_lacks_something_is_told_at_once(runs, monkeypatch):
    monkeypatch.setattr(sprint, 'IMPORTED', (*sprint.IMPORTED, 'no_such_module'))
    with pytest.raises(SystemExit, match='has no no_such_module: install'): sprint.main()


@pytest.mark.parametrize('text, said', [
    ('items: [', 'cannot be read as YAML'), ('- 1', 'expected names and their values'),
    ('at_once: 2', 'items is empty or missing'),
    ('{at_once: 0, items: [{table: when}]}', 'at_once must be a number of runs'),
    ('{at_once: 2, items: [{tabel: when}]}', 'item 1: expected some of alone'),
    ('{at_once: 2, items: [{gpu: 3}]}', 'item 1: expected either a table or a script'),
    ('{at_once: 2, items: [{table: when, gpu: much}]}', 'gpu must be a number'),
    ('{at_once: 2, items: [{script: no.py, leaves: bench/a.csv}]}', 'there is no no.py'),
    ('{at_once: 2, items: [{script: tools/bench.py}]}', 'a script needs leaves'),
    ('{at_once: 2, items: [{table: whenever}]}', "unknown table 'whenever'"),
    ('{at_once: 2, items: [{table: wildfaces}]}', 'ROOT=folder')])
def test_a_list_that_cannot_be_meant_is_named(runs, tmp_path, monkeypatch, text, said):
    (tmp_path/'mine.yaml').write_text(text)
    monkeypatch.setenv('LIST', str(tmp_path/'mine.yaml'))
    with pytest.raises(SystemExit) as end: sprint.main()
    assert said in str(end.value)


# ---- the list ------------------------------------------------------------------------------------
def test_the_list_is_in_its_order_and_what_is_shared_comes_first(runs):
    jobs, at_once = plan(ROOT/'config'/'sprint.yaml', '')
    records = [job.record for job in jobs]
    assert records[0] == '15_when/scale=gpu/metrics.json' and len({*records}) == len(records) > 60
    kinds = [*dict.fromkeys(r.split('/')[0] for r in records)]
    assert kinds == ['15_when', '07_affectnet', '10_shapes', '09_emotions', '12_latent',
                     '13_overfitting', '11_faces', 'bench']
    for job in jobs:
        if job.after: assert records.index(job.after) < records.index(job.record)
    said = ' '.join(job.title for job in jobs)
    for word in ('evaluations=231000', 'epochs=100', 'changes=crop=64,size=72'): assert word in said
    assert all(job.gpu > 0 and job.minutes > 0 for job in jobs) and at_once > 1
    assert all(is_ours(name) for name in records)


def test_a_rehearsal_is_small_and_begins_with_one_run_of_every_item(runs):
    jobs, _ = plan(ROOT/'config'/'sprint.yaml', 'smoke')
    first = {job.record.split('/')[0] for job in jobs[:12]}
    assert first == {'15_when', '07_affectnet', '10_shapes', '09_emotions', '12_latent',
                     '13_overfitting', '11_faces', 'bench'}
    assert len({job.record for job in jobs}) == len(jobs)
    for job in jobs:
        assert not any(word in job.title for word in ('gpu', '231000', 'epochs', 'changes'))
        assert 'scale=smoke' in job.title or job.record.startswith('bench/')


def test_the_grid_needs_no_snakemake(monkeypatch):
    monkeypatch.setitem(sys.modules, 'snakemake', None)
    monkeypatch.setitem(sys.modules, 'snakemake.exceptions', None)
    about = importlib.util.spec_from_file_location('grid_alone', ROOT/'tools'/'grid.py')
    about.loader.exec_module(alone := importlib.util.module_from_spec(about))
    config = yaml.safe_load((ROOT/'config'/'tables.yaml').read_text())
    with pytest.raises(alone.WorkflowError, match="unknown table 'x'"):
        alone.grid(config, lambda key: 'x' if key == 'table' else '')


# ---- the sprint ----------------------------------------------------------------------------------
def test_what_ends_is_packed_and_what_does_not_leaves_no_record(runs, tmp_path, capsys):
    jobs = [leaves(tmp_path, 'good'), leaves(tmp_path, 'bad', "sys.exit('no luck')"),
            leaves(tmp_path, 'slow', 'time.sleep(60)'),
            leaves(tmp_path, 'follows', after=RECORD.format('bad')),
            leaves(tmp_path, 'after', after=RECORD.format('good')),
            leaves(tmp_path, 'long', minutes=5), leaves(tmp_path, 'last', 'time.sleep(60)')]
    began = time.time()
    made = work(jobs, runs, 4)
    assert time.time() - began < 8
    assert [job.state for job in jobs] == ['ended', 'failed', 'stopped', 'needs bad', 'ended',
                                           'takes 5 minutes or more', 'stopped']
    records = {p.parent.name for p in runs.glob('15_when/*/metrics.json')}
    assert records == {'good', 'after'} and not [*runs.glob('logs/**/*.begun')]
    assert names(runs/'pack.tar.gz') == {f'15_when/{name}/{file}.json' for name in records
                                         for file in ('params', 'metrics')}
    assert 'done in' in (runs/'logs'/'15_when'/'good.log').read_text()
    sprint.summary(made)
    said = capsys.readouterr().out
    assert 'no luck' in said and 'Not begun, for needs bad: 1, from follows' in said
    again = work([leaves(tmp_path, 'good')], runs)
    assert again.jobs[0].state == 'there'


def test_as_many_at_once_as_asked_and_one_alone(runs, tmp_path):
    note = f"open({str(tmp_path/'seen')!r}, 'a').write(f'{{sys.argv[1]}} {{time.time()}}\\n')"
    jobs = [leaves(tmp_path, name, note, 'time.sleep(.5)', note, alone=name == 'c')
            for name in 'abcde']
    work(jobs, runs)
    assert {job.state for job in jobs} == {'ended'}
    times = {}
    for line in (tmp_path/'seen').read_text().splitlines():
        times.setdefault(line.split('/')[-2], []).append(float(line.split()[1]))
    beside = {name: [o for o in times if o != name and times[o][0] < times[name][1]
                     and times[name][0] < times[o][1]] for name in times}
    assert beside == dict(a=['b'], b=['a'], c=[], d=['e'], e=['d'])


def test_a_gpu_is_filled_and_not_more(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(sprint, 'gpu_memory', lambda: [9000, 10_000])
    made = Sprint([Job(n, n, [], gpu=g) for n, g in dict(a=6000, b=5000, c=3000).items()], 4,
                  time.time() + 60, runs/'pack.tar.gz')
    a, b, c = made.jobs
    assert made.next_job() is a
    a.state = 'running'
    assert not made.room(b) and made.next_job() is c, 'a smaller one fits beside it'
    monkeypatch.setattr(sprint, 'gpu_memory', lambda: [2000, 10_000])
    assert made.next_job() is None, 'somebody else holds the rest'
    a.state = 'ended'
    assert made.next_job() is b, 'where nothing runs, one is tried'


def start(tmp_path, name, *then):
    "A sprint in a process of its own, of one run that ends and one that does not."
    folder = tmp_path/name
    (folder/'runs').mkdir(parents=True)
    good = script(folder, 'good', *LEAVE[:2], "place.write_text('a,b\\n')")
    slow = script(folder, 'slow', *LEAVE[:2], "place.write_text('a')",
                  "child = subprocess.Popen(['sleep', '99'])",
                  f"Path({str(folder/'pids')!r}).write_text(f'{{os.getpid()}} {{child.pid}}')",
                  'time.sleep(99)')
    items = [dict(script=str(s), leaves=f'bench/{s.stem}.csv', arguments=['{leaves}'])
             for s in (good, slow)]
    (folder/'list.yaml').write_text(yaml.safe_dump(dict(at_once=2, items=items)))
    env = {k: v for k, v in os.environ.items() if k != 'OUT'} | dict(
        SYNTHNB_RUNS=str(folder/'runs'), LIST=str(folder/'list.yaml'), MINUTES='5', JOBS='2')
    return folder, subprocess.Popen([sys.executable, SPRINT], env=env, text=True, cwd=tmp_path,
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_killed_or_stopped_nothing_survives_and_the_pack_stands(tmp_path):
    both = {name: start(tmp_path, name) for name in ('killed', 'stopped')}
    for folder, process in both.values():
        until(lambda: (folder/'runs'/'sprint.tar.gz').exists() and (folder/'pids').exists()
              and (folder/'pids').read_text(), 60)
    both['killed'][1].kill()
    both['stopped'][1].send_signal(signal.SIGINT)
    said = {name: process.communicate(timeout=20)[0] for name, (_, process) in both.items()}
    assert both['stopped'][1].returncode == 130 and 'Packed: 1 records' in said['stopped']
    assert 'stopped' in said['stopped'] and 'bench/slow' not in names(
        both['stopped'][0]/'runs'/'sprint.tar.gz')
    for folder, _ in both.values():
        pids = [int(p) for p in (folder/'pids').read_text().split()]
        until(lambda: not any(map(alive, pids)), 5)
        assert names(folder/'runs'/'sprint.tar.gz') == {'bench/good.csv'}
    assert not (both['stopped'][0]/'runs'/'bench'/'slow.csv').exists()
    half = both['killed'][0]/'runs'
    assert (half/'bench'/'slow.csv').exists(), 'this is what the next sprint takes away'
    forget(half)
    assert (half/'bench'/'good.csv').exists() and not (half/'bench'/'slow.csv').exists()
    assert not [*half.glob('logs/**/*.begun')]


def test_two_sprints_in_one_folder_are_refused(runs):
    with sprint.alone_in(runs), pytest.raises(sprint.Wrong, match='is at work in'):
        sprint.alone_in(runs)


# ---- without Jupyter -----------------------------------------------------------------------------
def notebook(path, *cells):
    "A notebook whose second cell declares parameters."
    made = [dict(cell_type='code', source=[c], metadata=dict(tags=['parameters']*(i == 1)))
            for i, c in enumerate(cells)]
    path.write_text(json.dumps(dict(cells=[dict(cell_type='markdown', source=['# Hi'],
                                                metadata={}), *made])))
    return str(path)


def test_a_notebook_is_executed_with_its_parameters(tmp_path):
    good = notebook(tmp_path/'good.ipynb', 'from IPython.display import display\nbefore = 1',
                    "seed, name = 0, 'x'", 'display(seed)',
                    f"open({str(tmp_path/'out')!r}, 'w').write(f'{{seed}} {{name}} "
                    f"{{len(get_ipython().user_ns[\"In\"])}}')")
    bad = notebook(tmp_path/'bad.ipynb', 'a = 1', 'seed = 0', "raise ValueError(f'no {seed}')",
                   f"open({str(tmp_path/'never')!r}, 'w')")
    given = json.dumps(dict(seed=7, name="it's"))
    done = [subprocess.Popen([sys.executable, EXECUTE, path, given], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, text=True) for path in (good, bad)]
    said = [d.communicate(timeout=60)[0] for d in done]
    assert (tmp_path/'out').read_text() == "7 it's 6" and '7' in said[0]
    assert [d.returncode for d in done] == [0, 1] and not (tmp_path/'never').exists()
    assert said[1].strip().splitlines()[-1] == 'ValueError: no 7'


# ---- the pack ------------------------------------------------------------------------------------
def recorded(runs, name, figures=(), value=0):
    "A record with pictures of so many bytes."
    folder = runs/'15_when'/name
    for kind in ('tables', 'figures'): (folder/kind).mkdir(parents=True)
    (folder/'params.json').write_text('{"seed": 0}')
    (folder/'metrics.json').write_text(json.dumps(dict(metrics=dict(a=value), provenance={})))
    (folder/'tables'/'a.csv').write_text('a\n1\n')
    (folder/'selection.csv').write_text('of somebody')
    for i, size in enumerate(figures): (folder/'figures'/f'{i}.png').write_bytes(os.urandom(size))
    return Job(name, RECORD.format(name), [], state='ended')


def test_a_pack_that_is_too_large_loses_its_largest_figures(runs, monkeypatch):
    jobs = [recorded(runs, 'a', [40_000, 3000]), recorded(runs, 'b', [50_000, 20_000])]
    assert not write_pack(runs/'p.tar.gz', runs, jobs)
    assert len(names(runs/'p.tar.gz')) == 10 and not any('selection' in n
                                                         for n in names(runs/'p.tar.gz'))
    monkeypatch.setattr(sprint, 'LARGEST', 30_000)
    dropped = write_pack(runs/'p.tar.gz', runs, jobs)
    assert [p.stat().st_size for p in dropped] == [50_000, 40_000]
    assert (runs/'p.tar.gz').stat().st_size <= 30_000
    monkeypatch.setattr(sprint, 'LARGEST', 600)
    write_pack(runs/'p.tar.gz', runs, jobs)
    assert {n for n in names(runs/'p.tar.gz')} >= {RECORD.format(n) for n in 'ab'}


def test_an_earlier_pack_is_set_aside(runs):
    (runs/'p.tar.gz').write_text('before')
    sprint.set_aside(runs/'p.tar.gz')
    other, = runs.glob('p-*.tar.gz')
    assert other.read_text() == 'before' and not (runs/'p.tar.gz').exists()


def test_unpacked_it_overwrites_nothing(runs, tmp_path, monkeypatch, capsys):
    pack = tmp_path/'pack.tar.gz'
    write_pack(pack, runs, [recorded(runs, 'a', [100]), recorded(runs, 'b'), recorded(runs, 'c')])
    here = tmp_path/'here'
    monkeypatch.setenv('SYNTHNB_RUNS', str(here))
    recorded(here, 'b', value=1)
    recorded(here, 'c')
    before = {p: p.read_bytes() for p in here.rglob('*') if p.is_file()}
    assert unpack(pack) == 1
    said = capsys.readouterr()
    assert 'new      runs/15_when/a' in said.out and 'kept     runs/15_when/b' in said.out
    assert 'the same runs/15_when/c' in said.out and '1 of 3 records were kept' in said.err
    assert {p: p.read_bytes() for p in before} == before
    assert {p.name for p in (here/'15_when'/'a').iterdir()} == {'params.json', 'metrics.json',
                                                                'tables', 'figures'}
    (here/'15_when'/'b').rename(tmp_path/'away')
    assert unpack(pack) == 0 and '"a": 0' in (here/'15_when'/'b'/'metrics.json').read_text()


def tar(path, *members, mode='w:gz'):
    "A tar file of (name, content), or of TarInfos."
    with tarfile.open(path, mode) as file:
        for name, content in members:
            about = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            about.size = len(content)
            file.addfile(about, io.BytesIO(content))
    return path


def link(name, kind, to):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, to
    return made


WHOLE = [('15_when/a/params.json', b'{}'),
         ('15_when/a/metrics.json', b'{"metrics": {}, "provenance": {}}')]


@pytest.mark.parametrize('member', [
    '/etc/a.json', '../a.json', '15_when/../../a.json', '15_when/a/../../../params.json',
    '15_when/a/.git/config', '15_when/a/tables/../../../x.csv', '99_none/a/params.json',
    '15_when/a/tables/a.py', '15_when/a/notebook.ipynb', 'artefacts/gan/a/artefact.json',
    '15_when/defaults.json', '15_when//params.json', 'bench/../a.csv', './15_when/a/params.json',
    link('15_when/a/answer.md', tarfile.SYMTYPE, '/etc/passwd'),
    link('15_when/a/answer.md', tarfile.LNKTYPE, '15_when/a/params.json'),
    link('15_when/a/tables', tarfile.DIRTYPE, '')],
    ids=lambda m: m if isinstance(m, str) else f'{m.name} of type {m.type}')
def test_a_pack_with_anything_else_is_refused_whole(runs, tmp_path, member):
    pack = tar(tmp_path/'evil.tar.gz', *WHOLE, (member, b''))
    with pytest.raises(sprint.Wrong, match='which no sprint packs; nothing was unpacked'):
        unpack(pack)
    assert not [*runs.rglob('*')] and not (tmp_path/'a.json').exists()


@pytest.mark.parametrize('content, said', [
    ([WHOLE[0]], 'no params.json and metrics.json'), ([], 'it has no params.json'),
    ([WHOLE[0], ('15_when/a/metrics.json', b'{')], 'not valid JSON'),
    ([WHOLE[0], ('15_when/a/metrics.json', b'\xff\xfe')], 'not valid JSON'),
    ([WHOLE[0], ('15_when/a/metrics.json', b'{"metrics": 3}')], 'is no record of a run'),
    ([WHOLE[1], ('15_when/a/params.json', b'[]')], 'is no record of a run')])
def test_a_pack_that_holds_no_records_is_refused(runs, tmp_path, content, said):
    with pytest.raises(sprint.Wrong, match=said): unpack(tar(tmp_path/'p.tar.gz', *content))
    assert not [*runs.rglob('*')]


def test_a_torn_pack_is_refused_wherever_it_is_torn(runs, tmp_path):
    whole = tar(tmp_path/'whole.tar.gz', *WHOLE,
                ('15_when/a/figures/a.png', os.urandom(5000))).read_bytes()
    for end in (0, 1, 9, 30, len(whole)//2, len(whole) - 9, len(whole) - 1):
        (tmp_path/'torn.tar.gz').write_bytes(whole[:end])
        with pytest.raises(sprint.Wrong, match='no whole tar.gz file|no params.json'):
            unpack(tmp_path/'torn.tar.gz')
    broken = bytearray(whole)
    broken[len(whole)//2] ^= 255
    (tmp_path/'torn.tar.gz').write_bytes(broken)
    with pytest.raises(sprint.Wrong): unpack(tmp_path/'torn.tar.gz')
    assert not [*runs.rglob('*')]
    for wrong in ('', 'nowhere', str(tmp_path)):
        with pytest.raises(sprint.Wrong): read_pack(wrong)
