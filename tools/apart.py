"""A process of its own for what is killed, runs beside another, or must have made nothing before.

It is forked from a server that has imported what synthnb needs, which takes seconds, and that has
done nothing else: neither synthnb nor what is called has been read. Where there is no such server a
process imports it all itself. `Apart` is used as subprocess.Popen is.
"""
import contextlib
import faulthandler
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SERVED = 'forkserver' in multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context('forkserver' if SERVED else 'spawn')
IMPORTED = ['torch', 'torchvision', 'pandas', 'seaborn', 'sklearn.metrics', 'scipy.stats',
            'open_clip', 'ribs.visualize', 'diffusers', 'timm', 'papermill.cli', 'nbdev.test',
            'snakemake.cli']
# pyarrow, which pandas imports, begins a thread that may hold a lock at the fork: no child would
# ever get it. The server has no thread but its own.
ONE_THREAD = dict(JE_ARROW_MALLOC_CONF='background_thread:false', OMP_NUM_THREADS='1')


def begin(**env):
    "Begin the server, with these additions to its environment, if it has not begun."
    env = ONE_THREAD | env
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        CONTEXT.set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None: os.environ.pop(name)
            else: os.environ[name] = value


def enter(call, args, env, cwd, out, err):
    "In the new process: its environment, folder and output; then the call."
    for fd, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, fd)
        os.close(file)
    sys.stdout, sys.stderr = (open(fd, 'w', buffering=1, closefd=False) for fd in (1, 2))
    if hasattr(signal, 'SIGUSR1'): faulthandler.register(signal.SIGUSR1, 2) # see Apart.where
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:] = [p for p in sys.path if p != str(Path(__file__).parent)]
    resource_tracker._resource_tracker._fd = None # its own, which is not told of who was killed
    sys.modules['__main__'] = types.ModuleType('__main__') # not that of whoever began it
    parent = multiprocessing.parent_process()
    def follow(): # it ends with whoever began it
        parent.join()
        os._exit(1)
    threading.Thread(target=follow, daemon=True).start()
    if 'torch' in sys.modules and env.get('OMP_NUM_THREADS'): # which is read at the import
        sys.modules['torch'].set_num_threads(int(env['OMP_NUM_THREADS']))
    call(*args)


class Apart:
    "A call in a process of its own, with these additions to the environment; None: not in it."
    def __init__(self, call, *args, env=None, cwd=PROJECT, split=False):
        self.args, self.folder = (call, *args), tempfile.TemporaryDirectory(prefix='apart-')
        out, err = (Path(self.folder.name)/name for name in ('out', 'err'))
        for path in (out, err): path.touch()
        self.out, self.err = out, err if split else out
        if SERVED: begin()
        self.process = CONTEXT.Process(target=enter, args=(
            call, args, {k: v for k, v in (os.environ | (env or {})).items() if v is not None},
            str(cwd), str(self.out), str(self.err)))
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self): return self.process.exitcode

    def poll(self): return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout, stderr=self.where())
        return self.process.exitcode

    def where(self): # the stacks of its threads, where it can still say so
        before = self.err.stat().st_size
        with contextlib.suppress(OSError, AttributeError): os.kill(self.pid, signal.SIGUSR1)
        time.sleep(.5)
        return self.err.read_bytes()[before:].decode(errors='replace')

    def communicate(self, timeout=None):
        "What it said: all of it, or, where it was split, on stdout and on stderr."
        self.wait(timeout)
        return self.out.read_text(), self.err.read_text()

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

    def kill(self): self.send_signal(signal.SIGKILL)


# ---- what is called ------------------------------------------------------------------------------
def lines(source, *argv):
    "Some lines, as `python -c` would run them."
    sys.argv[:] = '-c', *argv
    exec(compile(source, '<string>', 'exec'), vars(sys.modules['__main__']))


def file(path, *argv):
    "A script, as `python path` would run it."
    sys.argv[:] = str(path), *map(str, argv)
    runpy.run_path(str(path), run_name='__main__')


def notebook(path, params):
    "A notebook's cells, as papermill would run them; the first that fails ends the process."
    sys.path.insert(0, str(PROJECT/'tools'))
    from execute import cells
    for i, source in enumerate(cells(path, params)):
        exec(compile(source, f'<cell {i}>', 'exec'), vars(sys.modules['__main__']))


def tested(path):
    "A notebook under nbdev_test."
    from nbdev.test import nbdev_test
    sys.path.insert(0, str(PROJECT))
    nbdev_test(path=str(path), n_workers=0)


def snakemake(*args):
    "Snakemake, as `python -m snakemake` would run it."
    from snakemake.cli import main
    sys.argv[:] = 'snakemake', *map(str, args)
    main()
