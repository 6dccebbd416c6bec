"""What comes with the book in the place of a training: that it is what the book asks for."""
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shipped as tool
import torch
from apart import Apart, lines
from PIL import Image

from synthnb import clip, core, people, train, words

ROOT = Path(__file__).resolve().parent.parent
SHORT = dict(oracle=dict(n=64, width=8, updates=2, batch_size=16),
             attributes=dict(n=64, width=8, updates=2, batch_size=16),
             clip=dict(size=64, n_pictures=40, updates=2, batch_size=8),
             people=dict(channels=(8, 8, 8), w=8, reading=2, batch=2, updates=2),
             words=dict(size=64, width=4, dim=16, updates=2, batch_size=8, n_pictures=16))


def made_now(stage):
    "The identity that the code of today would write."
    _, make, params = tool.asked(stage, tool.RECIPES[stage])
    return dict(stage=stage, params=json.loads(json.dumps(params, default=core.content_of)),
                code=[[*part] for part in sorted(core.code_parts(make, written=True))])


@pytest.mark.parametrize('stage', tool.RECIPES)
def test_what_is_shipped_is_what_this_code_would_make(stage):
    there, now = core.what_made(ROOT/'synthnb'/'shipped'/f'{stage}.safetensors'), made_now(stage)
    todo = f'run make shipped ARGS="--only {stage}"'
    assert there['params'] == now['params'], f'another recipe: {todo}'
    differs = {name for name, _ in {*map(tuple, there['code'])} ^ {*map(tuple, now['code'])}}
    assert not differs, f'{sorted(differs)} changed: {todo}'
    assert core.shipped(*tool.asked(stage, tool.RECIPES[stage])), 'and it is used'


@pytest.mark.parametrize('stage', tool.RECIPES)
def test_its_code_is_named_as_it_is_written(stage):
    "Compiled code has other names in another Python, and the book is made with one of them."
    make, before = tool.asked(stage, tool.RECIPES[stage])[1], core.spelled
    core.code_parts(make, written=True) # what is compiled is looked at once
    core.digest_of_source.cache_clear()
    core.spelled = lambda code: pytest.fail(f'{code.co_filename}:{code.co_firstlineno}: no source')
    try: assert core.code_parts(make, written=True)
    finally: core.spelled = before


def cells(notebook): return [''.join(c['source']) for c in json.loads(
    (ROOT/'nbs'/f'{notebook}.ipynb').read_text())['cells'] if c['cell_type'] == 'code']


class Asked(Exception):
    "What a notebook asked for."


def asked_by(notebook, fit, marks, **given):
    "What a notebook's cells with these marks ask of `fit` at laptop scale, as it is declared."
    space = core.declared_parameters(ROOT/'nbs'/f'{notebook}.ipynb')
    def ask(*args, **kw): raise Asked(args, kw)
    for mark in ('declared_parameters(', *marks, f'{fit}('):
        code, = [c for c in cells(notebook) if mark in c]
        try: exec(compile(code, notebook, 'exec'), space)
        except Asked as e: return e.args
        space |= given | {fit: ask}
    pytest.fail(f'{notebook} does not ask for {fit}')


@pytest.mark.parametrize('stage, notebook, fit', [
    ('oracle', '07_affectnet', 'fit_oracle'), ('attributes', '08_celeba', 'fit_attribute_oracle')])
def test_the_default_runs_ask_for_it(stage, notebook, fit):
    from synthnb.drawn import EXPRESSIONS
    marks = "columns=['name', 'what', 'smoke'", 'place = pd.DataFrame(', 'tested = base |'
    args, kw = asked_by(notebook, fit, marks, classes=list(EXPRESSIONS), scoring=SimpleNamespace(),
                        device=torch.device('cpu'), plateau=True)
    ask = train.asked_oracle if stage == 'oracle' else train.asked_attribute_oracle
    args = [a for a in args if not isinstance(a, torch.device)]
    assert ask(*args, **kw) == tool.asked(stage, tool.RECIPES[stage]), (
        f'{notebook} asks for another network: adapt RECIPES of tools/shipped.py, run make shipped')


def test_the_shapes_ask_for_it():
    call, = [c for c in cells('10_shapes') if 'return fit_text_image(' in c]
    assert 'fit_text_image(size=64, seed=0, device=device, **options)' in call
    assert tool.asked('clip', tool.RECIPES['clip']) == clip.asked_clip(clip.ClipConfig(size=64), 0)


# ---- made anew -----------------------------------------------------------------------------------
@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder of what is shipped, of these tests alone."
    monkeypatch.setenv('SYNTHNB_SHIPPED', str(tmp_path/'shipped'))
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    monkeypatch.setattr(core, 'USED', {})
    return tmp_path/'shipped'


def short(stage): return {k: v for k, v in (tool.RECIPES[stage] | SHORT[stage]).items()}


def fit(stage, **changes):
    recipe = short(stage) | changes
    if stage == 'clip': return clip.fit_text_image(device='cpu', **recipe)[0].model
    if stage == 'people': return people.fit_people(people.PeopleConfig(**recipe), device='cpu')
    if stage == 'words': return words.fit_words(device='cpu', **recipe).model
    ask = train.fit_oracle if stage == 'oracle' else train.fit_attribute_oracle
    return ask(device='cpu', **recipe).net


def remake(stage): return tool.remake(stage, fresh=64, costs=1., **SHORT[stage])


