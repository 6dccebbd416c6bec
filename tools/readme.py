"""README.md is nbs/index.ipynb as Markdown: `make readme` writes it, a test holds the two equal.

A code cell that starts with `#| hide` is left out, with `#| echo: false` only its output is shown,
and `#| fig-alt: ...` says what its picture shows. Links are relative to nbs/ in the notebook, to
the root in the README.
"""
import posixpath
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / 'nbs/index.ipynb'
IMAGES = 'nbs/images'
_LINKS = re.compile(r'(\]\(|(?:src|href)=")(?!\w+:|[#/])([^)"\s]+)')
_DIRECTIVE = re.compile(r'^#\|\s*([\w-]+)\s*:?\s*(.*)$', re.MULTILINE)


def _from_root(text):
    "`text` with links that were relative to nbs/ made relative to the root"
    return _LINKS.sub(lambda m: m[1] + posixpath.normpath(posixpath.join('nbs', m[2])), text)


def _prepare(cell):
    "What one cell contributes to the page, or None"
    if cell.cell_type == 'markdown':
        cell.source = _from_root(cell.source)
        return cell
    directives = dict(_DIRECTIVE.findall(cell.source))
    if 'hide' in directives or 'default_exp' in directives: return None
    hidden = directives.get('echo') == 'false'
    cell.source = '' if hidden else _DIRECTIVE.sub('', cell.source).strip()
    for output in cell.outputs:
        for kind in ('text/html', 'text/markdown'):
            if kind in output.get('data', {}):
                text = re.sub(r'<style.*?</style>\s*', '', output.data[kind], flags=re.DOTALL)
                output.data[kind] = _from_root(text)
    cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
    cell.metadata['alt'] = directives.get('fig-alt')
    return cell


def render(index=INDEX):
    "The text of README.md, and its pictures as {path from the root: bytes}"
    notebook = nbformat.read(index, as_version=4)
    notebook.cells = [cell for cell in map(_prepare, notebook.cells) if cell is not None]
    # nbdev_clean removes it, and code would have no colours
    notebook.metadata['language_info'] = {'name': 'python'}
    exporter = MarkdownExporter()
    where = {'output_files_dir': IMAGES, 'unique_key': 'readme'}
    text, resources = exporter.from_notebook_node(notebook, where)
    for i, cell in enumerate(notebook.cells):
        if cell.metadata.get('alt'):
            text = re.sub(rf'!\[\w+\]\(({IMAGES}/readme_{i}_)',
                          lambda m: f'![{cell.metadata.alt}]({m[1]}', text)
    text = re.sub(r'^```python\s*```\n', '', text, flags=re.MULTILINE)
    text = '\n'.join(line.rstrip() for line in text.splitlines())
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n', resources.get('outputs') or {}


def write():
    "Write README.md and its pictures; pictures it no longer has are removed"
    text, pictures = render()
    (ROOT / IMAGES).mkdir(exist_ok=True)
    for old in (ROOT / IMAGES).glob('readme_*'):
        if f'{IMAGES}/{old.name}' not in pictures: old.unlink()
    for path, content in pictures.items(): (ROOT / path).write_bytes(content)
    (ROOT / 'README.md').write_text(text, encoding='utf-8')
    print(f'README.md: {len(text)} characters, {len(pictures)} pictures from outputs')


if __name__ == '__main__': write()
