"""What 13_overfitting's records say in words: the opposite of them must say the opposite."""
import re

import pandas as pd
import pytest

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
    (dict(gaussian=.5), 'nobody can tell yet', 'try Gaussian noise as large as the features first'),
    (dict(periodic=.4, mixup=.5), 'yes', 'So try mixup first: it lies 10.0')])
def test_opposite_records_give_opposite_answers(f1, word, said):
    answer = told(**f1)
    assert f'On drawn faces at laptop scale (5 seeds), {word}: ' in answer and said in answer
    if 'periodic' in f1: assert ('periodic injection raises test F1' if f1['periodic'] > .3 else
                                 'periodic injection lowers test F1') in answer
    said = re.split(r'(?<=\.) (?=[A-Z])', answer)
    assert 3 <= len(said) <= 6 and all(len(s.split()) <= 30 for s in said), answer


def test_too_few_records_say_so_and_none_do_too():
    assert 'there is 1 seed, too few to say' in told(1, periodic=.5)
    assert 'there are 4 seeds, too few to say' in told(4, periodic=.5)
    assert answer_noise(pd.DataFrame()).startswith('Nothing has been run yet')


def test_each_data_set_has_a_paragraph_and_each_seed_counts_once():
    drawn, seen = [record(i % 5) for i in range(10)], [record(i, periodic=.4) for i in range(5)]
    seen = [r | dict(data='affectnet', root='wildfaces-5caa8c26dea9') for r in seen]
    first, second = answer_noise(pd.DataFrame(seen + drawn)).split('\n\n')
    assert first.startswith('On drawn faces at laptop scale (5 seeds), nobody')
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
    for key, whose in numbers.whose.items():
        assert whose == ('the paper' if key.startswith('highest_') else 'our variant'), key
    assert numbers.their_se.between(1.1, 1.2).all() and claims.loc['gaussian'].whose != 'the paper'
    assert claim_values(record(1, periodic=.34))['highest_periodic'] == pytest.approx(4)
