"""How a notebook reads, in numbers: `python tools/reads.py` for each chapter, or for files.

A chapter of methods is read in twenty minutes where it has at most 80 cells and 1,800 words on its
main path, cells of a few lines, short sentences that say "you", and a demo or a test beside each
definition. The main path is what JupyterLab shows before you unfold anything: tools/fold.py says
how a section or a cell is folded. `--all` reads what is folded, too.

`python tools/reads.py nbs/04_qdgs.ipynb --sentences` prints the sentences of more than 30 words.
"""
import argparse
import ast
import json
import re
import statistics
import sys
from pathlib import Path

import pandas as pd

import fold

MOST_WORDS = 30 # in a sentence
TALL = 1000 # characters of a code cell


def cells_of(path, all=True): # [(kind, source)]
    """What a reader meets, without empty cells; unless `all`, only the main path.

    There a folded cell is what it prints or draws, without a source."""
    cells = json.loads(Path(path).read_text(encoding='utf-8'))['cells']
    cells = [c for c in cells if ''.join(c['source']).strip()]
    if all: return [(c['cell_type'], ''.join(c['source'])) for c in cells]
    return [(c['cell_type'], '' if way else ''.join(c['source']))
            for c, way in zip(cells, fold.folded(cells))
            if not way or way == 'cell' and c.get('outputs')]


def code_of(source): # text
    "A cell without its directives."
    return '\n'.join(r for r in source.splitlines() if not r.startswith('#|')).strip('\n')


def prose_of(markdown): # text
    "The sentences of a cell: no table, formula, heading or code."
    text = re.sub(r'```.*?```|\$\$.*?\$\$|<[^>]*>', ' ', markdown, flags=re.DOTALL)
    rows, blocks = text.splitlines(), ['']
    for row in rows:
        if re.match(r'\s*(#|\||!\[)', row): blocks.append('')
        elif not row.strip() or re.match(r'\s*([-*>]|\d+\.)\s', row):
            blocks.append(re.sub(r'^\s*([-*>]|\d+\.)\s', '', row))
        else: blocks[-1] += ' ' + row
    return [b for b in (re.sub(r'\]\([^)]*\)', ']', b).strip() for b in blocks) if b]


def sentences_of(markdown): # list of text
    "A block of prose at its full stops, question marks and colons before a list."
    parts = (re.split(r'(?<=[.!?])[)"*]*\s+(?=["*(\[`$]*[A-Z0-9$`])', b)
             for b in prose_of(markdown))
    return [s for p in parts for s in p if len(words_of(s)) > 1]


def words_of(text): # a formula or a piece of code counts as a word
    "Words as a reader counts them."
    text = re.sub(r'`[^`]*`|\$[^$]*\$', ' x ', text)
    return re.findall(r"[^\W_]+(?:['’.,:/-][^\W_]+)*", text)


def defines(source):
    "Whether an exported cell defines a function or a class."
    if not source.lstrip().startswith('#| export'): return False
    try: body = ast.parse(code_of(source)).body
    except SyntaxError: return False
    kinds = ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef
    return any(isinstance(n, kinds) and not n.name.startswith('_') for n in body)


def shown(kinds): # [bool] for each definition
    "A demo or a test is the next cell of code, prose aside."
    code = [(defines(s), s.lstrip().startswith('#| export')) for k, s in kinds if k == 'code']
    return [i + 1 < len(code) and not code[i + 1][1] for i, (d, _) in enumerate(code) if d]


def longest_run(flags):
    "The most definitions one after the other that nothing shows."
    most = now = 0
    for f in flags:
        now = 0 if f else now + 1
        most = max(most, now)
    return most


def reads(path, all=False): # one row of the table
    "The numbers of one notebook."
    cells = cells_of(path, all)
    code = [code_of(s) for k, s in cells if k == 'code']
    code = [c for c in code if c]
    lines = [r for c in code for r in c.splitlines() if r.strip()]
    said = [s for k, m in cells if k == 'markdown' for s in sentences_of(m)]
    lengths = [len(words_of(s)) for s in said]
    words, text, flags = sum(lengths), ' '.join(said).lower(), shown(cells)
    def per_1000(pattern): return 1000*len(re.findall(pattern, text))/max(words, 1)
    def share(xs): return 100*sum(xs)/max(len(xs), 1)
    strings = r"""#.*|'[^']*'|"[^"]*\""""
    bare = [re.sub(strings, '', r) for r in lines]
    return dict(
        chapter=Path(path).stem, cells=len(cells), words=words,
        characters=statistics.median(map(len, code)) if code else 0,
        tall=share([len(c) > TALL for c in code]), wide=share([len(r) > 100 for r in lines]),
        semicolons=share([bool(re.search(r';\s*\S', r)) for r in bare]),
        a_sentence=words/max(len(said), 1), over=share([n > MOST_WORDS for n in lengths]),
        you=per_1000(r'\byou(r|rs|rself)?\b'), example=per_1000('for example|for instance'),
        definitions=len(flags), shown=share(flags), run=longest_run(flags))


NAMES = dict(characters='median characters of a code cell', tall=f'% of cells over {TALL}',
             wide='% of lines over 100', semicolons='% of lines with ;',
             a_sentence='words a sentence',
             over=f'% over {MOST_WORDS} words', you='you, per 1,000 words',
             example='for example, per 1,000', shown='% of definitions shown at once',
             run='longest run not shown')


def main(argv=None): # exit status
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='*', type=Path)
    parser.add_argument('--sentences', action='store_true', help='print the long ones')
    parser.add_argument('--all', action='store_true', help='read what is folded, too')
    args = parser.parse_args(argv)
    paths = args.notebooks or sorted(Path('nbs').glob('*.ipynb'))
    if args.sentences:
        for path in paths:
            for i, (kind, source) in enumerate(cells_of(path)):
                for s in sentences_of(source) if kind == 'markdown' else ():
                    if (n := len(words_of(s))) > MOST_WORDS: print(f'{path.stem} {i} [{n}] {s}\n')
        return 0
    table = pd.DataFrame([reads(p, args.all) for p in paths]).set_index('chapter')
    print(table.round(1).to_string())
    print('\n' + '\n'.join(f'{k}: {v}' for k, v in NAMES.items()))
    return 0


if __name__ == '__main__': sys.exit(main())