@pytest.mark.parametrize('stage', tool.RECIPES)
def test_made_anew_it_is_taken_and_is_what_was_trained(stage, place, capsys):
    alone = fit(stage).state_dict()
    assert 'shipped' not in capsys.readouterr().out, 'there is none yet'
    path = remake(stage)
    assert path.parent == place and 'before rounding' in capsys.readouterr().out
    taken = fit(stage).state_dict()
    assert f'{stage:<12}' in (said := capsys.readouterr().out) and 'shipped' in said
    assert 'made in' not in said and core.USED[stage], 'nothing is trained, and the record tells'
    for name, value in alone.items():
        wide = value.is_floating_point() and value.dim() > 1
        assert taken[name].dtype == value.dtype
        assert torch.equal(taken[name], value.half().float() if wide else value), name
    whole = path.read_bytes()
    path.unlink()
    assert remake(stage).read_bytes() == whole, 'the same bytes'


def test_what_is_not_the_same_is_trained(place, capsys):
    path = remake('oracle')
    capsys.readouterr()
    def trains(**changes):
        core.USED.clear()
        fit('oracle', **changes)
        said = capsys.readouterr().out
        assert 'classifier' in core.USED and 'oracle' not in core.USED and 'made in' in said
        return said
    assert 'other code' not in trains(updates=3), 'other parameters need no word'
    assert 'oracle ' not in trains(classes=['fear', 'anger'])
    whole = path.read_bytes()
    for torn in (whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(torn)
        core_said = fit('oracle', lr=.002) is not None and capsys.readouterr().out
        assert 'is damaged' in core_said and 'make shipped' in core_said


EDITS = {'train.py': ('+= 1\n    if self.average is not', '+= 1 + 0\n    if self.average is not'),
         'data.py': ('"The classes to work with; an', '# said otherwise\n    "The classes; an'),
         'drawn.py': ('spread:float=.22, # with which the', 'spread:float=.23, # with which the')}


def test_other_code_is_told_and_what_does_not_count_is_not(place, tmp_path):
    "In a copy: a training's step is edited, a docstring, and what no oracle needs."
    remake('oracle')
    shutil.copytree(ROOT/'synthnb', tmp_path/'synthnb',
                    ignore=shutil.ignore_patterns('__pycache__', 'shipped'))
    for name, (old, new) in EDITS.items():
        module = tmp_path/'synthnb'/name
        assert module.read_text().count(old) == 1, old
        module.write_text(module.read_text().replace(old, new))
    program = (f'import sys, json; sys.path.insert(0, {str(tmp_path)!r}); '
               'from synthnb import train; '
               'train.fit_oracle(device="cpu", **json.loads(sys.argv[1]))')
    process = Apart(lines, program, json.dumps(short('oracle')), cwd=tmp_path, split=True)
    said, wrong = process.communicate(timeout=300)
    assert process.returncode == 0, wrong[-2000:]
    assert 'made by other code (ClassifierTraining.update); `make shipped` renews it' in said
    assert 'made in' in said and 'shipped\n' not in said


def test_rounding_that_costs_is_refused(place, monkeypatch):
    worse = iter([{'faces': .98}, {'faces': .97}])
    monkeypatch.setattr(tool, 'scores', lambda *args: next(worse))
    with pytest.raises(SystemExit, match='costs more than 0.2%: 97.00% of faces right'):
        tool.remake('oracle', **SHORT['oracle'])
    assert not place.exists() or not [*place.iterdir()]


def test_a_wheel_holds_it(tmp_path):
    pytest.importorskip('setuptools', '77')
    for name in ('setup.py', 'settings.ini', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT/name, tmp_path)
    shutil.copytree(ROOT/'synthnb', tmp_path/'synthnb')
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '.', '--quiet', '--no-deps',
                           '--no-build-isolation'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    wheel, = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert {f'synthnb/shipped/{stage}.safetensors' for stage in tool.RECIPES} <= {*names}


# ---- the first picture ---------------------------------------------------------------------------
NOTEBOOK = ["import matplotlib.pyplot as plt, time\nfrom synthnb.core import *",
            "run = Run('small', {}, {})\nrun.write_figure('one', plt.figure())",
            "run.write_figure('two', plt.figure())\ntime.sleep(1)\nprint('later')",
            "from IPython.display import Markdown\n"
            "Markdown('<img src=x onerror=alert(1)> **bold**')",
            "measured = run.write_metrics({}, device='cpu')"]


@pytest.mark.long
def test_make_run_says_where_the_first_picture_is(tmp_path):
    import nbformat
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in NOTEBOOK])
    (tmp_path/'nbs').mkdir()
    (tmp_path/'settings.ini').touch()
    nbformat.write(book, tmp_path/'nbs'/'small.ipynb')
    done = subprocess.run([sys.executable, ROOT/'tools'/'run.py', 'small'], cwd=tmp_path, text=True,
                          capture_output=True, env={k: v for k, v in os.environ.items()
                                                    if k != 'SYNTHNB_RUNS'}
                          | dict(JUPYTER_PREFER_ENV_PATH='1'))
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    told, = [line for line in lines if line.startswith('First picture: ')]
    assert lines.index(told) < lines.index('later'), 'while the run goes on'
    path = Path(told.removeprefix('First picture: '))
    assert path.name == 'one.png' and np.asarray(Image.open(path)).size
    assert 'The record:' in done.stdout and str(path.parent.parent) in done.stdout
    page = (path.parent.parent/'notebook.html').read_text()
    assert '<strong>bold</strong>' in page and not re.search(r'<img[^>]*onerror', page)
