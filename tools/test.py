"""`make test`: the repository, ruff, every notebook at smoke scale, pytest.

Each step says how long it took, and the first that fails is the last. pytest comes at the end, so
that the last line counts what ran; further arguments are for it. Tests that are marked `long` run
with ALL=1: the papers' scales, kills of what has been killed elsewhere, whole grids. ALL=ci has
those that are marked `ci`, too.
"""
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from apart import Apart, begin, tested
from run import needs, python
from typed import words

ALONE = dict(IN_TEST='1', OMP_NUM_THREADS='1') # the environment of a notebook
LINTED = ('synthnb', 'tests', 'tools', 'nbs', 'setup.py')


@contextmanager
def step(title):
    "A headline, what is done under it, and how long that took."
    print(f'\n== {title}', flush=True)
    began = time.time()
    yield
    print(f'   {time.time() - began:.0f} s', flush=True)


def check(*command):
    "A module of this Python, which must not fail."
    if status := python('-m', *command): sys.exit(status)


def passes(notebook, scratch):
    "Whether a notebook runs, in a process of its own; what it makes goes to `scratch`."
    began = time.time()
    process = Apart(tested, notebook, env=ALONE | dict(SYNTHNB_RUNS=scratch))
    said, _ = process.communicate()
    passed = process.returncode == 0 and 'Success.' in said
    if not passed: print(said)
    print(notebook, f' {time.time() - began:.0f} s' if passed else 'FAILED', flush=True)
    return passed


def notebooks():
    "All of them, two at a time; the later chapters take longest, and come first but for one."
    paths = sorted(Path('nbs').glob('*.ipynb'), key=lambda p: (p.stem == '00_core', p),
                   reverse=True)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as two:
        if not all([*two.map(lambda path: passes(path, scratch), paths)]): sys.exit(1)


def main(*arguments):
    needs('pytest')
    for name in ('ARGS', 'MAKEFLAGS', 'MFLAGS'): os.environ.pop(name, None) # a test calls make, too
    begin(**ALONE) # it imports while the first step, which is of one core, is at work
    with step('the repository: in sync and clean'):
        check('pytest', '-q', '--no-header', 'tests/test_repository.py')
    with step('ruff'):
        check('ruff', 'check', '--quiet', '--output-format', 'concise', *LINTED)
        print('nothing to say')
    with step('nbdev_test: the notebooks'): notebooks()
    print('\n== pytest', flush=True)
    some = {'': 'not long', 'ci': 'not long or ci'}.get(os.environ.get('ALL', ''))
    if some: arguments = '-m', some, *arguments
    return python('-m', 'pytest', '-q', '--no-header', '--durations=10', '--numprocesses', '2',
                  '--dist', 'loadfile', '--no-loadscope-reorder', '--max-worker-restart', '0',
                  *arguments, 'tests')


if __name__ == '__main__':
    try: sys.exit(main(*sys.argv[1:], *words('ARGS')))
    except KeyboardInterrupt: sys.exit(130)
