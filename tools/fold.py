"""What a chapter shows at first, and what you unfold: `python tools/fold.py nbs/01_gan.ipynb`.

A chapter's main path is read in twenty minutes. What only some readers want is folded: a section
under its heading, a cell of code behind a bar that a click opens. Its output stays in sight. Both
are marks that JupyterLab itself makes and honours, and nothing that runs or exports asks for them.

Without more, the cells are listed: number, id, how it is folded, size, first line. Then
`--section ID ...` folds what is under the heading of that cell, `--cell ID ...` the source of a
cell, and `--unfold ID ...` takes either back.
"""
import argparse
import re
import sys
from pathlib import Path

import nbformat

SECTION = 'jp-MarkdownHeadingCollapsed'


def fenceless(text): return re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)


def level_of(cell): # 1 to 6, None without a heading
    "The highest heading of a cell, as JupyterLab folds by it."
    if cell['cell_type'] != 'markdown': return None
    text = fenceless(''.join(cell['source']))
    return min(map(len, re.findall(r'^(#{1,6}) ', text, re.MULTILINE)), default=None)


def source_hidden(cell): return bool(cell['metadata'].get('jupyter', {}).get('source_hidden'))


def folded(cells): # ['' | 'section' | 'cell'] for each
    "Which cells a reader does not see at first: hidden by a heading, or of a hidden source."
    ways, depth = [], None
    for cell in cells:
        level = level_of(cell)
        if depth and level and level <= depth: depth = None
        ways.append('section' if depth else 'cell' if source_hidden(cell) else '')
        if level and not depth and cell['metadata'].get(SECTION): depth = level
    return ways


def main(argv=None): # exit status
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebook', type=Path)
    for name in ('section', 'cell', 'unfold'): parser.add_argument(f'--{name}', nargs='+',
                                                                   default=[], metavar='ID')
    args = parser.parse_args(argv)
    notebook = nbformat.read(args.notebook, as_version=4)
    cells = notebook['cells']
    by_id = {c['id']: c for c in cells}
    if missing := {*args.section, *args.cell, *args.unfold} - {*by_id}: parser.error(
        f'{args.notebook} has no cell {", ".join(sorted(missing))}')
    for i in args.section:
        if level_of(by_id[i]) is None: parser.error(f'cell {i} has no heading to fold under')
        by_id[i]['metadata'][SECTION] = True
    for i in args.cell:
        if by_id[i]['cell_type'] != 'code': parser.error(f'cell {i} is no code')
        by_id[i]['metadata']['jupyter'] = dict(source_hidden=True)
    for i in args.unfold:
        for key in (SECTION, 'jupyter'): by_id[i]['metadata'].pop(key, None)
    if args.section or args.cell or args.unfold:
        nbformat.write(notebook, args.notebook)
        return 0
    for n, (cell, way) in enumerate(zip(cells, folded(cells))):
        source = ''.join(cell['source'])
        first = next((r for r in source.splitlines() if r.strip() and not r.startswith('#|')), '')
        mark = '+' if cell['metadata'].get(SECTION) else {'section': '|', 'cell': '-'}.get(way, ' ')
        print(f'{n:4} {cell["id"]:9.9} {mark} {cell["cell_type"][0]} {len(source):5} '
              f'{"out" if cell.get("outputs") else "   "} {first[:88]}')
    return 0


if __name__ == '__main__': sys.exit(main())
