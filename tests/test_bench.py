"""What `make bench` compares: the plain ways do the same work, and each comparison ends."""
import bench_gan
import bench_noise
import bench_plateau
import bench_qdgs
import bench_recent
import bench_rl
import bench_scores
import bench_train
import bench_vae
import pytest
import torch
from fastcore.test import test_close as assert_close
from test_search import Decoder, TextImage

from synthnb.core import generator
from synthnb.data import Images
from synthnb.drawn import EXPRESSIONS, draw_images, expression_labels
from synthnb.qdgs import DETAILED, OBJECTIVES, SearchConfig
from synthnb.vae import VAE, LatentTraining, VAEConfig, count_flops

CPU = torch.device('cpu')


def test_the_plain_vae_is_the_same_network_and_the_same_training():
    net = VAE(8, 32, halvings=3).eval()
    plain = bench_vae.plain_vae(net).eval()
    z, x = net.prior(3, generator(0)), torch.rand(3, 3, 32, 32)
    assert_close(net.decode(z), plain.decode(z), 1e-5)
    assert_close(net.encode(x)[0], plain.encode(x)[0], 1e-5)
    assert count_flops(plain) == count_flops(net) - 2*3
    few = Images(draw_images(torch.arange(24) % 8, 32, 0)[0], torch.arange(24) % 8, EXPRESSIONS)
    config = VAEConfig.preset('smoke', size=32, latent_dim=8, epochs=4, every=2, lr=1e-5)
    runs = [kind(few, few, 'none', config, 0, CPU)
            for kind in (LatentTraining, bench_vae.PlainTraining)]
    for run in runs:
        for _ in range(3*run.per_epoch): run.update()
    for key in ('train_mse', 'kl', 'valid_mse'):
        assert_close(runs[0].history[0][key], runs[1].history[0][key], 1e-3)


@pytest.mark.long
def test_scoring_is_measured_and_its_memory_does_not_grow_with_the_pool():
    found = bench_scores.bench_scoring(n=512, sizes=(2000, 20_000), device='cpu', repeats=1)
    *values, growth = [value for _, value, _ in found]
    assert min(values) > 0 and growth < 1.05


def search():
    config = SearchConfig.preset(pilot=100)
    return bench_qdgs.bench_qdgs(Decoder(), OBJECTIVES['splatters'], DETAILED, TextImage(), config,
                                 evaluations=264, seeds=range(2), device='cpu')


def epochs():
    y = expression_labels(160, 'balanced', 4)
    pictures = Images(draw_images(y, 36, 4)[0], y, EXPRESSIONS)
    return bench_train.bench_train(pictures, repeats=1, width=4, device='cpu')


SMALL = dict(
    gan=lambda: bench_gan.bench_stargan(32, 4, 8, device='cpu'),
    train=epochs,
    children=lambda: bench_rl.bench_children(4, 16, repeats=1, device='cpu'),
    search=search,
    many=lambda: [*bench_plateau.rows(CPU, 10, 64)],
    recent=lambda: [*bench_recent.rows(n=400, k=2, d=8, real=50)],
    vae=lambda: bench_vae.bench_vae(16, 4, device='cpu', repeats=1),
    noise=lambda: bench_noise.bench_auto_relu('resnet10', 4, 8, 16, repeats=2, device='cpu'))


@pytest.mark.parametrize('name', SMALL)
def test_each_comparison_comes_to_its_end(name):
    found = SMALL[name]()
    values = [v for _, v, _ in found] if not isinstance(found, dict) else [
        v for k, v in found.items() if k.endswith(('ratio', 'seconds', '_s', '_ms'))]
    assert len(values) >= 2 and all(v == v for v in values)
    if name not in ('search', 'train'): assert min(values) > 0
