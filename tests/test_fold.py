"""tools/fold.py folds what only some readers want, and tools/reads.py measures what is left."""
import json

import fold
import nbformat
import pytest
import reads
from here import ROOT

MARKDOWN, CODE = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell


@pytest.fixture
def chapter(tmp_path):
    cells = [MARKDOWN('# Title\n\nYou read this first.', id='a'),
             MARKDOWN('## For some\n\nYou open this for a file.', id='b'),
             CODE('x = 1', id='c'), MARKDOWN('### Deeper, and folded with it', id='d'),
             CODE('y = 2', id='e'), MARKDOWN('```\n# no heading\n```', id='f'),
             MARKDOWN('## For all', id='g'),
             CODE('z = 3', id='h', outputs=[nbformat.v4.new_output('stream', text='3')]),
             CODE('w = 4', id='i')]
    path = tmp_path/'99_demo.ipynb'
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def ways(path): return fold.folded(json.loads(path.read_text())['cells'])


def test_a_heading_folds_up_to_the_next_of_its_level_and_a_cell_keeps_its_output(chapter):
    assert not any(ways(chapter))
    fold.main([str(chapter), '--section', 'b', '--cell', 'h', 'i'])
    assert ways(chapter) == ['', '', *['section']*4, '', 'cell', 'cell']
    # the output of h is in sight, i has none
    assert reads.cells_of(chapter, all=False) == [
        ('markdown', '# Title\n\nYou read this first.'),
        ('markdown', '## For some\n\nYou open this for a file.'), ('markdown', '## For all'),
        ('code', '')]
    assert len(reads.cells_of(chapter)) == 9
    assert (reads.reads(chapter)['cells'], reads.reads(chapter, all=True)['cells']) == (4, 9)
    fold.main([str(chapter), '--unfold', 'b', 'h', 'i'])
    assert not any(ways(chapter))


def test_what_cannot_be_folded_is_said_and_nothing_is_written(chapter, capsys):
    before = chapter.read_bytes()
    for args, said in ((('--section', 'c'), 'no heading'), (('--cell', 'a'), 'no code'),
                       (('--cell', 'nowhere'), 'has no cell nowhere'),
                       (('--section', 'f'), 'no heading')):
        with pytest.raises(SystemExit): fold.main([str(chapter), *args])
        assert said in capsys.readouterr().err
    assert chapter.read_bytes() == before


def test_the_list_says_how_each_cell_is_folded(chapter, capsys):
    fold.main([str(chapter), '--section', 'b', '--cell', 'h'])
    capsys.readouterr()
    fold.main([str(chapter)])
    rows = capsys.readouterr().out.splitlines()
    assert [r.split()[1] for r in rows] == list('abcdefghi')
    assert [r[15] for r in rows] == [' ', '+', '|', '|', '|', '|', ' ', '-', ' ']
    assert 'out' in rows[7] and 'z = 3' in rows[7]


def test_a_title_and_what_was_found_are_never_folded():
    for path in sorted((ROOT/'nbs').glob('*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        for cell, way in zip(cells, fold.folded(cells)):
            tags = cell['metadata'].get('tags', ())
            if 'parameters' in tags or 'first' in tags: assert way != 'section', path.stem
            if 'parameters' in tags: assert not way, f'{path.stem} hides its parameters'
        assert not fold.folded(cells)[0], path.stem
