"""15_when as a user runs it, its answer from made-up records, splits that share nobody."""
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_experiment
import torch
from fastcore.test import test_close as assert_close
from here import as_alone, executed
from PIL import Image

from synthnb.core import declared_parameters
from synthnb.data import AFFECTNET_CLASSES, AFFECTNET_COLUMNS, ImageSetWriter, load_data
from synthnb.plateau import PlateauConfig
from synthnb.worth import (LEVELS, ON_THE_MAP, QUALITY, USUAL, Curve, PullLaw, answer_when,
                           cell_luck, cell_rows, cells_of, choice_table, damaged_set,
                           exchange_table, fit_law, foretold, foretold_in_words, free_worth,
                           generator_errors, generator_points, generator_table, held_back,
                           label_information, law_bootstrap, law_errors, law_table, map_points,
                           place_records, plot_foretold, plot_map, plot_regions, reading_table,
                           readings, regions_in_words, sampler_regions, split_stock, wrong_labels)

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT/'nbs'/'15_when.ipynb'
TRUTH = PullLaw(Curve(.2, .3, .45), 1.5, 2., .1, .05)


def when(runs, **params):
    "The notebook's cells in this process: its names, its output."
    with as_alone(runs) as said: return executed(NOTEBOOK, params), said.getvalue()


