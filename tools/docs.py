"""`make docs`: the book as a site in _docs/, from the notebooks as they are, without a network.

Jupyter Book builds it, with what config/docs.yaml says; nothing is executed. This file writes what
it reads to _docs/src: each notebook with nbdev's directives turned into tags, a page a module
(tools/reference.py), the ledger of verdicts as a table that sorts and filters, and the contents,
which are the table of chapters in nbs/index.ipynb.
"""
import os
import posixpath
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import fold
import nbformat
import pandas as pd
import reference
import yaml
from fold import fenceless
from readme import DIRECTIVE, LINKS
from run import shown

ROOT = Path(__file__).resolve().parents[1]
NBS, OUT, CONFIG = ROOT / 'nbs', ROOT / '_docs', ROOT / 'config'
SETTINGS = yaml.safe_load((CONFIG / 'docs.yaml').read_text())
HOME = SETTINGS['repository'] # where the files are that are no pages
VERDICTS = [f'runs/14_verdict/default/tables/{name}.csv'
            for name in ('verdicts', 'verdicts_photographs')]
_ROW = re.compile(r'^\|([^|]*)\| \[(\w+)\]\(\2\.ipynb\) \|', re.MULTILINE)
_FENCE = re.compile(r'(^```.*?^```|^#.*?$)', re.MULTILINE | re.DOTALL) # and headings
_NAME = re.compile(r'(?<![\[`\w])`(\w*[A-Z_]\w*)(\(\))?`(?![\]`\w])')


BELOW = '\n\n<div class="folded-below"></div>\n' # what config/docs.js goes by


def read(stem): return nbformat.read(NBS / f'{stem}.ipynb', as_version=4)


def title_of(notebook): return re.match(r'# (.*)', notebook.cells[0].source)[1]


def stories():
    "{story: [chapter]}, in the order of the table on the front page."
    found = {}
    for cell in read('index').cells:
        for story, chapter in _ROW.findall(cell.source) if cell.cell_type == 'markdown' else ():
            if story.strip() or not found: last = re.sub(r'\*\*', '', story).strip()
            found.setdefault(last, []).append(chapter)
    return found


def contents(modules):
    "What Jupyter Book calls _toc.yml."
    def chapter(stem): # by its number, as everybody calls it
        return dict(file=stem, title=f'{stem.partition("_")[0]} · {title_of(read(stem))}')
    parts = [dict(caption=story, chapters=[*map(chapter, stems)])
             for story, stems in stories().items()]
    parts.append(dict(caption='Look up', chapters=[
        dict(file='ledger', title='Every claim and its verdict'),
        dict(file='reference/index', title='Every module and its names',
             sections=[dict(file=f'reference/{m.name}', title=m.name) for m in modules])]))
    return dict(format='jb-book', root='index', parts=parts)


def outside(text, at='nbs'):
    "Links to what is no page of the site, made links to the repository."
    def there(m):
        path, hash, anchor = m[2].partition('#')
        target = posixpath.normpath(posixpath.join(at, path))
        if target.startswith('nbs/'): return m[0]
        kind = 'tree' if (ROOT / target).is_dir() else 'blob'
        return f'{m[1]}{HOME["url"]}/{kind}/{HOME["branch"]}/{target}{hash}{anchor}'
    return LINKS.sub(there, text)


def looked_up(text, names):
    "Names in prose, as links to where they are explained."
    def link(m):
        if m[1] not in names: return m[0]
        return f'[{m[0]}](reference/{names[m[1]]}.md#{m[1].lower()})'
    parts = _FENCE.split(text)
    return ''.join(p if i % 2 else _NAME.sub(link, p) for i, p in enumerate(parts))


def deeper(text):
    "Headings a level lower."
    parts = re.split(r'(^```.*?^```)', text, flags=re.MULTILINE | re.DOTALL)
    return ''.join(p if i % 2 else re.sub('^(#+ )', r'#\1', p, flags=re.MULTILINE)
                   for i, p in enumerate(parts))


def has_parts(notebook):
    "Whether a chapter has more than one heading of the first level; a page has one title."
    return any(re.search('^# ', fenceless(c.source), re.MULTILINE)
               for c in notebook.cells[1:] if c.cell_type == 'markdown')


