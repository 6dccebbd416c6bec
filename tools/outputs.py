"""`make outputs NAMES="07_affectnet index"`: execute notebooks and keep what they show.

It is made small enough for git: progress bars are dropped, pictures lose colours that nobody sees,
large ones become JPEG, tables lose the style sheet that pandas gives each of them, and execution
counts go with nbdev_clean. No NAMES: all notebooks.
"""
import base64
import io
import json
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from typed import words

# What a table of pandas can do without: its style sheet, for JupyterLab has its own, and a line per
# cell: a line per row makes the smaller file and the better diff.
NEEDLESS = re.compile(r'<style scoped>.*?</style>\n|\n\s*(?=<t[hd]|</tr)', re.DOTALL)
WIDGET = 'application/vnd.jupyter.widget-view+json'
NBS = Path(__file__).resolve().parents[1] / 'nbs'


def smaller(png, colours=96):
    "A PNG in base64 of so many colours, rare ones too, if that makes it smaller by a third"
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
    out = io.BytesIO()
    few = image.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(out, 'PNG', optimize=True)
    reduced = base64.b64encode(out.getvalue()).decode()
    return reduced if len(reduced) < .67 * len(png) else png


def as_jpeg(png, quality=30, large=60_000):
    "A large PNG in base64 as a JPEG, if that makes it smaller by a quarter; else None"
    if len(png) < large: return None
    out = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
    image.save(out, 'JPEG', quality=quality, optimize=True)
    reduced = base64.b64encode(out.getvalue()).decode()
    return reduced if len(reduced) < .75 * len(png) else None


def shown(output):
    "Whether an output is worth keeping: no bar on stderr, and none that went from its cell."
    return output.get('name') != 'stderr' and output.get('data') != {}


def tidy(notebook, kept=()):
    "What is worth keeping of a notebook's outputs; those whose JSON is in `kept` are small already"
    notebook.metadata.pop('widgets', None)
    for cell in notebook.cells:
        if cell.cell_type != 'code': continue
        cell.metadata.pop('execution', None)
        cell.outputs = [o for o in cell.outputs if shown(o)]
        for output in cell.outputs:
            if kept and json.dumps(output, sort_keys=True) in kept: continue
            output.get('data', {}).pop(WIDGET, None) # a stored widget has no state: an error
            if html := output.get('data', {}).get('text/html'):
                output.data['text/html'] = NEEDLESS.sub('', ''.join(html))
            png = output.get('data', {}).get('image/png')
            if not png: continue
            output.data['image/png'] = png = smaller(png.replace('\n', ''))
            if jpeg := as_jpeg(png):
                del output.data['image/png']
                output.data['image/jpeg'] = jpeg
    return notebook


def execute(path):
    "Run one notebook as JupyterLab would, in its own folder, and write it back"
    start, notebook = time.time(), nbformat.read(path, as_version=4)
    language = notebook.metadata.pop('language_info', None)
    NotebookClient(notebook, timeout=None, kernel_name='python3',
                   resources={'metadata': {'path': str(path.parent)}}).execute()
    notebook.metadata.pop('language_info', None)
    if language: notebook.metadata['language_info'] = language
    nbformat.write(tidy(notebook), path)
    size = path.stat().st_size / 1000
    print(f'{path.name}: {time.time() - start:.0f} s, {size:.0f} KB', flush=True)


if __name__ == '__main__':
    named = [NBS / f'{Path(n).stem}.ipynb' for n in sys.argv[1:] + words('NAMES')]
    for path in named or sorted(NBS.glob('*.ipynb')): execute(path)
