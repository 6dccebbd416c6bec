"""What 13_overfitting's records say in words: the opposite of them must say the opposite."""
import re

import numpy as np
import pandas as pd
import pytest

from synthnb.core import project_root, read_runs
from synthnb.noise import METHODS, answer_noise, claim_values, moot_in_most, paper_claims


def record(seed, **f1):
    "A record with .3 for every method that is not named, and a little luck."
    luck = .02*((seed*7) % 5 - 2)
    one = dict(train_loss_min=.01, turns=2, whole_turns=2., irregular=1., leap=None, drop=None,
               gap=.5, optimism=.01)
    methods = {k: one | dict.fromkeys(('test_f1', 'valid_f1_max'), f1.get(k, .3)
                                      + luck*(k != 'plain')) for k in METHODS}
    return dict(methods=methods, sweep={}, units={}, chance=1.9, seed=seed, data='drawn', root='',
                classes=['a', 'b'], scale='laptop')


def told(n=5, **f1): return answer_noise(pd.DataFrame([record(i, **f1) for i in range(n)]))


@pytest.mark.parametrize('f1, word, said', [
    (dict(periodic=.4, dynamic=.4), 'yes', 'worth a try here'),
    (dict(periodic=.2, dynamic=.2), 'no', 'leave the signs as they are'),
    (dict(gaussian=.5), 'nobody can say yet', 'So try it first: it lies 20.0'),
    (dict(periodic=.4, mixup=.5), 'yes', 'mixup does best, +20.0 [+13.1, +26.9], widened for the')])
def test_opposite_records_give_opposite_answers(f1, word, said):
    answer = told(**f1)
    assert f'On drawn faces at laptop scale (5 seeds), {word}: ' in answer and said in answer
    if 'periodic' in f1: assert ('periodic injection raises test F1' if f1['periodic'] > .3 else
                                 'periodic injection lowers test F1') in answer
    said = re.split(r'(?<=\.) (?=[A-Z])', answer)
    assert 3 <= len(said) <= 6 and all(len(s.split()) <= 30 for s in said), answer
    assert len(answer.split()) < 120 and answer.count('cannot tell') <= 1
    assert 'for as many epochs' in answer


@pytest.mark.parametrize('f1, said', [
    (dict(periodic=.25, dynamic=.6), 'yes: dynamic injection raises test F1 by 30.0'),
    (dict(periodic=.6, dynamic=.25), 'yes: periodic injection raises test F1 by 30.0'),
    (dict(periodic=.2, dynamic=.3), 'nobody can say yet: dynamic injection does not'),
    (dict(periodic=.3, dynamic=.2), 'nobody can say yet: periodic injection does not')])
def test_where_the_methods_disagree_the_one_that_decides_comes_first(f1, said):
    answer = told(**f1)
    assert f'(5 seeds), {said}' in answer, answer
    worse = min(f1, key=f1.get)
    assert f'{worse.capitalize()} injection lowers test F1' in answer


def test_the_better_of_two_needs_more_than_one_at_95_per_cent():
    answer = told(periodic=.345) # 4.5 [0.6, 8.4] points
    assert 'nobody can say yet: periodic injection raises' in answer and 'by luck' in answer
    assert 'worth a try' not in answer
    # nor is a cure advised that is the best of six, 4.5 points above
    assert 'nothing tells you yet' in told(mixup=.345)


def test_too_few_records_say_so_and_none_do_too():
    assert 'there is 1 seed, too few to say' in told(1, periodic=.5)
    assert 'there are 4 seeds, too few to say' in told(4, periodic=.5)
    assert answer_noise(pd.DataFrame()).startswith('Nothing has been run yet')


def test_each_data_set_has_a_paragraph_and_each_seed_counts_once():
    drawn, seen = [record(i % 5) for i in range(10)], [record(i, periodic=.4) for i in range(5)]
    seen = [r | dict(data='affectnet', root='wildfaces-5caa8c26dea9') for r in seen]
    first, second = answer_noise(pd.DataFrame(seen + drawn)).split('\n\n')
    assert first.startswith('On drawn faces at laptop scale (5 seeds), nobody can say yet: ')
    assert second.startswith('On the photographs of wildfaces at laptop scale (5 seeds), yes')


def test_a_claim_is_moot_in_most_seeds_or_tested_whichever_comes_first():
    low, high = record(0), record(1)
    for k in ('plain', 'periodic'): high['methods'][k]['train_loss_min'] = .4
    for rows, moot in (([low, low, high], True), ([high, low, low], True),
                       ([low, high, high], False), ([low, high], False)):
        assert bool(moot_in_most('loss_periodic', pd.DataFrame(rows))) == moot


