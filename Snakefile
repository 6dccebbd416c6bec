# The grid behind the tables: every run that a table needs, made once, as many at a time as fit.
#   make tables                              on what we draw (the tables in DEFAULT below), then the verdicts
#   make tables TABLE=wildfaces ROOT=folder  photographs;  TABLE=gpu  table 2 on one GPU;  SEEDS=0,1  SCALE=smoke  CORES=8  FRESH=1
#   make tables ARGS=--dry-run               what is missing
#   make tables ARGS='--profile profiles/slurm'   the same on a cluster (see there)
# A run is current if its record, runs/<experiment>/<name>/metrics.json, exists: records are in git, so a fresh clone has nothing to
# do. FRESH=1 makes all of a table's records again, from the artefacts that stand; `make clean` before it removes those too.
# Of a killed grid the runs in flight are lost, and what they had made stands. A failed run is reported at the end by its parameters
# and stops no other; a record that stood before it stays. Options that hold everywhere are in profiles/default.
import os, shlex, sys, time
from pathlib import Path
from filelock import FileLock, Timeout
from synthnb.core import declared_parameters, recorded_defaults, run_name, runs_dir, said_parameters

# ---- what is run: table -> what its runs share, its seeds, and for every sampler its ratios. The long ones come first. --------------
paper = {s: [1, 2, 5] for s in ('random', 'cl-sam', 'cr-sam')}
beyond = ('aum', 'k-centre', 'drs', 'gold', 'instance-selection', 'precision', 'density', 'cl-cap')
WILD = dict(data='affectnet', classes='neutral,happiness,sadness,surprise,anger')
TABLES = {
    'affectnet': dict(experiment='07_affectnet', seeds=[0, 1, 2, 3, 4],
                      samplers={'none': [1], 'rl': [1], 'rl-top': [1, 2], **{s: [1] for s in beyond}, 'oracle': [1], **paper}),
    'exposure':  dict(experiment='07_affectnet', seeds=[0, 1, 2, 3, 4], exposure='fixed', samplers={'random': [2], 'cl-sam': [2]}),
    'celeba':    dict(experiment='08_celeba', seeds=[0, 1, 2, 3, 4], samplers={'none': [1], **paper}),
    'wildfaces': dict(experiment='07_affectnet', seeds=[0, 1, 2], **WILD,
                      samplers={'none': [1], 'rl': [1], **{s: [1, 2] for s in (*paper, 'rl-top', *beyond)}}),
    'gpu':       dict(experiment='07_affectnet', seeds=[0, 1, 2], scale='gpu', samplers={'none': [1], 'rl': [1], **paper}),
    # Paper 4: a run is a whole experiment. How many seeds, its rule says: 10, 15 or 20 (10_shapes); appendix B's sweeps in the first five.
    'shapes':    dict(experiment='10_shapes', seeds=[0, 1, 2, 3, 4]),
    'shapes-more': dict(experiment='10_shapes', seeds=[5, 6, 7, 8, 9], sweeps=False),
    'shapes-official': dict(experiment='10_shapes', seeds=[0, 1, 2, 3, 4], preset='official', sweeps=False),
    'shapes-gpu': dict(experiment='10_shapes', seeds=[0, 1, 2, 3, 4], scale='gpu'),
    # Papers 3 and 5: a run is a whole experiment too. On photographs with the classes that wildfaces has enough of.
    'latent':    dict(experiment='12_latent', seeds=[0, 1, 2, 3, 4]),
    'overfitting': dict(experiment='13_overfitting', seeds=[0, 1, 2, 3, 4]),
    'latent-wildfaces': dict(experiment='12_latent', seeds=[0, 1, 2, 3, 4], **WILD),
    'overfitting-wildfaces': dict(experiment='13_overfitting', seeds=[0, 1, 2, 3, 4], sweeps=False, **WILD),
    'latent-gpu': dict(experiment='12_latent', seeds=[0, 1, 2, 3, 4], scale='gpu'),
    'overfitting-gpu': dict(experiment='13_overfitting', seeds=[0, 1, 2, 3, 4], scale='gpu'),
    'latent-photographs': dict(experiment='12_latent', seeds=[0, 1, 2, 3, 4], data='affectnet'),
    'overfitting-photographs': dict(experiment='13_overfitting', seeds=[0, 1, 2, 3, 4], data='affectnet'),
    # What the paper ran: AffectNet with all of its classes, CelebA with its partition (SCALE=paper; ROOT=folder).
    'photographs': dict(experiment='07_affectnet', seeds=[0, 1, 2, 3, 4], data='affectnet', samplers={'none': [1], 'rl': [1], **paper}),
    'celeba-photographs': dict(experiment='08_celeba', seeds=[0, 1, 2, 3, 4], data='celeba', samplers={'none': [1], **paper}),
}
DEFAULT = 'affectnet,exposure,celeba,shapes,shapes-more,latent,overfitting'
# What one run takes at a scale: cores, megabytes, minutes that a cluster may kill it after, GPUs.
NEEDS = {'smoke': (1, 1500, 30, 0), 'laptop': (1, 3000, 120, 0), 'gpu': (4, 16_000, 240, 1), 'paper': (8, 64_000, 2880, 1)}

