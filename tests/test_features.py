"""Extractors by name, features that resume, and a probe that samplers take for a classifier."""
import json

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

import synthnb.beyond  # noqa: F401, registers the samplers after the paper
import synthnb.qdgs  # noqa: F401, registers qd-archive
import synthnb.recent  # noqa: F401, registers the samplers since 2021
import synthnb.rl  # noqa: F401, registers the samplers rl and rl-top
from synthnb import features
from synthnb.data import ImageSetWriter
from synthnb.features import (NEED_MORE, check_probe_sampler, extractor, fit_probe,
                              probe_samplers, seen)
from synthnb.samplers import Scoring, get_sampler, make_scores, sampler, samplers, select
from synthnb.train import PLAIN, Classifier, classifier_net



def image_set(folder, n=60, size=24, seed=0, k=3, channels=3):
    "Noise over a stripe whose place is the class: strokes that patches can see."
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    x = rng.integers(60, 120, (n, size, size, channels))
    for i, c in enumerate(labels): x[i, 2 + 7*c:6 + 7*c] += 120
    out = ImageSetWriter(folder, n, size, [f'class {c}' for c in range(k)], channels)
    out.write(x.astype(np.uint8), labels)
    return out.close()


@pytest.fixture
def real(tmp_path): return image_set(tmp_path/'real')


@pytest.fixture
def pool(tmp_path): return image_set(tmp_path/'pool', 90, seed=1)


@pytest.fixture
def scoring(real, pool):
    net = extractor(real=real, device='cpu')
    a, b = (seen(s, net, 'cpu') for s in (real, pool))
    return Scoring(b, a, a, fit_probe(a.features, a.labels, a.classes), scorer='seen', device='cpu')


def test_every_sampler_has_a_place():
    assert {*probe_samplers()} | {*NEED_MORE} == {*samplers()}


@pytest.mark.parametrize('name', probe_samplers())
def test_sampler_runs_on_features(name, scoring):
    pool, real = scoring.pool, scoring.real
    kept = select(name, pool, 30, column=make_scores(name, scoring), real_counts=real.counts)
    assert len(kept) == (0 if name in ('none', 'rare') else 30) # classes are level already
    again = select(name, pool, 30, column=make_scores(name, scoring), real_counts=real.counts)
    assert np.array_equal(kept.indices, again.indices)


@pytest.mark.parametrize('name', [*NEED_MORE])
def test_sampler_that_needs_more_cannot_run(name, scoring):
    with pytest.raises((ValueError, IndexError)): make_scores(name, scoring)
    with pytest.raises(ValueError, match=NEED_MORE[name]): check_probe_sampler(name)


def test_a_sampler_of_ones_own_is_among_them(scoring):
    @sampler('last')
    def last(scores, labels, budget, *, quota, seed): return np.arange(len(labels))[-budget:]
    try:
        assert 'last' in probe_samplers()
        assert select('last', scoring.pool, 5).indices[-1] == len(scoring.pool) - 1
    finally: del synthnb.samplers.REGISTRY['last']
    with pytest.raises(ValueError): get_sampler('last')


def test_scores_are_named_by_probe_and_sets(scoring):
    pool, real = scoring.pool, scoring.real
    make_scores('cl-sam', scoring)
    first = pool.column('confidence-seen')
    other = fit_probe(real.features, (real.labels + 1) % 3, real.classes)
    make_scores('cl-sam', Scoring(pool, real, real, other, scorer='seen', device='cpu'))
    assert np.abs(pool.column('confidence-seen') - first).max() > .5
    half = real.part(np.arange(30))
    make_scores('instance-selection', scoring)
    whole = pool.column('likelihood')
    make_scores('instance-selection',
                Scoring(pool, half, half, scoring.classifier, scorer='seen', device='cpu'))
    assert not np.allclose(pool.column('likelihood'), whole)


