"""README.md is nbs/index.ipynb as Markdown: `make readme` writes it, a test holds the two equal.

A code cell that starts with `#| hide` is left out, with `#| echo: false` only its output is shown,
and `#| fig-alt: ...` says what its picture shows. Links are relative to nbs/ in the notebook, to
the root in the README.

A chapter shows its best picture on its first screen, though it comes out of a cell further down:
that cell has the tag `first`, and the picture goes to nbs/images/first_<chapter>.png or .jpg.
"""
import base64
import json
import posixpath
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / 'nbs/index.ipynb'
IMAGES = 'nbs/images'
LINKS = re.compile(r'(\]\(|(?:src|href)=")(?!\w+:|[#/])([^)"\s]+)')
DIRECTIVE = re.compile(r'^#\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*)\n?', re.MULTILINE)


def _from_root(text):
    "`text` with links that were relative to nbs/ made relative to the root"
    return LINKS.sub(lambda m: m[1] + posixpath.normpath(posixpath.join('nbs', m[2])), text)


def _prepare(cell):
    "What one cell contributes to the page, or None"
    if cell.cell_type == 'markdown':
        cell.source = _from_root(cell.source)
        return cell
    directives = dict(DIRECTIVE.findall(cell.source))
    if 'hide' in directives or 'default_exp' in directives: return None
    hidden = directives.get('echo') == 'false'
    cell.source = '' if hidden else DIRECTIVE.sub('', cell.source).strip()
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


def first_picture(notebook): # (file name, bytes), or None
    "What the cell with the tag `first` shows."
    cells = json.loads(Path(notebook).read_text(encoding='utf-8'))['cells']
    found = [output['data'][kind] for cell in cells if 'first' in cell['metadata'].get('tags', [])
             for output in cell['outputs'] for kind in output.get('data', {})
             if kind in ('image/png', 'image/jpeg')]
    if not found: return None
    content = base64.b64decode(''.join(found[0]))
    kind = 'png' if content.startswith(b'\x89PNG') else 'jpg'
    return f'first_{Path(notebook).stem}.{kind}', content


def first_pictures(): # {path from the root: bytes}
    "Those of all chapters."
    found = filter(None, map(first_picture, sorted((ROOT / 'nbs').glob('*.ipynb'))))
    return {f'{IMAGES}/{name}': content for name, content in found}


def write():
    "Write README.md and all pictures; pictures that nothing shows any longer are removed"
    text, pictures = render()
    shown = pictures | first_pictures()
    (ROOT / IMAGES).mkdir(exist_ok=True)
    for kind in ('readme_*', 'first_*'):
        for old in (ROOT / IMAGES).glob(kind):
            if f'{IMAGES}/{old.name}' not in shown: old.unlink()
    for path, content in shown.items(): (ROOT / path).write_bytes(content)
    (ROOT / 'README.md').write_text(text, encoding='utf-8')
    print(f'README.md: {len(text)} characters, {len(pictures)} pictures from outputs')


if __name__ == '__main__': write()
