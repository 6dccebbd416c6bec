"""`make sprint MINUTES=9`: what of config/sprint.yaml a machine does in that time, packed.

MINUTES, SCALE (nothing or smoke, a rehearsal), JOBS, LIST, ROOT and SPRINT, the file to pack into,
come from the environment, where make puts what was typed. It needs neither git nor Jupyter.
`sprint.py in` unpacks what another machine's sprint has packed, FILE.
"""
import gzip
import io
import json
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from run import PROJECT
from run import runs_folder as said_folder

BEGAN = time.time()
sys.path.insert(0, str(PROJECT))
LARGEST = 15_000_000 # bytes of what is packed
ITEM = {'table', 'seeds', 'gpu', 'minutes', 'script', 'arguments', 'rehearsal', 'leaves', 'alone'}
WHOLE = ('params.json', 'metrics.json', 'drawn.json', 'answer.md', 'predictions.npz') # of a record
PARTS = {'tables': '.csv', 'figures': '.png'} # its folders, and what lies in them
IMPORTED = ('IPython', 'fastcore', 'filelock', 'matplotlib', 'numpy', 'open_clip', 'pandas', 'PIL',
            'psutil', 'ribs', 'safetensors', 'scipy', 'seaborn', 'sklearn', 'torch',
            'torch_fidelity', 'torchvision', 'tqdm', 'yaml')
THREADS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')


class Wrong(Exception): "What was typed, or given, cannot be meant."


def runs_folder():
    "Wherever a sprint was begun, in full."
    return said_folder(PROJECT/'runs').absolute()


# ---- what was typed ------------------------------------------------------------------------------
def minutes_of(said):
    "A number of minutes."
    try: found = float(said)
    except ValueError: found = math.nan
    if not 0 < found < 1e6: raise Wrong(f"MINUTES={said}: expected a number of minutes above 0, as "
                                        'in `make sprint MINUTES=9`')
    return found


def scale_of(said):
    "Nothing, or smoke."
    if said not in ('', 'smoke'): raise Wrong(
        f'SCALE={said}: leave it out for the runs as the list has them, or say SCALE=smoke for a '
        'rehearsal of seconds each')
    return said


def jobs_of(said):
    "A number of runs at once; None where nothing was typed."
    if said and not (said.isdigit() and int(said)): raise Wrong(
        f'JOBS={said}: expected how many runs at once, at least 1, or leave it out')
    return int(said) if said else None


def pack_of(said, out):
    "Where the pack goes: the file that was typed, $OUT where there is such a folder, or runs/."
    folder = Path(out) if out and Path(out).is_dir() else runs_folder()
    path = Path(said).expanduser().absolute() if said else folder/'sprint.tar.gz'
    if path.is_dir(): raise Wrong(f'SPRINT={said} is a folder: name a file in it, as '
                                  f'SPRINT={said}/sprint.tar.gz')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK): raise PermissionError('it may not be written to')
    except OSError as e: raise Wrong(f'SPRINT={said}: the folder {path.parent} cannot be used '
                                     f'({e}); name a file elsewhere')
    return path


def all_there():
    "Whether this Python has what the runs import: better said now than by each of them."
    if missing := [m for m in IMPORTED if not find_spec(m)]: raise Wrong(
        f"{sys.executable} has no {', '.join(missing)}: install the requirements of settings.ini, "
        'or, where there is no internet, bring their wheels and name their folder in PYTHONPATH')


# ---- the list ------------------------------------------------------------------------------------
@dataclass(eq=False)
class Job:
    "A run: what leaves its record, what it needs, and how it stands."
    title: str
    record: str # the file under runs/ that says that it has ended
    command: list # for execute.py
    gpu: int = 0 # megabytes
    minutes: float = 0
    alone: bool = False
    after: str = '' # the record of the run that makes what this one shares
    state: str = 'waiting' # there, running, ended, failed, stopped, or why it was not begun
    process: subprocess.Popen = None
    began: float = 0
    seconds: float = 0

    @property
    def name(self):
        "Its record's folder, or its file, under runs/, without suffix."
        path = PurePosixPath(self.record)
        return str(path.parent if path.name == 'metrics.json' else path.with_suffix(''))


def read_yaml(path):
    "A file's content; what is none is one line."
    import yaml
    try: found = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise Wrong(f"{path} cannot be read as YAML: {' '.join(str(e).split())}")
    if not isinstance(found, dict): raise Wrong(f'{path}: expected names and their values')
    return found


