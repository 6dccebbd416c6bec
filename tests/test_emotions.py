"""09_emotions as a user runs it, on drawn faces and on photographs; what made-up records say."""
import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from execute import cells
from here import as_alone, executed, killed_at
from PIL import Image
from test_verdict import verdict
from test_when import pictures

from synthnb.core import declared_parameters, load_json, save_json
from synthnb.data import AFFECTNET_COLUMNS
from synthnb.drawn import drawn_set
from synthnb.poster import (EVEN, SPLITS, TAIL, answer_poster, balance_table, even_parts,
                            first_of_each, once_a_seed, plot_balance, plot_splits, poster_claims,
                            poster_values, poster_verdicts, recall_changes, split_table, tail_parts,
                            widened)

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT/'nbs'/'09_emotions.ipynb'
CLASSES = ['happiness', 'neutral', 'sadness', 'fear', 'anger']


def emotions(runs, **params):
    "The notebook's cells in this process: its names, its output."
    with as_alone(runs) as said:
        return executed(NOTEBOOK, dict(scale='smoke') | params), said.getvalue()


def the_one(runs): return next(runs.glob('09_emotions/*/metrics.json')).parent


def record_of(folder): return load_json(folder/'metrics.json')['metrics']


def without_times(record): return {k: v for k, v in record.items() if k != 'seconds'}


# ---- made-up records -----------------------------------------------------------------------------
YES = {True: {'split 25': 0, 'split 50': 0, 'split 75': 0, 'synthetic': -15, 'real 50': -5,
              'added': 3, 'more real': 8, 'synthetic, attention': -9, 'synthetic, conditional': -9},
       False: {'repetition': -1, 'weights': -1, 'logits': -1, 'cheap': -1, 'gan': 4,
               'gan, attention': 9, 'gan, conditional': 9, 'real': 20}}
NO = {True: {'split 25': -5, 'split 50': -5, 'split 75': -5, 'synthetic': 5, 'real 50': 0,
             'added': -5, 'more real': -9, 'synthetic, attention': 0, 'synthetic, conditional': 0},
      False: {'repetition': 0, 'weights': 0, 'logits': 0, 'cheap': 0, 'gan': -5,
              'gan, attention': -9, 'gan, conditional': -9, 'real': -5}}


def made_up(gains, seed=0, imbalance=10., **more):
    "A run's record: the points that its arms gain, the GANs' sign in all else, a little luck."
    even = imbalance == 1
    luck, arms = np.random.default_rng(seed), {}
    better = .05 if gains.get('added' if even else 'gan', 0) > 0 else -.05
    for arm, g in ({'authentic' if even else 'none': 0.} | gains).items():
        g, up = (g + .2*luck.normal()*(g != 0))/100, better*arm.startswith(('added', 'gan'))
        arms[arm] = dict(
            gain=g, gain_updates=g, gain_views=g, mean_class_accuracy=.5 + g, ece=.2 - up,
            class_accuracy=[.5 + better + up, .5, .45, .4, .3 + 2*up], robust=.4 + up,
            precision=[.5]*5, confusion=np.full((5, 5), 4.).tolist(), robust_clean=.5,
            robust_each=dict(contrast=.4 + up))
    pools = {name: dict(frechet=f, right=.5, right_class=[.5]*5, coverage=.1)
             for name, f in (('dcgan', 2.), ('dcgan-attention', 2. - 10*better))}
    vectors = {a: dict(gain=g) for a, g in (('gaussians', 2*better), ('head, weights', better))}
    counts = [12]*5 if even else [12, 7, 4, 2, 1]
    return dict(seed=seed, imbalance=imbalance, arms=arms, resnet={}, pools=pools, counts=counts,
                vectors={} if even else vectors, classes=CLASSES) | more


def seeds(gains, n=5, **more):
    return pd.DataFrame([made_up(gains, s, **more) for s in range(n)])


def said_to(records): return poster_verdicts(records).set_index('claim').verdict


