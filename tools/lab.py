"""`make lab`: JupyterLab, opened on the front page, where reading a chapter changes no file.

What it saves in nbs/ is as git keeps it: without the counts and the metadata that nbdev_clean
removes, and new pictures as small as `make outputs` makes them. Further arguments are JupyterLab's.
"""
import json
import sys
from pathlib import Path

import nbformat
from run import PROJECT, needs, python
from typed import words

NBS = PROJECT / 'nbs'


def saved(path):
    "The outputs that a notebook has on the disk, each as its JSON."
    if not path.exists(): return set()
    cells = nbformat.read(path, as_version=4).cells
    return {json.dumps(o, sort_keys=True) for c in cells for o in c.get('outputs', ())}


def as_git_keeps_it(model, path, contents_manager, **_):
    "Called by the server before it saves: the notebook, cleaned, with small pictures."
    from nbdev.clean import clean_nb
    from nbdev.config import get_config
    from outputs import tidy
    file = Path(contents_manager.root_dir) / path
    if model['type'] != 'notebook' or not file.resolve().is_relative_to(NBS): return
    settings = get_config(path=PROJECT)
    if not settings.jupyter_hooks: return
    notebook = nbformat.reads(json.dumps(model['content']), as_version=4)
    clean_nb(notebook, clean_ids=settings.clean_ids, allowed_cell_metadata_keys=settings.get(
        'allowed_cell_metadata_keys').split())
    model['content'] = tidy(notebook, saved(file))


if __name__ == '__main__':
    needs('jupyterlab')
    # the server finds this file by its name, and kernels do not: tools/ has a test.py, too
    begin = ('import sys; sys.path.append(sys.argv.pop(1)); '
             'from jupyterlab.labapp import main; main()')
    sys.exit(python('-c', begin, Path(__file__).parent, f'--ServerApp.root_dir={PROJECT}',
                    '--LabApp.default_url=/lab/tree/nbs/index.ipynb',
                    '--ContentsManager.pre_save_hook=lab.as_git_keeps_it',
                    *sys.argv[1:], *words('ARGS')))