def check_item(path, place, item):
    "Refuse an item that cannot be meant."
    def must(holds, said):
        if not holds: raise Wrong(f'{path}, item {place}: {said}')
    must(isinstance(item, dict) and {*item} <= ITEM, f"expected some of {', '.join(sorted(ITEM))}, "
         f'and it is {item!r}')
    must(('table' in item) != ('script' in item), 'expected either a table or a script')
    for key in ('gpu', 'minutes'):
        must(isinstance(item.get(key, 0), int | float), f'{key} must be a number')
    if 'script' in item:
        must((PROJECT/item['script']).is_file(), f"there is no {item['script']}")
        must(isinstance(item.get('leaves'), str), 'a script needs leaves, the file that it leaves')


def listed(path):
    "What a list says, checked."
    found = read_yaml(path)
    items, at_once, sizes = (found.get(k) for k in ('items', 'at_once', 'sizes'))
    if not (isinstance(items, list) and items): raise Wrong(f'{path}: items is empty or missing')
    if not (isinstance(at_once, int) and at_once > 0): raise Wrong(
        f'{path}: at_once must be a number of runs, at least 1, and is {at_once!r}')
    for place, item in enumerate(items, 1): check_item(path, place, item)
    return items, at_once, sizes or []


def jobs_of_script(item, scale):
    "The one run of a script; none in a rehearsal that it has no part in."
    leaves, given = str(runs_folder()/item['leaves']), item.get('arguments') or []
    if scale and not (given := item.get('rehearsal')): return []
    given = [str(a).replace('{leaves}', leaves) for a in given]
    said = ' '.join(a for a in given if a not in (leaves, '--out'))
    return [Job(f"{item['script']} {said}".strip(), item['leaves'],
                [str(PROJECT/item['script']), *given], alone=bool(item.get('alone')))]


def jobs_of_table(item, scale, tables, root):
    "The runs of a table, those that make what others share before them."
    from grid import WorkflowError, differs, follows, grid, record, title
    seeds = ','.join(map(str, item.get('seeds', [])))
    asked = dict(table=item['table'], scale=scale, seeds=seeds, root=root)
    try: runs = grid(tables, lambda key: asked.get(key, ''))[1]
    except WorkflowError as e: raise Wrong(e)
    first = {path: follows(run) for path, run in runs.items()}
    return [Job(title(run), path, [str(PROJECT/'nbs'/f'{run[0]}.ipynb'), json.dumps(differs(run))],
                after=record(first[path]) if first[path] else '') for path, run in runs.items()]


def plan(path, scale, root=''):
    "All runs of a list, in order, each once."
    items, at_once, sizes = listed(path)
    tables = read_yaml(PROJECT/'config'/'tables.yaml')
    if scale: tables['tables'] = {name: {k: v for k, v in table.items() if k not in sizes}
                                  for name, table in tables['tables'].items()}
    groups = []
    for item in items:
        made = (jobs_of_script(item, scale) if 'script' in item
                else jobs_of_table(item, scale, tables, root))
        for job in made:
            job.gpu = 1500 if scale else item.get('gpu', 0)
            job.minutes = 0 if scale else item.get('minutes', 0)
        groups.append(made)
    turns = zip_longest(*groups) if scale else groups
    jobs = {}
    for job in (job for turn in turns for job in turn if job): jobs.setdefault(job.record, job)
    return [*jobs.values()], at_once


# ---- the sprint ----------------------------------------------------------------------------------
def gpu_memory():
    "Megabytes that are free on the GPU, and all of them; None without one."
    import torch
    return [b//10**6 for b in torch.cuda.mem_get_info()] if torch.cuda.is_available() else None


def environment():
    "Of every run: one thread, no windows, this copy of the package."
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get('PYTHONPATH')]))
    return os.environ | dict.fromkeys(THREADS, '1') | dict(
        MPLBACKEND='agg', PYTHONPATH=path, SYNTHNB_RUNS=str(runs_folder()), PYTHONUNBUFFERED='1')


def signalled(job, which):
    "Send a signal to a run and to all that it began."
    with suppress(ProcessLookupError, PermissionError): os.killpg(job.process.pid, which)


