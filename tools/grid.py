"""The runs behind the tables: what config/tables.yaml lists, as far as it was asked for, in order.

A run is (experiment, all its parameters). Its name is that of the record that it will leave.
"""
import shlex
from functools import cache
from pathlib import Path

try: from snakemake.exceptions import WorkflowError
except ImportError: # `make sprint` needs no Snakemake
    class WorkflowError(Exception): "What is wrong with the tables, or with what was asked for."

from synthnb.core import (as_changes, declared_parameters, recorded_defaults, run_name,
                          said_parameters)

NBS = Path(__file__).resolve().parents[1]/'nbs'
NEEDS = {'cores', 'megabytes', 'minutes', 'gpus'}
PLAIN = ('none', 'random', 'cl-sam', 'cr-sam') # they need nothing but GAN, pool and scores
WAITED_FOR = {'none': 0, 'rl': 1} # what other samplers need comes first


def names(text): return str(text).replace(',', ' ').split()


@cache
def declared(experiment):
    "The parameters that a notebook on this disk declares."
    return declared_parameters(NBS/f'{experiment}.ipynb')


@cache
def defaults(experiment):
    "The parameters that the names of records leave out."
    return recorded_defaults(experiment, declared(experiment))


# ---- what config/tables.yaml may say -------------------------------------------------------------
def must(holds, said):
    if not holds: raise WorkflowError(f'config/tables.yaml: {said}')


def counts(value, least):
    "Whether this is a list of integers, at least one, and none below `least`."
    return isinstance(value, list) and value and all(type(v) is int and v >= least for v in value)


def check_table(name, table, scales):
    must(isinstance(table, dict), f'table {name} must have an experiment and seeds, not {table!r}')
    experiment, seeds, samplers = (table.get(k) for k in ('experiment', 'seeds', 'samplers'))
    must((NBS/f'{experiment}.ipynb').exists(), f'table {name}: there is no nbs/{experiment}.ipynb')
    must(counts(seeds, 0), f'table {name}: seeds must be as [0, 1, 2], and are {seeds!r}')
    must(isinstance(samplers, dict | None), f'table {name}: samplers must be as {{random: [1, 2]}}')
    for sampler, ratios in (samplers or {}).items():
        must(counts(ratios, 1), f'table {name}: {sampler} needs ratios as [1, 2], not {ratios!r}')
    unknown = {*table} - {'experiment', 'seeds', 'samplers'} - {*declared(experiment)}
    must(not unknown, f"table {name}: {experiment} has no parameter {', '.join(sorted(unknown))};"
                      f" it has {', '.join(declared(experiment))}")
    must(table.get('scale', scales[0]) in scales,
         f"table {name}: scale {table.get('scale')} has no needs; {', '.join(scales)} have")


def check_tables(config):
    "Refuse what cannot be meant, and say where it stands and what could be there."
    for key in ('default', 'tables', 'needs'): must(config.get(key), f'{key} is empty or missing')
    for scale, needs in config['needs'].items():
        must(isinstance(needs, dict) and {*needs} == NEEDS and counts([*needs.values()], 0),
             f"needs of {scale} must be numbers of {', '.join(sorted(NEEDS))}, and are {needs!r}")
    for name, table in config['tables'].items(): check_table(name, table, [*config['needs']])
    for name in config['default']:
        must(name in config['tables'], f'default names {name}, and there is no such table')


# ---- from tables to runs -------------------------------------------------------------------------
@cache
def digest_of(data, root, folds=0):
    "A data set counts by its content: two folders of one name are two data sets."
    if data.startswith('drawn') or not root: return ''
    from synthnb.data import data_digest
    try: return data_digest(data, root, folds)
    except (OSError, ValueError) as e: raise WorkflowError(f'ROOT={root}: {e}')


def record(run):
    "Where the notebook itself will leave this run's record, under runs/."
    experiment, params = run
    classes = {'classes': names(params['classes'])} if 'classes' in params else {}
    digest = digest_of(params.get('data', 'drawn'), params.get('root', ''), params.get('folds', 0))
    said = said_parameters(params | classes, digest)
    return f'{experiment}/{run_name(said, defaults(experiment))}/metrics.json'