@pytest.mark.parametrize('even', [True, False])
def test_opposite_records_give_opposite_verdicts_and_answers(even):
    rho = 1. if even else 10.
    yes, no = (said_to(seeds(w[even], imbalance=rho)) for w in (YES, NO))
    ours = yes.index.str.endswith('?')
    assert yes[~ours].str.startswith('reproduced').all() and yes[ours].str.startswith('yes').all()
    assert no.str.match('reversed|a difference$|no($|, )').all(), no
    yes, no = (answer_poster(seeds(w[even], imbalance=rho)) for w in (YES, NO))
    assert ('synthetic images alone lowers' if even else 'for each raises') in yes
    assert ('synthetic images alone raises' if even else 'for each lowers') in no
    for text in (yes, no): assert all(len(s.split()) <= 45 for s in text.split('. ')), text


@pytest.mark.parametrize('even', [True, False])
def test_fewer_than_five_seeds_and_no_seed_decide_nothing(even):
    rho = 1. if even else 10.
    for n in (1, 4):
        said = said_to(seeds(YES[even], n, imbalance=rho))
        assert said.str.fullmatch(rf'undecided \(only {n} seeds?\)').all(), said
        assert 'too few to say' in answer_poster(seeds(YES[even], n, imbalance=rho))
    none = poster_verdicts(pd.DataFrame(), even)
    assert none.verdict.eq('not run').all() and len(none) == 1 + len(EVEN if even else TAIL)
    assert answer_poster(pd.DataFrame(dict(imbalance=[]))) == ''


def test_folds_decide_when_they_are_complete_and_are_wider_than_seeds():
    four = said_to(seeds(YES[False], 4, folds=5))
    assert (four == 'undecided (4 of 5 folds)').all()
    folds, independent = (poster_verdicts(seeds(YES[False], folds=f)) for f in (5, 0))
    assert folds.verdict.str.startswith(('reproduced', 'yes')).all()
    np.testing.assert_allclose(folds.ours, independent.ours)
    apart = (independent.hi - independent.lo) > 1e-9
    ratio = ((folds.hi - folds.lo)/(independent.hi - independent.lo))[apart]
    np.testing.assert_allclose(ratio, (1 + 5/4)**.5)
    v = [1., 2, 4, np.nan]
    assert widened(v, 0).tolist() == v[:3] and len(widened([], 3)) == 0
    assert np.ptp(widened(v, 3)) > 3 and np.isclose(widened(v, 3).mean(), 7/3)
    few = answer_poster(seeds(YES[False], 4, folds=5), 'photographs')
    assert few.startswith('On photographs, where') and 'too few to say' in few


def test_a_reading_that_contradicts_is_named():
    records = seeds(YES[False])
    for arms in records.arms: arms['gan'] |= dict(gain_views=-.04)
    said = said_to(records)['classes balanced by a GAN: 2% more accuracy']
    assert said == 'contradicted (equal views)'
    for arms in records.arms: arms['gan'] |= dict(gain_updates=-.04)
    said = said_to(records)['classes balanced by a GAN: 2% more accuracy']
    assert said == 'contradicted (equal updates and equal views)'
    for arms in records.arms: arms['gan'] |= dict(gain_updates=None, gain_views=np.nan)
    said = said_to(records)['classes balanced by a GAN: 2% more accuracy']
    assert said == 'reproduced'


@pytest.mark.parametrize('even', [True, False])
def test_what_json_made_of_nan_is_skipped_and_what_is_missing_was_not_run(even):
    rho = 1. if even else 10.
    records = seeds(YES[even], 6, imbalance=rho)
    lost = records.iloc[5].arms['added' if even else 'gan']
    lost |= dict.fromkeys(('gain', 'gain_views', 'robust', 'ece'))
    for arms in records.arms:
        for arm in arms.values(): arm['class_accuracy'][2] = None # no test image of sadness
    records.iloc[0].pools['dcgan']['frechet'] = None
    table = poster_verdicts(records).set_index('claim')
    key = ('synthetic images added' if even else 'classes balanced by a GAN') + ': 2% more accuracy'
    assert table.seeds[key] == 5 and table.verdict[key] == 'reproduced'
    assert table.seeds['does self-attention bring the images nearer to real ones?'] == 5
    assert not table.verdict.eq('not run').any()
    bare = seeds({}, imbalance=rho, pools={}, vectors={})
    said = poster_verdicts(bare).set_index('claim').verdict
    own = said.drop('happiness is recognised best') if even else said
    assert own.eq('not run').all() and 'was not tried' in answer_poster(bare)
    assert set(poster_values(made_up(YES[even], imbalance=rho))) == {*poster_claims(even).key}
    other = poster_verdicts(seeds(YES[True], imbalance=1., classes=['joy', *CLASSES[1:]]))
    assert other[other.claim == 'happiness is recognised best'].verdict.item() == 'not run'


