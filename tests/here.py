"""A notebook as a user runs it, in the process of the tests: nothing is imported anew.

What takes a process of its own, because it is killed, runs beside another or has processes of its
own, has papermill: see test_experiment.
"""
import contextlib
import io
import os
import signal
import time
import traceback
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from execute import cells
from papermill.cli import _resolve_type as as_typed

from synthnb import core

ROOT = Path(__file__).resolve().parent.parent


def executed(notebook, params):
    "A notebook's names, when its cells are through, with parameters after the cell tagged so."
    names = {'__name__': '__main__'}
    for i, source in enumerate(cells(notebook, params)):
        exec(compile(source, f'<cell {i}>', 'exec'), names)
    return names


def coarse(self, where, savefig=plt.Figure.savefig, **how):
    "A figure, drawn once and in few dots: to fit its page it is drawn twice, a third of a run."
    savefig(self, where, **how | dict(dpi=40, bbox_inches=None))


@contextlib.contextmanager
def as_alone(runs):
    "The state of a process that has just begun; what is printed in it."
    threads, said = torch.get_num_threads(), io.StringIO()
    core.USED.clear() # what an earlier test made is in no record of this one
    with (pytest.MonkeyPatch.context() as m, contextlib.redirect_stdout(said),
          contextlib.redirect_stderr(said)):
        m.setenv('SYNTHNB_RUNS', str(runs))
        m.setattr(plt.Figure, 'savefig', coarse)
        m.chdir(ROOT)
        try: yield said
        finally:
            plt.close('all')
            torch.set_num_threads(threads)


def arguments(*args):
    "What papermill is given, '-p', name, value or '-r', name, text, as parameters."
    triples = zip(args[::3], args[1::3], args[2::3], strict=True)
    return {name: value if how == '-r' else as_typed(value) for how, name, value in triples}


def run_here(runs, notebook, *args, **params):
    "Like papermill with these arguments, or with these parameters: (exit status, output)."
    os.makedirs(runs, exist_ok=True)
    with as_alone(runs) as said:
        try: executed(ROOT/'nbs'/f'{notebook}.ipynb', arguments(*args) | params)
        except Exception:
            traceback.print_exc(file=said)
            return 1, said.getvalue()
    return 0, said.getvalue()


def killed_at(begin, runs, stage):
    "A run in a child of this process, killed as soon as it has begun to make such an artefact."
    child = os.fork()
    if not child:
        try: begin()
        finally: os._exit(1)
    end = time.time() + 300
    while not list(Path(runs).glob(f'artefacts/{stage}/*.part')):
        assert os.waitpid(child, os.WNOHANG) == (0, 0) and time.time() < end, stage
        time.sleep(.002)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, 'it ended by itself'