# ---- the runs of the tables that were asked for --------------------------------------------------------------------------------------
PROJECT, STARTED = Path(workflow.basedir), time.time()
given = lambda key, default='': str(config.get(key, '') if config.get(key, '') is not None else '') or default
names = lambda text: text.replace(',', ' ').split()
DECLARED, DEFAULTS, DIGESTS = {}, {}, {} # what notebooks on this disk say, what the names of records mean, the content of data sets

def run_of(experiment, **params):
    "A run: the notebook and all its parameters, in the order that it declares them."
    if experiment not in DECLARED:
        DECLARED[experiment] = declared_parameters(PROJECT/'nbs'/f'{experiment}.ipynb')
        DEFAULTS[experiment] = recorded_defaults(experiment, DECLARED[experiment])
    return experiment, DEFAULTS[experiment] | params

def digest_of(params):
    "A data set counts by its content: two folders of one name are two data sets."
    place = params.get('data', 'drawn'), params.get('root', '')
    if place[0] == 'drawn' or not place[1]: return ''
    if place not in DIGESTS:
        from synthnb.data import data_digest
        try: DIGESTS[place] = data_digest(*place)
        except (OSError, ValueError) as e: raise WorkflowError(f'ROOT={place[1]}: {e}')
    return DIGESTS[place]

def record(run):
    "Where the notebook itself will leave this run's record, under runs/."
    experiment, params = run
    classes = dict(classes=names(params['classes'])) if 'classes' in params else {}
    return f'{experiment}/{run_name(said_parameters(params | classes, digest_of(params)), DEFAULTS[experiment])}/metrics.json'

def runs_of(table):
    "The runs of a table, arm by arm, so that runs next to each other have different seeds and share nothing."
    if table not in TABLES: raise WorkflowError(f"unknown table {table!r}: choose from {', '.join(TABLES)}")
    shared = {k: v for k, v in TABLES[table].items() if k not in ('samplers', 'seeds')}
    if given('scale'): shared['scale'] = given('scale')
    if shared.get('data', 'drawn') != 'drawn':
        if not given('root'): raise WorkflowError(f"table {table} needs the data set's folder: make tables TABLE={table} ROOT=folder")
        shared['root'] = str(Path(given('root')).expanduser().absolute())
    seeds = [int(s) for s in names(given('seeds'))] or TABLES[table]['seeds']
    arms = [dict(sampler=s, ratio=r) for s, ratios in TABLES[table].get('samplers', {}).items() for r in ratios] or [{}]
    return [run_of(seed=seed, **arm, **shared) for arm in arms for seed in seeds]

def follows(run):
    "The run that makes what this one shares with others, so that nobody has to wait for it: none makes GAN, pool, scores and baseline."
    experiment, params = run
    sampler = params.get('sampler', 'none') # an experiment without samplers is one run a seed
    plain = sampler in ('none', *paper)
    again = lambda **new: (experiment, params | new)
    if sampler == 'none': return None
    if sampler == 'rl-top': return again(sampler='rl', ratio=1)
    if params.get('exposure') == 'fixed' and sampler != 'random': return again(sampler='random')
    if params['ratio'] != 1 and not plain: return again(ratio=1)
    return again(sampler='none', ratio=1, **({'exposure': 'shared'} if 'exposure' in params else {}))

WANTED = {record(run): run for table in names(given('table', DEFAULT)) for run in runs_of(table)}
RUNS, todo = dict(WANTED), list(WANTED.values())
while todo: # with what they follow, and what that follows, whether or not it is in these tables
    first = follows(todo.pop(0))
    if first and record(first) not in RUNS: RUNS[record(first)] = first; todo.append(first)
