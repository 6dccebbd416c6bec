"""A page for each module of synthnb: its public names, with signatures and docments.

They are read from the source, where nbdev has left the cell that each definition comes from. So
nothing is imported, and the pages are made where there is no PyTorch, in a second.
"""
import ast
import io
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / 'synthnb'
WIDTH, SHORT = 88, 240 # characters of a signature's line, and of a constant that is shown whole
_CELL = re.compile(r'^# %% \.\./nbs/(\w+)\.ipynb #(\w+)', re.MULTILINE)


@dataclass
class Module:
    "What one module of the package exports."
    name: str       # without the package's
    claim: str      # its docstring
    chapter: str    # stem of the notebook that it comes from
    public: dict    # name -> its node in the syntax tree
    patched: dict   # name of a class -> methods that this module adds to it
    source: str
    cells: list     # (first line, id of the cell), in order
    comments: dict  # line -> (its words, whether the line has nothing else)

    def text(self, node):
        if node is None: return ''
        lines = self.source.split('\n')[node.lineno - 1:node.end_lineno] # columns count bytes
        lines[-1] = lines[-1].encode()[:node.end_col_offset].decode()
        lines[0] = lines[0].encode()[node.col_offset:].decode()
        return '\n'.join(lines)


def target_of(node):
    "The name of the class that `@patch` puts this function into, or None."
    for d in getattr(node, 'decorator_list', ()):
        if getattr(getattr(d, 'func', d), 'id', '') == 'patch':
            return getattr(node.args.args[0].annotation, 'id', None)


def read(path):
    "A module, as its file has it."
    source = path.read_text(encoding='utf-8')
    tree, own, patched = ast.parse(source), {}, {}
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            for t in getattr(node, 'targets', None) or [node.target]:
                for n in ast.walk(t): own.setdefault(getattr(n, 'id', ''), node)
        elif c := target_of(node): patched.setdefault(c, []).append(node)
        elif hasattr(node, 'name'): own[node.name] = node
    names = ast.literal_eval(own['__all__'].value)
    cells = [(source.count('\n', 0, m.start()) + 1, m[2]) for m in _CELL.finditer(source)]
    comments = {t.start[0]: (t.string.lstrip('# ').strip(), not t.line[:t.start[1]].strip())
                for t in tokenize.generate_tokens(io.StringIO(source).readline)
                if t.type == tokenize.COMMENT and not _CELL.match(t.string)}
    return Module(path.stem, ' '.join((ast.get_docstring(tree) or '').split()),
                  _CELL.search(source)[1], {n: own[n] for n in names if n in own}, patched,
                  source, cells, comments)


def modules(package=PACKAGE):
    "All of them, in the order of their chapters."
    return sorted(map(read, package.glob('[a-z]*.py')), key=lambda m: m.chapter)


def cell_of(module, node):
    "The id of the cell that defines something."
    return next((i for first, i in reversed(module.cells) if first <= node.lineno), '')


def said(module, first, last):
    "The docment of what stands on these lines: behind it, or on lines of its own above it."
    for i in range(first, last + 1):
        if i in module.comments and not module.comments[i][1]: return module.comments[i][0]
    words = []
    while module.comments.get(first := first - 1, ('', False))[1]:
        words.insert(0, module.comments[first][0])
    return ' '.join(words)


def parameters(module, node):
    "[(name, annotation, default, docment)] of a function without self, or of a dataclass."
    if isinstance(node, ast.ClassDef):
        rows = [(f.target.id, f, f.value) for f in node.body if isinstance(f, ast.AnnAssign)]
    else:
        a = node.args
        plain = a.posonlyargs + a.args
        defaults = [None]*(len(plain) - len(a.defaults)) + a.defaults
        bare = [('*', None, None)] if a.kwonlyargs and not a.vararg else []
        rows = ([(p.arg, p, d) for p, d in zip(plain, defaults)]
                + ([(f'*{a.vararg.arg}', a.vararg, None)] if a.vararg else bare)
                + [(p.arg, p, d) for p, d in zip(a.kwonlyargs, a.kw_defaults)]
                + ([(f'**{a.kwarg.arg}', a.kwarg, None)] if a.kwarg else []))
    def row(name, p, default):
        if p is None: return name, '', '', ''
        last = max(p.end_lineno, getattr(default, 'end_lineno', 0) or 0)
        returns = getattr(node, 'returns', None) # its docment is the one on its line
        words = '' if returns and returns.end_lineno <= last else said(module, p.lineno, last)
        kind, value = (' '.join(module.text(n).split()) for n in (p.annotation, default))
        return name, kind, value, words
    return [row(*r) for r in rows if r[0] not in ('self', 'cls')]


