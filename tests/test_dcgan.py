"""The GANs of 01e against theory and torch, alone and together, killed, and given bad input."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from synthnb import dcgan
from synthnb.data import Images, ImageSetWriter
from synthnb.dcgan import (
    DCGAN,
    DCGANConfig,
    DCGANTraining,
    SelfAttention,
    Spectral,
    collapse_report,
    d_loss,
    dcgan_grids,
    dcgan_history,
    dcgan_pool,
    diff_augment,
    fit_dcgan,
    g_loss,
    gradient_penalty,
    spread,
    stages_of,
    train_dcgan,
)
from synthnb.gan import StarGANConfig
from synthnb.generators import GENERATORS, Order, generated

smoke = DCGANConfig.preset('smoke', updates=3)


def noisy(k=3, n=6, size=8, channels=3):
    gen = torch.Generator().manual_seed(0)
    x = torch.randint(256, (k*n, size, size, channels), generator=gen, dtype=torch.uint8)
    return Images(x, torch.arange(k*n) % k, [f'c{i}' for i in range(k)])


def as_set(folder, images):
    writer = ImageSetWriter(folder, len(images), images.size, images.classes,
                            images.pixels.shape[3])
    writer.write(images.pixels, images.labels.numpy())
    return writer.close()


def trained(images, config=smoke, seed=0, **loop):
    return train_dcgan(DCGANTraining(images, config, seed, 'cpu', grids=1), **loop)


# ---- against theory ----

def test_self_attention_is_its_formula():
    torch.manual_seed(0)
    for pixels in (4, 12): # by products, and by the library
        layer, x = SelfAttention(2, 8).double(), torch.randn(2, 16, pixels, pixels).double()
        for p in layer.parameters(): torch.nn.init.normal_(p)
        out, n = layer(x), pixels**2
        for b, j in ((0, 0), (1, 1)):
            own = x[b, 8*j:8*j + 8].reshape(8, n).T
            f, g, h, v = (getattr(layer, k).weight[j, :, :, 0, 0] for k in 'fghv')
            for at in (0, n//2, n - 1):
                scores = torch.stack([(f @ own[i]) @ (g @ own[at]) for i in range(n)])
                share = scores.exp()/scores.exp().sum()
                o = v @ sum(share[i]*(h @ own[i]) for i in range(n))
                wanted = own[at] + layer.gamma[j]*o
                found = out[b, 8*j:8*j + 8].reshape(8, n)[:, at]
                torch.testing.assert_close(found, wanted)
    assert torch.equal(SelfAttention(2, 8).gamma, torch.zeros(2))


def test_spectral_norm_is_torchs_and_divides_by_the_largest_singular_value():
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Conv2d(3, 5, 4))
    own, weight = Spectral(1, 5, 48), layer.parametrizations.weight.original.detach()[None]
    own.u[0], own.v[0] = (getattr(layer.parametrizations.weight[0], k) for k in ('_u', '_v'))
    for _ in range(3):
        own.step(weight)
        torch.testing.assert_close(own(weight)[0], layer.weight)
    own.step(weight, 200)
    normed = own(weight)[0].flatten(1)
    assert abs(torch.linalg.matrix_norm(normed, 2) - 1) < 1e-3


def test_diffaugment_is_its_definition():
    gen = torch.Generator().manual_seed(0)
    x, luck = torch.randn(3, 2, 3, 8, 8, generator=gen), torch.rand(7, 3, 2, generator=gen)
    colour, moved, cut = (diff_augment(x, p, luck) for p in dcgan.POLICIES)
    for b, m in ((0, 0), (2, 1)):
        one, l = x[b, m], luck[:, b, m].tolist()
        y = one + l[0] - .5
        y = (y - y.mean(0))*2*l[1] + y.mean(0)
        y = (y - y.mean())*(l[2] + .5) + y.mean()
        torch.testing.assert_close(colour[b, m], y)
        down, right = (int(v*3) - 1 for v in l[3:5]) # an eighth of 8 pixels: -1, 0, 1
        y = torch.zeros_like(one)
        for r in range(8):
            for c in range(8):
                if 0 <= r + down < 8 and 0 <= c + right < 8:
                    y[:, r, c] = one[:, r + down, c + right]
        assert torch.equal(moved[b, m], y)
        top, left = (int(v*9) - 2 for v in l[5:])
        y = one.clone()
        y[:, max(0, top):max(0, top + 4), max(0, left):max(0, left + 4)] = 0
        assert torch.equal(cut[b, m], y)
    assert diff_augment(x, '', luck) is x


def test_losses_and_the_penalty_by_hand():
    real, fake = torch.tensor([[2.], [-.5]]), torch.tensor([[.5], [-3.]])
    log = lambda v: torch.sigmoid(torch.tensor(v)).log()
    torch.testing.assert_close(d_loss(real, fake, 'original')[0],
                               -(log(2.) + log(-.5) + log(-.5) + log(3.))/2)
    assert d_loss(real, fake, 'hinge').item() == (0 + 1.5 + 1.5 + 0)/2
    assert d_loss(real, fake, 'wgan-gp').item() == -1.25 - .75
    assert g_loss(fake, 'hinge').item() == 1.25
    w = torch.randn(2, 12)
    net = lambda x, y: (x.reshape(3, 2, 12)*w).sum(2)
    x, y = torch.randn(2, 3, 6, 2, 2)
    found = gradient_penalty(net, x, y, torch.zeros(3, 2).long(), torch.rand(3, 2), 2)
    torch.testing.assert_close(found, (w.norm(dim=1) - 1).square())


# ---- together and alone ----

@pytest.mark.parametrize('settings', (
    dict(), dict(loss='original', spectral=False), dict(attention=True, diffaugment='color,cutout'),
    dict(loss='wgan-gp', spectral=False, critics=2, diffaugment='translation')))
def test_the_networks_of_a_run_are_what_each_would_be_alone(settings):
    images, config = noisy(), replace(smoke, **settings)
    whole = DCGANTraining(images, config, 0, 'cpu', grids=1)
    model = train_dcgan(whole)
    for j in (0, 2):
        own = images.labels == j
        alone = DCGANTraining(Images(images.pixels[own], images.labels[own]*0, [f'c{j}']),
                              config, 0, 'cpu', grids=1)
        one = train_dcgan(alone)
        for net in ('g', 'd'):
            mine, its = (getattr(t, net).state_dict() for t in (whole, alone))
            for k, v in its.items():
                torch.testing.assert_close(mine[k][j:j + 1], v, atol=1e-3, rtol=0)
        assert (model.sample([j]*4).int() - one.sample([0]*4).int()).abs().max() <= 1


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    for i, more in enumerate((dict(), dict(conditional=True, balanced=False))):
        config, images = replace(smoke, **more), noisy()
        model = trained(images, config)
        with pytest.raises(KeyboardInterrupt):
            trained(images, config, folder=tmp_path/str(i), stop_after=2, save_seconds=0)
        assert trained(images, config, folder=tmp_path/str(i)).fingerprint == model.fingerprint
        assert trained(images, config, 1).fingerprint != model.fingerprint


# ---- images ----

@pytest.mark.parametrize('size', (32, 36, 48, 64))
@pytest.mark.parametrize('channels', (1, 3))
def test_sizes_and_channels(size, channels):
    model = trained(noisy(2, 4, size, channels), replace(smoke, updates=1, attention=size == 36))
    assert model.sample([0, 1, 1]).shape == (3, size, size, channels)


def test_an_image_is_decided_by_its_seed_and_its_number_alone():
    for conditional in (False, True):
        m = trained(noisy(), replace(smoke, conditional=conditional))
        y = np.array([0, 1, 2, 2, 1])
        whole, near = m.sample(y, 3), lambda a, b: (a.int() - b.int()).abs().max() <= 1
        assert near(whole, m.sample(y, 3, batch=2)) and near(whole[2:], m.sample(y[2:], 3, first=2))
        assert (whole != m.sample(y, 4)).any() and m.sample([]).shape == (0, 8, 8, 3)


def test_one_image_a_class_is_enough_to_run():
    assert len(trained(noisy(2, 1)).sample([0, 1])) == 2


def test_two_colours_are_learnt_and_each_class_has_its_own():
    x = torch.tensor([[220, 40, 40], [40, 60, 200]], dtype=torch.uint8)
    images = Images(x.repeat(8, 1)[:, None, None].expand(16, 8, 8, 3).contiguous(),
                    torch.arange(16) % 2, ['red', 'blue'])
    found = trained(images, replace(smoke, updates=150, lr=.003)).sample([0, 1]*8).float()
    assert (found[::2].mean((0, 1, 2)) - x[0]).abs().max() < 60
    assert (found[1::2].mean((0, 1, 2)) - x[1]).abs().max() < 60


# ---- what is refused ----

@pytest.mark.parametrize('settings, words', (
    (dict(loss='lsgan'), 'original, hinge, wgan-gp'), (dict(diffaugment='blur'), 'translation'),
    (dict(lr=0.), 'above 0'), (dict(ema=1.), 'below 1'), (dict(width=0), 'at least 1'),
    (dict(depth=1), 'unknown setting depth')))
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=words): DCGANConfig.of(**settings)


def test_images_that_it_cannot_learn_from_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    assert [stages_of(s) for s in (32, 36, 48, 64)] == [(8, 2), (9, 2), (6, 3), (8, 3)]
    few = noisy()
    for images, words in ((noisy(size=38), 'images of 38 px'), (noisy(channels=2), '2 channels'),
                          (Images(few.pixels, F.one_hot(few.labels), few.classes), 'attributes')):
        with pytest.raises(ValueError, match=words): DCGANTraining(images, smoke, 0, 'cpu')
    with pytest.raises(ValueError, match='no image of c1, c2'):
        fit_dcgan(as_set(tmp_path/'real', few), [0, 3], smoke, device='cpu')
    with pytest.raises(ValueError, match='lower lr'): trained(few, replace(smoke, lr=1e30))


def test_files_and_labels(tmp_path):
    m = trained(noisy())
    again = DCGAN.load(m.save(tmp_path/'m.safetensors'))
    assert again.fingerprint == m.fingerprint and (again.sample([0, 2]) == m.sample([0, 2])).all()
    (tmp_path/'torn').write_bytes((tmp_path/'m.safetensors').read_bytes()[:99])
    with pytest.raises(ValueError, match=r'not a file that DCGAN\.save wrote'):
        DCGAN.load(tmp_path/'torn')
    with pytest.raises(FileNotFoundError, match='no DCGAN'): DCGAN.load(tmp_path/'none')
    for labels, words in (([3], '3 classes'), ([[0]], 'expected labels'), ([.5], 'whole numbers')):
        with pytest.raises(ValueError, match=words): m.sample(labels)


# ---- artefacts, pools, generators ----

def test_rows_decide_what_is_learnt_and_the_pool_is_its_samples(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    real, rows = as_set(tmp_path/'real', noisy()), np.arange(6, 18)
    m, folder = fit_dcgan(real, rows, smoke, device='cpu')
    assert not (folder/'training.pt').exists()
    assert fit_dcgan(real, np.arange(18) >= 6, smoke, device='cpu')[1] == folder
    assert fit_dcgan(real, None, smoke, device='cpu')[1] != folder
    assert {*dcgan_history(folder)} == {'step', 'class', 'loss_d', 'loss_g', 'gap', 'won'}
    assert all(g.shape == (3, 8, 8, 8, 3) for g in dcgan_grids(folder).values())
    labels = np.arange(23) % 3
    pool = dcgan_pool(folder, labels, 1, 'cpu', batch=5)
    assert (pool.labels == labels).all() and {*pool.column('source')} == {*rows}
    assert (pool.gather(range(23)).int() - m.sample(labels, 1).int()).abs().max() <= 1
    report = collapse_report(m, dcgan_history(folder), real, rows)
    assert list(report['class']) == real.classes and report.said.str.len().all()


def test_a_collapse_is_said():
    class Same:
        classes = ['c0', 'c1', 'c2']
        def sample(self, labels, seed): return few.pixels[:1].expand(len(labels), -1, -1, -1)
    few = noisy()
    class Real: pass
    history = pd.DataFrame({'step': 1, 'class': Same.classes, 'won': [1., .6, .6]})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dcgan.Images, 'from_sets', lambda *a: few)
        report = collapse_report(Same(), history, Real())
    assert 'collapsed, and its D has won' in report.said[0] and 'collapsed' in report.said[1]
    assert spread(few.pixels)[0] > 0


@pytest.mark.parametrize('name', ('dcgan', 'dcgan-attention', 'dcgan-conditional'))
def test_it_makes_a_pool_under_its_names(tmp_path, monkeypatch, name):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    real = as_set(tmp_path/'real', noisy(2, 5))
    assert not GENERATORS[name].critic
    made = generated(name, Order(real, real, StarGANConfig.preset('laptop'), 2, 0, 'cpu', 'smoke'))
    assert len(made.pool) == 10 and (made.pool.labels == 1 - real.labels).all()
    assert made.critic is None and made.pool.column('source').max() < 10
