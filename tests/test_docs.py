"""The book as a site: contents, links, the reference, the ledger; built, where Jupyter Book is."""
import ast
import html
import importlib.util
import json
import posixpath
import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import docs
import links
import pytest
import reference
from browser import needs_chromium

ROOT = Path(__file__).resolve().parents[1]
STEMS = {p.stem for p in (ROOT/'nbs').glob('*.ipynb')}
BOOK = importlib.util.find_spec('jupyter_book')
needs_book = pytest.mark.skipif(BOOK is None, reason='Jupyter Book is not installed: `make docs` '
                                'does so in .venv, or pip install --editable ".[docs]"')


@pytest.fixture(scope='module')
def modules(): return reference.modules()


# ---- contents ------------------------------------------------------------------------------------
def test_the_contents_hold_every_notebook_once(modules):
    toc = docs.contents(modules)
    listed = Counter(c['file'] for part in toc['parts'] for c in part['chapters'])
    assert {*listed} - {'ledger', 'reference/index'} == STEMS - {'index'}
    assert max(listed.values()) == 1 and toc['root'] == 'index'
    told = [part['caption'].split()[0].strip(':') for part in toc['parts']]
    assert told == ['Choose', 'Balance', 'Search', 'Augment', 'Flip', 'Decide', 'Yours', 'The',
                    'Look']


def test_every_module_has_a_page_with_every_public_name(modules):
    assert {m.name for m in modules} == {
        p.stem for p in (ROOT/'synthnb').glob('[a-z]*.py')}
    for m in modules:
        page = reference.page(m, lambda cell: '')
        exported = ast.literal_eval(re.search(r'^__all__ = (\[.*?\])', m.source,
                                              re.MULTILINE | re.DOTALL)[1])
        headings = re.findall('^## (.*)$', page, re.MULTILINE)
        assert headings[:len(exported)] == exported, m.name


def test_a_page_says_what_docments_say(tmp_path):
    (tmp_path/'demo.py').write_text('''"""A claim."""
__all__ = ['SIDES', 'fold', 'Paper']

# %% ../nbs/99_demo.ipynb #0a1b
# how many
SIDES = 2

# %% ../nbs/99_demo.ipynb #0a1c
def fold(sheet:str|None, # a *sheet*, (h, w)
         # of the fold,
         # in degrees
         angle:float=1e-3, *, times=('a',
                                     2), # how often
         **more) -> list: # of $sheets$
    "Fold `it`. [ours]"

# %% ../nbs/99_demo.ipynb #0a1d
class Paper:
    "A sheet."
    def __init__(self, size:int): # in mm
        self.size = size

# %% ../nbs/99_demo.ipynb #0a1e
@patch
def cut(self:Paper,
        n, # of pieces
       ):
    "Cut it."
''')
    module, = reference.modules(tmp_path)
    page = reference.page(module, lambda cell: f'<{cell}>')
    for words in ("fold(sheet:str|None, angle:float=1e-3, *, times=('a', 2), **more) -> list",
                  r'* **`sheet`** (`str|None`): a \*sheet\*, (h, w)',
                  '* **`angle`** (`float`, default `1e-3`): of the fold, in degrees',
                  "* **`times`** (default `('a', 2)`): how often",
                  r'* returns `list`: of \$sheets\$',
                  'Fold `it`. \\[ours\\]', '* **`size`** (`int`): in mm', '## Paper',
                  'Paper(size:int)', '### Paper.cut', '* **`n`**: of pieces', 'SIDES = 2',
                  'how many', '<0a1c>'):
        assert words in page, (words, page)
    assert 'self' not in page


# ---- links ---------------------------------------------------------------------------------------
def links_of(text):
    "What a Markdown text points to, but for the web."
    text = re.sub(r'^```.*?^```|`[^`]*`', '', text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r'\]\((?!\w+:)([^)\s]+)\)|(?:src|href)="(?!\w+:)([^"]+)"', text)


def test_relative_links_of_the_notebooks_lead_somewhere():
    n, missing = 0, []
    for path in sorted((ROOT/'nbs').glob('*.ipynb')):
        for cell in json.loads(path.read_text())['cells']:
            if cell['cell_type'] != 'markdown': continue
            for link in map(''.join, links_of(''.join(cell['source']))):
                target = unquote(link.partition('#')[0])
                n += 1
                if target and not (path.parent/target).exists(): missing.append((path.name, link))
    assert not missing and n > 250, (n, missing)


