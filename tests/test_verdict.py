"""The ledger of claims: numbers that stay, worlds that are judged, commands that decide."""
import re
import shutil
from pathlib import Path

import grid
import numpy as np
import pandas as pd
import pytest
import tables
import yaml
from here import run_here
from PIL import Image
from test_celeba import write_celeba
from test_objects import write_cars, write_cifar

from synthnb.core import load_json, save_json

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT/'runs'/'14_verdict'/'default'/'tables'
NUMBERS = ['ours', 'lo', 'hi']

# What the rows were before whose claim they are was told: world, claim, numbers, verdict. The
# numbers stand in a row of the same world today, where no seed was added or run anew.
BEFORE = pd.read_csv(Path(__file__).with_name('verdicts_before.csv'), keep_default_na=False,
                     na_values=[''], dtype=dict(world=str)).fillna({'world': ''})
ANEW = {'shapes': "10_shapes' default, seed 0: another torch, and the search as it is today"}
BEFORE = BEFORE[~BEFORE.world.isin(ANEW)]
SEEDS = BEFORE.groupby('world').seeds.max()
WORLDS = {'photographs': 'faces, wildfaces', 'overfitting, photographs': 'overfitting, wildfaces'}


@pytest.fixture(scope='module')
def now():
    names = [p for p in ('verdicts', 'verdicts_photographs') if (TABLES/f'{p}.csv').exists()]
    found = pd.concat([pd.read_csv(TABLES/f'{p}.csv') for p in names])
    return found.fillna({'world': ''})


def test_no_number_changed_where_the_comparison_did_not(now):
    gone, compared = [], 0
    for row in BEFORE.itertuples():
        world = now[now.world == WORLDS.get(row.world, row.world)]
        if world.seeds.max() > SEEDS[row.world]: continue # there are more since
        ours = world[NUMBERS].to_numpy(float)
        was = np.array([row.ours, row.lo, row.hi], float)
        same = np.isclose(ours, was, rtol=1e-4, atol=1e-6, equal_nan=True).all(1)
        turned = np.isclose(ours, -was[[0, 2, 1]], rtol=1e-4, atol=1e-6).all(1)
        compared += 1
        if not (same | turned).any(): gone.append((row.world, row.claim))
    assert compared > 20 and not gone, gone


def test_a_claim_that_turned_its_direction_is_the_thesis_on_the_inception_score(now):
    for row in BEFORE[BEFORE.seeds > 1].itertuples():
        world = now[now.world == WORLDS.get(row.world, row.world)]
        if world.seeds.max() > SEEDS[row.world]: continue
        same = np.isclose(world.ours.to_numpy(float), row.ours, rtol=1e-4, atol=1e-6)
        if not same.any(): assert 'higher IS' in row.claim, row


def test_every_row_says_whose_it_is_and_every_question_has_an_answer(now):
    assert {*now.whose} == {'the paper', 'our control', 'our variant', 'all of them'}
    assert now[now.whose == 'all of them'].claim.str.startswith('all rows').all()
    asked = now.claim.str.endswith('?')
    assert not (asked & (now.whose == 'the paper')).any()
    assert asked[now.whose == 'our control'].all()
    claims = now[asked].verdict.str.contains('reproduced|reversed|another size')
    assert not claims.any(), now[asked][claims]
    assert not now.verdict.str.startswith('not reproduced').any()


def test_what_is_undecided_says_how_many_seeds_would_decide(now):
    open_ = now[now.verdict.str.startswith('undecided')]
    assert len(open_) > 20
    for row in open_.itertuples():
        said = re.fullmatch(r'undecided \(about ([\d,]+) seeds would decide\)', row.verdict)
        few = re.fullmatch(r'undecided \(only [1-4] seeds?\)', row.verdict)
        assert (few and row.seeds < 5) or int(said[1].replace(',', '')) > row.seeds, row


def test_the_sign_turns_with_the_control(now):
    fixed = now[now.world == 'drawn faces, equal exposure'].set_index('claim')
    theirs, ours = (fixed.loc[claim] for claim in (
        'cl-sam 2x beats the 0x classifier, each real image seen as often',
        'Does cl-sam 2x beat real only, for as many updates?'))
    assert round(theirs.ours, 1) == 4.7 and round(ours.ours, 1) == -2.1
    assert (theirs.whose, ours.whose) == ('the paper', 'our control')
    shared = now[now.world == 'drawn faces'].claim
    assert not shared.str.contains('Does .* as many updates').any(), 'there the two are one'


