# The grid behind the tables: every run that a table needs, made once, as many at a time as fit.
#   make tables                                   what config/tables.yaml lists, then the verdicts
#   make tables TABLE=wildfaces ROOT=folder       photographs; also SEEDS=0,1 SCALE=smoke CORES=8
#   make tables TABLE=own DATA=csv ROOT=list.csv  your images, over five seeds; DATA=folder, too
#   make tables ARGS=--dry-run                    what is missing
#   make tables ARGS='--profile profiles/slurm'   the same on a cluster (see there)
# What is run and what it needs is in config/tables.yaml, which tools/grid.py reads. Options that
# hold everywhere are in profiles/default. A run is current if its record, runs/<experiment>/<name>/
# metrics.json, exists: records are in git, so a fresh clone has nothing to do. FRESH=1 makes all of
# a table's records again, from the artefacts that stand; `make clean` before it removes those too.
# Of a killed grid the runs in flight are lost, and what they had made stands. A failed run is
# reported at the end by its parameters and stops no other; an older record of it stays.
import os, sys, time
from pathlib import Path
from filelock import FileLock, Timeout
from synthnb.core import runs_dir

PROJECT, STARTED, RUNS_DIR = Path(workflow.basedir), time.time(), runs_dir().resolve()
configfile: str(PROJECT/'config'/'tables.yaml')
sys.path.insert(0, str(PROJECT/'tools'))
from grid import arguments, follows, grid, record, stopped

def asked(key):
    "What `make tables` or --config was given for table, seeds, scale, data, root, fresh: text."
    return '' if config.get(key) is None else str(config[key])

def plainly(text):
    "As a parameter of a rule: a {brace} in a folder's name is no wildcard."
    return lambda wildcards: text

WANTED, RUNS = grid(config, asked) # the tables' runs; these and what they follow

# ---- how it is run -------------------------------------------------------------------------------
# The executed notebooks are not kept, so agg: figures go to the record and to no page.
os.environ.update(SYNTHNB_RUNS=str(RUNS_DIR), MPLBACKEND='agg',
                  JUPYTER_PREFER_ENV_PATH='1', PYDEVD_DISABLE_FILE_VALIDATION='1')
workdir: str(RUNS_DIR)
localrules: all

rule all:
    input: list(WANTED)

# One rule a run, for what Snakemake hands to a cluster's job cannot hold a wildcard with a comma.
for place, (path, run_) in enumerate(RUNS.items()):
    where, needs = Path(path).parent, config['needs'][run_[1]['scale']]
    made = not asked('fresh') and (RUNS_DIR/path).exists()
    rule:
        name: f'{where.parent}.{where.name}'
        input: [ancient(record(r)) for r in [follows(run_)] if r and not made]
        output: update(path)
        log: f'logs/{where}.log'
        priority: -place
        threads: needs['cores']
        resources: mem_mb=needs['megabytes'], runtime=needs['minutes'], gpu=needs['gpus']
        params: given=plainly(arguments(run_)), project=plainly(str(PROJECT)), run=str(where),
            notebook=plainly(str(PROJECT/'nbs'/f'{run_[0]}.ipynb')), python=sys.executable
        # An older record stands until the notebook has written another and come through to its end.
        shell: r"""
            export OMP_NUM_THREADS={threads}; record={output:q}; before={log:q}.before
            [ -e "$before" ] || [ ! -e "$record" ] || cp "$record" "$before"
            if {params.python:q} -m papermill {params.notebook:q} /dev/null --kernel python3 \
                --cwd {params.project:q} {params.given} --no-progress-bar \
                --stdout-file - --stderr-file - >{log:q} 2>&1
            then
                rm -f "$before"
                echo "done in $SECONDS s" >>{log:q}
                printf '%s: done in %s s\n' {params.run:q} "$SECONDS"
            else
                if [ -e "$before" ]; then mv "$before" "$record"; else rm -f "$record"; fi
                exit 1
            fi
            """

# ---- at most one grid in a folder of runs --------------------------------------------------------
ALONE = FileLock(RUNS_DIR/'.snakemake'/'grid.lock') # it ends with the process, also by a kill
onstart:
    try: ALONE.acquire(blocking=False)
    except Timeout: raise WorkflowError(
        f'another `make tables` is at work in {RUNS_DIR}; wait for it, or set SYNTHNB_RUNS')

# ---- what is said when it did not come through ---------------------------------------------------
onerror: print(stopped(RUNS, RUNS_DIR, STARTED, fresh=bool(asked('fresh'))), file=sys.stderr)