def test_features_resume(real, monkeypatch):
    net = extractor(real=real, device='cpu')
    net.batch = 7
    net2 = extractor(real=real, device='cpu')
    net2.batch = 7
    calls, true = [], features.Extractor.forward
    monkeypatch.setattr(features.time, 'time', lambda at=iter(range(0, 10**6, 10)): next(at))
    def dies(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 4: raise KeyboardInterrupt
        return true(self, pixels)
    monkeypatch.setattr(features.Extractor, 'forward', dies)
    with pytest.raises(KeyboardInterrupt): features.stream_features(real, net, real.folder/'f')
    monkeypatch.setattr(features.Extractor, 'forward', true)
    done = features.RowFiles(real.folder/'f'/'progress.json',
                             dict(n=60, dim=net.dim, batch=7)).done
    assert done == 21
    features.stream_features(real, net2, real.folder/'f')
    whole = np.load(real.folder/'f'/'features.npy')
    assert np.array_equal(whole[28:35], net2(real.gather(np.arange(28, 35))).numpy())
    assert np.isfinite(whole).all() and np.abs(whole).sum(1).min() > 0


def test_grey_images(tmp_path):
    grey = image_set(tmp_path/'grey', channels=1)
    found = seen(grey, extractor(real=grey, device='cpu'), 'cpu')
    assert found.features.shape == (60, found.dim)


def test_torchvision_safetensors_and_a_wrapped_state(tmp_path, real):
    torch.manual_seed(0)
    net = models.resnet18(num_classes=5).eval()
    state = net.state_dict()
    save_file({k: v.clone() for k, v in state.items()}, tmp_path/'a.safetensors')
    torch.save(dict(state_dict={f'module.{k}': v for k, v in state.items()}), tmp_path/'b.pth')
    x = real.gather(np.arange(3))
    a, b = (extractor('torchvision:resnet18', tmp_path/f, size=32, device='cpu')(x)
            for f in ('a.safetensors', 'b.pth'))
    assert a.shape == (3, 512) and torch.equal(a, b)


def test_a_pickle_is_refused(tmp_path):
    torch.save(models.resnet18(), tmp_path/'whole.pth')
    with pytest.raises(ValueError, match='cannot be read'):
        extractor('torchvision:resnet18', tmp_path/'whole.pth')


def test_timm_of_a_fixed_and_of_any_size(tmp_path, real):
    x = real.gather(np.arange(2))
    for arch, size, dim in (('vit_tiny_patch16_224', 64, 192), ('resnet18', 48, 512)):
        state = timm.create_model(arch, num_classes=11).state_dict()
        torch.save(state, tmp_path/f'{arch}.pth')
        net = extractor(f'timm:{arch}', tmp_path/f'{arch}.pth', size=size, device='cpu')
        assert net(x).shape == (2, dim) and str(size) in net.name
    with pytest.raises(ValueError, match='choose another size|do not fit'):
        extractor('timm:vit_tiny_patch16_224', tmp_path/'resnet18.pth', size=64)


def test_timm_does_not_start_from_nothing(tmp_path):
    torch.save({'head.weight': torch.zeros(1000, 192)}, tmp_path/'empty.pth')
    with pytest.raises(ValueError, match='do not fit'):
        extractor('timm:vit_tiny_patch16_224', tmp_path/'empty.pth')


def test_open_clip_from_a_file(tmp_path, real):
    tiny = dict(embed_dim=16, vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16),
                text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=1))
    (tmp_path/'tiny-of-a-test.json').write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path/'tiny-of-a-test.json')
    model = open_clip.create_model('tiny-of-a-test')
    torch.save(model.state_dict(), tmp_path/'tiny.pt')
    net = extractor('open_clip:tiny-of-a-test', tmp_path/'tiny.pt', device='cpu')
    f = net(real.gather(np.arange(3)))
    assert f.shape == (3, 16) and torch.allclose(f.norm(dim=1), torch.ones(3), atol=1e-5)
    with pytest.raises(FileNotFoundError, match='huggingface.co'):
        extractor('open_clip:tiny-of-a-test', tmp_path/'gone.pt')
    with pytest.raises(FileNotFoundError): extractor('open_clip:ViT-B-32', 'openai') # no tag
    with pytest.raises(ValueError, match='leave size out'):
        extractor('open_clip:tiny-of-a-test', tmp_path/'tiny.pt', size=64)


def test_a_classifier_of_ours(tmp_path, real):
    spec = dict(arch='resnet10', width=8)
    c = Classifier(classifier_net(n_classes=3, **spec), ['a', 'b', 'c'], 21, spec, **PLAIN)
    c.save(tmp_path/'c.safetensors')
    net = extractor(f"classifier:{tmp_path/'c.safetensors'}", device='cpu')
    x = real.gather(np.arange(4))
    assert net.size == 24
    assert torch.allclose(net(x), c.features(x), atol=1e-4)
    with pytest.raises(FileNotFoundError): extractor(f"classifier:{tmp_path/'d.safetensors'}")


def test_broken_weights_are_refused(tmp_path):
    state = models.resnet18(num_classes=5).state_dict()
    state['conv1.weight'][0] = torch.nan
    torch.save(state, tmp_path/'nan.pth')
    with pytest.raises(ValueError, match='not finite'):
        extractor('torchvision:resnet18', tmp_path/'nan.pth')