# ---- worlds --------------------------------------------------------------------------------------
def judged(runs, *args):
    "14_verdict on a folder of records, at the scale that it is told: (exit status, output)."
    with pytest.MonkeyPatch.context() as m:
        m.delenv('IN_TEST')
        return run_here(runs, '14_verdict', *args)


def verdict(runs, *args):
    "The same: its two tables."
    status, output = judged(runs, *args)
    assert status == 0, output[-3000:]
    folder = max((runs/'14_verdict').glob('*/tables'), key=lambda p: p.stat().st_mtime)
    read = lambda name: pd.read_csv(folder/name) if (folder/name).exists() else pd.DataFrame()
    return read('verdicts.csv').fillna({'world': ''}), read('verdicts_photographs.csv')


def changes_of(table):
    return yaml.safe_load((ROOT/'config'/'tables.yaml').read_text())['tables'][table]['changes']


def copied(source, target, **params):
    "A record with other parameters, named by them."
    shutil.copytree(source, target, ignore=shutil.ignore_patterns('figures'))
    save_json(target/'params.json', load_json(source/'params.json') | params)


def test_every_folder_and_setting_is_judged_and_changed_numbers_are_not(tmp_path):
    source, runs = ROOT/'runs'/'07_affectnet', tmp_path/'07_affectnet'
    for seed in range(5):
        end = f',seed={seed}' if seed else ''
        for arm in ('sampler=none', 'sampler=random', 'default'):
            name = f'{arm}{end}' if arm != 'default' else end[1:] or 'default'
            copied(source/name, runs/f'own {name}', data='folder', root='mine-0123456789ab')
            copied(source/name, runs/f'seen {name}', scorer='seen')
            copied(source/name, runs/f'cut {name}', changes='n_train=20')
        rl = f'sampler=rl{end}'
        copied(source/rl, runs/f'seen {rl}', scorer='seen', changes=changes_of('rl-paper'))
        copied(source/rl, runs/f'few {rl}', changes='rl=paper,rl.fraction=0.001')
    drawn, photographs = verdict(tmp_path)
    mine = photographs[photographs.world == 'faces, mine'].set_index('claim')
    assert mine.loc['cl-sam 1x beats random 1x'].seeds == 5
    seen = drawn[drawn.world == "drawn faces, the paper's scorer"].set_index('claim')
    assert seen.loc['cl-sam 1x beats random 1x'].seeds == 5
    assert not drawn.world.str.contains('n_train').any()
    assert 'drawn faces' not in {*drawn[drawn.seeds > 0].world}
    theirs = drawn[drawn.about == "reinforcement learning, the paper's"]
    assert len(theirs) == 13 and (theirs.seeds == 0).all(), 'of other settings, or another learner'
    broken = runs/'own default'/'metrics.json'
    save_json(broken, load_json(broken) | dict(metrics=dict(n_real=3)))
    status, said = judged(tmp_path)
    assert status != 0 and 'own default: this record lacks' in said, said
    broken.write_text('[]')
    status, said = judged(tmp_path)
    assert status != 0 and 'own default is no record of a run' in said, said


def test_the_verdict_is_of_the_scale_of_the_table(tmp_path):
    assert tables.scales('shapes-gpu', None) == ['gpu']
    assert tables.scales('affectnet,gpu', None) == ['laptop', 'gpu']
    (tmp_path/'mine.yaml').write_text('tables: {mine: {scale: gpu}}')
    assert tables.scales('mine', None, [tmp_path/'mine.yaml']) == ['gpu']
    assert tables.scales(None, None) == ['laptop'] and tables.scales('gpu', 'smoke') == ['smoke']


# ---- every command that a row names --------------------------------------------------------------
def affectnet(root):
    "AffectNet's layout with all eight expressions, squares of noise."
    rng, lists = np.random.default_rng(0), root/'Manually_Annotated_file_lists'
    folder = root/'Manually_Annotated_Images'/'0'
    lists.mkdir(parents=True), folder.mkdir(parents=True)
    head = 'subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,'
    for split, n in (('training', 480), ('validation', 80)):
        lines = [head + 'expression,valence,arousal']
        for i in range(n):
            pixels = rng.integers(0, 100, (40, 40, 3), np.uint8) + np.uint8(15*(i % 8))
            Image.fromarray(pixels).save(folder/f'{split}{i}.jpg')
            lines.append(f'0/{split}{i}.jpg,0,0,40,40,,{i % 8},-2,-2')
        (lists/f'{split}.csv').write_text('\n'.join(lines) + '\n')
    return root


