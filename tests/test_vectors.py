"""06b's vectors against theory, given bad input, and end to end on any object with features."""
import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from synthnb.data import ImageSetWriter
from synthnb.vectors import (
    COVARIANCES,
    USUAL_ARMS,
    FeatureFlow,
    FeatureGaussians,
    FlowConfig,
    HeadConfig,
    RealNVP,
    Smote,
    feature_gap,
    fit_linear,
    head_probabilities,
    limit_head,
    train_head,
    vector_arms,
)

quick = FlowConfig(updates=40)


def blobs(sizes=(120, 60, 12), f=6, seed=0):
    y = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).normal(size=(len(y), f)) + 2*np.eye(len(sizes), f)[y], y


def small_flow(*a): return FeatureFlow(*a, config=quick)


@pytest.mark.parametrize('make', [FeatureGaussians, Smote, small_flow])
def test_one_interface_and_the_same_digits(make):
    x, y = blobs()
    one, labels = make(x, y, 4), np.array([2, 0, 2, 1])
    made = one.sample(labels, 5)
    assert made.shape == (4, 6) and made.dtype == np.float32
    assert (made == make(x, y, 4).sample(labels, 5)).all() and (made != one.sample(labels, 6)).any()
    assert one.sample([], 0).shape == (0, 6)
    with pytest.raises(ValueError, match='no real vector'): one.sample([3])


@pytest.mark.parametrize('kind', COVARIANCES)
def test_gaussians_come_back(kind):
    g = FeatureGaussians(*blobs(), covariance=kind)
    s = g.sample(np.full(50_000, 2), 1)
    assert np.allclose(s.mean(0), g.mean[2], atol=.05)
    assert np.allclose(np.cov(s.T), g.covariance[2], atol=.1)


@pytest.mark.parametrize('dim', [1, 2, 7])
def test_a_flow_can_be_undone_and_knows_its_jacobian(dim):
    flow = RealNVP(dim, 2, couplings=3, hidden=8).double()
    for i, p in enumerate(flow.parameters()): torch.nn.init.normal_(
        p, std=.4, generator=torch.Generator().manual_seed(i))
    x, y = torch.linspace(-2, 2, 4*dim).double().view(4, dim), torch.tensor([0, 1, 1, 0])
    z, grown = flow(x, y)
    assert torch.allclose(flow.inverse(z, y), x, atol=1e-8)
    for i in range(4):
        j = torch.autograd.functional.jacobian(lambda v: flow(v[None], y[i:i + 1])[0][0], x[i])
        assert torch.isclose(torch.linalg.slogdet(j)[1], grown[i], atol=1e-8)


def test_the_limit_is_fishers_discriminant():
    x, y = blobs()
    g = FeatureGaussians(x, y, shrinkage=0.)
    theirs = LinearDiscriminantAnalysis(solver='lsqr').fit(x, y).predict_proba(x)
    assert np.allclose(g.posterior(x), theirs, atol=1e-6)
    assert np.allclose(head_probabilities(limit_head(g, g.counts), x), theirs, atol=1e-5)


def test_the_last_layer_is_at_its_minimum_and_balance_moves_it():
    x, y = blobs()
    args = np.eye(3)[y], .01, np.full(len(y), 1/len(y)), np.zeros(3)
    whole = fit_linear(x, *args, np.zeros(21))
    again = fit_linear(x, *args, np.ones(21))
    assert np.allclose(again[:18], whole[:18], atol=.01), 'convex: one minimum'
    head = {b: train_head(x, y, 3, config=HeadConfig(b, .01))
            for b in ('none', 'weights', 'logits')}
    rare = {b: head_probabilities(h, x)[:, 2].mean() for b, h in head.items()}
    assert min(rare['weights'], rare['logits']) > rare['none']


def test_the_gap_sees_a_class_that_moved_to_the_centre():
    x, y = blobs((400, 400, 400))
    new, _ = blobs((400, 400, 400), seed=1)
    new[y == 2] -= np.eye(3, 6)[2]
    left = feature_gap(x, y, new, y)['left']
    assert left[2] < .75 and left[:2].min() > .8


class Means:
    "No network: the mean of each channel and of each half."
    def features(self, pixels):
        x = pixels.float()/255
        return torch.cat([x.mean((1, 2)), x[:, :4].mean((1, 2))], 1)


def colours(folder, sizes, seed):
    y = np.repeat(np.arange(3), sizes)
    rng = np.random.default_rng(seed)
    base = np.full((3, 3), 90) + 60*np.eye(3, dtype=int)
    x = (base[y][:, None, None] + rng.integers(-80, 80, (len(y), 8, 8, 3))).clip(0, 255)
    writer = ImageSetWriter(folder, len(y), 8, ['red', 'green', 'blue'])
    writer.write(x.astype(np.uint8), y)
    return writer.close()


def test_arms_of_anything_that_has_features(tmp_path):
    real, valid, test = (colours(tmp_path/str(i), s, i)
                         for i, s in enumerate(((40, 20, 8), (9, 9, 9), (20, 20, 20))))
    said = vector_arms([Means(), Means()], real, np.arange(5, 68), valid, test, seed=1)
    assert (*said,) == USUAL_ARMS
    for p in said.values():
        assert p.shape == (2, 60, 3) and np.allclose(p.sum(2), 1, atol=1e-5)
        assert (p.argmax(2) == test.labels).mean() > .9
    with pytest.raises(ValueError, match='expected 3 numbers'):
        vector_arms([Means()], real, None, valid, test, wanted=[1, 2])
