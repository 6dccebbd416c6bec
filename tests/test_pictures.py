"""A stored picture is its code's, as far as the two can be held together without running it."""
import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'nbs').glob('*.ipynb'))
DRAWS = re.compile(r'\bplt\.(?:figure|subplots|show)\b|\bshow_images\(|\bas_jpeg\(|\bImage\('
                   r'|\.(?:write_figure|plot|show)\(|\b(?:browse|contact_sheet)\('
                   r'|\bdisplay_id=') # the picture comes later
DEFINED = re.compile(r'^(@patch\n(?:@.*\n)*)?(def +|class +|(?=\w+ = lambda))(\w+)', re.MULTILINE)
CALLED = re.compile(r'(\w+)\(')
PLOTTED = re.compile(r'<Figure size ([\d.]+)x([\d.]+) with (\d+) Axes>')
# drawn before the cell's `figsize` was changed; its experiment has to run again
OLDER = set()


def code_of(notebook):
    "The cells of code, their source as one text."
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    return [c | dict(source=''.join(c['source'])) for c in cells if c['cell_type'] == 'code']


def drawing(sources): # names of functions that draw, or call what does
    "Of functions at the left margin; methods have names that anything may have."
    bodies = {}
    for source in sources:
        at = [*DEFINED.finditer(source)]
        for m, end in zip(at, [*(m.start() for m in at[1:]), len(source)]):
            if m[1] or m[2].startswith('class'): continue
            bodies[m[3]] = bodies.get(m[3], '') + source[m.end():end]
    called = {k: {*CALLED.findall(b)} for k, b in bodies.items()}
    found, more = set(), {k for k, b in bodies.items() if DRAWS.search(b)}
    while more:
        found |= more
        more = {k for k, names in called.items() if k not in found and names & more}
    return found


@pytest.fixture(scope='module')
def of_the_package(): return drawing(p.read_text(encoding='utf-8')
                                     for p in (ROOT / 'synthnb').glob('[a-z]*.py'))


def pictures(cell): # (PIL image, what the cell said of it in words)
    "The pictures that are stored under a cell."
    for output in cell['outputs']:
        data = output.get('data', {})
        for kind in {'image/png', 'image/jpeg'} & data.keys():
            image = Image.open(io.BytesIO(base64.b64decode(''.join(data[kind]))))
            yield image, ''.join(data.get('text/plain', ''))


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.stem)
def test_what_stores_a_picture_draws(notebook, of_the_package):
    cells = code_of(notebook)
    names = of_the_package | drawing(c['source'] for c in cells)
    idle = [c['id'] for c in cells if any(pictures(c)) and not DRAWS.search(c['source'])
            and not names & {*CALLED.findall(c['source'])}]
    assert not idle, f'{notebook.name}: a picture under cells that draw nothing, {idle}'


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.stem)
def test_a_stored_picture_has_the_size_and_the_panels_of_its_code(notebook):
    "A cell that was changed and not executed again shows its old picture."
    cells = code_of(notebook)
    themes = re.findall(r'set_theme\(dpi=(\d+)\)', ' '.join(c['source'] for c in cells))
    dpi = int(themes[0]) if themes else 80
    for cell in cells:
        where, source = f'{notebook.name}, cell {cell["id"]}', cell['source']
        sizes = re.findall(r'figsize=\(([\d.]+), ([\d.]+)\)', source)
        grids = re.findall(r'plt\.subplots\((\d+), (\d+)', source)
        for image, said in pictures(cell):
            if not (m := PLOTTED.search(said)): continue
            width, height, panels = float(m[1]), float(m[2]), int(m[3])
            assert .75*width < image.width < 1.35*width, (
                f'{where}: {image.width} pixels wide, drawn {width:g} wide')
            if len(sizes) == 1 and DRAWS.search(source) and 'show_images' not in source and (
                    notebook.stem, cell['id']) not in OLDER:
                wanted = [round(dpi*float(v), 1) for v in sizes[0]]
                assert [width, height] == pytest.approx(wanted, abs=1), (
                    f'{where}: drawn {width:g} x {height:g}, and figsize is now {wanted}: '
                    'run `make outputs`')
            if len(grids) == 1 and 'show_images' not in source:
                rows, columns = map(int, grids[0])
                assert rows > 1 or panels >= columns, f'{where}: {panels} panels of {columns}'
                assert columns > 5 or image.width >= 140*columns, (
                    f'{where}: {columns} panels in {image.width} pixels, less than 140 each')


def test_drawing_is_followed_through_what_is_called():
    package = '''
def chart(x): plt.plot(x)
def mean(x): return x.mean()
def both(x): return chart(mean(x))
'''
    assert drawing([package]) == {'chart', 'both'}
    assert drawing([package, 'def third(x): both(x)\ndef sum_of(x): return mean(x)']) == {
        'chart', 'both', 'third'}
