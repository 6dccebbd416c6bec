"""From a search's archive to people, what a pretrained recogniser is asked, and 11_faces as run."""
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from here import as_alone, executed, killed_at
from PIL import Image
from test_when import pictures

from synthnb import core, identities, pretraining
from synthnb.core import generator, load_json
from synthnb.data import AFFECTNET_COLUMNS, LISTS
from synthnb.identities import (NAMES, Judge, JudgeConfig, JudgeTraining, Witness, balanced_samples,
                                judge_table, label_identities, nine_steps, people_pool, person_set,
                                set_truth)
from synthnb.people import DIM, PERSON, PeopleConfig, teach_people, truth_of
from synthnb.pretraining import (ARMS, BENCHMARKS, GROUPS, answer_faces, arm_numbers, evenness,
                                 faces_claims, faces_verdicts, fit_pretrained, made_of,
                                 photo_faces, plot_pretraining, sample_map, test_sets, verified)
from synthnb.qdgs import Samples, decode_all
from synthnb.recognition import IRNet, RecogniserConfig

test_sets.__test__ = False
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT/'nbs'/'11_faces.ipynb'


@pytest.fixture(autouse=True, scope='module')
def runs_here(tmp_path_factory):
    "Artefacts of these tests alone."
    before, folder = os.environ.get('SYNTHNB_RUNS'), tmp_path_factory.mktemp('faces')
    os.environ['SYNTHNB_RUNS'] = str(folder)
    yield folder
    if before is None: del os.environ['SYNTHNB_RUNS']
    else: os.environ['SYNTHNB_RUNS'] = before


@pytest.fixture(scope='module')
def drawer():
    "A StyleGAN2 of people that has learnt next to nothing."
    return teach_people(None, PeopleConfig.preset('smoke', channels=(8, 8, 8, 8)), device='cpu')


def some(n, d=8, seed=0, m=4):
    rng = np.random.default_rng(seed)
    return Samples(rng.normal(size=(n, d)).astype(np.float32), np.zeros(n, np.float32),
                   rng.normal(size=(n, m)).astype(np.float32))


# ---- drawn sets ----------------------------------------------------------------------------------
@pytest.mark.parametrize('wanted', [dict(skin_tone='dark'), dict(skin_tone=['light', 'dark']),
                                    dict(turn='profile'), dict(light='dim'),
                                    dict(feminine='masculine', light='bright'), dict(hair='long')])
@pytest.mark.parametrize('even', [False, True])
def test_everybody_is_as_wanted_and_stays_who_he_is(wanted, even):
    s = person_set(5, 3, 16, 3, f'wanted {even}', even, **wanted)
    truth, who = set_truth(s), np.asarray(s.column('person'))
    for name, groups in wanted.items():
        assert truth[f'{name} group'].isin(np.atleast_1d(groups)).all()
    for name in ('skin_tone', 'feminine', 'age', 'hair_length'):
        assert truth[name].groupby(who).std().max() < 1e-4, 'the person is the same'
    assert truth.yaw.groupby(who).std().min() > 1e-3, 'and the picture is another'
    assert who.tolist() == np.arange(5).repeat(3).tolist() and len(s) == 15