def page_of(stem, names):
    "A notebook as Sphinx is to see it: directives as tags, and without what is hidden."
    notebook, kept = read(stem), []
    if has_parts(notebook):
        for cell in notebook.cells[1:]:
            if cell.cell_type == 'markdown': cell.source = deeper(cell.source)
    notebook.metadata['language_info'] = dict(name='python') # nbdev_clean removes it
    for cell, way in zip(notebook.cells, fold.folded(notebook.cells)):
        if cell.cell_type == 'markdown':
            cell.source = looked_up(outside(cell.source), names)
            if cell.metadata.get(fold.SECTION) and not way: cell.source += BELOW
        else:
            said = dict(DIRECTIVE.findall(cell.source))
            cell.source = DIRECTIVE.sub('', cell.source).strip('\n')
            if 'hide' in said or 'default_exp' in said or not cell.source: continue
            if said.get('echo') == 'false': cell.metadata.setdefault('tags', []).append(
                'remove-input')
            elif fold.source_hidden(cell): cell.metadata.setdefault('tags', []).append('hide-input')
            if said.get('fig-alt'): cell.metadata['mystnb'] = dict(
                image=dict(alt=said['fig-alt'].replace('"', '')))
            for o in cell.outputs:
                for kind in ('text/html', 'text/markdown'):
                    if kind in o.get('data', {}): o.data[kind] = outside(o.data[kind])
        kept.append(cell)
    notebook.cells = kept
    return notebook


def slug(heading):
    "The anchor that MyST gives a heading; None for one with more than words and code in it."
    if re.search(r'[$\[\]*<]', heading): return None
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


def places(stem):
    "{id of a cell: link to the section that it stands in}, as a page in reference/ writes it."
    notebook, found, section = read(stem), {}, None
    number = stem.partition('_')[0]
    for cell in notebook.cells[1:]:
        if cell.cell_type == 'markdown':
            for heading in re.findall(r'^#+ (.*)$', fenceless(cell.source), re.MULTILINE):
                section = heading
        elif section and slug(section):
            found[cell.id] = (f'*In the chapter:* [{number}, {section}]'
                              f'(../{stem}.ipynb#{slug(section)})')
    return found


def overview(modules):
    "The first page of the reference."
    rows = '\n'.join(f'| [{m.name}]({m.name}.md) | [{m.chapter}](../{m.chapter}.ipynb) '
                     f'| {len(m.public)} | {reference.plain(m.claim).replace("|", "")} |'
                     for m in modules)
    return ('# Every module and its names\n\nEach module is exported from one chapter. Its page '
            'lists what `from synthnb.<module> import *` takes: how it is called, what each '
            'argument means, and where the chapter explains it. For example, '
            '[samplers](samplers.md) has `select`, which lets a sampler choose from a pool.\n\n'
            f'| module | chapter | names | its claim |\n|---|---|---|---|\n{rows}\n')


def verdicts(root=ROOT):
    "All rows of 14's verdicts, drawn and photographs, with the columns that a reader wants."
    rows = pd.concat([pd.read_csv(root / p) for p in VERDICTS], ignore_index=True)
    parts = rows.verdict.str.extract(r'(?P<kind>.*?)(?:: `?| \()(?P<why>.*?)[`)]*$')
    beside = [f', beside {c}' if isinstance(c, str) and c not in claim else ''
              for claim, c in zip(rows.claim, rows.compared)]
    shown = [f'[{lo:.3g}, {hi:.3g}]' if lo == lo else '' for lo, hi in zip(rows.lo, rows.hi)]
    return pd.DataFrame({
        'verdict': parts.kind.fillna(rows.verdict), 'claim': rows.claim + beside,
        'world': rows.world.fillna(''), 'whose': rows.whose, 'where': rows['where'].fillna(''),
        "the paper's": rows.paper, 'ours': rows.ours, 'interval': shown, 'seeds': rows.seeds,
        'why': parts.why.fillna(''), 'about': rows.about.fillna('')})


def ledger(table):
    "A table that sorts and filters, as HTML that needs nothing from elsewhere."
    from itables import options, to_html_datatable
    from itables.javascript import generate_init_offline_itables_html
    filters = [table.columns.get_loc(c) for c in ('verdict', 'world', 'whose')]
    numbers = [table.columns.get_loc(c) for c in table.select_dtypes('number')]
    with pd.option_context('display.float_format', '{:.4g}'.format): html = to_html_datatable(
        table, connected=False, display_logo_when_loading=False, maxBytes=0, showIndex=False,
        table_id='ledger', classes='display compact', style='width:100%', pageLength=25,
        lengthMenu=[25, 100, len(table)], layout=dict(top1='searchPanes'),
        searchPanes=dict(layout='columns-3', initCollapsed=True, orderable=False,
                         cascadePanes=True),
        columnDefs=[dict(searchPanes=dict(show=True), targets=filters),
                    dict(searchPanes=dict(show=False), targets=[
                        i for i in range(table.shape[1]) if i not in filters]),
                    dict(orderSequence=['desc', 'asc', ''], targets=numbers)]) # NaN comes last
    return generate_init_offline_itables_html(options.dt_bundle) + html + DARK