def test_tables_and_figures_of_one_and_of_many_and_of_the_data_as_they_are():
    for n in (1, 5):
        even, tail = seeds(YES[True], n, imbalance=1.), [seeds(YES[False], n, imbalance=r)
                                                         for r in (0., 10., 100.)]
        table = split_table(even)
        assert table.share.tolist() == [0, *SPLITS, 100] and len(split_table(tail[0])) == 0
        assert len(plot_splits({'it': table}).axes) == 1
        all_of_it = balance_table(pd.concat([even, *tail]))
        assert {*all_of_it.imbalance} == {0, 10, 100} and 'real' in {*all_of_it.arm}
        assert len(balance_table(even)) == 0 and len(plot_balance(all_of_it).axes) == 3
        assert recall_changes(tail[1], 'gan')['class'].tolist() == CLASSES
    missing = recall_changes(tail[1], 'real, but not run')
    assert missing.gain.isna().all()
    said = answer_poster(pd.concat([even, *tail]))
    assert said.count('\n\n') == 3 and said.startswith('On drawn faces with even classes')
    assert said.count('Where the largest class has ') == 3 and 'has 12 times' in said


# ---- what classifiers are trained on -------------------------------------------------------------
class Some:
    "Labels, and what belongs to them."
    def __init__(self, counts):
        self.classes = [str(c) for c in range(len(counts))]
        self.labels = np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize('n', [4, 7, 25, 66])
def test_every_split_has_as_many_images_of_each_class(n):
    real, pool = Some([2*n + c for c in range(3)]), Some([n]*3)
    rows = first_of_each(real.labels, [n]*3, 1)
    fresh = np.setdiff1d(first_of_each(real.labels, [2*n]*3, 1), rows)
    parts = even_parts(real, rows, {'dcgan': pool, 'dcgan-attention': pool}, fresh, 1)
    def each(own): return sum(np.bincount(s.labels[r], minlength=3) for s, r in own)
    for arm, own in parts.items():
        most = 2*n if arm in ('added', 'more real') else round(.5*n) if arm == 'real 50' else n
        assert each(own).tolist() == [most]*3, arm
        for s, r in own: assert len({*r}) == len(r), arm
        assert {*own[0][1]} <= {*rows} or own[0][0] is pool or arm == 'more real'
    assert not {*fresh} & {*rows} and len(parts) == 9
    assert 'more real' not in even_parts(real, rows, {'dcgan': pool}, None, 1)


@pytest.mark.parametrize('counts, there', [([9, 4, 2], [9, 9, 9]), ([9, 4, 2], [9, 5, 2]),
                                           ([5, 5, 5], [5, 5, 5]), ([40, 1, 1], [80, 40, 3])])
def test_a_tail_is_filled_up_and_no_real_image_is_there_twice(counts, there):
    real, pool = Some([t + 3 for t in there]), Some([max(counts)]*3)
    rows, full = (first_of_each(real.labels, n, 0) for n in (counts, there))
    cheap = Some(max(counts) - np.array(counts))
    parts = tail_parts(real, rows, {'dcgan': pool, 'dcgan-conditional': pool, 'cheap': cheap}, full)
    for arm, own in parts.items():
        for s, r in own: assert len({*r}) == len(r), arm
        made = sum(np.bincount(s.labels[r], minlength=3) for s, r in own)
        filled = arm.startswith('gan') or arm == 'cheap'
        assert (made == (max(counts) if filled else there if arm == 'real' else counts)).all(), arm
        assert own[0][0] is real and {*rows} <= {*own[0][1]}
        assert all(len(r) for _, r in own) and (arm != 'real' or len(own) == 1)
    assert {'gan', 'gan, conditional', 'cheap', 'none', 'real'} < {*parts}