def test_chapters_that_a_chapter_names_are_links():
    text = ('As *10_shapes* and the chapter *samplers* say, or 03_rl; `00_core`, '
            '`nbs/00_core.ipynb`.\n\n## 00_core\n\n[12_latent](12_latent.ipynb), *look*, '
            '02_samplers')
    assert links.linked(text, '12_latent') == (
        'As [10_shapes](10_shapes.ipynb) and the chapter [02_samplers](02_samplers.ipynb) say, or '
        '[03_rl](03_rl.ipynb); [00_core](00_core.ipynb), `nbs/00_core.ipynb`.\n\n## 00_core\n\n'
        '[12_latent](12_latent.ipynb), *look*, [02_samplers](02_samplers.ipynb)')
    for path in sorted((ROOT/'nbs').glob('*.ipynb')):
        for cell in json.loads(path.read_text())['cells']:
            if cell['cell_type'] != 'markdown': continue
            source = ''.join(cell['source'])
            assert links.linked(source, path.stem) == source, (
                f'{path.name} names a chapter without a link: run `python tools/links.py`')


def test_links_that_the_site_makes_lead_somewhere(modules):
    "From the reference to sections of chapters, from prose to names, and out to the repository."
    names = {n: m.name for m in modules for n in m.public}
    sections = {stem: [docs.slug(h) for c in docs.read(stem).cells if c.cell_type == 'markdown'
                       for h in re.findall('^#+ (.*)$', docs.fenceless(c.source), re.MULTILINE)]
                for stem in STEMS}
    found = [link for m in modules for link in docs.places(m.chapter).values()]
    for stem, slug in re.findall(r'\(\.\./(\w+)\.ipynb#([^)]+)\)', '\n'.join(found)):
        assert slug in sections[stem], (stem, slug)
    assert len(found) > 500
    text = docs.looked_up('`check_parameters` and `Run`, `[no]`, `other_name`\n\n## `ImageSet`\n',
                          names)
    assert text == ('[`check_parameters`](reference/core.md#check_parameters) and '
                    '[`Run`](reference/core.md#run), `[no]`, `other_name`\n\n## `ImageSet`\n')
    for stem in STEMS:
        for cell in docs.page_of(stem, names).cells:
            if cell.cell_type != 'markdown': continue
            for kind, path in re.findall(rf'{docs.HOME["url"]}/(blob|tree)/main/([^)#"\s]+)',
                                         cell.source):
                assert (ROOT/path).is_dir() == (kind == 'tree') and (ROOT/path).exists(), path
            for name, slug in re.findall(r'\]\(reference/(\w+)\.md#(\w+)\)', cell.source):
                assert any(slug == n.lower() and names[n] == name for n in names), (name, slug)


def test_directives_become_tags():
    page = docs.page_of('index', {})
    code = [c for c in page.cells if c.cell_type == 'code']
    assert code and all('remove-input' in c.metadata.tags for c in code)
    assert not any(c.source.startswith('#|') for c in page.cells)
    assert any('alt' in c.metadata.get('mystnb', {}).get('image', {}) for c in code)


def test_the_ledger_has_every_row():
    table = docs.verdicts()
    files = [(ROOT/p).read_text() for p in docs.VERDICTS]
    assert len(table) >= 500 and len(table) < sum(f.count('\n') for f in files)
    assert {'reproduced', 'undecided', 'reversed'} <= {*table.verdict}
    assert not table.verdict.str.contains('[:(]').any() and not table.isna()[
        ['verdict', 'claim', 'world', 'whose', 'where', 'why']].any().any()


# ---- built ---------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def site(tmp_path_factory): return docs.build(tmp_path_factory.mktemp('docs'))