def pictures(root, counts, kinds=('neutral', 'happiness', 'sadness')):
    "A folder in AffectNet's layout: so many pictures of each class in its two lists."
    luck, where = np.random.default_rng(0), root/'Manually_Annotated_Images'/'0'
    where.mkdir(parents=True)
    (root/'Manually_Annotated_file_lists').mkdir()
    for split, each in counts.items():
        rows = []
        for k, n in enumerate(each):
            for i in range(n):
                name = f'0/{split}{k}{i}.jpg'
                Image.fromarray(luck.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(
                    where.parent/name)
                label = AFFECTNET_CLASSES.index(kinds[k])
                rows.append((name, 0, 0, 40, 40, '', label, 0, 0))
        pd.DataFrame(rows, columns=AFFECTNET_COLUMNS).to_csv(
            root/'Manually_Annotated_file_lists'/f'{split}.csv', index=False)
    return root


# ---- made-up records -----------------------------------------------------------------------------
def made_up(seed, law=TRUTH, sign=1, views=1, noise=.3, many=None):
    "The cells of a run: the law's accuracies with a little luck, and gains of a sign."
    rng, rows = np.random.default_rng(seed), []
    for c in cells_of(seed, many, 8000):
        kept = float(label_information(c.right, 8))
        like = .6 if c.damage else 1.
        own = rng.normal(0, noise)
        gain = (sign*float(law.gain(c.n, c.added, kept, like)) + own) if c.m else 0.
        each = dict(plateau=gain, updates=gain, views=views*gain)
        alone = float(law.curve.accuracy(c.n))
        rows.append(dict(n=c.n, added=c.added, right=c.right, damage=c.damage, kept=kept,
                         likeness=like, stopped_at=1000, plateau_at=900, still_rising=False)
                    | {f'gain_{k}': v for k, v in each.items()}
                    | {f'accuracy_{k}': alone + v/100 for k, v in each.items()})
    return rows


def points(n_seeds=6, **how):
    return map_points(pd.DataFrame([dict(seed=s, cells=made_up(s, **how))
                                    for s in range(n_seeds)]))


def test_opposite_records_give_opposite_answers():
    yes, no = (answer_when(points(sign=s), 'drawn faces') for s in (1, -1))
    assert 'trainings): yes, if their labels are right' in yes and 'lowers' not in yes.split('.')[0]
    assert 'trainings): no, not even with right labels' in no
    few = 'With 200 real images or fewer, right labels, undamaged: adding them '
    assert few + 'raises accuracy by' in yes and few + 'lowers accuracy by' in no
    for text in (yes, no): assert all(len(s.split()) <= 30 for s in text.split('. ')), text


def test_it_depends_where_the_ends_of_the_map_differ():
    p = points()
    for k in ('gain', 'gain_plateau', 'gain_updates', 'gain_views'):
        p.loc[(p.n >= 1600) & (p.added > 0), k] *= -1
    assert ('it depends on how many real images you have: with few real images yes, with many no'
            in answer_when(p, 'drawn faces'))
    assert 'yes with few real images' in answer_when(p[p.n < 1600], 'drawn faces')
    assert 'nobody knows' in answer_when(p[(p.n > 200) & (p.n < 1600)], 'drawn faces')


def test_readings_that_disagree_are_no_answer():
    p = points(views=-1)
    said = answer_when(p, 'drawn faces')
    assert 'trainings): the three readings disagree.' in said
    assert 'nobody can say, for the three readings disagree' in said and 'yes' not in said
    table = reading_table(p)
    strong = table['added images'] == QUALITY[True, True]
    assert not table[strong]['the three agree'].any()
    assert reading_table(points())['the three agree'].all()


def test_one_seed_knows_nothing_and_one_seed_twice_is_one():
    assert 'nobody knows yet' in answer_when(points(1), 'x') and '(1 seed,' in answer_when(
        points(1), 'x')
    twice = pd.DataFrame([dict(seed=0, cells=made_up(0), device=d) for d in ('cpu', 'cuda')])
    assert len(map_points(twice)) == len(points(1))
    none = map_points(pd.DataFrame())
    assert not len(none) and 'nobody knows' in answer_when(none, 'x')
    assert 'nobody knows' in answer_when(points(6)[lambda p: p.added == 0], 'x')


def test_a_gain_that_matters_to_nobody_is_no_yes():
    p = points()
    for k in ('gain', 'gain_plateau', 'gain_updates', 'gain_views'): p[k] = .3*np.sign(p[k])
    assert 'trainings): no, not even' in answer_when(p, 'drawn faces')


def test_the_law_is_found_and_foretells_what_was_held_back():
    p = points(12, many=19)
    back = held_back(*(p[k] for k in LEVELS)) & (p.added > 0)
    assert .15 < back.sum()/(p.added > 0).sum() < .35 and not back[p.added == 0].any()
    law = fit_law(p[~back])
    errors = law_errors({'the law': law}, p[back], p[~back & (p.added > 0)])
    errors = errors.set_index('foretold by')
    assert errors['RMSE, points'].idxmin() == 'the law' and errors['RMSE, points'].min() < 1
    others = law_bootstrap(p, 5)
    assert list(law_table(law, others).name[-4:]) == ['gamma', 'delta', 'mu', 'nu']
    worth = exchange_table(law, others, .6, 8)
    first = lambda column: float(worth[column][2].split()[0])
    assert first('100% right') > first('50% right, damaged') and abs(first('100% right') - 1) < .1
    assert .15 < cell_luck(points(6)) < .6
    gaps = p[(p.damage == 0) | (p.right < 1)] # a panel without a dot
    assert len(plot_map(law, gaps, others).axes) >= 6
    assert not exchange_table(law, others, np.nan, 8)['100% right, damaged'][0]


# ---- generators and samplers on the map, from made-up records of 07_affectnet --------------------
KINDS = ['neutral', 'happiness', 'sadness', 'surprise', 'fear', 'disgust', 'anger', 'contempt']
RIGHT = {'random': .3, 'cl-sam': .8, 'cr-sam': .5}
BENCH = pd.DataFrame([dict(augment=a, n=n, horizon=16, seed=s, accuracy=.4 + v)
                      for a, v in (('jitter', .05), ('crops', 0.)) for n in (100, 1600)
                      for s in range(4)])


def arm_of_07(n, seed, sampler, ratio, gain, cover=.14, right=None, **more):
    "What 07_affectnet's record of an arm says to the map: its gain in points, in all readings."
    alone = sampler == 'none'
    known = dict(n_real=n, n_added=0 if alone else ratio*n, sampler=sampler, ratio=ratio, seed=seed,
                 recipe='jitter', generator='stargan', budget=1., classes=KINDS,
                 oracle_accuracy=.85, preserved_kept=RIGHT.get(sampler, right),
                 coverage_kept=None if alone else cover, coverage_real=.2 if alone else None)
    accuracy = {f'{who}_mean_class_accuracy{end}': .5 + gain/100*(who == 'arm')
                for end in ('', '_updates', '_views') for who in ('arm', 'control')}
    return USUAL | known | accuracy | more


def arms_of_07(shift=0., seeds=5, places=(100, 400, 3200), ratios=(1, 2, 5), luck=.5, **more):
    "All arms of a generator, whose gains are what the law says of them, and a shift."
    rng, rows = np.random.default_rng(1), []
    for n in places:
        for seed in range(seeds):
            rows.append(arm_of_07(n, seed, 'none', 1, 0., **more))
            for sampler, right in RIGHT.items():
                for r in ratios:
                    gain = float(TRUTH.gain(n, r, label_information(right, 8), .7)) + shift
                    rows.append(arm_of_07(n, seed, sampler, r, gain + luck*rng.normal(), **more))
    return rows


def said_of_generators(rows):
    found = generator_points(place_records(pd.DataFrame(rows)))
    law, seen = fit_law(points(8, many=19)), points(8, many=19)
    others = law_bootstrap(seen, 5)
    told = foretold(law, others, found)
    errors = generator_errors(law, found, seen[seen.added > 0])
    if len(errors): assert len(plot_foretold(told).axes) == told.generator.nunique()
    return foretold_in_words(told, errors), told, errors


def test_generators_that_follow_the_law_are_foretold_and_others_are_not():
    yes, told, errors = said_of_generators(arms_of_07())
    assert yes.startswith('The law holds for generators') and (told.inside == 'yes').mean() > .7
    assert errors.set_index('foretold by')['RMSE, points'].idxmin() == 'the law'
    for shift, way in ((-5., 'too much'), (5., 'too little')):
        no, told, _ = said_of_generators(arms_of_07(shift))
        assert no.startswith('The law does not hold') and f'It foretells {way}, by ' in no
        assert (told.inside == 'yes').mean() < .3
    both, told, _ = said_of_generators(arms_of_07() + arms_of_07(generator='cvae', budget=.25))
    assert 'cvae, 0.25x the updates and stargan' in both and len(told) == 54


def test_one_seed_one_record_and_none_decide_nothing():
    said, told, _ = said_of_generators(arms_of_07(seeds=1))
    assert 'nobody knows yet: that takes five seeds' in said and {*told.inside} == {'one seed'}
    said, told, errors = said_of_generators([arm_of_07(400, 0, 'cl-sam', 1, -4.)])
    assert 'sampler=none' in said and told.inside.tolist() == ['no likeness'] and not len(errors)
    assert 'make tables TABLE=place' in said_of_generators([])[0]
    regions = sampler_regions(place_records(pd.DataFrame([arm_of_07(400, 0, 'cl-sam', 1, -4.)])))
    assert regions.claim.tolist() == ['A'] and regions.verdict[0] == 'undecided (only 1 seed)'
    choice = choice_table(regions, free_worth(pd.DataFrame(), BENCH, [400]))
    assert choice.more.tolist() == ['not run'] and len(plot_regions(regions).axes) >= 3
    assert 'takes five seeds' in regions_in_words(regions, choice)


@pytest.mark.parametrize('other', [
    dict(changes='most=9'), dict(scale='gpu'), dict(data='affectnet', root='faces-1'),
    dict(folds=5), dict(protocol='updates'), dict(scorer='seen'), dict(share='real')])
def test_records_of_another_question_are_left_out(other):
    usual = arms_of_07(seeds=2, places=(400,))
    odd = [r | other | dict(arm_mean_class_accuracy=.99) for r in usual]
    a, b = (place_records(pd.DataFrame(rows)) for rows in (usual, odd + usual))
    pd.testing.assert_frame_equal(generator_points(a), generator_points(b), check_dtype=False)
    assert not len(place_records(pd.DataFrame(odd)))


def test_every_generator_that_is_missing_has_a_command_that_exists():
    table = generator_table(generator_points(place_records(pd.DataFrame(arms_of_07(budget=.25)))))
    made = table.set_index(['generator', 'budget'])['to be made by']
    assert not made['stargan', .25] and all(made.drop(('stargan', .25)))
    rule = (ROOT/'config'/'tables.yaml').read_text()
    for command in filter(None, ON_THE_MAP.values()):
        for name in command.split('TABLE=')[1].split(','): assert f'\n  {name}:' in rule
    declared = declared_parameters(ROOT/'nbs'/'07_affectnet.ipynb')
    for command in filter(lambda c: c.startswith('papermill'), made):
        asked = {w for before, w in zip(command.split(), command.split()[1:]) if before == '-p'}
        assert asked <= {*declared, 'generator'}, asked - {*declared}


def test_where_few_images_are_helped_and_many_hurt_the_claims_are_regions():
    def rows(turn):
        for n, seed, sampler, r in itertools.product((100, 3200), range(5), RIGHT, (1, 2, 5)):
            gain = turn*(4 if n == 100 else -4)*(sampler != 'random') + .1*(seed - 2)
            yield arm_of_07(n, seed, sampler, r, gain - 3*(r == 5))
    few, many = (sampler_regions(place_records(pd.DataFrame(rows(t)))) for t in (1, -1))
    free = free_worth(pd.DataFrame(), BENCH, [100, 3200])
    said = [regions_in_words(r, choice_table(r, free)) for r in (few, many)]
    b = 'B, selecting helps more than any: with 100 real images {} everywhere; with 3,200'
    assert b.format('yes') in said[0] and b.format('no') in said[1]
    assert all('C, beyond 2x, more hurts: with 100 real images yes everywhere' in s for s in said)
    assert choice_table(few, free).more.tolist() == ['no']*6 # 4 points beside jitter's 5


# ---- cells, labels, readings ---------------------------------------------------------------------
def test_cells_of_seeds_are_a_sequence_and_none_asks_for_more_than_there_is():
    own = [cells_of(s, 19, 8000)[6:] for s in range(12)]
    assert all(15 <= len(c) <= 19 and all(0 < x.m <= 8000 for x in c) for c in own)
    assert len({c for cells in own for c in cells}) > 100 and len({tuple(c) for c in own}) == 12
    for level, values in LEVELS.items():
        assert {getattr(c, level) for cells in own for c in cells} == {*values}
    small = cells_of(9, 20, 60)
    assert len(small) > 6 and all(c.m <= 60 for c in small)


@pytest.mark.parametrize('right', [1., .75, .5, .33, 0.])
def test_as_many_labels_are_wrong_as_asked_for(right):
    y = np.random.default_rng(0).integers(0, 5, 997)
    changed = wrong_labels(y, right, 5, 3)
    assert (changed != y).sum() == round((1 - right)*997) and {*changed} <= {*range(5)}
    assert (wrong_labels(y, right, 5, 3) == changed).all()
    if right < 1: assert (wrong_labels(y, right, 5, 4) != changed).any()


class Made:
    "Trainings whose readings are told."
    def __init__(self, hits, looks): self.hits, self.looks = hits, looks
    def said(self, reading):
        right = self.hits[reading]
        return np.stack([[[.9, .1]]*right + [[.1, .9]]*(10 - right)])
    def history(self):
        return pd.DataFrame(dict(training=0, update=self.looks, score=np.arange(len(self.looks))))


@pytest.mark.parametrize('added, fewer', [(.5, 700), (1, 500), (2, 300), (5, 200), (10, 100),
                                          (50, 100)])
def test_equal_views_compare_the_looks_at_which_real_images_were_seen_as_often(added, fewer):
    pairs = readings(1000, added, 100)
    assert pairs == dict(plateau=('best', 'best'), updates=('at 1000', 'at 1000'),
                         views=('at 1000', f'at {fewer}'))
    control = Made({f'at {u}': u//250 for u in range(100, 1001, 100)} | dict(best=6), [100, 1000])
    arm = Made({'at 1000': 9, 'best': 8}, [100, 700])
    cells = cells_of(0, 1, 10**6)
    alone, other = cells[0], cells[0].__class__(100, added)
    row = cell_rows([alone, other], [control, arm], np.zeros(10, int), 1000,
                    PlateauConfig.of()).iloc[1]
    assert_close([row.gain_plateau, row.gain_updates, row.gain_views],
                 [20, 50, 10*(9 - fewer//250)], 1e-9)
    assert row.plateau_at == 700 and not row.still_rising


# ---- who is in what ------------------------------------------------------------------------------
def nobody_twice(sets):
    seen = {}
    for name in ('train', 'stock', 'valid', 'test'):
        for image in sets[name].gather(np.arange(len(sets[name]))):
            key = image.numpy().tobytes()
            assert key not in seen, f'{name} shares an image with {seen.get(key)}'
            seen[key] = name
    return len(seen)


@pytest.mark.parametrize('seed', [0, 1])
def test_drawn_faces_are_in_one_set_only(seed):
    sets = load_data('drawn', '', [], 36, dict(train=120, valid=40, test=60), seed)
    assert nobody_twice(split_stock(sets, 40, seed)) == 220


def test_photographs_are_in_one_set_only(tmp_path):
    root = pictures(tmp_path/'faces', dict(training=[40, 30, 30], validation=[10, 10, 10]))
    kinds = ['neutral', 'happiness', 'sadness']
    for seed in range(2):
        sets = load_data('affectnet', root, kinds, 36, dict(train=60, valid=15, test=24), seed)
        whole = split_stock(sets, 40, seed)
        assert len(whole['train']) <= len(sets['train'])//2, 'half of it is a stock'
        assert nobody_twice(whole) == sum(map(len, sets.values()))
        assert (whole['train'].counts + whole['stock'].counts == sets['train'].counts).all()


def test_one_class_or_one_image_is_refused(tmp_path):
    writer = ImageSetWriter(tmp_path/'one', 6, 8, ['a'])
    writer.write(np.zeros((6, 8, 8, 3), np.uint8), [0]*6)
    with pytest.raises(ValueError, match='6 training images of 1 class: a map needs two classes'):
        split_stock(dict(train=writer.close()), 3)


def test_a_damaged_set_is_the_same_faces_in_order():
    whole = load_data('drawn', '', [], 36, dict(train=64, valid=8, test=8), 0)['train']
    worse, again = damaged_set(whole, 0), damaged_set(whole, 0)
    assert (worse.labels == whole.labels).all() and worse.folder == again.folder
    a, b = (s.gather(np.arange(16)).float().flatten(1) for s in (whole, worse))
    apart = torch.cdist(a, b)
    assert (apart.argmin(1) == torch.arange(16)).all() and apart.diag().min() > 100


# ---- as a user runs it ---------------------------------------------------------------------------
@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Seed 0 in a process of its own, seed 1 in this one."
    folder = tmp_path_factory.mktemp('when')
    status, output = test_experiment.run_forked(folder, notebook='15_when')
    assert status == 0, output[-3000:]
    names, said = when(folder, scale='smoke', seed=1)
    assert 'trainings of 2 seeds' in said and 'the law needs' in said
    return folder


def test_a_run_leaves_its_record(runs):
    folder = runs/'15_when'/'scale=smoke'
    record = json.loads((folder/'metrics.json').read_text())['metrics']
    cells = pd.DataFrame(record['cells'])
    assert (cells.added == 0).sum() == 2 and 3 <= len(cells) <= 5 and record['n_test'] == 80
    assert (cells[cells.added == 0][['gain_plateau', 'gain_updates']] == 0).all(axis=None)
    assert cells.stopped_at.between(20, 40).all() and 0 <= record['likeness'] <= 1
    assert 'nobody knows yet' in (folder/'answer.md').read_text()
    other = json.loads((runs/'15_when'/'scale=smoke,seed=1'/'metrics.json').read_text())['metrics']
    assert other['cells'] != record['cells']


def test_a_second_run_reuses_all_and_draws_the_map_of_many_seeds(runs):
    folder = runs/'15_when'/'scale=smoke'
    before = json.loads((folder/'metrics.json').read_text())['metrics']
    made = {p: p.stat().st_mtime_ns for p in runs.glob('artefacts/*/*/artefact.json')}
    params = json.loads((folder/'params.json').read_text())
    for seed in range(2, 8):
        other = folder.parent/f'scale=smoke,seed={seed}'
        shutil.copytree(folder, other)
        (other/'params.json').write_text(json.dumps(params | dict(seed=seed)))
        record = json.loads((folder/'metrics.json').read_text())
        record['metrics']['cells'] = made_up(seed, many=19)
        (other/'metrics.json').write_text(json.dumps(record))
    status, output = test_experiment.run(runs, notebook='15_when')
    assert status == 0, output[-3000:]
    assert json.loads((folder/'metrics.json').read_text())['metrics'] == before
    assert {p: p.stat().st_mtime_ns for p in runs.glob('artefacts/*/*/artefact.json')} == made
    tables, figures = ({p.stem for p in (folder/kind).iterdir()} for kind in ('tables', 'figures'))
    assert tables >= {'cells', 'learning_curve', 'law_errors', 'law', 'exchange', 'readings'}
    assert figures >= {'images', 'learning_curve', 'map'}
    answer = (folder/'answer.md').read_text()
    assert 'On drawn faces (8 seeds, ' in answer and 'With 200 real images or fewer' in answer


def test_a_run_with_and_without_records_of_generators(runs, tmp_path):
    here = tmp_path/'runs'
    shutil.copytree(runs, here)
    folder = here/'15_when'/'scale=smoke'
    params, record = (json.loads((folder/f'{kind}.json').read_text())
                      for kind in ('params', 'metrics'))
    for seed in range(2, 6): # so many that there is a law
        other = folder.parent/f'scale=smoke,seed={seed}'
        shutil.copytree(folder, other, dirs_exist_ok=True)
        (other/'params.json').write_text(json.dumps(params | dict(seed=seed)))
        record['metrics']['cells'] = made_up(seed, many=19)
        (other/'metrics.json').write_text(json.dumps(record))
    names, said = when(here, scale='smoke')
    assert 'no record of a sampler: make tables TABLE=place' in said and not len(names['places'])
    assert 'No generator is on the map yet' in names['on_generators']
    assert not (folder/'tables'/'foretold.csv').exists() and 'generator' not in names['answer']
    for i, row in enumerate(arms_of_07(places=(100, 400), seeds=2, scale='smoke')):
        other = here/'07_affectnet'/f'made-up-{i}'
        other.mkdir(parents=True)
        (other/'params.json').write_text(json.dumps(dict(seed=row['seed'])))
        (other/'metrics.json').write_text(json.dumps(dict(
            metrics=row, provenance=record['provenance'])))
    names, said = when(here, scale='smoke')
    tables, figures = ({p.stem for p in (folder/kind).iterdir()} for kind in ('tables', 'figures'))
    assert tables >= {'generators', 'likeness', 'foretold', 'foretold_errors', 'regions', 'choice'}
    assert figures >= {'foretold', 'regions'}
    assert len(pd.read_csv(folder/'tables'/'foretold.csv')) == 18 and len(names['regions']) == 36
    answer = (folder/'answer.md').read_text()
    assert 'nobody knows yet: that takes five seeds' in answer and "The paper's claims" in answer


@pytest.mark.parametrize('given, said', [
    (dict(recipe='flip'), 'recipe'), (dict(seed=-1), 'seed'), (dict(scale='big'), 'scale'),
    (dict(changes='epochs=3'), "unknown 'epochs'"), (dict(changes='most=x'), 'most'),
    (dict(changes='most=10'), 'up to most=10'), (dict(changes='updates=25'), 'look_every=10'),
    (dict(data='folder'), 'root'), (dict(data='drawn', classes='happiness'), 'class'),
    (dict(data='drawn', classes='joy'), 'joy')])
def test_what_cannot_be_run_is_refused(runs, given, said):
    before = {*runs.glob('15_when/*/metrics.json')}
    with pytest.raises((ValueError, OSError), match=said):
        when(runs, **(dict(scale='smoke') | given))
    assert {*runs.glob('15_when/*/metrics.json')} == before


def test_photographs_that_are_few_run_or_are_told_what_the_map_needs(tmp_path):
    counts = dict(training=[60, 60, 30], validation=[9, 9, 0])
    root = pictures(tmp_path/'faces', counts)
    names, said = when(tmp_path/'runs', data='affectnet', root=str(root), scale='smoke',
                       classes='neutral,happiness,sadness')
    assert 'the test set has no images of sadness' in said and len(names['found']) >= 2
    assert 'photographs of faces (1 seed' in names['answer']
    few = pictures(tmp_path/'few', dict(training=[20, 20], validation=[4, 4]))
    with pytest.raises(ValueError, match='at least 80 training images'):
        when(tmp_path/'runs', data='affectnet', root=str(few), scale='smoke',
             classes='neutral,happiness')