def test_a_seed_counts_once_however_many_generators_it_has():
    found = pd.DataFrame([
        made_up(YES[False], s, rho) | dict(imbalance=rho, seed=s, generators=g, folds=0)
        for rho in (10., 3.) for s in range(5) for g in ('dcgan', 'all')[s % 2:]])
    once = once_a_seed(found)
    assert len(once) == 10 and (once.generators == 'all').all()
    assert once[['imbalance', 'seed']].to_numpy().tolist() == [[r, s] for r in (3, 10)
                                                               for s in range(5)]
    assert answer_poster(found) == answer_poster(once) and len(once_a_seed(once)) == 10


# ---- as a user runs it ---------------------------------------------------------------------------
EVENLY = dict(imbalance=1., generators='all')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "One finished run with even classes."
    folder = tmp_path_factory.mktemp('emotions')
    emotions(folder, **EVENLY)
    return folder


def test_a_run_leaves_its_record(runs):
    folder = the_one(runs)
    record = record_of(folder)
    assert {*record['arms']} == {'authentic', *(f'split {s}' for s in SPLITS), 'synthetic',
                                 'real 50', 'added', 'more real', 'synthetic, attention',
                                 'synthetic, conditional'}
    assert {*record['pools']} == {'dcgan', 'dcgan-attention', 'dcgan-conditional'}
    for name, v in record['arms'].items():
        assert {'gain', 'gain_updates', 'gain_views', 'ece', 'confusion', 'precision'} <= {*v}
        assert 0 <= v['mean_class_accuracy'] <= 1 and len(v['class_accuracy']) == 5, name
        assert np.sum(v['confusion']) == record['n_test'] == 60
    assert record['arms']['authentic']['gain'] == 0 and record['vectors'] == {}
    assert {a for a, v in record['arms'].items() if 'robust' in v} == {
        'authentic', 'split 50', 'synthetic', 'added', 'more real'}
    assert {*record['resnet']} == {'authentic', 'synthetic'}
    assert record['counts'] == [12]*5 and record['classes'] == CLASSES and record['n_real'] == 60
    params = load_json(folder/'params.json')
    assert (params['imbalance'], params['scale'], params['folds']) == (1, 'smoke', 0)
    tables, figures = ({p.stem for p in (folder/kind).iterdir()} for kind in ('tables', 'figures'))
    assert tables >= {'arms', 'collapse', 'pools', 'stage2', 'splits', 'robustness', 'generators',
                      'verdicts'} and figures >= {'pools', 'confusion', 'splits'}
    said = pd.read_csv(folder/'tables'/'verdicts.csv').verdict
    assert said.str.startswith('undecided (only 1 seed').sum() >= 10
    assert 'On drawn faces with even classes' in (folder/'answer.md').read_text()


def made_in(folder): return {p: p.stat().st_mtime_ns for p in folder.glob('artefacts/*/*/*.json')}


def test_a_second_run_reuses_all_and_measures_the_same(runs):
    folder = the_one(runs)
    before, there = record_of(folder), made_in(runs)
    _, said = emotions(runs, **EVENLY)
    assert 'made in' not in said and len(re.findall('reused', said)) >= 6, said[-2000:]
    after = record_of(folder)
    assert without_times(after) == without_times(before) and made_in(runs) == there
    assert sum(after['seconds'].values()) < .5*sum(before['seconds'].values())


