"""Scores through torch-fidelity's own Inception, on a file of its layout with random numbers.

This is apart from the chapter because Inception takes about a second for eight images on one core,
and the Fréchet distance of its 2048 features another ten.
"""
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity import feature_extractor_inceptionv3 as inception
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from synthnb import metrics


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp('inception')/'random.pth'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, 'load_state_dict_from_url', lambda *a, **k: {})
        patch.setattr(inception.FeatureExtractorInceptionV3,
                      'load_state_dict', lambda self, state: None)
        torch.manual_seed(0)
        torch.save(inception.FeatureExtractorInceptionV3('random', ['2048']).state_dict(), path)
    return path


def faces(n, seed, size=36):
    return torch.randint(256, (n, size, size, 3), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope='module')
def scores(weights):
    with pytest.warns(UserWarning, match='rank 7 at most'):
        return metrics.image_scores(faces(8, 0), faces(8, 1) // 2,
                                    metrics.InceptionFeatures(weights), device='cpu',
                                    kid_subsets=3)


def test_the_name_says_inception(scores):
    for score in ('FID', 'KID', 'IS'): assert np.isfinite(scores[f'{score} (inception-v3-compat)'])
    assert not {'FID', 'KID', 'IS'} & set(scores)
    assert (scores['extractor'], scores['n_real'],
            scores['n_fake']) == ('inception-v3-compat', 8, 8)
    assert '299' in scores['resize'] and scores['FID (inception-v3-compat)'] > 0


def test_the_features_are_those_of_torch_fidelity(weights, scores):
    theirs = inception.FeatureExtractorInceptionV3('x', ['2048', 'logits_unbiased'],
                                                   feature_extractor_weights_path=str(weights))
    with torch.no_grad():
        a, b = (theirs(x.permute(0, 3, 1, 2))[0] for x in (faces(8, 0), faces(8, 1) // 2))
    kid = kid_features_to_metric(a.double(), b.double(), kid_subsets=3,
                                 kid_subset_size=4, rng_seed=0, verbose=False)
    assert scores['KID (inception-v3-compat)'] == pytest.approx(kid[KEY_METRIC_KID_MEAN], rel=1e-4)


def test_large_images_are_reduced_with_antialiasing(weights):
    checks = (torch.arange(600)[:, None]
              + torch.arange(600)).remainder(2).mul(255).byte().expand(1, 3, 600, 600)
    seen = []
    net = metrics.InceptionFeatures(weights)
    net.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad(): net(checks), inception.FeatureExtractorInceptionV3.forward(net, checks)
    ours, theirs = seen
    assert ours.shape == theirs.shape == (1, 3, 299, 299)
    # a fine chessboard is grey from afar; without antialiasing it is moire
    assert ours.std() < .1 < .3 < theirs.std()


def test_found_by_environment_and_by_cache(weights, monkeypatch, tmp_path):
    monkeypatch.setenv('SYNTHNB_INCEPTION', str(weights))
    assert metrics.inception_file() == weights
    assert metrics.image_extractor().name == 'inception-v3-compat'
    monkeypatch.delenv('SYNTHNB_INCEPTION')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    assert metrics.inception_file() is None
    cached = tmp_path/'checkpoints'/os.path.basename(inception.URL_INCEPTION_V3)
    cached.parent.mkdir()
    cached.symlink_to(weights)
    assert metrics.inception_file() == cached


def test_nothing_is_downloaded(monkeypatch, tmp_path):
    monkeypatch.delenv('SYNTHNB_INCEPTION', raising=False)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(inception, 'load_state_dict_from_url',
                        lambda *a, **k: pytest.fail('tried to download'))
    with pytest.raises(FileNotFoundError, match='give a classifier'):
        metrics.image_scores(faces(4, 0), faces(4, 1))


def brute_prdc(real, fake, k):
    "The four definitions of Naeem 2020, word by word, on the whole tables of distances"
    distance = lambda a, b: np.sqrt(((a[:, None] - b[None])**2).sum(-1))
    radius = lambda a: np.sort(distance(a, a), 1)[:, k]
    across, r, f = distance(real, fake), radius(real), radius(fake)
    inside = across < r[:, None]
    return dict(precision=inside.any(0).mean(), recall=(across < f).any(1).mean(),
                density=inside.sum(0).mean()/k,
                coverage=inside.any(1).mean())


@settings(max_examples=60, deadline=None)
@given(st.integers(7, 40), st.integers(7, 40), st.integers(1, 6),
       st.integers(1, 50), st.integers(0, 999))
def test_prdc_is_its_definition_in_any_blocks(n, m, k, chunk, seed):
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(n, 3)), rng.normal(rng.normal(), 1, size=(m, 3))
    ours = metrics.prdc(real, fake, k, chunk)
    assert ours == pytest.approx(brute_prdc(real, fake, k))


def test_prdc_far_from_the_origin():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(50, 3)), rng.normal(size=(40, 3))
    assert metrics.prdc(real + 1e5, fake + 1e5) == pytest.approx(metrics.prdc(real, fake)), (
        'in float32 the distances are lost')


def test_prdc_of_hand_made_sets():
    corners = torch.tensor([[0., 0], [0, 1], [1, 0], [1, 1]])
    radii = metrics.knn_radii(corners, 1)
    assert radii.tolist() == pytest.approx([1.]*4)
    one = metrics.prdc(corners, torch.tensor([[.5, .5], [.5, .4], [9., 9.]]), k=1)
    assert (one['precision'] == pytest.approx(2/3) and one['coverage'] == 1
            and one['density'] == pytest.approx(8/3))
    # collapsed on one real image: its ball has no neighbour in it
    copies = metrics.prdc(corners, corners[:1].repeat(20, 1), k=1)
    assert copies['precision'] == 1 and copies['coverage'] == .25


def test_prdc_blocks_do_not_grow_with_the_sets(monkeypatch):
    seen, blocks = [], metrics.distance_blocks
    def watched(*args, **kwargs):
        for i, j, d in blocks(*args, **kwargs): seen.append(d.numel()); yield i, j, d
    monkeypatch.setattr(metrics, 'distance_blocks', watched)
    metrics.prdc(torch.randn(700, 2), torch.randn(900, 2), chunk=64)
    assert max(seen) == 64*64
