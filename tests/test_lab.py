"""JupyterLab: reading changes no file, a parameter is changed and what is below runs, bars go."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import environment
import fold
import nbformat
import pandas as pd
import outputs
import pytest
from browser import needs_chromium, run, served
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = 'index', '16_yours', '00i_judges'
BARS = '''import sys, time
from synthnb.core import progress, show_images
import numpy as np, torch
for i in progress(range(8), desc='at work'): time.sleep(.4)
print('done')
figure = show_images(torch.zeros(2, 3, 8, 8), ncols=2)
figure'''


# ---- run this cell and all below -----------------------------------------------------------------
def test_a_parameter_is_changed_and_all_below_runs_again(tmp_path):
    notebook = nbformat.read(ROOT/'nbs/14_verdict.ipynb', as_version=4)
    code = [c for c in notebook.cells if c.cell_type == 'code']
    first = next(i for i, c in enumerate(code) if 'parameters' in c.metadata.get('tags', ()))
    def cells(source, more): return [nbformat.v4.new_code_cell(source), *map(
        nbformat.v4.new_code_cell, more)]
    below = [c.source for c in code[first + 1:]]
    again = cells("scale = 'smoke'", below)
    wrong = cells("scale = 'smoke'\nscael = 'laptop'", below[:1])
    wrong[-1].metadata['tags'] = ['raises-exception']
    notebook.cells = code + again + wrong
    env = os.environ | dict(SYNTHNB_RUNS=str(tmp_path), MPLBACKEND='agg')
    client = NotebookClient(notebook, timeout=300, kernel_name='python3',
                            resources=dict(metadata=dict(path=str(ROOT/'nbs'))))
    client.execute(env=env)
    error = next(o for o in notebook.cells[-1].outputs if o.output_type == 'error')
    assert error.evalue.startswith('unknown parameter scael: '), error.evalue
    assert (tmp_path/'14_verdict'/'scale=smoke'/'metrics.json').exists()


# ---- what is saved -------------------------------------------------------------------------------
def picture(size):
    "A picture of many colours, as matplotlib would give it: base64."
    import base64
    import io

    import numpy as np
    from PIL import Image
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).resize((4*size, 4*size), Image.Resampling.BICUBIC).save(file, 'PNG')
    return base64.b64encode(file.getvalue()).decode()


def test_what_a_run_left_is_small_and_what_was_there_stays():
    new, large = nbformat.v4.new_output, picture(61)
    old = new('display_data', {'image/png': picture(60)})
    cell = nbformat.v4.new_code_cell('1', outputs=[
        old, new('display_data', {'image/png': large}), new('display_data', {}),
        new('display_data', {'text/html': pd.DataFrame(dict(a=[1]))._repr_html_()}),
        new('stream', text='a bar', name='stderr'), new('stream', text='said', name='stdout')])
    outputs.tidy(notebook := nbformat.v4.new_notebook(cells=[cell]),
                 {json.dumps(old, sort_keys=True)})
    kept, small, table, said = notebook.cells[0].outputs
    assert kept == old and said.text == 'said'
    assert len(next(iter(small.data.values()))) < .67*len(large)
    assert '<style' not in table.data['text/html'] and '<th>a</th>' in table.data['text/html']


# ---- the hooks of git ----------------------------------------------------------------------------
def test_an_environment_of_ones_own_gets_the_merge_driver(tmp_path, monkeypatch):
    subprocess.run(['git', 'init', '-q', tmp_path], check=True)
    for name in ('.gitattributes', '.gitconfig'): shutil.copy(ROOT/name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('CI', raising=False)
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    for _ in range(2): environment.hooks_here()
    assert Path(environment.driver()).name == 'nbdev_merge'
    assert 'nbdev_trust' in (tmp_path/'.git/hooks/post-merge').read_text()
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    if not (ROOT/'.git').is_dir(): return # a worktree
    asked = subprocess.run(['make', '-n', 'lab', f'PY={sys.executable}'], cwd=ROOT, text=True,
                           capture_output=True, check=True)
    assert 'environment.py --hooks' in asked.stdout


# ---- in a browser --------------------------------------------------------------------------------
@pytest.fixture
def project(tmp_path):
    "What `make lab` needs of this project, with three chapters and a notebook of one's own."
    shutil.copytree(ROOT/'tools', tmp_path/'tools')
    shutil.copy(ROOT/'settings.ini', tmp_path)
    shutil.copytree(ROOT/'nbs/images', tmp_path/'nbs/images')
    for name in CHAPTERS: shutil.copy(ROOT/f'nbs/{name}.ipynb', tmp_path/'nbs')
    nbformat.write(nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(BARS)], metadata=dict(kernelspec=dict(
            name='python3', display_name='python3', language='python'))), tmp_path/'nbs/bars.ipynb')
    return tmp_path


@pytest.fixture
def lab(project):
    "JupyterLab as `make lab` begins it, on the copy: its address."
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'MPLBACKEND')}
    with served(project, 'tools/lab.py', **env | dict(PYTHONPATH=str(ROOT))) as address:
        yield address


def opened(page, address, path):
    "The notebook, when it stands."
    page.goto(address + path, timeout=120_000)
    page.locator('.jp-Notebook .jp-Cell').first.wait_for(timeout=120_000)
    page.wait_for_timeout(3000) # it settles


def save(page):
    "Save what is open, and wait for the server's answer."
    with page.expect_response(lambda r: r.request.method == 'PUT' and 'contents' in r.url) as said:
        page.keyboard.press('Control+s')
    assert said.value.ok, said.value.status


@pytest.mark.ci
@pytest.mark.long
@needs_chromium
def test_reading_changes_no_file_and_bars_leave_nothing(lab, project, chromium):
    page = chromium.new_page(viewport=dict(width=1400, height=1000))
    opened(page, lab, '/')
    assert page.url.endswith('/lab/tree/nbs/index.ipynb'), page.url
    for name in CHAPTERS:
        opened(page, lab, f'/lab/tree/nbs/{name}.ipynb?reset')
        cells = json.loads((ROOT/f'nbs/{name}.ipynb').read_text())['cells']
        path = sum(way != 'section' for way in fold.folded(cells))
        page.wait_for_function('n => [...document.querySelectorAll(".jp-Notebook .jp-Cell")]'
                               '.filter(c => c.offsetHeight).length == n', arg=path)
        save(page)
        assert (project/f'nbs/{name}.ipynb').read_bytes() == (
            ROOT/f'nbs/{name}.ipynb').read_bytes(), f'{name} was read, and is another file'
    opened(page, lab, '/lab/tree/nbs/bars.ipynb?reset')
    run(page, 0)
    page.get_by_text('at work:').wait_for(timeout=120_000) # the bar is there
    page.get_by_text('done', exact=True).wait_for(timeout=120_000)
    page.locator('.jp-OutputArea-output img').first.wait_for(timeout=120_000)
    assert page.get_by_text('at work:').count() == 0
    assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    assert page.locator('.jp-OutputArea-output img').count() == 1, 'a figure is shown once'
    assert page.locator('.jp-OutputArea-child').count() == 2, 'nothing is where the bar was'
    save(page)
    cell, *_ = nbformat.read(project/'nbs/bars.ipynb', as_version=4).cells
    assert [o.output_type for o in cell.outputs] == ['stream', 'execute_result']
