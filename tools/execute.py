"""A notebook's cells in this process, as papermill would run them, where there is no Jupyter.

`execute.py NAME.ipynb '{"seed": 1}'`, or a script: `execute.py NAME.py ARG...`. It ends, with all
that it began, when its standard input does: whoever began it with a pipe is gone then.
"""
import json
import os
import runpy
import signal
import stat
import sys
import threading
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def tie():
    "End this process's group as soon as nobody holds the other end of its standard input."
    def watch():
        while os.read(0, 1024): pass
        os.killpg(0, signal.SIGKILL)
    if stat.S_ISFIFO(os.fstat(0).st_mode) and os.getpgid(0) == os.getpid():
        threading.Thread(target=watch, daemon=True).start()


def cells(notebook, params):
    "The code of a notebook, with the parameters behind the cell that declares them."
    for cell in json.loads(Path(notebook).read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'code' or not (source := ''.join(cell['source'])).strip(): continue
        yield source
        if params and 'parameters' in cell['metadata'].get('tags', []):
            yield '\n'.join(['# Parameters', *(f'{k} = {v!r}' for k, v in params.items())])


def run_notebook(notebook, params):
    "Whether all cells came through; what the first that did not has said is printed."
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config
    quiet = Config(HistoryManager=dict(hist_file=':memory:'),
                   InteractiveShell=dict(colors='NoColor', xmode='Plain'))
    shell = InteractiveShell.instance(config=quiet)
    return all(shell.run_cell(source, store_history=True).success
               for source in cells(notebook, params))


def main(what, *arguments):
    sys.path[0] = str(PROJECT) # as for a kernel, which begins there
    if what.endswith('.ipynb'):
        return not run_notebook(what, json.loads(arguments[0]) if arguments else {})
    sys.argv[:] = what, *arguments
    sys.path.insert(0, str(Path(what).resolve().parent))
    runpy.run_path(what, run_name='__main__')


if __name__ == '__main__':
    tie()
    sys.exit(main(*sys.argv[1:]))
