"""`make run`: an experiment as papermill runs it, which leaves the page beside its record.

`run.py NOTEBOOK ARG...` with further arguments for papermill, or NOTEBOOK and ARGS in the
environment, where make puts what was typed. From there come the parameters, too: SAMPLER, RATIO,
SCALE, SEED, DATA, ROOT, CLASSES and TRAININGS. Without TRAININGS the main experiment trains each
arm twice, a first look of minutes; its tables are of three, and TRAININGS=0 has what its own table
of scales says.
"""
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from typed import words

PROJECT = Path(__file__).resolve().parents[1]
PARAMETERS = dict(SAMPLER='-r', RATIO='-p', SCALE='-r', SEED='-p', DATA='-r', ROOT='-r',
                  CLASSES='-r', TRAININGS='-p') # -r hands on text as it is, -p reads a number
QUICK = {'07_affectnet': dict(TRAININGS='2')} # of a notebook, where nothing was typed
STOPPED = (130, 143) # exit statuses after Ctrl-C, after SIGTERM
NOISE = b'TCP without encryption' # what Jupyter says about every kernel


def typed(notebook='', further=()): # further arguments for papermill
    "The parameters that were typed, as arguments for papermill."
    first_look = os.environ.get('SCALE') in (None, '', 'laptop') and 'protocol' not in further
    usual = QUICK.get(notebook, {}) if first_look else {}
    given = [(how, name.lower(), os.environ.get(name) or usual.get(name))
             for name, how in PARAMETERS.items()]
    return [word for argument in given if argument[2] for word in argument]


def python(*command, env=None, without=None):
    """This Python with these arguments: its exit status. Lines of stderr with `without` are cut.

    When it is stopped, by Ctrl-C (130) or by SIGTERM (143), it is given the time to clean up.
    """
    stopped = []
    child = subprocess.Popen([sys.executable, *map(str, command)], env=os.environ | (env or {}),
                             stderr=subprocess.PIPE if without else None)

    def interrupt(*_): stopped.append(130) # Ctrl-C reaches the child as well

    def terminate(*_):
        stopped.append(143)
        child.terminate()

    def show():
        for line in child.stderr:
            if without not in line: os.write(2, line)

    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: terminate}
    before = {s: signal.signal(s, handler) for s, handler in handlers.items()}
    try:
        reader = threading.Thread(target=show, daemon=True)
        if without: reader.start()
        status = child.wait()
        if without: reader.join(5)
    finally:
        for s, handler in before.items(): signal.signal(s, handler)
    return stopped[0] if stopped else status


@contextmanager
def pictures(note):
    "Say where the first picture is as soon as the notebook has written it. `note` lists them."
    done = threading.Event()

    def look():
        last = False
        while not last:
            last = done.wait(.2) # a run that ends at once is looked at once more
            lines = note.read_text().splitlines(keepends=True)[1:] # the first is the record
            if lines and lines[0].endswith('\n'):
                return print(f'First picture: {shown(lines[0].strip())}', flush=True)

    reader = threading.Thread(target=look, daemon=True)
    reader.start()
    try: yield
    finally:
        done.set()
        reader.join()


def shown(path):
    "A path as one types it here."
    path = Path(path)
    return path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path


def needs(module):
    "Say what to do where this Python lacks what is to be run."
    if find_spec(module): return
    sys.exit(f"{sys.executable} has no {module}. Install all with pip install --editable '.[dev]',"
             ' or leave PY out: make then does so in .venv.')


def runs_folder(usual='runs'):
    "As synthnb.core says, without importing it."
    return Path(os.environ.get('SYNTHNB_RUNS') or usual).expanduser()


@contextmanager
def written(folder):
    "Where a folder cannot be written inside, one line that says so."
    try: yield
    except OSError as e: sys.exit(
        f'{folder} cannot be written ({e.strerror}): give yourself the right to write there, or '
        'set SYNTHNB_RUNS to a folder of yours')


def run(notebook, *arguments):
    "Run nbs/<notebook>.ipynb: its exit status. The executed notebook goes to the record."
    needs('papermill')
    folder = runs_folder()/notebook
    page, start = folder/f'notebook-{os.getpid()}.ipynb', folder/f'notebook-{os.getpid()}.start'
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        start.touch() # the notebook writes here where its record is, then its pictures, a line each
    try:
        with pictures(start):
            stopped = python('-m', 'papermill', f'nbs/{notebook}.ipynb', page, *arguments,
                             '--kernel', 'python3', '--no-progress-bar', '--stdout-file', '-',
                             '--stderr-file', '-', without=NOISE,
                             env={'SYNTHNB_RECORD': str(start.absolute())})
        if stopped:
            print(f'The run stopped. What it had done so far: {page};'
                  ' what was finished will be reused.', file=sys.stderr)
            return 1
        if python('-m', 'nbconvert', '--log-level', 'ERROR', '--to', 'html', '--config',
                  PROJECT/'tools'/'page.py', '--CoalesceStreamsPreprocessor.enabled=True',
                  page): return 1
        record = Path(start.read_text().partition('\n')[0])
    finally: start.unlink(missing_ok=True)
    if not (record/'metrics.json').exists():
        print(f'The notebook ended without leaving a record in {folder}.', file=sys.stderr)
        return 1
    for kind in ('.ipynb', '.html'): shutil.move(page.with_suffix(kind), record/f'notebook{kind}')
    record = shown(record)
    print(f'\nThe record:  {record}  (params.json, metrics.json, tables/, figures/)')
    print(f'As a page:   {record}/notebook.html')
    return 0


if __name__ == '__main__':
    notebook, *arguments = sys.argv[1:] or [os.environ.get('NOTEBOOK') or '07_affectnet']
    arguments += words('ARGS')
    sys.exit(run(notebook, *typed(notebook, arguments), *arguments))