def runs_of(name, config, asked):
    "The runs of a table, arm by arm: runs next to each other have different seeds, share nothing."
    tables, scales = config['tables'], config['needs']
    if name not in tables:
        raise WorkflowError(f"unknown table {name!r}: choose from {', '.join(tables)}")
    table = tables[name]
    shared = {k: v for k, v in table.items() if k not in ('experiment', 'seeds', 'samplers')}
    if 'changes' in shared: shared['changes'] = as_changes(shared['changes']) # as its record has it
    if scale := asked('scale'):
        if scale not in scales:
            raise WorkflowError(f"unknown scale {scale!r}: choose from {', '.join(scales)}")
        shared['scale'] = scale
    if asked('data') and 'data' in declared(table['experiment']): shared['data'] = asked('data')
    if not shared.get('data', 'drawn').startswith('drawn'):
        if not asked('root'): raise WorkflowError(
            f"table {name} needs the data set's folder: make tables TABLE={name} ROOT=folder")
        shared['root'] = str(Path(asked('root')).expanduser().absolute())
    seeds = [int(s) for s in names(asked('seeds'))] or table['seeds']
    samplers = table.get('samplers') or {}
    arms = [dict(sampler=s, ratio=r) for s, ratios in samplers.items() for r in ratios] or [{}]
    experiment = table['experiment']
    return [(experiment, defaults(experiment) | dict(seed=seed) | arm | shared)
            for arm in arms for seed in seeds]


def follows(run):
    "The run that makes what this one shares: none makes GAN, pool, scores and baseline."
    experiment, params = run
    sampler = params.get('sampler', 'none') # an experiment without samplers is one run a seed
    def again(**new): return experiment, params | new
    if sampler == 'none' or 'protocol' not in params: return None # 16_yours has all its arms in one
    if sampler == 'rl-top': return again(sampler='rl', ratio=1)
    if params.get('exposure') == 'fixed' and sampler != 'random': return again(sampler='random')
    if params['ratio'] != 1 and sampler not in PLAIN: return again(ratio=1)
    shared = {'exposure': 'shared'} if 'exposure' in params else {}
    return again(sampler='none', ratio=1, **shared)


def grid(config, asked):
    "The runs of the tables asked for; and these with all that they follow, in order of priority."
    check_tables(config)
    tables = names(asked('table')) or config['default']
    wanted = {record(run): run for table in tables for run in runs_of(table, config, asked)}
    runs, todo = dict(wanted), list(wanted.values())
    while todo:
        first = follows(todo.pop(0))
        if first and record(first) not in runs:
            runs[record(first)] = first
            todo.append(first)
    early = sorted(runs, key=lambda path: WAITED_FOR.get(runs[path][1].get('sampler'), 2))
    return wanted, {path: runs[path] for path in early}


# ---- one run, said -------------------------------------------------------------------------------
def differs(run):
    "A run's parameters, as far as they are not the notebook's own."
    return {k: v for k, v in run[1].items() if v != declared(run[0])[k]}


def arguments(run):
    "The same for papermill."
    return ' '.join(f"{'-r' if isinstance(v, str) else '-p'} {k} {shlex.quote(str(v))}"
                    for k, v in differs(run).items())


def title(run):
    "The same for people."
    return ' '.join([run[0], *(f'{k}={v}' for k, v in differs(run).items())])


# ---- what did not come through -------------------------------------------------------------------
def last_words(log):
    lines = [line.strip() for line in log.read_text(errors='replace').splitlines() if line.strip()]
    return lines[-1] if lines else 'it said nothing'


def stopped(runs, folder, began, fresh):
    "Of a grid that began then: the runs that failed, with their last words; and those not begun."
    failed, waiting = [], []
    for path, run in runs.items():
        log, result = folder/'logs'/f'{Path(path).parent}.log', folder/path
        tried = log.exists() and log.stat().st_mtime >= began
        made = result.exists() and not (fresh and result.stat().st_mtime < began)
        if tried and not (made and last_words(log).startswith('done in ')):
            failed += [f'  {title(run)}', f'      {last_words(log)[:300]}', f'      {log}']
        elif not made: waiting.append(f'  {title(run)}')
    if failed: failed.insert(0, f'\n{len(failed)//3} of {len(runs)} runs failed:')
    if waiting: waiting.insert(0, f'\n{len(waiting)} were not begun: what they need failed,'
                                  ' or they could not be started:')
    return '\n'.join(failed + waiting)