class Sprint:
    "The runs of a plan, as many at once as fit, until a time."
    def __init__(self, jobs, at_once, until, pack):
        self.jobs, self.until, self.pack, self.runs = jobs, until, pack, runs_folder()
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else (
            os.cpu_count() or 1)
        self.gpu = gpu_memory()
        self.at_once = at_once if at_once else self.cores
        self.asked_to_end = 0 # by which signal
        self.by = {job.record: job for job in jobs}
        for job in jobs:
            if (self.runs/job.record).exists(): job.state = 'there'

    @property
    def running(self): return [job for job in self.jobs if job.state == 'running']

    def log(self, job, suffix='.log'): return self.runs/'logs'/f'{job.name}{suffix}'

    def room(self, job):
        "Whether one more run fits beside those that run."
        import psutil
        beside = self.running
        if not beside: return True
        if job.alone or beside[0].alone or len(beside) >= self.at_once: return False
        if psutil.virtual_memory().available < 2e9: return False
        if not self.gpu: return True
        free, total = gpu_memory()
        return min(free, total - sum(b.gpu for b in beside)) >= job.gpu

    def next_job(self):
        "The first of the list that can be begun; those that cannot any more say why."
        for job in [job for job in self.jobs if job.state == 'waiting']:
            first = self.by.get(job.after)
            if first and first.state in ('waiting', 'running'): continue
            if first and first.state not in ('ended', 'there'): job.state = f'needs {first.title}'
            elif self.until - time.time() < 60*job.minutes:
                job.state = f'takes {job.minutes:g} minutes or more'
            elif self.room(job): return job
            elif job.alone: return None # what comes after it would keep it from its turn

    def begin(self, job):
        "Begin a run, in a process group of its own that ends with this process."
        log = self.log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log(job, '.begun').write_text(job.record) # see `forget`
        execute = str(PROJECT/'tools'/'execute.py')
        with open(log, 'w') as out:
            job.process = subprocess.Popen(
                [sys.executable, execute, *job.command], cwd=PROJECT, env=environment(),
                stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        job.state, job.began = 'running', time.time()
        say(f'begun    {job.title}')

    def end(self, job, state):
        "Write down how a run ended; what it left counts only if it came through."
        job.process.wait()
        signalled(job, signal.SIGKILL) # what it began and left behind
        job.process.stdin.close()
        job.state, job.seconds = state, time.time() - job.began
        if state == 'ended':
            if not any(j.state == 'ended' for j in self.jobs if j is not job): set_aside(self.pack)
            with open(self.log(job), 'a') as log: print(f'done in {job.seconds:.0f} s', file=log)
            write_pack(self.pack, self.runs, [j for j in self.jobs if j.state == 'ended'])
        else: (self.runs/job.record).unlink(missing_ok=True)
        self.log(job, '.begun').unlink(missing_ok=True)
        say(f'{state:<8} {job.title}  {job.seconds:.0f} s')

    def reap(self):
        "Look after those that have ended by themselves."
        for job in self.running:
            if job.process.poll() is None: continue
            good = job.process.returncode == 0 and (self.runs/job.record).exists()
            self.end(job, 'ended' if good else 'failed')

    def stop(self):
        "End all that still runs: asked first, then not."
        running, patience = self.running, time.time() + 3
        for job in running: signalled(job, signal.SIGTERM)
        while time.time() < patience and any(j.process.poll() is None for j in running):
            time.sleep(.05)
        for job in running:
            signalled(job, signal.SIGKILL)
            self.end(job, 'stopped')

    def work(self):
        "Until nothing is left, or the time is over."
        while time.time() < self.until and not self.asked_to_end:
            self.reap()
            while (job := self.next_job()): self.begin(job)
            if not self.running: return
            time.sleep(.1)
        self.reap()


def forget(runs):
    "What a sprint that was killed has left half-written."
    for note in (runs/'logs').glob('**/*.begun'):
        (runs/note.read_text()).unlink(missing_ok=True)
        note.unlink()


def say(text):
    "A line with its time since the start."
    passed = int(time.time() - BEGAN)
    print(f'{passed//60:3d}:{passed%60:02d}  {text}', flush=True)


def last_words(log):
    "The last line of a log that says something."
    from grid import last_words
    return last_words(log)[:200]


def summary(sprint):
    "How it went, for people."
    kinds = {}
    for job in sprint.jobs: kinds.setdefault(job.state, []).append(job)
    print()
    for state in ('ended', 'failed', 'stopped'):
        for job in kinds.pop(state, []):
            print(f'{state:<10} {job.seconds:6.0f} s  {job.title}')
            if state == 'failed':
                print(f'{"":10} {last_words(sprint.log(job))}\n{"":10} {sprint.log(job)}')
    if there := kinds.pop('there', []): print(f'{len(there)} have their records already.')
    waiting = kinds.pop('waiting', [])
    over = 'it was stopped' if sprint.asked_to_end else 'the time was over'
    for why, jobs in [(over, waiting), *kinds.items()]:
        if jobs: print(f'Not begun, for {why}: {len(jobs)}, from {jobs[0].title}')


# ---- the pack ------------------------------------------------------------------------------------
def files_of(job, runs):
    "The small files of a record, under runs/."
    if not job.record.endswith('/metrics.json'): return [runs/job.record]
    folder = (runs/job.record).parent
    parts = [p for kind, suffix in PARTS.items() for p in sorted((folder/kind).glob(f'*{suffix}'))]
    return [p for p in [*(folder/name for name in WHOLE), *parts] if p.is_file()]


def packed(files, runs):
    "The bytes of a tar file of them."
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w:gz') as tar:
        for path in files:
            about = tarfile.TarInfo(path.relative_to(runs).as_posix())
            content = path.read_bytes()
            about.size, about.mtime = len(content), int(path.stat().st_mtime)
            tar.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


def write_pack(pack, runs, jobs):
    "Pack the records of some runs into one file, in one step; the files that found no room."
    from synthnb.core import atomic_path
    files = [p for job in jobs for p in files_of(job, runs)]
    size = {p: p.stat().st_size for p in files}
    spare = [sorted((p for p in files if p.parent.name == kind), key=size.get)
             for kind in ('tables', 'figures')] # figures go first, the largest first
    spare, dropped, content = spare[0] + spare[1], [], packed(files, runs)
    while len(content) > LARGEST and spare:
        too_many = len(content) - LARGEST
        while too_many > 0 and spare:
            dropped.append(spare.pop())
            too_many -= size[dropped[-1]]
        files = [p for p in files if p not in {*dropped}]
        content = packed(files, runs)
    with atomic_path(pack) as p: p.write_bytes(content)
    return dropped


def set_aside(pack):
    "An earlier sprint's pack keeps its content under another name."
    if not pack.exists(): return
    when = time.strftime('%Y%m%d-%H%M%S', time.localtime(pack.stat().st_mtime))
    name, dot, suffixes = pack.name.partition('.')
    pack.rename(other := pack.with_name(f'{name}-{when}{dot}{suffixes}'))
    print(f'The pack of an earlier sprint is {other} now.')


# ---- what another machine has packed -------------------------------------------------------------
def is_ours(name):
    "Whether a path is one that a sprint packs."
    parts = name.split('/')
    if name != str(PurePosixPath(name)) or any(p.startswith('.') for p in parts): return False
    if parts[0] == 'bench': return len(parts) == 2 and name.endswith('.csv')
    if not (PROJECT/'nbs'/f'{parts[0]}.ipynb').is_file(): return False
    if len(parts) == 3: return parts[2] in WHOLE
    return len(parts) == 4 and name.endswith(PARTS.get(parts[2], '/'))


def read_pack(path):
    "path under runs/ -> content, of a pack that is whole and has nothing but records."
    if not path: raise Wrong('which file? As in `make sprint-in FILE=sprint.tar.gz`')
    if not Path(path).is_file(): raise Wrong(f'FILE={path}: there is no such file')
    advice = 'nothing was unpacked; fetch the file that `make sprint` packed once more'
    found = {}
    try:
        with gzip.open(path) as file: whole = file.read(20*LARGEST)
        if len(whole) == 20*LARGEST: raise Wrong(f'FILE={path} holds {20*LARGEST//10**6} MB or '
                                                 f'more, and no sprint so much; {advice}')
        with tarfile.open(fileobj=io.BytesIO(whole), mode='r:') as tar:
            for member in tar:
                if not member.isfile() or not is_ours(member.name): raise Wrong(
                    f'FILE={path} has {member.name!r}, which no sprint packs; {advice}')
                found[member.name] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as e:
        raise Wrong(f'FILE={path} is no whole tar.gz file ({e}); {advice}')
    for name, content in found.items(): check_record(path, name, content)
    lacking = [folder for folder in {n.rpartition('/')[0] for n in found if n.count('/') == 2}
               if not {f'{folder}/metrics.json', f'{folder}/params.json'} <= {*found}]
    if lacking or not found: raise Wrong(f'FILE={path}: {(lacking or ["it"])[0]} has no '
                                         f'params.json and metrics.json; {advice}')
    return found


def check_record(path, name, content):
    "Refuse what `core.read_runs` could not read."
    if not name.endswith('.json'): return
    try: record = json.loads(content)
    except (ValueError, UnicodeDecodeError) as e: raise Wrong(
        f'FILE={path}: {name} is not valid JSON ({e}); nothing was unpacked')
    whole = isinstance(record, dict)
    if name.endswith('/metrics.json'):
        whole = whole and all(isinstance(record.get(k), dict) for k in ('metrics', 'provenance'))
    if not whole: raise Wrong(f'FILE={path}: {name} is no record of a run; nothing was unpacked')


def unpack(path):
    "Unpack a sprint's records into runs/; the status: 1 where one was kept that says otherwise."
    from synthnb.core import atomic_path
    found, runs, records, kept = read_pack(path), runs_folder(), {}, []
    for name in found:
        parts = PurePosixPath(name).parts
        records.setdefault('/'.join(parts[:2]), []).append(name)
    for record, names in records.items():
        said = [n for n in names if (runs/n).exists() and (runs/n).read_bytes() != found[n]]
        there = (runs/record/'metrics.json').exists() or (runs/record).is_file()
        new = [n for n in names if not (runs/n).exists()]
        if said and there:
            kept.append(record)
            print(f'kept     runs/{record}: it has another {said[0].removeprefix(record + "/")}')
            continue
        for name in sorted(said + new, key=lambda n: n.endswith('metrics.json')):
            with atomic_path(runs/name) as p: p.write_bytes(found[name])
        print(f"{'new' if not there else 'the same':<8} runs/{record}")
    if kept: print(f'{len(kept)} of {len(records)} records were kept as they are here. To have the '
                   "pack's, move those folders away and unpack again.", file=sys.stderr)
    return int(bool(kept))


# ---- from the command line -----------------------------------------------------------------------
def alone_in(runs):
    "The lock of whoever makes runs in this folder, `make tables` too."
    from filelock import FileLock, Timeout
    (runs/'.snakemake').mkdir(exist_ok=True)
    lock = FileLock(runs/'.snakemake'/'grid.lock')
    try: lock.acquire(blocking=False)
    except Timeout: raise Wrong(f'another sprint, or `make tables`, is at work in {runs}; wait for '
                                'it, or set SYNTHNB_RUNS to another folder')
    return lock


def sprint(typed):
    "Work a list down: the exit status."
    minutes, scale = minutes_of(typed.get('MINUTES') or '9'), scale_of(typed.get('SCALE', ''))
    jobs_asked = jobs_of(typed.get('JOBS', ''))
    pack = pack_of(typed.get('SPRINT', ''), typed.get('OUT', ''))
    all_there()
    path = Path(typed.get('LIST') or PROJECT/'config'/'sprint.yaml')
    jobs, at_once = plan(path, scale, typed.get('ROOT', ''))
    runs = runs_folder()
    runs.mkdir(parents=True, exist_ok=True)
    with alone_in(runs):
        forget(runs)
        until = BEGAN + 60*minutes - min(15, 3 + 3*minutes) # the rest is for ending and packing
        work = Sprint(jobs, jobs_asked, until, pack)
        if work.gpu and not jobs_asked: work.at_once = min(at_once, work.cores)
        return at_work(work, minutes)


def at_work(work, minutes):
    "The sprint itself, which ends in order whatever ends it."
    on = f'a GPU of {work.gpu[1]:,} MB' if work.gpu else 'the CPU'
    todo = sum(job.state == 'waiting' for job in work.jobs)
    say(f'{todo} runs of {len(work.jobs)} to make, {work.at_once} at once on {on}, '
        f'{minutes:g} minutes')
    def asked(number, _): work.asked_to_end = number
    before = {s: signal.signal(s, asked) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try: work.work()
    finally: work.stop()
    summary(work)
    ended = [job for job in work.jobs if job.state == 'ended']
    if ended:
        for p in write_pack(work.pack, work.runs, ended):
            print(f'Left out of the pack, for want of room: {p.relative_to(work.runs)}')
        print(f'Packed: {len(ended)} records, {work.pack.stat().st_size/1e6:.2f} MB, {work.pack}\n'
              f'Where they belong: make sprint-in FILE={work.pack.name}')
    elif todo: print('Nothing to pack: no run came to its end.')
    for s, handler in before.items(): signal.signal(s, handler)
    failed = any(job.state == 'failed' for job in work.jobs)
    if work.asked_to_end: return 128 + work.asked_to_end
    return int(failed or bool(todo and not ended))


def main(*arguments):
    try:
        if arguments == ('in',): return unpack(os.environ.get('FILE', ''))
        return sprint(os.environ)
    except Wrong as e: sys.exit(f'{e}.')
    except KeyboardInterrupt: return 130


if __name__ == '__main__': sys.exit(main(*sys.argv[1:]))