EARLY = dict(none=0, rl=1) # what others wait for
ORDER = sorted(RUNS, key=lambda path: EARLY.get(RUNS[path][1].get('sampler'), 2)) # otherwise as listed above

def differs(run):
    "A run's parameters, as far as they are not the notebook's own."
    return {k: v for k, v in run[1].items() if v != DECLARED[run[0]][k]}

def arguments(run):
    "The same for papermill."
    return ' '.join(f"{'-r' if isinstance(v, str) else '-p'} {k} {shlex.quote(str(v))}" for k, v in differs(run).items())

# ---- how it is run -------------------------------------------------------------------------------------------------------------------
RUNS_DIR = runs_dir().resolve()
# The executed notebooks are not kept, so agg: figures go to the record alone and are not drawn a second time for a page.
os.environ.update(SYNTHNB_RUNS=str(RUNS_DIR), JUPYTER_PREFER_ENV_PATH='1', PYDEVD_DISABLE_FILE_VALIDATION='1', MPLBACKEND='agg')
workdir: str(RUNS_DIR)
localrules: all

rule all:
    input: list(WANTED)

# One rule a run, without wildcards: what Snakemake hands to a cluster's job cannot hold a wildcard with a comma in it.
for place, path in enumerate(ORDER):
    run_, where = RUNS[path], Path(path).parent
    cores, memory, minutes, gpus = NEEDS[run_[1]['scale']]
    made = not given('fresh') and (RUNS_DIR/path).exists()
    rule:
        name: f'{where.parent}.{where.name}'
        input: [ancient(record(r)) for r in [follows(run_)] if r and not made]
        output: update(path)
        log: f'logs/{where}.log'
        priority: -place
        threads: cores
        resources: mem_mb=memory, runtime=minutes, gpu=gpus
        params: given=arguments(run_), notebook=str(PROJECT/'nbs'/f'{run_[0]}.ipynb'), project=str(PROJECT), run=str(where),
            python=sys.executable
        # An older record stands until the notebook has written another and has come through to its end (update, keep-incomplete).
        shell: r"""
            export OMP_NUM_THREADS={threads}; record={output:q}; before={log:q}.before
            [ -e "$before" ] || [ ! -e "$record" ] || cp "$record" "$before"
            if {params.python:q} -m papermill {params.notebook:q} /dev/null --kernel python3 \
                --cwd {params.project:q} {params.given} --no-progress-bar --stdout-file - --stderr-file - >{log:q} 2>&1
            then
                rm -f "$before"
                echo "done in $SECONDS s" | tee -a {log:q} | sed 's|^|{params.run}: |'
            else
                if [ -e "$before" ]; then mv "$before" "$record"; else rm -f "$record"; fi
                exit 1
            fi
            """

# ---- at most one grid in a folder of runs, and what is said when it did not come through ----------------------------------------------
ALONE = FileLock(RUNS_DIR/'.snakemake'/'grid.lock') # the system's lock: it ends with the process, also by a kill
onstart:
    try: ALONE.acquire(blocking=False)
    except Timeout: raise WorkflowError(f'another `make tables` is at work in {RUNS_DIR}; wait for it, or set SYNTHNB_RUNS')

def last_words(log):
    lines = [line.strip() for line in log.read_text(errors='replace').splitlines() if line.strip()] or ['it said nothing']
    return lines[-1]

onerror:
    failed, waiting = [], []
    for path, run_ in RUNS.items():
        log = RUNS_DIR/'logs'/f'{Path(path).parent}.log'
        what = ' '.join([run_[0], *(f'{k}={v}' for k, v in differs(run_).items())])
        tried = log.exists() and log.stat().st_mtime >= STARTED
        made = (RUNS_DIR/path).exists() and not (given('fresh') and (RUNS_DIR/path).stat().st_mtime < STARTED)
        if tried and not (last_words(log).startswith('done in ') and made):
            failed.append(f'  {what}\n      {last_words(log)[:300]}\n      {log}')
        elif not made: waiting.append(f'  {what}')
    if failed: print(f'\n{len(failed)} of {len(RUNS)} runs failed:', *failed, sep='\n', file=sys.stderr)
    if waiting:
        print(f'\n{len(waiting)} were not begun: what they need failed, or they could not be started:', *waiting, sep='\n', file=sys.stderr)