@needs_book
def test_links_between_the_pages_lead_somewhere(site):
    pages = {p.relative_to(site).as_posix(): p.read_text() for p in site.rglob('*.html')
             if '_static' not in p.parts} # the theme's templates
    ids = {name: {*re.findall(r'\sid="([^"]+)"', text)} for name, text in pages.items()}
    n, broken = 0, []
    for name, text in pages.items():
        assert not re.findall(r'<script[^>]*src="(?:https?:)?//', text), f'{name} asks the network'
        text = re.sub('<script.*?</script>', '', text, flags=re.DOTALL)
        assert not re.findall(r'<(?:img|link)[^>]*(?:src|href)="(?:https?:)?//', text), (
            f'{name} asks the network')
        for link in re.findall(r'<\w[^<>]*?\s(?:href|src)="(?!\w+:|//)([^"]*)"', text):
            path, _, anchor = html.unescape(unquote(link)).partition('#')
            path = path.partition('?')[0]
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path or name))
            if not path: target = name
            n += 1
            there = target in ids if target.endswith('.html') else (site/target).exists()
            if not there or anchor and target in ids and anchor not in ids[target]:
                broken.append((name, link))
    print(f'{n:,} links on {len(pages)} pages')
    assert not broken and n > 10_000, broken[:20]
    assert {f'{s}.html' for s in STEMS} <= {*pages} and (
        site/'_static/mathjax/tex-mml-chtml.js').exists()


@needs_book
@needs_chromium
def test_the_ledger_sorts_and_filters_without_a_network(site, chromium):
    page, asked = chromium.new_page(), []
    page.on('request', lambda r: asked.append(r.url) if r.url.startswith('http') else None)
    page.goto((site/'ledger.html').as_uri())
    rows = page.locator('#ledger tbody tr')
    rows.first.wait_for(timeout=60_000)
    info = page.locator('.dt-info')
    everything = len(docs.verdicts())
    assert f'of {everything}' in info.inner_text().replace(',', '')
    page.locator('.dt-search input').fill('periodic')
    page.wait_for_function('document.querySelector(".dt-info").innerText.includes("filtered")')
    assert 'periodic' in ' '.join(rows.all_inner_texts()).lower()
    page.locator('.dt-search input').fill('')
    page.locator('#ledger th', has_text='ours').locator('.dt-column-order').click()
    ours = [float(t or 'nan') for t in page.eval_on_selector_all(
        '#ledger tbody tr', 'all => all.map(r => r.cells[6].innerText)')]
    known = [v for v in ours if v == v]
    assert known == sorted(known, reverse=True) and len(known) > 10
    assert not asked


@needs_book
@needs_chromium
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_pages_fit_a_phone_and_formulas_are_set(site, chromium, scheme):
    page = chromium.new_page(viewport=dict(width=390, height=844), color_scheme=scheme)
    for name in ('index', '06_noise', '14_verdict', 'reference/samplers', 'ledger'):
        page.goto((site/f'{name}.html').as_uri())
        assert page.evaluate('document.documentElement.scrollWidth') <= 390, name
        scales = page.evaluate('''[...document.querySelectorAll('.bd-article img')].map(
            i => i.getBoundingClientRect().width/Math.min(i.naturalWidth, 640))''')
        assert min(scales, default=1) > .55, f'{name}: figures too small to read'
        if name == '06_noise': page.locator('mjx-container').first.wait_for(timeout=60_000)
    page.locator('#ledger td').first.wait_for(timeout=60_000)
    shades = page.evaluate('''['body', '#ledger td'].map(s => getComputedStyle(
        document.querySelector(s)).color.match(/[0-9]+/g).slice(0, 3).map(Number))''')
    shades = [sum(rgb) for rgb in shades]
    assert all(s > 380 if scheme == 'dark' else s < 380 for s in shades), shades


@needs_book
@needs_chromium
def test_what_a_chapter_folds_is_folded_until_a_link_leads_there(site, chromium):
    page = chromium.new_page()
    page.goto((site/'06_noise.html').as_uri())
    cells = docs.read('06_noise').cells
    assert page.locator('details.folded').count() == sum(
        bool(c.metadata.get(docs.fold.SECTION)) and not way
        for c, way in zip(cells, docs.fold.folded(cells))) > 5
    assert not page.locator('details.folded[open]').count()
    last = page.locator('details.folded section[id]').last
    place = last.get_attribute('id')
    assert not last.is_visible()
    page.evaluate('id => { location.hash = id }', place)
    last.wait_for(timeout=20_000)
    assert page.locator('details.folded[open] > summary').all_inner_texts() == ['Fold']