def signature(module, node, name=None):
    "How a function is called: as many parameters a line as fit."
    parts = [n + (f':{kind}' if kind else '') + (f'={default}' if default else '')
             for n, kind, default, _ in parameters(module, node)]
    returns = getattr(node, 'returns', None)
    head, end = f'{name or node.name}(', ')' + (f' -> {module.text(returns)}' if returns else '')
    lines = [head]
    for i, part in enumerate(parts):
        part += ', ' if i < len(parts) - 1 else end
        if len(lines[-1] + part) > WIDTH and lines[-1] != ' '*4: lines.append(' '*4)
        lines[-1] += part
    return '\n'.join(line.rstrip() for line in lines) + ('' if parts else end)


def plain(words):
    "Prose in which nothing but code between backticks has a meaning for Markdown."
    return ''.join(p if re.fullmatch('`[^`]+`', p) else re.sub(r'([\\*_$<>\[\]{}`])', r'\\\1', p)
                   for p in re.split('(`[^`]+`)', words))


def code(text):
    "Code within a line, whatever it holds."
    text = ' '.join(text.split())
    return f'`` {text} ``' if '`' in text else f'`{text}`'


def listed(module, node):
    "Parameters or fields as a list, and what comes back."
    lines = []
    for name, kind, default, words in parameters(module, node):
        if name == '*' or not (kind or default or words): continue
        facts = ', '.join([code(kind)]*bool(kind) + [f'default {code(default)}']*bool(default))
        lines.append(f'* **{code(name)}**' + (f' ({facts})' if facts else '')
                     + (f': {plain(words)}' if words else ''))
    if returns := getattr(node, 'returns', None):
        words = said(module, returns.end_lineno, returns.end_lineno)
        if words: lines.append(f'* returns {code(module.text(returns))}: {plain(words)}')
    return '\n'.join(lines)


def of_function(module, node, title, level='##', call=None):
    "A function's or a method's part of the page."
    doc = ast.get_docstring(node) or ''
    text = f'{level} {title}\n\n```python\n{signature(module, node, call)}\n```\n\n{plain(doc)}\n\n'
    return text + listed(module, node)


def of_class(module, node, methods):
    "A class's part: what it is made from, then its methods."
    inner = [f for f in node.body if isinstance(f, ast.FunctionDef)]
    init = next((f for f in inner if f.name == '__init__'), None)
    made = init or node
    parts = [f'## {node.name}\n\n```python\n{signature(module, made, node.name)}\n```\n\n'
             f'{plain(ast.get_docstring(node) or "")}\n\n{listed(module, made)}']
    for f in (*inner, *methods):
        if f.name.startswith('_') or not ast.get_docstring(f): continue
        parts.append(of_function(module, f, f'{node.name}.{f.name}', '###'))
    return '\n\n'.join(parts)


def of_constant(module, node, name):
    "A constant's part: its code, if that is short."
    text = module.text(node)
    if len(text) > SHORT: text = text[:SHORT].rsplit('\n', 1)[0] + '\n...'
    return f'## {name}\n\n```python\n{text}\n```\n\n{plain(said(module, node.lineno, node.lineno))}'


def page(module, place):
    "The page of a module in Markdown; `place(cell)` is a link to where a cell stands, or ''."
    parts = [f'# synthnb.{module.name}\n\n> {plain(module.claim)}\n\nChapter: '
             f'[{module.chapter}](../{module.chapter}.ipynb). `from synthnb.{module.name} import *`'
             f' takes what is listed here.']
    for name, node in module.public.items():
        if isinstance(node, ast.FunctionDef): part = of_function(module, node, name)
        elif isinstance(node, ast.ClassDef):
            part = of_class(module, node, module.patched.get(name, ()))
        else: part = of_constant(module, node, name)
        link = place(cell_of(module, node))
        parts.append(part + (f'\n\n{link}' if link else ''))
    for owner, methods in module.patched.items(): # of a class that is another module's
        if owner in module.public: continue
        parts += [of_function(module, f, f'{owner}.{f.name}') for f in methods
                  if not f.name.startswith('_') and not owner.startswith('_')]
    return '\n\n'.join(parts) + '\n'