# what DataTables goes by, from what the theme goes by
DARK = """<script>{
const html = document.documentElement
const mark = () => html.classList.toggle('dark', html.dataset.theme === 'dark')
new MutationObserver(mark).observe(html, { attributeFilter: ['data-theme'] })
mark()
}</script>
"""
LEDGER = """# Every claim and its verdict

Each claim of the papers that a number can decide is a row, {n} in all: the paper's number, ours
with its interval, and the verdict by one rule for all, from the records alone.
[14_verdict](14_verdict.ipynb) makes this table and says what each word means.

Click on a column to sort by it. Open *verdict*, *world* or *whose* to see a part: for example
*reproduced*, and *the paper* for what a paper claims itself. The search looks in all columns.

```{{raw}} html
:file: ledger.html
```
"""


def write(path, text):
    "A file, unless it says that already: what has not changed is not built again."
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding='utf-8') != text:
        path.write_text(text, encoding='utf-8')


def sources(out=OUT / 'src'):
    "Everything that Jupyter Book reads, in a folder; what is no longer read is removed."
    modules = reference.modules()
    counted = [n for m in modules for n in m.public]
    names = {n: m.name for m in modules for n in m.public if counted.count(n) == 1}
    files = {'_config.yml': yaml.safe_dump(SETTINGS), '_toc.yml': yaml.safe_dump(
        contents(modules), sort_keys=False, allow_unicode=True),
             'reference/index.md': overview(modules), 'ledger.html': ledger(table := verdicts()),
             'ledger.md': LEDGER.format(n=len(table))}
    for m in modules:
        found = places(m.chapter)
        files[f'reference/{m.name}.md'] = reference.page(m, lambda cell: found.get(cell, ''))
    for path in sorted(NBS.glob('*.ipynb')):
        own = {n: at for n, at in names.items() if not at == path.stem.partition('_')[2]}
        files[path.name] = nbformat.writes(page_of(path.stem, own))
    for kind in ('css', 'js'): files[f'_static/book.{kind}'] = (CONFIG / f'docs.{kind}').read_text()
    for name, text in files.items(): write(out / name, text)
    shutil.copytree(NBS / 'images', out / 'images', dirs_exist_ok=True)
    for path in out.rglob('*'):
        if path.suffix in ('.ipynb', '.md') and str(path.relative_to(out)) not in files:
            path.unlink()
    return files


def formulas(static):
    "MathJax beside the pages: what typesets TeX in the browser, and its letters."
    # after the build, for Jupyter Book would have each page load every script that it finds before
    found = Path(find_spec('sphinx-mathjax-offline').submodule_search_locations[0])
    source, target = found / 'static/mathjax', static / 'mathjax'
    if target.exists(): return
    for part in ('tex-mml-chtml.js', 'output/chtml/fonts/woff-v2', 'input/tex/extensions'):
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (source / part).is_dir() else shutil.copy)(source / part, target / part)


def build(out=OUT):
    "The site, whose warnings are errors: the folder of its pages."
    began, src = time.time(), out / 'src'
    files = sources(src)
    done = subprocess.run([sys.executable, '-c', 'from jupyter_book.cli.main import main; main()',
                           'build', str(src), '--path-output', str(out), '--keep-going', '-W',
                           '-n', '--quiet'], env=os.environ | dict(NO_COLOR='1'))
    if done.returncode: sys.exit('The site could not be built; what is wrong stands above.')
    pages = out / '_build/html'
    formulas(pages / '_static')
    size = sum(p.stat().st_size for p in pages.rglob('*') if p.is_file()) / 1e6
    print(f'{len(files)} files, {size:.0f} MB, {time.time() - began:.0f} s. '
          f'Open {shown(pages)}/index.html')
    return pages


if __name__ == '__main__':
    missing = [m for m in ('jupyter_book', 'itables', 'sphinx-mathjax-offline') if not find_spec(m)]
    if missing: sys.exit(f"{sys.executable} has no {missing[0]}. Install it with pip install "
                         "--editable '.[docs]', or leave PY out: make then does so in .venv.")
    build()
