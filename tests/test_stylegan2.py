"""StyleGAN2's files as NVlabs' and rosinality's codes write them, and what is wrong with others."""
import argparse
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from synthnb.core import generator
from synthnb.stylegan2 import StyleGAN2, StyleGAN2Config, load_stylegan2

LINE = torch.tensor([1., 3, 3, 1])
FILTER = LINE[:, None]*LINE/64


def draw(*shape, gen=generator('test stylegan2')): return torch.randn(shape, generator=gen)


def nvlabs(channels=(12, 10, 8, 6), z=8, w=8, layers=3, k=0, colours=3):
    "A state dict with the names and shapes of `G_ema.state_dict()` of stylegan2-ada-pytorch."
    s = {'mapping.w_avg': draw(w)}
    if k: s |= {'mapping.embed.weight': draw(w, k), 'mapping.embed.bias': draw(w)*.1}
    for i in range(layers):
        s |= {f'mapping.fc{i}.weight': draw(w, w if i else z + (w if k else 0))*100,
              f'mapping.fc{i}.bias': draw(w)}
    for i, (a, b) in enumerate(zip((0, *channels), channels)):
        at, size = f'synthesis.b{4 << i}.', 4 << i
        s[at + 'resample_filter'] = FILTER.clone()
        if not a: s[at + 'const'] = draw(b, 4, 4)
        for name, n in (('conv0', a), ('conv1', b)) if a else (('conv1', b),):
            s |= {f'{at}{name}.weight': draw(b, n, 3, 3), f'{at}{name}.bias': draw(b)*.1,
                  f'{at}{name}.noise_const': draw(size, size), f'{at}{name}.noise_strength': draw(),
                  f'{at}{name}.resample_filter': FILTER.clone(),
                  f'{at}{name}.affine.weight': draw(n, w), f'{at}{name}.affine.bias': draw(n) + 1}
        s |= {at + 'torgb.weight': draw(colours, b, 1, 1), at + 'torgb.bias': draw(colours)*.1,
              at + 'torgb.affine.weight': draw(b, w), at + 'torgb.affine.bias': draw(b) + 1}
    return s