def test_killed_while_gans_and_classifiers_train_it_ends_with_the_same_numbers(runs, tmp_path):
    for stage in ('dcgan', 'trainings'):
        killed_at(lambda: emotions(tmp_path, **EVENLY), tmp_path, stage)
    assert not list(tmp_path.glob('09_emotions/*/metrics.json'))
    emotions(tmp_path, **EVENLY)
    found, whole = (record_of(the_one(r)) for r in (tmp_path, runs))
    assert without_times(found) == without_times(whole)
    assert not list(tmp_path.glob('artefacts/*/*.part'))


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    "AffectNet's layout, three classes, one of them of two training images; who is on each."
    root = pictures(tmp_path_factory.mktemp('photographs')/'faces',
                    dict(training=[24, 16, 9], validation=[6, 6, 3]))
    where = root/'Manually_Annotated_Images'
    names = sorted(str(p.relative_to(where)) for p in where.rglob('*.jpg'))
    pd.DataFrame({AFFECTNET_COLUMNS[0]: names, 'identity': [
        f'{name[:11]}{i//3}' for i, name in enumerate(names)]}).to_csv(
        root/'identities.csv', index=False)
    return dict(data='affectnet', root=str(root), classes='neutral,happiness,sadness',
                imbalance=0., generators='dcgan')


def test_photographs_as_they_are_by_folds_of_people(photographs, tmp_path):
    names, said = emotions(tmp_path, folds=3, seed=1, **photographs)
    record = record_of(names['run'].folder)
    asked = re.search('mirror images .* held-out images|cannot be told', said)
    assert asked and asked.start() < said.index('dcgan  '), 'before the GANs are trained'
    assert [*record['mirror_fall']] == [*record['classes'], 'all'] == [*record['mirror_p']]
    assert record['counts'][0] == max(record['counts']) > min(record['counts']) >= 2
    assert 'real' not in record['arms'] and 'real' not in record['resnet'], 'it would be `none`'
    assert {'none', 'repetition', 'weights', 'logits', 'cheap', 'gan'} == {*record['arms']}
    assert record['n_real'] == sum(record['counts']) and {*record['pools']} == {'dcgan'}
    answer = (names['run'].folder/'answer.md').read_text()
    assert answer.startswith('On photographs of faces, where the largest class has ')
    assert ' 0 times' not in answer and 'Real images' not in answer
    assert (names['run'].folder/'figures'/'balance.png').exists()
    assert str(tmp_path) not in (names['run'].folder/'params.json').read_text()


def test_fer2013s_csv_with_a_class_of_two_images(tmp_path):
    faces = drawn_set(90, 48, 'balanced', 0, 'fer', ['anger', 'happiness', 'sadness'])
    grey = faces.gather(np.arange(90)).float().mean(3).numpy().astype(int)
    code, rows, left = np.array([0, 3, 4]), [], np.array(faces.labels)
    for usage, each in dict(Training=[9, 14, 2], PublicTest=[5]*3, PrivateTest=[5, 5, 0]).items():
        for i in first_of_each(left, each, 0):
            rows.append((code[faces.labels[i]], ' '.join(map(str, grey[i].ravel())), usage))
            left[i] = -1 # nobody is in two lists
    pd.DataFrame(rows, columns=['emotion', 'pixels', 'Usage']).to_csv(tmp_path/'fer2013.csv',
                                                                     index=False)
    given = dict(data='fer2013', root=str(tmp_path/'fer2013.csv'), generators='dcgan',
                 classes='happiness,anger,sadness')
    names, said = emotions(tmp_path/'runs', imbalance=0., **given)
    record = record_of(names['run'].folder)
    assert record['counts'] == [12, 9, 2] and record['n_test'] == 10
    assert 'the test set has no images of sadness' in said
    assert record['arms']['gan']['class_accuracy'][2] is None and 'photographs of fer2013' in (
        names['answer'])
    with pytest.raises(ValueError, match='each class has 2 images: take imbalance=1'):
        emotions(tmp_path/'runs', imbalance=0., changes='head=2', **given)


@pytest.mark.parametrize('given, said', [
    (dict(imbalance=.5), 'imbalance=0.5: expected 1 or more, or 0 for photographs'),
    (dict(imbalance=0.), 'imbalance=0: expected 1 or more'), (dict(folds=1), 'folds=1'),
    (dict(folds=5), 'folds=5, data=drawn: expected 0'), (dict(imbalance=-1.), 'imbalance'),
    (dict(generators='stargan'), 'choose one of all, dcgan'), (dict(classes='joy'), 'joy'),
    (dict(changes='heads=3'), "unknown 'heads'"), (dict(changes='gan.width=0'), 'width'),
    (dict(changes='gan.widths=3'), 'widths'), (dict(recipe='flip'), 'recipe'),
    (dict(data='affectnet'), 'root'), (dict(trainings=-1), 'trainings'),
    (dict(classes='fear'), 'class'), (dict(scale='huge'), 'scale')],
    ids=lambda v: ','.join(f'{a}={b}' for a, b in v.items()) if isinstance(v, dict) else '')