def pictures(root, k=7, n=60):
    rng = np.random.default_rng(1)
    for c in range(k):
        (root/f'thing {c}').mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 100, (40, 40, 3), np.uint8) + np.uint8(15*c)
            Image.fromarray(pixels).save(root/f'thing {c}'/f'{i}.png')
    return root


def commands(rows):
    "The commands that rows name, as `make tables` takes them: table, what ROOT stands for."
    said = {c for v in rows.verdict for c in re.findall(r'make tables [^`]*?(?= and make|`)', v)}
    return {re.search(r'TABLE=(\S+)', c)[1]: (re.search(r'ROOT=<(.*?)>', c) or ['', ''])[1]
            for c in said}


# Of a table's arms the first is enough: a row changes with the first record.
FEW = {'photographs': {'sampler=none'}, 'celeba-photographs': {'sampler=none'}}


def targets(table, root):
    "The runs of a table at smoke scale, of seed 0, as far as they are in FEW; what makes theirs."
    config = yaml.safe_load((ROOT/'config'/'tables.yaml').read_text())
    asked = dict(table=table, scale='smoke', seeds='0', root=str(root))
    arm = lambda run: f"sampler={run[1]['sampler']}" if 'sampler' in run[1] else ''
    return {name: run for name, run in grid.grid(config, lambda key: asked.get(key, ''))[1].items()
            if table not in FEW or arm(run) in FEW[table]}


def stand_in(runs, name, run, root):
    "What a run of a table would leave: a record of the book's, of the same arm, under its name."
    arm = run[1].get('sampler', 'cl-sam')
    source = ROOT/'runs'/run[0]/('default' if arm == 'cl-sam' else f'sampler={arm}')
    of_root = dict(root=f'{root.name}-0123456789ab') if root else {}
    params = run[1] | of_root
    if arm != 'rl' and 'rl=' in params.get('changes', ''): params['changes'] = '' # of the learner
    copied(source, (runs/name).parent, **params)
    if params.get('trial') == 'fair' and run[0] == '12_latent': # with the arms that only it has
        record = load_json(runs/name)
        scores = record['metrics']['scores']
        scores |= {'cutout-varied': scores['cutout'], 'adaptive-mask': scores['adaptive-literal']}
        save_json(runs/name, record)


@pytest.mark.long
def test_every_command_that_a_row_names_changes_its_state(tmp_path):
    runs = tmp_path/'runs'
    runs.mkdir()
    before, _ = verdict(runs, '-r', 'scale', 'smoke')
    waiting = before[before.verdict.str.contains('`')] # a command
    roots = {'AffectNet': affectnet(tmp_path/'AffectNet'), 'CelebA': write_celeba(tmp_path/'C'),
             'CIFAR-10': write_cifar(tmp_path/'objects'/'cifar-10-batches-py'),
             'Stanford Cars': write_cars(tmp_path/'objects'/'stanford_cars'),
             'fer2013.csv': tmp_path}
    known = commands(waiting)
    assert {*known.values()} <= {*roots, ''} and len(known) == 10, known
    for experiment in ('10_shapes', '11_faces'):
        guided = runs/experiment/'guided'
        copied(ROOT/'runs'/experiment/'default', guided, scale='smoke', model='ViT-B-32')
        record = load_json(guided/'metrics.json')
        record['metrics'] |= dict(guide='ViT-B-32, of a file')
        save_json(guided/'metrics.json', record)
    for table, root in known.items():
        made = targets(table, roots.get(root, ''))
        assert made, table
        for name, run in made.items():
            if table == 'half-size': # one is really run, and leaves the name that the grid gives
                status, output = run_here(runs, run[0], **grid.differs(run))
                assert status == 0 and (runs/name).exists(), output[-3000:]
            else: stand_in(runs, name, run, roots.get(root))
    after, wild = verdict(runs, '-r', 'scale', 'smoke')
    for row in waiting.itertuples():
        same = after[(after.claim == row.claim) & (after.about == row.about)]
        assert len(same) and row.verdict not in {*same.verdict}, row
        assert row.seeds == 0 and not same.verdict.str.contains('cannot be had').any(), row
    judged = after[after.verdict.str.startswith('judged')]
    assert len(judged) >= 6 and wild.world.nunique() >= 3