def rosinality(s):
    "The same weights as `g_ema` of stylegan2-pytorch names them."
    out = {}
    sizes = sorted({int(n.split('.')[1][1:]) for n in s if n.startswith('synthesis.b')})
    for i in range(sum(n.startswith('mapping.fc') for n in s)//2):
        for p in ('weight', 'bias'): out[f'style.{i + 1}.{p}'] = s[f'mapping.fc{i}.{p}']
    out['input.input'] = s['synthesis.b4.const'][None]
    number = 0
    for i, size in enumerate(sizes):
        at = f'synthesis.b{size}.'
        for j in ((0, 1) if i else (1,)):
            old, new = f'{at}conv{j}.', f'convs.{2*i - 2 + j}.' if i else 'conv1.'
            out |= {new + 'conv.weight': s[old + 'weight'][None],
                    new + 'conv.modulation.weight': s[old + 'affine.weight'],
                    new + 'conv.modulation.bias': s[old + 'affine.bias'],
                    new + 'noise.weight': s[old + 'noise_strength'][None],
                    new + 'activate.bias': s[old + 'bias']}
            if not j: out[new + 'conv.blur.kernel'] = 4*FILTER
            out[f'noises.noise_{number}'] = s[old + 'noise_const'][None, None]
            number += 1
        new = f'to_rgbs.{i - 1}.' if i else 'to_rgb1.'
        out |= {new + 'bias': s[at + 'torgb.bias'].view(1, -1, 1, 1),
                new + 'conv.weight': s[at + 'torgb.weight'][None],
                new + 'conv.modulation.weight': s[at + 'torgb.affine.weight'],
                new + 'conv.modulation.bias': s[at + 'torgb.affine.bias']}
        if i: out[new + 'upsample.kernel'] = 4*FILTER
    return out


def doubled(x):
    "Zeros between pixels, and the blur: pixel by pixel from its definition."
    n, c, h, w = x.shape
    u = F.pad(x.new_zeros(n, c, 2*h, 2*w), (2, 1, 2, 1))
    u[..., 2:2 + 2*h:2, 2:2 + 2*w:2] = x
    return sum(4*FILTER[i, j]*u[..., i:i + 2*h, j:j + 2*w] for i in range(4) for j in range(4))


def by_hand(s, z, y=None, clamp=256.):
    "The images of a state dict, image by image, with weights made for each. [Karras 2020a]"
    lin = lambda x, at, pace=1.: F.linear(x, s[at + '.weight']*pace/math.sqrt(x.shape[1]),
                                          s[at + '.bias']*pace)
    unit = lambda x: x/(x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()
    x = unit(z)
    if y is not None:
        x = torch.cat([x, unit(lin(F.one_hot(y, len(s['mapping.embed.weight'].T)).float(),
                                   'mapping.embed'))], 1)
    for i in range(sum(n.startswith('mapping.fc') for n in s)//2):
        x = F.leaky_relu(lin(x, f'mapping.fc{i}', .01), .2)*math.sqrt(2)
    return torch.cat([one_by_hand(s, w[None], lin, clamp) for w in x])


def one_by_hand(s, w, lin, clamp):
    def conv(x, at, up):
        kernel = s[at + '.weight']*lin(w, at + '.affine')[0][:, None, None]
        kernel = kernel/(kernel.pow(2).sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up: # each pixel writes its kernel, two apart; then the blur
            n = x.shape[-1]
            wide = x.new_zeros(1, len(kernel), 2*n + 1, 2*n + 1)
            for i in range(3):
                for j in range(3):
                    wide[..., i:i + 2*n:2, j:j + 2*n:2] += torch.einsum('oi,nihw->nohw',
                                                                       kernel[..., i, j], x)
            wide = F.pad(wide, (1, 1, 1, 1))
            x = sum(4*FILTER[i, j]*wide[..., i:i + 2*n, j:j + 2*n]
                    for i in range(4) for j in range(4))
        else: x = F.conv2d(x, kernel, padding=1)
        x = x + s[at + '.noise_const']*s[at + '.noise_strength'] + s[at + '.bias'].view(-1, 1, 1)
        return (F.leaky_relu(x, .2)*math.sqrt(2)).clamp(-clamp, clamp)
    image, x = None, s['synthesis.b4.const'][None]
    for size in sorted({int(n.split('.')[1][1:]) for n in s if n.startswith('synthesis.b')}):
        at = f'synthesis.b{size}.'
        if size > 4: x = conv(x, at + 'conv0', True)
        x = conv(x, at + 'conv1', False)
        style = lin(w, at + 'torgb.affine')/math.sqrt(x.shape[1])
        said = F.conv2d(x, s[at + 'torgb.weight']*style.view(1, -1, 1, 1), s[at + 'torgb.bias'])
        said = said.clamp(-clamp, clamp)
        image = said if image is None else doubled(image) + said
    return image


def close(a, b): assert (a - b).abs().max() < 1e-4*max(1, float(b.abs().max()))


@pytest.mark.parametrize('shape', [dict(), dict(k=3), dict(colours=1, channels=(6, 4)),
                                   dict(z=5, layers=1)])
def test_the_file_of_nvlabs_draws_what_the_equations_say(tmp_path, shape):
    s, z = nvlabs(**shape), draw(3, shape.get('z', 8))
    y = torch.tensor([2, 0, 1]) if 'k' in shape else None
    save_file({k: v.contiguous() for k, v in s.items()}, tmp_path/'g.safetensors')
    g = load_stylegan2(tmp_path/'g.safetensors')
    assert g.size == 4 << len(shape.get('channels', (1,)*4)) - 1
    close(g(z, y), by_hand(s, z, y))
    assert (g.w_std > 0).all() and torch.equal(g.mapping.w_avg, s['mapping.w_avg'])
    assert g.sample([0, 0], seed=3).shape == (2, g.size, g.size, shape.get('colours', 3))


def test_the_clamp_is_what_was_said(tmp_path):
    s, z = nvlabs(), draw(2, 8)
    save_file(s, tmp_path/'g.safetensors')
    close(load_stylegan2(tmp_path/'g.safetensors', clamp=.5)(z), by_hand(s, z, clamp=.5))
    assert (by_hand(s, z, clamp=.5) - by_hand(s, z)).abs().max() > .1


def test_the_file_of_rosinality_is_the_same_generator(tmp_path):
    s, z = nvlabs((8, 8, 8, 8)), draw(2, 8)
    theirs = rosinality(s)
    saved = dict(g={}, g_ema=theirs, latent_avg=s['mapping.w_avg'][None],
                 args=argparse.Namespace(size=32, lr=.002))
    torch.save(saved, tmp_path/'550000.pt')
    g = load_stylegan2(tmp_path/'550000.pt', size=32)
    close(g(z), by_hand(s, z, clamp=math.inf))
    assert torch.equal(g.mapping.w_avg, s['mapping.w_avg'])
    del saved['latent_avg'] # then the average is measured, with a seed
    torch.save(saved, tmp_path/'later.pt')
    one, two = (load_stylegan2(tmp_path/'later.pt') for _ in range(2))
    assert one.fingerprint == two.fingerprint and one.mapping.w_avg.abs().sum() > 0


def test_noise_that_a_file_lacks_is_named_and_drawn_by_a_seed(tmp_path):
    theirs = rosinality(nvlabs())
    theirs = {k: v for k, v in theirs.items() if not k.startswith('noises')}
    torch.save(dict(g_ema=theirs), tmp_path/'old.pt')
    with pytest.raises(ValueError, match='noise_seed=0'): load_stylegan2(tmp_path/'old.pt')
    a, b = (load_stylegan2(tmp_path/'old.pt', noise_seed=s) for s in (0, 1))
    assert not torch.equal(a.sample(2), b.sample(2))
    s = {k: v for k, v in nvlabs().items() if 'noise' not in k} # use_noise=False
    save_file(s, tmp_path/'without.safetensors')
    g, z = load_stylegan2(tmp_path/'without.safetensors'), draw(2, 8)
    silent = s | {k: v*0 for k, v in nvlabs().items() if 'noise' in k}
    close(g(z), by_hand(silent, z))


def changed(s, **more): return {k: v for k, v in (s | more).items() if v is not None}


BAD = {
    'gap': ({k: None for k in nvlabs() if '.b16.' in k}, r'4, 8, 32'),
    'a layer lacking': ({'synthesis.b8.conv0.bias': None}, 'lacking: synthesis.b8.conv0.bias'),
    'half of a tensor': ({'synthesis.b8.conv0.weight': draw(10, 6, 3, 3)}, 'of another shape'),
    'resnet': ({'synthesis.b8.skip.weight': draw(10, 12, 1, 1)}, 'resnet'),
    'another filter': ({'synthesis.b8.resample_filter': torch.ones(4, 4)/16}, 'another filter'),
    'not finite': ({'synthesis.b8.conv0.bias': torch.full((10,), math.nan)}, 'not finite'),
    'one too many': ({'synthesis.b8.conv2.bias': draw(10)}, 'unknown: synthesis.b8.conv2.bias'),
    'synthesis only': ({k: None for k in nvlabs() if k.startswith('mapping')}, 'begins with')}


@pytest.mark.parametrize('name', BAD)
def test_a_wrong_file_is_one_clear_error(tmp_path, name):
    more, said = BAD[name]
    path = tmp_path/'bad.safetensors'
    save_file(changed(nvlabs(), **more), path)
    with pytest.raises(ValueError, match=said) as e: load_stylegan2(path)
    assert str(path) in str(e.value)


def test_what_is_no_generator_is_refused(tmp_path):
    path = tmp_path/'g.safetensors'
    save_file(nvlabs(), path)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match='makes 32 px, and size=256'): load_stylegan2(path, 256)
    for n in (0, 7, 100, len(whole)//2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match='no whole safetensors'): load_stylegan2(path)
    path.write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    with pytest.raises(ValueError, match='git lfs pull'): load_stylegan2(path)
    with pytest.raises(FileNotFoundError, match='check the path'): load_stylegan2(tmp_path/'x.pt')
    save_file({'b256.fromrgb.weight': draw(2, 2)}, tmp_path/'d.safetensors')
    with pytest.raises(ValueError, match='a discriminator'):
        load_stylegan2(tmp_path/'d.safetensors')
    with pytest.raises(ValueError, match='not a file that StyleGAN2.save wrote'):
        StyleGAN2.load(tmp_path/'d.safetensors')


class Bomb:
    "What a pickle may do."
    def __reduce__(self): return (open, (str(Bomb.path), 'w'))


@pytest.mark.parametrize('suffix', ['.pkl', '.pt'])
def test_nothing_in_a_file_is_run(tmp_path, suffix):
    Bomb.path, path = tmp_path/'was run', tmp_path/f'ffhq{suffix}'
    if suffix == '.pkl': path.write_bytes(pickle.dumps(dict(G_ema=Bomb())))
    else: torch.save(dict(g_ema=Bomb()), path)
    with pytest.raises(ValueError): load_stylegan2(path)
    assert not Bomb.path.exists()


def test_a_saved_generator_is_the_same_and_a_search_reads_it(tmp_path):
    torch.manual_seed(0)
    for space, d in (('w', 8), ('w+', 8*6)):
        config = StyleGAN2Config(channels=(8, 6, 4), z=8, w=8, space=space)
        g = StyleGAN2(config).settle(average=True)
        again = StyleGAN2.load(g.save(tmp_path/'g.safetensors'))
        assert again.fingerprint == g.fingerprint and again.latent_dim == d
        q = again.prior(500, generator('q'))
        assert q.shape == (500, d) and abs(float(q.std()) - 1) < .2
        assert torch.equal(g.decode(q[:3]), again.decode(q[:3]))
        assert torch.equal(load_file(tmp_path/'g.safetensors')['w_std'], g.w_std)
    with pytest.raises(ValueError, match='noise'): g.sample(2, noise='none')
    with pytest.raises(ValueError, match='psi=2'): g.sample(2, psi=2)
    with pytest.raises(ValueError, match='labels from 0 to 1'): g.sample([0, 1])
    assert not torch.equal(g.sample(2), g.sample(2, seed=1))
    assert len(g.sample(0)) == 0