def test_what_cannot_be_run_is_refused_before_anything_is_trained(tmp_path, given, said):
    with pytest.raises((ValueError, OSError), match=said): emotions(tmp_path, **given)
    assert not list(tmp_path.glob('artefacts/dcgan/*')) and not list(tmp_path.glob('09_*/*/m*'))


def sets_of(runs, **params):
    "The image sets, as the notebook's cells up to their import make them."
    names = {'__name__': '__main__'}
    with as_alone(runs):
        for source in cells(NOTEBOOK, dict(scale='smoke') | params):
            exec(source, names)
            if 'sets' in names: return names['sets'], names['run']


def test_you_say_how_many_of_your_files_may_be_torn(tmp_path):
    luck = np.random.default_rng(0)
    for split, each in dict(train=20, test=5).items():
        for c in 'ab':
            (tmp_path/'faces'/split/c).mkdir(parents=True)
            for i in range(each):
                Image.fromarray(luck.integers(0, 256, (36, 36, 3), np.uint8)).save(
                    tmp_path/'faces'/split/c/f'{i}.png')
    for name in ('a/3.png', 'a/7.png', 'b/5.png'):
        (tmp_path/'faces'/'train'/name).write_text(f'torn {name}')
    given = dict(data='folder', root=str(tmp_path/'faces'), imbalance=1.)
    with pytest.raises(ValueError, match=r'-p changes unreadable=0\.'):
        sets_of(tmp_path/'runs', **given)
    sets, run = sets_of(tmp_path/'runs', changes='unreadable=.1', **given)
    assert sum(map(len, sets.values())) == 47 and 'unreadable' in run.folder.name
    with pytest.raises(ValueError, match='a share, from 0 to 1'):
        sets_of(tmp_path/'runs', changes='unreadable=3', **given)


def test_a_class_without_images_is_refused(photographs, tmp_path):
    given = photographs | dict(classes='neutral,happiness,sadness,fear')
    with pytest.raises(ValueError, match='no training images of class fear; leave it out'):
        emotions(tmp_path, **given)
    assert not list(tmp_path.glob('artefacts/dcgan/*'))


# ---- 14_verdict on records of 09 -----------------------------------------------------------------
def test_the_ledger_judges_every_imbalance_and_folds(tmp_path):
    here = tmp_path/'09_emotions'
    here.mkdir()
    params = declared_parameters(NOTEBOOK)
    save_json(here/'defaults.json', params)
    wild = dict(data='affectnet', root='wildfaces-0123456789ab', folds=5)
    places = [(10., {}), (1., {}), (0., wild)]
    twin = 1., dict(generators='all') # has the numbers of the other as well
    for (rho, own), seed in [*itertools.product(places, range(5)), (twin, 2)]:
        folder = here/f'{rho:g} {seed} {len(own)}'
        folder.mkdir()
        said = dict(imbalance=rho, seed=seed) | own
        save_json(folder/'params.json', params | said)
        record = made_up(YES[rho == 1], seed, rho)
        save_json(folder/'metrics.json', dict(provenance=dict(commit='0'*40), metrics=record))
    drawn, photographs = verdict(tmp_path)
    found = pd.concat([drawn, photographs], ignore_index=True).query('seeds > 0')
    assert found.about.str.startswith('paper 2, ').all()
    for world, n in (('emotions', len(TAIL)), ('emotions, imbalance 1', len(EVEN))):
        own = found[found.world == world]
        assert len(own) == n + 1 and (own.seeds == 5).all(), world
        assert own.verdict.str.startswith(('reproduced', 'yes')).all()
    own = found[~found.world.str.match('emotions$|emotions, imbalance 1$')]
    assert len(own) == len(TAIL) + 1 and own.world.nunique() == 1
    assert 'wildfaces' in own.world.iloc[0] and (own.seeds == 5).all()
