"""The people whom we draw: who they are by the rule, and a generator that learns it."""
import numpy as np
import pytest
import torch
from here import as_alone
from scipy import stats

from synthnb.core import generator
from synthnb.people import (DIM, PERSON, SPREADS, PeopleConfig, draw_people, fit_people,
                            group_shares, in_another_picture, people_of, teaching_loss, truth_of,
                            uniform_of)

SMOKE = PeopleConfig.preset('smoke')


def noise(n, name='people'): return torch.randn(n, DIM, generator=generator('test', name))


@pytest.fixture(scope='module')
def truth(): return truth_of(noise(40_000))


def test_each_group_has_its_share(truth):
    shares = group_shares(truth).set_index('group').share/100
    for labels, wanted, _ in SPREADS.values():
        for g, s in zip(labels, wanted):
            assert stats.binomtest(round(shares[g]*40_000), 40_000, s).pvalue > 1e-4, g
    assert np.isclose(group_shares(truth).groupby('attribute').share.sum(), 100).all()


def test_attributes_are_independent_but_for_the_two_associations(truth):
    pairs = [(a, b) for i, a in enumerate(('skin_tone', 'feminine', 'age', 'turn'))
             for b in ('skin_tone', 'feminine', 'age', 'turn')[i + 1:]]
    assert all(stats.spearmanr(truth[a], truth[b]).pvalue > 1e-4 for a, b in pairs)
    assert stats.spearmanr(truth.skin_tone, truth.gain).statistic < -.25
    assert stats.spearmanr(truth.feminine, truth.hair_length).statistic > .6


def test_a_person_is_a_direction_and_a_row_is_its_own():
    z = noise(6)
    for k, v in people_of(z).items():
        assert torch.equal(v, people_of(8*z)[k]), k
        assert torch.equal(v[2:4], people_of(z[2:4])[k]), k
    assert torch.equal(draw_people(z, 16)[3:], draw_people(z[3:], 16))
    assert draw_people(z[:0], 16).shape == (0, 3, 16, 16)


def test_another_picture_of_a_person():
    z, other = noise(500), noise(500, 'others')
    again = in_another_picture(z, other)
    a, b, c = truth_of(z), truth_of(again), truth_of(other)
    for name in ('skin_tone', 'feminine', 'age', 'hair_length'):
        assert np.allclose(a[name], b[name], atol=1e-4), name
    assert stats.spearmanr(b.yaw, c.yaw).statistic > .95
    assert abs(stats.spearmanr(b.yaw, a.yaw).statistic) < .15
    assert torch.equal(again[:, :len(PERSON)], z[:, :len(PERSON)])


@pytest.mark.parametrize('z, said', [
    (torch.zeros(2, DIM), 'no direction'), (torch.full((1, DIM), torch.nan), 'not finite'),
    (torch.ones(2, DIM - 1), rf'\(n, {DIM}\)'), (torch.ones(DIM), rf'\(n, {DIM}\)')])
def test_noise_that_is_nobody(z, said):
    with pytest.raises(ValueError, match=said): uniform_of(z)


def test_the_loss_is_nothing_only_where_the_images_agree():
    x = draw_people(noise(3), 16)*2 - 1
    assert teaching_loss(x, x) == 0
    assert teaching_loss(x + .1, x).item() == pytest.approx(.2, rel=1e-4) # colours, averages
    moved = x.roll(1, 3)
    assert teaching_loss(moved, x) > (moved - x).abs().mean()


def test_it_is_made_once_and_learns(tmp_path):
    with as_alone(tmp_path) as said:
        one, two = fit_people(SMOKE, device='cpu'), fit_people(SMOKE, device='cpu')
        assert one.fingerprint == two.fingerprint and 'reused' in said.getvalue()
        assert fit_people(SMOKE, 1, 'cpu').fingerprint != one.fingerprint
        longer = PeopleConfig.preset('smoke', updates=60, batch=8)
        z = noise(64)
        wanted = draw_people(z, one.size)*2 - 1
        taught = fit_people(longer, device='cpu')
        with torch.no_grad(): before, after = (teaching_loss(g(z), wanted) for g in (one, taught))
        assert after < .7*before
    assert not [*tmp_path.rglob('training.pt')]
