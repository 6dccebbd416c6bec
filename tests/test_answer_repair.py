"""What 10_shapes says in words is what its records say: opposite records, opposite words."""
import pandas as pd

from synthnb.repair import ARMS, answer_repair

WORSE = {'biased': .5, 'longer': .7, 'random': .75, 'random-label': .8, 'random-archive': .85,
         'qdgs': .4, 'qdgs-tuned': .45}
BETTER = WORSE | {'qdgs': .95, 'qdgs-tuned': .9}
ALIKE = WORSE | {'qdgs': .51, 'biased': .5}


def records(means, seeds=8):
    "Records in which all arms go up and down together, and each a little by itself"
    return pd.DataFrame([dict(seed=s, guide='a guide', accuracy={
        b: {a: v + .01*(s % 3) + .003*((s*(i + 2)) % 5) for i, (a, v) in enumerate(means.items())}
        for b in ('0.98', '0.80')}) for s in range(seeds)])


def test_opposite_records_give_the_opposite_answer():
    better, worse = answer_repair(records(BETTER)), answer_repair(records(WORSE))
    assert ', yes: at a bias' in better and ', no: at a bias' in worse
    assert 'finds raises accuracy by 4' in better and 'finds lowers accuracy by ' in worse
    assert 'lowers' not in better and 'raises' not in worse
    assert better.count('raises accuracy') == worse.count('lowers accuracy') == 5
    assert f'So fine-tune on {ARMS["qdgs"]}: then ' in better
    assert f'So fine-tune on {ARMS["random-archive"]}, which take no search' in worse
    assert 'On drawn shapes (8 seeds; guide: a guide)' in better


def test_where_nothing_changes_it_says_no_and_by_how_much():
    said = answer_repair(records(ALIKE))
    assert ', no: ' in said or 'raises accuracy by ' in said.split('. ')[0]
    assert 'In the place of random samples through the same archive it lowers' in said


def test_few_seeds_and_none():
    for n in (1, 4):
        said = answer_repair(records(BETTER, n))
        assert 'it cannot be told' in said and 'too few to say' in said and 'five seeds' in said
        assert 'So fine-tune' not in said
    assert 'nothing can be said' in answer_repair(pd.DataFrame())


def test_a_seed_counts_once():
    once = records(BETTER)
    assert answer_repair(pd.concat([once, once])) == answer_repair(once)
