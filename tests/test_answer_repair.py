"""What 10_shapes says in words is what its records say: opposite records, opposite words."""
import re

import pandas as pd

from synthnb.repair import answer_repair

BIASES = ('0.80', '0.85', '0.90', '0.95', '0.98')
WORSE = {'biased': .5, 'longer': .7, 'random': .75, 'random-label': .8, 'random-archive': .85,
         'qdgs': .4, 'qdgs-tuned': .45}
BETTER = WORSE | {'qdgs': .95, 'qdgs-tuned': .9}
ALIKE = WORSE | {'qdgs': .501, 'biased': .5}
LONGER = WORSE | {'qdgs': .7, 'longer': .8, 'random-archive': .55}  # both repair; no search is best
ARCHIVE = WORSE | {'qdgs': .7, 'longer': .55, 'random-archive': .8}
TIE = WORSE | {'qdgs': .7, 'longer': .55, 'random-archive': .69}
DO_NOT = 'it repairs, but do not search for it. '


def records(means, seeds=8, biases=BIASES, noise=.01, **at):
    "Records in which all arms go up and down together, and each a little by itself; at: a bias"
    def accuracy(b, s):
        these = means | at.get(f'b{b[2:]}', {})
        return {a: v + noise*(s % 3) + .3*noise*((s*(i + 2)) % 5)
                for i, (a, v) in enumerate(these.items())}
    return pd.DataFrame([dict(seed=s, guide='a guide', accuracy={b: accuracy(b, s) for b in biases})
                         for s in range(seeds)])


def brief(text):
    "A person would say it: in less than 120 words, of which 30 in a sentence"
    assert len(text.split()) < 120 and max(len(s.split()) for s in text.split('. ')) <= 30, text
    assert text.count('cannot tell') <= 1 and 'In the place of' not in text, text
    return text


def test_opposite_records_give_the_opposite_answer():
    better, worse = brief(answer_repair(records(BETTER))), brief(answer_repair(records(WORSE)))
    assert ', yes: it repairs, and the search is worth it. ' in better and ', no. Fine-' in worse
    assert 'stopping raises accuracy by 4' in better and 'stopping lowers accuracy by ' in worse
    assert 'lowers' not in better and 'raises' not in worse
    assert better.count('raises accuracy') == worse.count('lowers accuracy') == 3
    assert better.endswith('So search, and fine-tune on what is found.')
    assert worse.endswith('So do without it.')
    assert 'On drawn shapes (8 seeds; guide: a guide)' in better


def test_a_control_that_does_as_well_without_a_search_takes_the_yes_away():
    for means, decides, instead in (
            (LONGER, 'The search instead of as many updates more on the biased set lowers',
             'So train longer on the biased set instead.'),
            (ARCHIVE, 'The search instead of random samples through the same archive, for as many '
             'updates, lowers', 'So fine-tune on random samples through the archive.'),
            (TIE, 'The search instead of random samples',
             'So fine-tune on random samples through the archive.')):
        said = brief(answer_repair(records(means)))
        assert f'{DO_NOT}{decides}' in said, said
        assert said.endswith(instead) and 'yes' not in said, said


def test_the_sign_at_the_strongest_bias_alone_decides_nothing_and_is_said():
    said = brief(answer_repair(records(LONGER, b98=LONGER | {'qdgs': .9})))
    assert f'{DO_NOT}The search instead of as many updates more on the biased set lowers' in said
    assert re.search(r'points: -\S+ to -\S+ below 0\.98, \+\S+ \[\+\S+ \+\S+ there\.', said), said
    up = brief(answer_repair(records(BETTER, b98=BETTER | {'qdgs': .84})))
    assert ', yes: it repairs' in up and 'lowers' not in up


def test_where_the_controls_cannot_tell_it_names_the_one_and_its_seeds():
    rough = records(TIE | {'random-archive': .6})
    for s, r in enumerate(rough.accuracy):
        for b in r: r[b]['random-archive'] += .3*(-1)**s
    said = brief(answer_repair(rough))
    assert (', it repairs, but nobody can say yet whether that takes the search. Nor can they '
            'tell what the search instead of random samples through the same archive, for') in said
    assert 'seeds would decide beside random samples put through the archive.' in said
    alone = rough.assign(accuracy=[{b: {k: v[k] for k in ('biased', 'qdgs')} for b, v in a.items()}
                                   for a in rough.accuracy])
    said = brief(answer_repair(alone))
    assert 'nobody can say yet' in said and said.endswith('So run its controls before you decide.')


def test_where_nothing_changes_it_says_no_and_by_how_much():
    said = brief(answer_repair(records(ALIKE)))
    assert ', no. Fine-tuning on what is found instead of stopping ' in said
    assert 'The search instead of random samples through the same archive, for as many' in said


def test_one_bias_is_enough_for_an_answer_about_it():
    said = brief(answer_repair(records(ARCHIVE, biases=('0.98',))))
    assert DO_NOT in said and 'points at 0.98. ' in said and 'biases' not in said


def test_few_seeds_and_none():
    for n in (1, 4):
        said = answer_repair(records(BETTER, n))
        assert 'too few seeds were run to say' in said and 'too few to say' in said
        assert 'So run more seeds' in said and 'search is worth' not in said
    assert 'nothing can be said' in answer_repair(pd.DataFrame())


def test_a_seed_counts_once():
    once = records(BETTER)
    assert answer_repair(pd.concat([once, once])) == answer_repair(once)
