"""What must hold between the files: notebooks and package in sync, and clean; README rendered."""
import ast
import configparser
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import readme
import reads

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'nbs').glob('*.ipynb'))
EXPERIMENTS = (*range(7, 17),)


def load(notebook): return json.loads(notebook.read_text(encoding='utf-8'))


def name_of(notebook): return notebook.stem


def nbdev(command, cwd):
    "Run an nbdev command in `cwd`. Under IN_TEST nbdev_export would do nothing, and say nothing."
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    done = subprocess.run([Path(sys.executable).parent / command], cwd=cwd,
                          env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path):
    "A copy of what nbdev reads"
    for name in ('settings.ini', 'pyproject.toml'): shutil.copy(ROOT / name, tmp_path)
    (tmp_path / 'nbs').mkdir()
    for notebook in NOTEBOOKS: shutil.copy(notebook, tmp_path / 'nbs')
    return tmp_path


def test_package_is_what_the_notebooks_export(project):
    package = project / 'synthnb'
    package.mkdir()
    shutil.copy(ROOT / 'synthnb/__init__.py', package)
    nbdev('nbdev_export', project)
    exported, committed = ({p.name for p in d.glob('*.py')} for d in (package, ROOT / 'synthnb'))
    assert exported == committed, ('a module without a notebook, or the other way round: '
                                   'run `make prepare`')
    _, differ, unreadable = filecmp.cmpfiles(package, ROOT / 'synthnb', exported, shallow=False)
    assert not differ + unreadable, (f'{differ + unreadable} are not what the notebooks export: '
                                     'run `make prepare`')
    assert (project / 'pyproject.toml').read_text() == (ROOT / 'pyproject.toml').read_text()


@pytest.mark.parametrize('module', sorted((ROOT / 'synthnb').glob('[a-z]*.py')), ids=name_of)
def test_a_module_says_its_chapters_whole_claim(module):
    "nbdev takes the first line of the quotation, so a claim is one line in its notebook."
    claim = ast.get_docstring(ast.parse(module.read_text(encoding='utf-8')))
    assert claim.endswith(('.', '?')), claim


def test_lines_of_the_package():
    "Ruff holds the notebooks to 100 characters; nbdev writes two things wider than that."
    for module in sorted((ROOT / 'synthnb').glob('[a-z]*.py')):
        lines = module.read_text(encoding='utf-8').splitlines()
        names = next(i for i, line in enumerate(lines) if line.startswith('__all__'))
        end = next(i for i in range(names, len(lines)) if lines[i].endswith(']'))
        own = [(i, line) for i, line in enumerate(lines, 1) if i > end + 1 or 1 < i < names]
        long = [f'{module.name}:{i}' for i, line in own if len(line) > 100]
        assert not long, f'{long}: more than 100 characters'


def test_notebooks_are_clean(project):
    nbdev('nbdev_clean', project)
    dirty = [n.name for n in NOTEBOOKS if (project / 'nbs' / n.name).read_bytes() != n.read_bytes()]
    assert not dirty, f'{dirty} hold metadata that nbdev_clean removes: run `make prepare`'


