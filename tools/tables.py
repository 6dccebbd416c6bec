"""`make tables`: every run that the tables need and that has no record, then the tables.

`tables.py ARG...` with further arguments for Snakemake. These, as ARGS, and TABLE, SEEDS, SCALE,
DATA, ROOT, FRESH and CORES come from the environment, where make puts what was typed after it.
Tables have scales of their own.
"""
import json
import os
import sys
import tempfile
from pathlib import Path

from run import PROJECT, STOPPED, needs, python, run, runs_folder, written
from typed import words


def scales(tables, scale, more=()): # further files of tables
    "The scales whose verdicts these tables can change, each once."
    import yaml
    if scale: return [scale]
    said = yaml.safe_load((PROJECT/'config'/'tables.yaml').read_text())
    for place in more: said['tables'] |= yaml.safe_load(Path(place).read_text()).get('tables', {})
    asked = (tables or '').replace(',', ' ').split() or said['default']
    known = [said['tables'].get(name, {}).get('scale', 'laptop') for name in asked]
    return list(dict.fromkeys(known))


def as_config(key, text):
    "For --config, which reads 007, true and 'a #b' as YAML, and takes quotes off the ends."
    return f'{key}= {json.dumps(text, ensure_ascii=False)} '


def main(*arguments):
    needs('snakemake')
    import psutil
    with written(place := runs_folder().absolute()): # Snakemake would say it in a traceback
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    asked_for = 'table', 'data', 'root', 'seeds', 'scale', 'fresh'
    given = {k: os.environ.get(k.upper()) for k in asked_for}
    here = ['--cores', os.environ.get('CORES') or 'all', '--resources', 'gpu=1',
            f'mem_mb={psutil.virtual_memory().available//10**6}']
    if any('--profile' in a for a in arguments): here = [] # it says what there is
    fresh = ['--forceall'] if given['fresh'] else []
    asked = [as_config(k, v) for k, v in given.items() if v]
    config = ['--config', *asked] if asked else []
    status = python('-m', 'snakemake', *here, *fresh, *arguments, *config)
    if status in STOPPED or {'-n', '--dry-run'} & {*arguments}: return status
    if status and python('-m', 'snakemake', '--dry-run', '--quiet', 'all', *here, *arguments,
                         *config): return status # there are no such tables, as it has said
    # Also when runs failed: the verdicts are drawn from what there is, and say what is missing.
    at = arguments.index('--configfile') if '--configfile' in arguments else len(arguments)
    verdicts = [run('14_verdict', '-r', 'scale', s)
                for s in scales(given['table'], given['scale'], arguments[at + 1:at + 2])]
    return max(verdicts) or status


if __name__ == '__main__': sys.exit(main(*sys.argv[1:], *words('ARGS')))
