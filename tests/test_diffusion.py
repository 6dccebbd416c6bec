"""The diffusion model of 01c against theory, killed, resumed, given bad input, and end to end."""
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from here import run_here

from synthnb.core import save_checkpoint
from synthnb.data import Images, ImageSetWriter
from synthnb.diffusion import (
    OBJECTIVES,
    Denoiser,
    Diffusion,
    DiffusionConfig,
    DiffusionTraining,
    alpha_sigma,
    clean_of,
    diffusion_pool,
    fit_diffusion,
    guided,
    noised,
    scheduler_of,
    target_of,
    train_diffusion,
)
from synthnb.door import read_pool, read_real
from synthnb.generators import GENERATORS, Order, generated
from synthnb.gan import StarGANConfig

RED, BLUE = (220, 40, 40), (40, 60, 200)
smoke = DiffusionConfig.preset('smoke')


def flat(n=32, size=8, colours=(RED, BLUE), channels=3):
    y = torch.arange(n) % len(colours)
    x = torch.tensor(colours, dtype=torch.uint8)[y][:, None, None, :channels]
    return Images(x.expand(n, size, size, channels).contiguous(), y,
                  [f'c{i}' for i in range(len(colours))])


def flat_set(folder, n=32, **more):
    images = flat(n, **more)
    writer = ImageSetWriter(folder, n, images.size, images.classes, images.pixels.shape[3])
    writer.write(images.pixels, images.labels.numpy())
    return writer.close()


def shaken(size=8, channels=3, k=2, config=smoke):
    "A network whose last layer is not 0, as if it had been trained."
    torch.manual_seed(0)
    net = Denoiser(config, size, channels, k).eval()
    for p in net.net.conv_out.parameters(): torch.nn.init.normal_(p, std=.1)
    return net.requires_grad_(False)


def model(**more): return Diffusion(shaken(**more), ['a', 'b'], more.get('config', smoke))


# ---- the forward process ----

def test_the_schedules_are_their_formulas():
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = alpha_sigma(u, 'flow')
    torch.testing.assert_close(alpha + sigma, torch.ones_like(u))
    for objective in ('v', 'eps'):
        alpha, sigma = alpha_sigma(u, objective)
        f = lambda v: math.cos((v + .008)/1.008*math.pi/2)**2
        wanted = torch.tensor([f(v)/f(0) for v in u.tolist()], dtype=torch.float64)
        torch.testing.assert_close(alpha.square(), wanted)
        torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(u))
        assert (alpha.diff() < 0).all() and alpha[0] == 1


def test_the_schedule_is_the_one_that_the_librarys_sampler_goes_back_along():
    table = scheduler_of('v', 20).alphas_cumprod.double()
    u = torch.arange(1, 1001, dtype=torch.float64)/1000
    alpha, _ = alpha_sigma(u, 'v')
    torch.testing.assert_close(alpha.square()[:-1], table[:-1], atol=1e-5, rtol=1e-3)
    assert alpha[-1] < 1e-4 and table[-1] < 1e-4 # the library's last step keeps a trace
    flow = scheduler_of('flow', 20)
    torch.testing.assert_close(flow.sigmas, torch.linspace(1, 0, 21), atol=1e-6, rtol=0)
    torch.testing.assert_close(flow.timesteps, 1000*flow.sigmas[:-1])


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_noised_images_have_the_mean_and_the_variance_that_the_schedule_says(objective):
    gen, n = torch.Generator().manual_seed(0), 200_000
    noise = torch.randn(n, 1, 1, 1, generator=gen)
    for level in (0., .2, .7, 1.):
        u, x = torch.full((n,), level), torch.full((n, 1, 1, 1), .4)
        alpha, sigma = (float(v[0]) for v in alpha_sigma(u, objective))
        found = noised(x, noise, u, objective)
        assert abs(found.mean() - alpha*.4) < 4*sigma/math.sqrt(n) + 1e-6
        assert abs(found.std() - sigma) < 4*sigma/math.sqrt(2*n) + 1e-6


# ---- what the network predicts ----