def test_every_claim_says_whose_it_is_and_what_it_compares():
    claims = paper_claims().set_index('key')
    assert set(claims.whose) == {'the paper', 'our variant', 'our control'}
    assert (claims.margin > 0).all() and claims.compared.str.len().min() > 5
    # the paper has one measure of F1, the highest on validation; its numbers are on that
    numbers = claims[claims.paper.notna()]
    for key in ('search', 'one_unit', 'all_units', 'which_unit', 'long', 'label_smoothing'):
        ours, theirs = claims.loc[key], claims.loc[f'highest_{key}'] # its F1 without a number
        assert (ours.whose, theirs.whose) == ('our variant', 'the paper')
        assert (ours.kind, ours.compared) == (theirs.kind, theirs.compared)
    assert (claims.whose['whole_turns'], claims.whose['more_turns']) == ('the paper', 'our variant')
    for key, whose in numbers.whose.items():
        assert whose == ('the paper' if key.startswith('highest_') else 'our variant'), key
    assert numbers.their_se.between(1.1, 1.2).all() and claims.loc['gaussian'].whose != 'the paper'
    assert claim_values(record(1, periodic=.34))['highest_periodic'] == pytest.approx(4)


def test_committed_numbers_are_kept_and_the_papers_measure_is_read():
    records = read_runs('13_overfitting', project_root()/'runs')
    for _, row in records.iterrows():
        found = claim_values(row)
        assert all(found[k] == v for k, v in row.claims.items() if v is not None)
        dynamic, swept = row.methods['dynamic'], row.sweep
        assert found['together'] == 1 - dynamic['whole_turns']/dynamic['turns']
        if not swept: continue
        best = max(swept.values(), key=lambda t: t['valid_f1_max'])['valid_f1_max']
        assert found['highest_search'] == 100*(best - dynamic['valid_f1_max'])


def test_the_fair_trial_has_rows_of_its_own_and_a_paragraph():
    first, fair = (set(paper_claims(t).key) for t in ('first', 'fair'))
    assert first < fair and {'augmented', 'small', 'mild_periodic', 'at_once'} <= fair - first
    with pytest.raises(ValueError, match="choose 'first' or 'fair'"): paper_claims('second')
    arms = {k: dict(test_f1=v, valid_f1_max=v, last_test_f1=v, gap_last=.2) for k, v in dict(
        plain=.2, periodic=.25, dynamic=.2, small=.21, at_once=.4).items()}
    rows = [record(i, periodic=.36) for i in range(5)]
    for r in rows:
        r['methods'] = {k: m | dict(gap_last=.5) for k, m in r['methods'].items()
                        if k not in ('mixup', 'weight-decay', 'stochastic-depth')}
        r |= dict(trial='fair', places=dict(variants=arms, bare=arms, mild=arms))
    found = claim_values(rows[0])
    assert found['augmented'] == pytest.approx(10) and found['milder'] == pytest.approx(30)
    assert found['augmented_periodic'] == pytest.approx(5) and found['at_once'] == pytest.approx(10)
    few = claim_values(rows[0] | dict(places=dict(variants=arms, bare=arms)))
    assert set(found) - set(few) == {'mild_periodic', 'mild_dynamic', 'milder', 'less'}
    first, second = answer_noise(pd.DataFrame(rows + [record(i) for i in range(5)])).split('\n\n')
    assert first.startswith('On drawn faces at laptop scale (5 seeds)') and 'Of six usual' in first
    assert second.startswith('On drawn faces at laptop scale, augmented as usual (5 seeds)')
    assert 'Of three usual cures' in second


@pytest.mark.parametrize('data, whose', [('cifar10', 'the paper'), ('drawn-cars', 'our variant')])
def test_on_objects_dropout_is_said_to_help(data, whose):
    claims = paper_claims('first', data).set_index('key')
    assert claims.whose['highest_dropout_helps'] == whose
    assert not claims.index.str.contains('hurts').any()
    assert (claims.drop('highest_dropout_helps').whose != 'the paper').all()
    assert claim_values(record(0, dropout=.4))['dropout_helps'] > 5


def test_the_last_epoch_stands_beside_the_chosen_one():
    one = record(0)
    one['methods']['periodic'] = one['methods']['periodic'] | dict(last_test_f1=.5)
    one['methods']['plain'] = one['methods']['plain'] | dict(last_test_f1=.3)
    found = claim_values(one)
    assert found['last_periodic'] == pytest.approx(20) and abs(found['periodic']) < 5


def test_units_that_turn_one_by_one_do_not_turn_together():
    one = record(0)
    one['methods']['dynamic'] = one['methods']['dynamic'] | dict(turns=8, whole_turns=1.)
    assert claim_values(record(0))['together'] == 0 and claim_values(one)['together'] == 7/8
    one['methods']['dynamic'] |= dict(turns=0, whole_turns=0.)
    assert np.isnan(claim_values(one)['together'])
