"""Chapters that a chapter names become links: `python tools/links.py`, for all of nbs/.

In prose `*samplers*` after the word chapter, `*10_shapes*`, `03_rl` and 16_yours in plain letters
become [03_rl](03_rl.ipynb), which leads there in JupyterLab, in the README and on the site. What
stands in code, in a heading, in a link or in a path stays, and so does a chapter's own name.
"""
import json
import re
from pathlib import Path

NBS = Path(__file__).resolve().parents[1] / 'nbs'
STEMS = {p.stem for p in NBS.glob('[0-9]*.ipynb')}
MODULES = {stem.partition('_')[2]: stem for stem in STEMS}
_KEPT = re.compile(r'(^```.*?^```|^#.*?$|\[[^\]]*\]\([^)]*\)|`[^`\n]*`|<[^>\n]*>)',
                   re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r'(?<=chapter )\*(\w+)\*|\*(\d\d[a-z]?_\w+)\*'
                    r'|(?<![\w/.*-])(\d\d[a-z]?_\w+)\b(?![/*]|\.\w)')


def linked(text, own):
    "Prose of the chapter `own`, with links for the other chapters that it names."
    def link(m):
        name = next(filter(None, m.groups()))
        stem = MODULES.get(name) if m[1] and name in MODULES else name
        return f'[{stem}]({stem}.ipynb)' if stem in STEMS - {own} else m[0]
    def kept(part):
        code = re.fullmatch(r'`(\w+)`', part)
        stem = code[1] if code else ''
        return f'[{stem}]({stem}.ipynb)' if stem in STEMS - {own} else part
    parts = _KEPT.split(text)
    return ''.join(kept(p) if i % 2 else _NAMED.sub(link, p) for i, p in enumerate(parts))


def main():
    for path in sorted(NBS.glob('*.ipynb')):
        notebook, n = json.loads(path.read_text(encoding='utf-8')), 0
        for cell in notebook['cells']:
            if cell['cell_type'] != 'markdown': continue
            before = ''.join(cell['source'])
            after = linked(before, path.stem)
            n += after.count('.ipynb)') - before.count('.ipynb)')
            if after != before: cell['source'] = after.splitlines(keepends=True)
        if not n: continue
        path.write_text(json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + '\n',
                        encoding='utf-8')
        print(f'{path.name}: {n} links')


if __name__ == '__main__': main()