@pytest.mark.parametrize('objective', OBJECTIVES)
def test_a_right_prediction_leads_back_to_the_image(objective):
    gen = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 64, 3, 4, 4, generator=gen, dtype=torch.float64)
    u = torch.rand(64, generator=gen, dtype=torch.float64)*.98
    x_u, target = noised(x, noise, u, objective), target_of(x, noise, u, objective)
    torch.testing.assert_close(clean_of(x_u, target, u, objective), x)


def test_the_velocities_are_the_derivatives_of_the_path():
    gen = torch.Generator().manual_seed(2)
    x, noise = torch.randn(2, 8, 3, 4, 4, generator=gen, dtype=torch.float64)
    u, h = torch.rand(8, generator=gen, dtype=torch.float64)*.9 + .05, 1e-6
    slope = (noised(x, noise, u + h) - noised(x, noise, u - h))/(2*h)
    torch.testing.assert_close(slope, target_of(x, noise, u), atol=1e-7, rtol=1e-6)
    alpha, sigma = (s.view(-1, 1, 1, 1) for s in alpha_sigma(u, 'v')) # Salimans: by the angle
    angle = torch.atan2(sigma, alpha)
    at = lambda a: torch.cos(a)*x + torch.sin(a)*noise
    slope = (at(angle + h) - at(angle - h))/(2*h)
    torch.testing.assert_close(slope, target_of(x, noise, u, 'v'), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_a_sampler_that_always_knows_the_image_ends_at_it(objective):
    "The whole loop, with an oracle for a network."
    image = torch.rand(1, 3, 8, 8)*1.6 - .8
    class Oracle(torch.nn.Module):
        size, channels, k = 8, 3, 2
        def forward(self, x, u, labels):
            alpha, sigma = (s.view(-1, 1, 1, 1) for s in alpha_sigma(u, objective))
            return target_of(image, (x - alpha*image)/sigma, u, objective)
    config = replace(smoke, objective=objective, steps=10, guidance=1.)
    *_, (level, x, _) = Diffusion(Oracle(), ['a', 'b'], config).denoising([0, 1])
    assert level == 0
    torch.testing.assert_close(x, image.expand(2, -1, -1, -1), atol=2e-3, rtol=0)


# ---- guidance ----

def test_guidance_of_1_is_the_conditional_prediction_and_of_0_the_unconditional():
    net = shaken()
    x, u, y = torch.randn(4, 3, 8, 8), torch.rand(4), torch.tensor([0, 1, 0, 1])
    none = torch.full_like(y, 2)
    with_label, without = net(x, u, y), net(x, u, none)
    assert (with_label - without).abs().max() > 1e-3
    torch.testing.assert_close(guided(net, x, u, y, 1.), with_label)
    torch.testing.assert_close(guided(net, x, u, y, 0.), without)
    torch.testing.assert_close(guided(net, x, u, y, 3.), without + 3*(with_label - without),
                               atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(guided(net, x, u, y, .5), (with_label + without)/2,
                               atol=1e-5, rtol=1e-4)


# ---- sampling ----

def test_an_image_is_decided_by_its_seed_and_its_number_alone():
    m, y = model(), np.array([0, 1, 1, 0, 1])
    whole = m.sample(y, 3)
    assert whole.dtype == torch.uint8 and whole.shape == (5, 8, 8, 3)
    assert (whole == m.sample(y, 3)).all()
    assert (whole != m.sample(y, 4)).any()
    near = lambda a, b: (a.int() - b.int()).abs().max() <= 1 # sums in another order
    assert near(whole, m.sample(y, 3, batch=2))
    assert near(whole[2:], m.sample(y[2:], 3, first=2))
    assert (m.sample(y, 3, guidance=4.) != whole).any()
    assert m.sample([], 3).shape == (0, 8, 8, 3)


def test_labels_that_the_model_lacks_are_refused():
    m = model()
    for labels, words in (([0, 2], '2 classes'), ([-1], '2 classes'), ([[0]], 'expected labels'),
                          ([.5], 'whole numbers'), (['a'], 'labels')):
        with pytest.raises((ValueError, TypeError), match=words if labels != ['a'] else None):
            m.sample(labels)
    with pytest.raises(ValueError, match='at least 0'): m.sample([0], guidance=-1)
    with pytest.raises(ValueError, match='at least 1'): m.sample([0], steps=-2)


# ---- training ----

def killed(training, folder, at):
    with pytest.raises(KeyboardInterrupt):
        train_diffusion(training, folder, stop_after=at, save_seconds=0)


@pytest.mark.parametrize('balanced', (True, False))
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, balanced):
    config = replace(smoke, updates=7, balanced=balanced)
    fresh = lambda: DiffusionTraining(flat(), config, 5, 'cpu', log_every=3)
    straight, other = fresh(), fresh()
    train_diffusion(straight, tmp_path/'whole')
    killed(fresh(), tmp_path/'killed', 4)
    train_diffusion(other, tmp_path/'killed')
    for net in ('net', 'average'):
        a, b = (getattr(t, net).state_dict() for t in (straight, other))
        assert all(torch.equal(a[k], b[k]) for k in a), net
    assert straight.history == other.history and [h['step'] for h in other.history] == [3, 6]
    with pytest.raises(ValueError, match='other settings, seed'):
        train_diffusion(DiffusionTraining(flat(), config, 6, 'cpu'), tmp_path/'killed')


def test_two_colours_are_learnt_and_each_class_has_its_own():
    "End to end, in seconds."
    config = DiffusionConfig.preset('smoke', updates=250, batch=16, lr=.005, ema=.95, steps=10,
                                    guidance=1., warmup=10)
    m = train_diffusion(DiffusionTraining(flat(), config, 0, 'cpu'))
    for label, colour in enumerate((RED, BLUE)):
        found = m.sample([label]*8, 1).float().mean((0, 1, 2))
        assert (found - torch.tensor(colour).float()).abs().max() < 40, (label, found)


@pytest.mark.parametrize('n, colours', ((2, (RED, BLUE)), (3, (RED,)), (1, (RED,))))
def test_two_images_or_one_class_are_enough(n, colours):
    images = flat(n, colours=colours)
    m = train_diffusion(DiffusionTraining(images, smoke, 0, 'cpu'))
    assert m.sample([0]*3).shape == (3, 8, 8, 3)


def test_a_class_without_images_can_be_named_but_is_not_learnt():
    images = flat(4)
    images = Images(images.pixels, images.labels, [*images.classes, 'nobody'])
    m = train_diffusion(DiffusionTraining(images, smoke, 0, 'cpu'))
    assert m.sample([2]).shape == (1, 8, 8, 3)


@pytest.mark.parametrize('size, channels', ((36, 3), (12, 1)))
def test_sizes_and_channels(size, channels):
    images = flat(4, size, channels=channels)
    m = train_diffusion(DiffusionTraining(images, replace(smoke, updates=2), 0, 'cpu'))
    assert m.sample([0, 1]).shape == (2, size, size, channels)


def test_a_rate_that_explodes_is_an_error_and_keeps_the_last_checkpoint(tmp_path):
    training = DiffusionTraining(flat(), replace(smoke, lr=1e30, updates=30), 0, 'cpu', log_every=5)
    with pytest.raises(ValueError, match='lower lr'): train_diffusion(training, tmp_path)
    assert not (tmp_path/'training.pt').exists()


@pytest.mark.parametrize('settings, words', (
    (dict(widths=(12, 16)), 'multiples of 8'), (dict(widths='32'), 'tuple of whole numbers'),
    (dict(objective='score'), 'flow, v, eps'), (dict(drop=1.5), 'at most 1'),
    (dict(lr=0.), 'above 0'), (dict(steps=0), 'at least 1'), (dict(guidance=-1.), 'at least 0'),
    (dict(rate=1), 'unknown setting rate')))
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(ValueError, match=words): DiffusionConfig.of(**settings)


def test_images_that_it_cannot_learn_from_are_refused():
    with pytest.raises(ValueError, match='4 must divide the size'):
        DiffusionTraining(flat(4, 18), smoke, 0, 'cpu')
    with pytest.raises(ValueError, match='expected 1, grey, or 3'):
        DiffusionTraining(flat(4, channels=2), smoke, 0, 'cpu')
    with pytest.raises(ValueError, match='have attributes'):
        few = flat(4)
        DiffusionTraining(Images(few.pixels, torch.zeros(4, 2), ['p', 'q']), smoke, 0, 'cpu')
    with pytest.raises(ValueError, match='no images'):
        DiffusionTraining(flat(4).subset([]), smoke, 0, 'cpu')


# ---- files ----

def test_a_file_brings_the_same_model_back(tmp_path):
    m = model()
    again = Diffusion.load(m.save(tmp_path/'m.safetensors'))
    assert again.fingerprint == m.fingerprint and again.config == m.config
    assert (again.sample([0, 1]) == m.sample([0, 1])).all()
    assert model(config=replace(smoke, guidance=3.)).fingerprint != m.fingerprint


def test_files_of_another_kind_and_broken_ones_are_one_clear_error(tmp_path):
    m = model()
    good = m.save(tmp_path/'m.safetensors').read_bytes()
    (tmp_path/'torn').write_bytes(good[:len(good)//2])
    save_checkpoint(tmp_path/'checkpoint', m.net.state_dict())
    next(m.net.parameters()).data[0] = torch.nan
    m.save(tmp_path/'nan')
    for name, words in (('torn', 'not a file that Diffusion.save wrote'),
                        ('checkpoint', 'not a file'), ('nan', 'not finite')):
        with pytest.raises(ValueError, match=words): Diffusion.load(tmp_path/name)
    with pytest.raises(FileNotFoundError, match='no diffusion model'):
        Diffusion.load(tmp_path/'none')


# ---- pools, and the doors that they go through ----

def test_a_pool_is_the_samples_and_a_killed_one_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    real = flat_set(tmp_path/'real', 10)
    m, folder = fit_diffusion(real, smoke, device='cpu')
    assert not (folder/'training.pt').exists()
    labels, calls, shuffle = np.arange(23) % 2, [], torch.nn.functional.pixel_shuffle
    def dies(*args): # in the third of five batches of four steps each
        calls.append(0)
        if len(calls) == 10: raise KeyboardInterrupt
        return shuffle(*args)
    monkeypatch.setattr(torch.nn.functional, 'pixel_shuffle', dies)
    with pytest.raises(KeyboardInterrupt): diffusion_pool(folder, labels, 1, 'cpu', batch=5)
    pool = diffusion_pool(folder, labels, 1, 'cpu', batch=5)
    assert len(calls) == 10 + 3*4, 'two batches were there already'
    assert (pool.labels == labels).all() and (pool.column('source') == np.arange(23) % 10).all()
    found = pool.gather(range(23)).int()
    assert (found - m.sample(labels, 1).int()).abs().max() <= 1
    assert pool.folder == diffusion_pool(folder, labels, 1, 'cpu').folder
    assert pool.folder != diffusion_pool(folder, labels, 1, 'cpu', guidance=3.).folder


def test_it_makes_a_pool_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    real = flat_set(tmp_path/'real', 10)
    assert not GENERATORS['diffusion'].critic
    order = Order(real, real, StarGANConfig.preset('laptop'), 3, 0, 'cpu', 'smoke')
    made = generated('diffusion', order)
    assert len(made.pool) == 10 and (made.pool.labels == 1 - real.labels).all()
    assert made.critic is None and made.pool.column('source').max() < 10


def test_it_goes_through_the_door_for_anybodys_pool(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    images = flat(20)
    m = train_diffusion(DiffusionTraining(images, smoke, 0, 'cpu'))
    real = read_real((images.pixels.numpy(), images.labels.numpy()), classes=images.classes,
                     size=None)
    pool = read_pool(m, real, n=6)
    assert pool.counts.tolist() == [6, 6] and pool.size == 8
    assert read_pool(m, real, n=6).folder == pool.folder


def test_the_config_is_json_and_back():
    c = DiffusionConfig.preset('gpu')
    assert DiffusionConfig.of(**(asdict(c) | dict(widths=list(c.widths)))) == c


@pytest.mark.long
def test_07_asks_for_it_by_name(tmp_path):
    status, said = run_here(tmp_path, '07_affectnet', '-p', 'generator', 'diffusion',
                            '-p', 'sampler', 'random')
    assert status == 0, said
    assert 'diffusion ' in said and 'gan ' not in said.replace('stargan', '')
    assert [p.parent.name for p in tmp_path.glob('07_affectnet/*/metrics.json')] != []
    status, said = run_here(tmp_path, '07_affectnet', '-p', 'generator', 'diffusion',
                            '-p', 'sampler', 'cr-sam')
    assert status and 'generator=diffusion has none' in said