def test_sets_of_other_seeds_and_names_share_nobody_and_one_set_is_made_once():
    a, same = (person_set(4, 2, 16, 1, 'one') for _ in range(2))
    assert a.folder == same.folder
    others = [person_set(4, 2, 16, 2, 'one'), person_set(4, 2, 16, 1, 'two'),
              person_set(4, 2, 16, 1, 'one', ages=True)]
    z = [np.asarray(s.column('z'))[:, :len(PERSON)] for s in (a, *others[:2])]
    assert all(np.abs(p[:, None] - q[None]).max(2).min() > .1 for p in z for q in z if p is not q)
    assert set_truth(others[2]).age.groupby(np.arange(8)//2).std().min() > 0


@pytest.mark.parametrize('wrong, words', [
    (dict(height='tall'), 'skin_tone, feminine'), (dict(skin_tone='green'), 'light, mixed, dark'),
    (dict(turn=[]), 'frontal'), (dict(light=['dim', 'dusk']), 'dim, bright')])
def test_a_group_that_does_not_exist_is_named(wrong, words):
    with pytest.raises(ValueError, match=words): person_set(2, 2, 16, 0, 'wrong', **wrong)
    with pytest.raises(ValueError, match='one or more'): person_set(0, 2, 16, 0, 'nobody')


def test_groups_are_those_of_the_truth():
    truth = truth_of(torch.randn(3000, DIM, generator=generator('groups')))
    for name, groups in NAMES.items(): assert {*truth[f'{name} group']} == {*groups}, name


# ---- labels and pictures -------------------------------------------------------------------------
@pytest.mark.parametrize('n, chunks, per', [(2, 3, 2), (9, 3, 2), (60, 3, 2), (60, 2, 3), (7, 1, 1),
                                            (60, 1, 60)])
def test_labels_are_without_gaps_and_of_the_size_that_is_asked(n, chunks, per):
    s = some(n)
    label = label_identities(s, chunks, per)
    assert sorted({*label}) == list(range(label.max() + 1)) and len(label) == n
    if n >= 60 and per == 2: assert .8*n/2 <= label.max() + 1 <= 1.2*n/2
    if per == 1: assert len({*label}) == n
    if per == 60: assert label.max() == 0
    assert (label == label_identities(s, chunks, per)).all()


def test_no_label_reaches_into_another_chunk():
    s = some(180)
    label = label_identities(s, 3, 2)
    first = np.argsort(np.argsort(s.measures[:, 0]))*3//180
    assert all(len({*first[label == k]}) == 1 for k in range(label.max() + 1))
    with pytest.raises(ValueError, match='two or more'): label_identities(some(1))
    with pytest.raises(ValueError, match='1 or more'): label_identities(s, per_label=.5)


def test_each_latent_has_nine_pictures_the_fifth_as_it_is(drawer):
    s = Samples(drawer.prior(6, generator('six')).numpy(), np.zeros(6), np.zeros((6, 4)))
    pool = people_pool(drawer, s, np.array([0, 0, 1, 1, 2, 2]), 16)
    assert len(pool) == 54 and np.asarray(pool.column('variant')).tolist() == [*range(9)]*6
    assert np.asarray(pool.column('person')).tolist() == np.repeat([0, 0, 1, 1, 2, 2], 9).tolist()
    assert (nine_steps(drawer)[4] == 0).all() and nine_steps(drawer).shape == (9, drawer.latent_dim)
    x = torch.from_numpy(decode_all(drawer, s.solutions)).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.avg_pool2d(x, 2).round().byte().permute(0, 2, 3, 1)
    assert (pool.gather(np.arange(4, 54, 9)) == small).all()
    with pytest.raises(ValueError, match='give one for each'):
        people_pool(drawer, s, np.zeros(5), 16)
    with pytest.raises(ValueError, match='divisor'): people_pool(drawer, s, np.zeros(6, int), 12)


def test_a_pool_that_was_stopped_goes_on_to_the_same(drawer, monkeypatch):
    s = Samples(drawer.prior(40, generator('forty')).numpy(), np.zeros(40), np.zeros((40, 4)))
    who, real, calls = np.arange(40)//2, identities.decode_all, []
    def stops(*args):
        calls.append(1)
        if len(calls) == 2: raise KeyboardInterrupt
        return real(*args)
    monkeypatch.setattr(identities, 'decode_all', stops)
    with pytest.raises(KeyboardInterrupt): people_pool(drawer, s, who, 16)
    pool = people_pool(drawer, s, who, 16)
    assert len(calls) == 4, 'the first sixteen were not drawn again'
    monkeypatch.setenv('SYNTHNB_RUNS', str(core.runs_dir())+'-again')
    monkeypatch.setattr(identities, 'decode_all', real)
    assert people_pool(drawer, s, who, 16).fingerprint == pool.fingerprint


def test_a_balanced_sample_is_even_where_it_can_be():
    s = some(3000, m=2)
    own = balanced_samples(s, 200, 3)
    def cells(t): return np.histogram2d(*t.measures.T, bins=3, range=[[-2.05, 2.05]]*2)[0].ravel()
    assert cells(own).min() >= 15 and cells(s.subset(range(200))).min() < 10
    assert len({*map(bytes, own.solutions)}) == 200, 'nobody is there twice'
    assert len(balanced_samples(s, 3000)) == 3000
    for n in (0, 3001):
        with pytest.raises(ValueError, match='1 to 3000'): balanced_samples(s, n)


# ---- judge and witness ---------------------------------------------------------------------------
def test_a_judge_that_is_right_and_one_that_guesses():
    truth = set_truth(person_set(200, 1, 16, 0, 'judged', even=True))
    best = judge_table(truth, truth).set_index('attribute')
    assert (best.r2 == 1).all() and (best.right.dropna() == 1).all()
    mixed = judge_table(truth.sample(frac=1, random_state=0).reset_index(drop=True), truth)
    assert (mixed.r2 < 0).all() and (mixed.worst.dropna() < .9).all()


def test_a_judge_reads_in_the_rules_own_units():
    net = IRNet(10, 4, 16, len(identities.READ))
    net.forward = lambda x: torch.zeros(len(x), len(identities.READ))
    mean = np.array([2., .5, .4, -.3, 1., .2, .6])
    read = Judge(net, mean, np.ones(7), 'cpu').read(np.zeros((3, 16, 16, 3), np.uint8))
    assert np.allclose(read[list(identities.READ)], mean) and (read.turn == .3).all()
    assert {*read['skin_tone group']} == {'light'} and {*read['hair group']} == {'long'}


def test_a_judge_that_was_stopped_learns_the_same(tmp_path):
    config, nets = JudgeConfig.preset('smoke', size=16), []
    for folder, stop in ((None, None), (tmp_path, 2), (tmp_path, None)):
        t = JudgeTraining(config, 'cpu')
        more = dict(stop_after=stop, save_seconds=0)
        try: core.run_to_end(t, config.updates, 'judge', folder, 'it', **more)
        except KeyboardInterrupt: continue
        nets.append(t.net.state_dict())
    assert all(torch.equal(nets[0][k], nets[1][k]) for k in nets[0])


def test_a_witness_counts_what_pairs_have_in_common(drawer, monkeypatch):
    s = Samples(drawer.prior(12, generator('twelve')).numpy(), np.zeros(12), np.zeros((12, 4)))
    pool = people_pool(drawer, s, np.arange(12)//2, 16)
    by = {c: np.eye(12)[np.asarray(pool.column(c))] for c in ('person', 'solution')}
    for column, label in (('person', 1.), ('solution', 0.)):
        monkeypatch.setattr(identities, 'embed', lambda *_, c=column: by[c])
        found = Witness(None, .5, 1.).shares(pool, 200)
        assert found == {'one latent': 1., 'one label': label, 'two labels': 0.}
    alone = people_pool(drawer, s, np.arange(12), 16)
    assert np.isnan(Witness(None, .5, 1.).shares(alone, 200)['one label'])


# ---- what a recogniser is asked ------------------------------------------------------------------
@pytest.fixture(scope='module')
def tests_of_few(): return test_sets(20, 3, 16, 0)


def test_groups_and_benchmarks_are_what_they_say(tests_of_few):
    assert {*tests_of_few} == {*GROUPS, *BENCHMARKS}
    for g in GROUPS: assert (set_truth(tests_of_few[g])['skin_tone group'] == g).all()
    turned, dim = (set_truth(tests_of_few[n]) for n in ('turned heads', 'dim light'))
    assert (turned['turn group'] != 'frontal').all() and (dim['light group'] == 'dim').all()


def test_whoever_knows_all_is_right_and_fails_nobody(tests_of_few, monkeypatch):
    def knows(_, s): return np.eye(20)[np.asarray(s.column('person'))]
    monkeypatch.setattr(pretraining, 'embed', knows)
    best = verified(None, tests_of_few, 40)
    assert best['light'] == best['dark'] == best['impact'] == best['average'] == 1
    assert best['equalised_odds'] == 0 and {*best['benchmarks']} == {*BENCHMARKS}
    monkeypatch.setattr(pretraining, 'embed', lambda _, s: (
        np.random.default_rng(0).normal(size=(len(s), 20)) if s is tests_of_few['dark']
        else knows(_, s)))
    said = verified(None, tests_of_few, 40)
    assert said['light'] == 1 and said['dark'] < .8 and said['impact'] == said['dark']
    assert said['equalised_odds'] > .2 and said['average'] == 1


def test_pretraining_goes_on_from_its_backbone_and_none_begins_anew(tests_of_few):
    real, pool = (person_set(8, 3, 16, i, 'trained') for i in range(2))
    c = RecogniserConfig.preset('smoke', updates=2)
    def weights(pool): return fit_pretrained(pool, real, c, c, device='cpu').net.state_dict()
    a, b, again = weights(None), weights(pool), weights(pool)
    assert any(not torch.equal(a[k], b[k]) for k in a)
    assert all(torch.equal(b[k], again[k]) for k in b)


def test_evenness_and_what_a_set_is_made_of():
    assert evenness([.2]*5) == pytest.approx(1) and evenness([1, 0, 0]) == 0
    assert evenness([7, 2, 1]) < evenness([4, 3, 3])
    truth = truth_of(torch.randn(4000, DIM, generator=generator('made of')))
    biased, even = made_of(truth), made_of(truth_of(torch.randn(4000, DIM), even=True))
    assert biased['skin_tone']['shares']['dark'] == pytest.approx(.09, abs=.02)
    assert biased['skin_tone']['evenness'] < even['skin_tone']['evenness']


def test_a_sample_map_shows_the_picture_nearest_to_a_cells_middle():
    m = np.array([[.5, .5], [.9, .9], [2.5, .5], [9, 9]])
    s = Samples(np.zeros((4, 2)), np.zeros(4), m)
    images = np.arange(4, dtype=np.uint8)[:, None, None, None]*np.ones((1, 2, 2, 3), np.uint8)
    out = sample_map(s, images, 0, 1, ((0, 3), (0, 3)), 3)
    assert out.shape == (6, 6, 3) and (out[4:, :2] == 0).all() and (out[4:, 4:] == 2).all()
    assert (out[:4] == 255).all() and (out[4:, 2:4] == 255).all()


# ---- claims --------------------------------------------------------------------------------------
def a_record(seed, gains, luck=.001):
    "A made-up record: what arms gain, in all places; shares of groups; pairs."
    rng = np.random.default_rng(seed)
    def row(g):
        g += luck*rng.normal()
        return dict(dark=.9 + g, light=.95 + g, impact=.947 + g, average=.93 + g,
                    benchmarks={b: .93 + g for b in BENCHMARKS}, equalised_odds=.1 - g)
    arms = {w: {h: {a: row(gains.get(a, 0)) for a in ARMS} for h in heads}
            for w, heads in dict(biased=('adaface', 'arcface'), even=('adaface',)).items()}
    made = {}
    for a, dark in (('rand50', .09), ('qd50', .09 + gains.get('qd50', 0))):
        light = .8 - dark
        made[a] = {n: dict(shares={g: light if i == 0 else dark if i == len(own) - 1
                                   else 1 - light - dark for i, g in enumerate(own)},
                           evenness=evenness([light, dark])) for n, own in NAMES.items()}
    return dict(seed=seed, arms=arms, made=made, covered=dict(rand50=.1, qd50=.1 + dark),
                dark_bright=dict(rand50=.02, qd50=.02 + dark - .09),
                alike=dict(qd50={'one latent': .9, 'one label': .5, 'two labels': .1}))


def seeds(gains, n=5): return pd.DataFrame([a_record(i, gains) for i in range(n)])


def test_every_claim_reads_a_record_and_follows_it():
    claims = faces_claims()
    assert len({c['claim'] for c in claims}) == len(claims) >= 35
    for gains in ({'qd50': .02, 'qd15': .02, 'rand50': .005, 'even': .04}, {'qd50': -.02}):
        t = faces_verdicts(seeds(gains)).set_index('claim')
        assert t.ours.notna().all() and (t.seeds == 5).all()
        up = gains['qd50'] > 0
        for claim, size in (('pretraining on the search raises accuracy on dark skin', 2.),
                            ('pretraining on the search raises the mean of the benchmarks', 2.)):
            assert t.ours[claim] == pytest.approx(size if up else -size, abs=.3)
            assert t.verdict[claim].startswith('reproduced' if up else 'reversed')
        assert (t.ours['dark skin is more frequent in the search'] > 0) == up
    few = faces_verdicts(seeds({}, 1))
    assert few.verdict.str.contains('only 1 seed').all() and few.lo.isna().all()
    assert faces_verdicts(pd.DataFrame()).verdict.eq('not run').all()


def test_a_record_that_lacks_an_arm_leaves_its_claims_out():
    t = seeds({'qd50': .02})
    for arms in t.arms: del arms['biased']['adaface']['even'], arms['even']
    said = faces_verdicts(t).set_index('claim')
    assert said.verdict['balanced real set: it raises the mean'] == 'not run'
    assert said.verdict['pretraining on the search raises accuracy on dark skin'] != 'not run'
    shown = arm_numbers(t, 'biased')
    assert {*shown.arm} == {*ARMS} - {'even'} and len(plot_pretraining(shown).axes) == 3
    assert arm_numbers(t, 'even').empty
    assert 'was not tried' in answer_faces(t)


def test_the_answer_says_what_the_records_say():
    for gain, word in ((.03, 'raises accuracy by 3'), (-.03, 'lowers accuracy by 3'),
                       (0., 'leaves accuracy where it was')):
        said = answer_faces(seeds({'qd50': gain}))
        assert f'pretraining on the search {word}' in said, said
    assert 'too few to say' in answer_faces(seeds({'qd50': .03}, 2))


# ---- as a user runs it ---------------------------------------------------------------------------
def faces(runs, **params):
    "The notebook's cells in this process: its names, its output."
    with as_alone(runs) as said:
        return executed(NOTEBOOK, dict(scale='smoke') | params), said.getvalue()


def the_one(runs): return next(runs.glob('11_faces/*/metrics.json')).parent


def record_of(folder):
    found = load_json(folder/'metrics.json')['metrics']
    for s in found['searches'].values():
        for k in [k for k in s if 'second' in k]: del s[k]
    return {k: v for k, v in found.items() if k != 'seconds'}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "One finished run."
    folder = tmp_path_factory.mktemp('whole')
    faces(folder)
    return folder


def test_a_run_leaves_its_record(runs):
    folder = the_one(runs)
    record = record_of(folder)
    assert {*record['arms']} == {'biased', 'even'}
    assert {*record['arms']['biased']} == {'adaface', 'arcface'}
    for own in record['arms'].values():
        for arms in own.values():
            assert 'none' in arms and all(0 <= v['dark'] <= 1 for v in arms.values())
    assert {*record['made']} >= {'rand50', 'qd50', 'rand50, by truth', 'biased set'}
    for m in record['made'].values():
        for part in m.values(): assert sum(part['shares'].values()) == pytest.approx(1)
    assert record['sizes']['rand50'] == 20 and record['photographs'] == {}
    tables, figures = ({p.stem for p in (folder/kind).iterdir()} for kind in ('tables', 'figures'))
    assert tables >= {'table1', 'table2', 'table3', 'table4', 'table5', 'witness', 'verdicts'}
    assert figures >= {'people', 'maps', 'labels', 'pretraining'}
    assert 'too few to say' in (folder/'answer.md').read_text()


def test_a_second_run_reuses_all_and_measures_the_same(runs):
    before = record_of(the_one(runs))
    _, said = faces(runs)
    assert 'made in' not in said and len(re.findall('reused', said)) >= 6, said[-2000:]
    assert record_of(the_one(runs)) == before


@pytest.mark.long
def test_killed_while_it_searches_and_trains_it_ends_with_the_same_numbers(runs, tmp_path):
    for stage in ('qdgs', 'recogniser'):
        killed_at(lambda: faces(tmp_path), tmp_path, stage)
    assert not list(tmp_path.glob('11_faces/*/metrics.json'))
    faces(tmp_path)
    assert record_of(the_one(tmp_path)) == record_of(the_one(runs))


def test_photographs_are_tested_on_besides(runs, tmp_path):
    root = pictures(tmp_path/'faces', dict(training=[60, 60], validation=[6, 6]))
    where = root/'Manually_Annotated_Images'
    names = sorted(str(p.relative_to(where)) for p in where.rglob('*.jpg'))
    t = pd.DataFrame({AFFECTNET_COLUMNS[0]: names, 'identity': [i//3 for i in range(len(names))]})
    t.to_csv(root/'identities.csv', index=False)
    images, who = photo_faces(root, 16)
    assert images.shape[1:] == (16, 16, 3) and np.bincount(who).min() >= 2
    names, _ = faces(runs, root=str(root))
    record = record_of(names['run'].folder)
    assert {*record['photographs']} == {*record['arms']['biased']['adaface']}
    assert record['arms'] == record_of(runs/'11_faces'/'scale=smoke')['arms'], 'the rest is alike'
    assert str(tmp_path) not in (names['run'].folder/'params.json').read_text()
    t.assign(identity=range(len(t))).to_csv(root/'identities.csv', index=False)
    with pytest.raises(ValueError, match='nobody has two pictures'): photo_faces(root, 16)


def test_photographs_are_cut_to_the_face_and_what_is_no_picture_is_said(
        tmp_path, monkeypatch, capsys):
    half = np.zeros((40, 40, 3), np.uint8)
    half[:, 20:] = 255
    names = [tmp_path/f'{i}.png' for i in range(4)]
    for name in names: Image.fromarray(half).save(name)
    names[2].write_bytes(b'no picture')
    t = pd.DataFrame(dict(path=[*map(str, names)], label=0, left=20, top=0, width=20, height=40,
                          person=['a', 'a', 'b', 'b']))
    monkeypatch.setitem(LISTS, 'affectnet', lambda root, classes: (t, ['it'], root))
    images, who = photo_faces(tmp_path, 8)
    assert images.shape == (3, 8, 8, 3) and (images == 255).all() and who.tolist() == [0, 0, 1]
    said = capsys.readouterr().out
    assert '1 of 4 photographs could not be read' in said and '2.png' in said


@pytest.mark.parametrize('wrong, words', [
    (dict(stylegan='nowhere.safetensors'), 'nowhere'), (dict(scale='huge'), 'huge'),
    (dict(model='ViT-Z-99'), 'ViT-Z-99'), (dict(root='nowhere'), 'nowhere'),
    (dict(changes='peeple=3'), 'peeple')])
def test_what_is_wrong_is_named_before_anything_is_made(wrong, words, tmp_path):
    with pytest.raises(Exception, match=words): faces(tmp_path, **wrong)
    assert not list(tmp_path.glob('11_faces/*/metrics.json'))
