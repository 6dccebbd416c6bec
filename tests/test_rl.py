"""The selector across notebooks: SIGKILL amid its training, its column, its samplers on a pool."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from test_resume import child, kill_when

CHILD = '''
import os, sys, time
import torch
torch.set_num_threads(1)
from synthnb import rl
from synthnb.drawn import drawn_set
from synthnb.samplers import Scoring, make_scores, select
os.environ['SLOW'] = sys.argv[1] # and no constant of the code below, which is part of the names
train, update = rl.train_policy, rl.PolicyTraining.update
def slowly(self): time.sleep(float(os.environ['SLOW'])); return update(self)
rl.PolicyTraining.update = slowly
rl.train_policy = lambda *args, **kw: train(*args, save_seconds=0, **kw)
real, valid = (drawn_set(n, 36, 'balanced', seed=0, name=name)
               for n, name in ((80, 'train'), (40, 'valid')))
pool = rl.planted_pool(480, seed=0)
scoring = Scoring(pool, real, valid, classifier=None, device='cpu', recipe=dict(crop=32))
column = make_scores('rl', scoring)
kept = select('rl', pool, 10, column=column)
policy = rl.fit_policy(scoring)[1]/'policy.safetensors' # says so: before what is printed last
for line in (pool.folder/'columns'/f'{column}.npy', policy, len(kept)): print(line)
'''


def finish(runs):
    "Let it come through: the column of scores, the policy's file, the number of images kept."
    out, err = child(runs, script=CHILD).communicate(timeout=300)
    assert out.strip(), err[-2000:]
    column, policy, kept = out.strip().splitlines()[-3:]
    return Path(column), Path(policy), int(kept)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The uninterrupted run."
    return finish(tmp_path_factory.mktemp('whole'))


def test_a_killed_selector_goes_on_to_the_same_policy(whole, tmp_path):
    kill_when(child(tmp_path, slow=1., script=CHILD),
              lambda: list(tmp_path.glob('artefacts/policy/*.part/training.pt')), patience=200)
    assert not list(tmp_path.glob('artefacts/policy/*/artefact.json')), (
        'it was killed too late to prove anything')
    state = torch.load(next(tmp_path.glob('artefacts/policy/*.part/training.pt')),
                       weights_only=True)
    assert 1 <= state['step'] < 4
    column, policy, kept = finish(tmp_path)
    assert policy.read_bytes() == whole[1].read_bytes() and kept == whole[2]
    assert np.array_equal(np.load(column), np.load(whole[0]))


def test_rl_decides_by_the_column_and_says_what_made_it(whole):
    keep, about = np.load(whole[0]), json.loads(whole[0].with_suffix('.json').read_text())
    assert whole[2] == (keep > .5).sum() and ((keep >= 0) & (keep <= 1)).all()
    assert (about['about'] == dict(score='keep-probability', sees_label=True)
            and about['not_finite'] == 0)


def test_a_policy_of_other_classes_is_refused(whole, tmp_path):
    from synthnb.data import ImageSetWriter
    from synthnb.rl import Policy, keep_probability
    from synthnb.scores import score_pool
    writer = ImageSetWriter(tmp_path/'pool', 4, 36, ['a', 'b'])
    writer.write(np.zeros((4, 36, 36, 3), np.uint8), np.arange(4) % 2)
    with pytest.raises(ValueError, match='the same classes'):
        score_pool(writer.close(), 'keep',
                   keep_probability(Policy.load(whole[1]), 'cpu'), device='cpu')


def test_rl_without_its_column_says_how_to_make_it(tmp_path):
    from synthnb.data import ImageSetWriter
    from synthnb import rl  # noqa: F401, registers the samplers
    from synthnb.samplers import select
    writer = ImageSetWriter(tmp_path/'pool', 4, 8, ['a', 'b'])
    writer.write(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2)
    with pytest.raises(ValueError, match='fit_policy'): select('rl', writer.close(), 2)


@pytest.fixture
def short(tmp_path, monkeypatch):
    "A planted trial of seconds, in a folder of its own: its AUC on rows new to the policy."
    from synthnb import rl
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path))
    config = rl.RLConfig(episodes=6, child_passes=2)
    return lambda: rl.planted_trial(1, config, n_real=800, n_valid=80,
                                    n_pool=4800, device='cpu')['auc']


@pytest.mark.long
def test_the_selector_learns_which_labels_are_wrong(short):
    assert short() > .6


@pytest.mark.long
def test_paid_for_the_opposite_it_learns_the_opposite(short, monkeypatch):
    "A sign error anywhere between credit and policy would turn both around."
    from synthnb import rl
    rewards = rl.image_rewards
    monkeypatch.setattr(rl, 'image_rewards', lambda keep, credit: -rewards(keep, credit))
    assert short() < .46


def test_a_selector_computes_in_float32_whatever_its_preset():
    "Presets that bear the paper's name are float32, and nothing of a selector is ever cast."
    from synthnb.rl import RLConfig, fresh_policy, sized_for
    for name in RLConfig.presets:
        policy = fresh_policy(['a', 'b'], sized_for(RLConfig.preset(name), 2000, 36))
        assert {p.dtype for p in policy.net.parameters()} == {torch.float32}
        assert policy(torch.zeros(1, 36, 36, 3, dtype=torch.uint8),
                      torch.tensor([1]))[0].dtype == torch.float32