def test_cleaning_keeps_the_parameters_tag(project):
    # Without it papermill warns in its log, injects at the top, and the defaults win.
    notebook = load(NOTEBOOKS[0])
    notebook['cells'] = [{'cell_type': 'code', 'source': ['a = 1'], 'outputs': [],
                          'execution_count': 3, 'id': 'abc',
                          'metadata': {'tags': ['parameters'], 'scrolled': True}}]
    path = project / 'nbs/99_probe.ipynb'
    path.write_text(json.dumps(notebook))
    nbdev('nbdev_clean', project)
    cell, = load(path)['cells']
    assert cell['metadata'] == {'tags': ['parameters']} and cell['execution_count'] is None


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=name_of)
def test_parameters_cell(notebook):
    number = re.match(r'(\d\d)', notebook.name)
    expected = 1 if number and int(number[1]) in EXPERIMENTS else 0
    tagged = [c for c in load(notebook)['cells'] if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == expected, (f'{len(tagged)} cells are tagged `parameters`, '
                                     f'expected {expected}')
    for cell in tagged:
        assert cell['cell_type'] == 'code'
        for node in ast.parse(''.join(cell['source'])).body:
            assert isinstance(node, ast.Assign), 'a parameters cell holds assignments only'
            ast.literal_eval(node.value)


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=name_of)
def test_notebook_reads_well(notebook):
    cells = load(notebook)['cells']
    code = [c for c in cells if c['cell_type'] == 'code']
    failed = [o['ename'] for c in code for o in c['outputs'] if o['output_type'] == 'error']
    assert not failed, f'a saved error: {failed}'
    longest = max((sum(bool(line.strip()) for line in c['source']) for c in code), default=0)
    assert longest <= 25, f'a cell of {longest} lines; 25 is the most'
    assert len(cells) - len(code) >= len(cells) / 4, (
        f'{len(cells) - len(code)} of {len(cells)} cells are prose')
    assert notebook.stat().st_size < 300_000, (f'{notebook.stat().st_size} bytes; '
                                               '300,000 is the most')


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=name_of)
def test_sentences_are_short(notebook):
    "tools/reads.py prints the long ones: python tools/reads.py nbs/X.ipynb --sentences."
    row = reads.reads(notebook, all=True)
    assert row['a_sentence'] <= 18.6 and row['over'] <= 10, (
        f"{row['a_sentence']:.1f} words a sentence, {row['over']:.0f}% of more than 30 words")


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=name_of)
def test_a_chapter_is_read_in_twenty_minutes(notebook):
    "What is not folded: python tools/reads.py nbs/X.ipynb; python tools/fold.py nbs/X.ipynb."
    if notebook.stem == 'index': return
    row, experiment = reads.reads(notebook), notebook.stem >= '07'
    assert row['cells'] <= 80 and row['words'] <= (2200 if experiment else 1800), row
    assert row['characters'] <= 457 and row['wide'] == 0, row
    if not experiment and row['definitions'] > 1:
        assert row['shown'] >= 44 and row['run'] <= 12, row


def test_package_needs_no_development_tool():
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'settings.ini')
    names = (set(re.findall(
        r'^[\w.-]+', ' '.join(settings['DEFAULT'][key].split()).replace(' ', '\n'), re.MULTILINE))
             for key in ('requirements', 'dev_requirements'))
    needed, for_development = names
    assert 'nbdev' in for_development and not needed & for_development
    for module in (ROOT / 'synthnb').glob('*.py'):
        tree = ast.walk(ast.parse(module.read_text(encoding='utf-8')))
        imported = {n for node in tree for n in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else
            [node.module] if isinstance(node, ast.ImportFrom) and not node.level else [])}
        assert not {n.split('.')[0] for n in imported} & for_development, (
            f'{module.name} imports {imported}')


def test_readme_is_the_index_notebook():
    text, pictures = readme.render()
    assert (ROOT / 'README.md').read_text(encoding='utf-8') == text, (
        'not nbs/index.ipynb: run `make readme`')
    for path, content in pictures.items():
        assert (ROOT / path).read_bytes() == content, (
            f'{path} is not the picture in nbs/index.ipynb: run `make readme`')
    stale = {f'{readme.IMAGES}/{p.name}'
             for p in (ROOT / readme.IMAGES).glob('readme_*')} - set(pictures)
    assert not stale, f'{stale} are shown nowhere: run `make readme`'


def test_first_pictures_are_those_of_their_cells():
    pictures = readme.first_pictures()
    for path, content in pictures.items():
        assert (ROOT / path).read_bytes() == content, f'{path} is old: run `make readme`'
        name = Path(path).name
        chapter = ROOT / 'nbs' / f"{Path(path).stem.removeprefix('first_')}.ipynb"
        screen = [''.join(c['source']) for c in load(chapter)['cells'][:4]
                  if c['cell_type'] == 'markdown']
        assert any(re.search(rf'!\[[^\]]+\]\(images/{name}\)', s) for s in screen), (
            f'the first screen of {chapter.name} does not show images/{name}')
    stale = {f'{readme.IMAGES}/{p.name}'
             for p in (ROOT / readme.IMAGES).glob('first_*')} - set(pictures)
    assert not stale, f'{stale} are shown nowhere: run `make readme`'


@pytest.mark.parametrize('path', ['README.md', *(f'nbs/{p.name}' for p in NOTEBOOKS)])
def test_commands_of_papermill_say_where_to_write(path):
    text = (ROOT / path).read_text(encoding='utf-8')
    if path.endswith('.ipynb'): text = '\n'.join(
        ''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown')
    for command in re.findall(r'papermill\s+nbs/[^\n`]*', text):
        words = command.split()
        assert len(words) > 2 and re.fullmatch(r'/dev/null|[\w./-]+\.ipynb', words[2]), command


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    links = re.findall(r'\]\((?!\w+:|#)([^)#\s]+)|(?:src|href)="(?!\w+:|#)([^"#]+)', text)
    missing = [a or b for a, b in links if not (ROOT / (a or b)).exists()]
    assert not missing, f'README.md points to {missing}'
