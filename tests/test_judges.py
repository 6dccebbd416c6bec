"""The judges from outside against a forward pass in plain NumPy, on weights by chance.

The files are written in face-api's format, in bytes and in pairs of bytes. The real ones are no
part of this project: SYNTHNB_JUDGES names their folder, and without it that test is left out.
"""
import json
import math
import os

import numpy as np
import pytest
import torch

from synthnb import judges
from synthnb.data import ImageSetWriter
from synthnb.judges import ExpressionJudge, FaceDescriptor

LUCK = np.random.default_rng(0)
MEAN = np.array([122.782, 117.001, 104.298], np.float32)


# ---- files in face-api's format ------------------------------------------------------------------
def separable(name, c_in, c_out): return {
    f'{name}/depthwise_filter': (3, 3, c_in, 1), f'{name}/pointwise_filter': (1, 1, c_in, c_out),
    f'{name}/bias': (c_out,)}


def expression_shapes():
    ends, shapes = (3, 32, 64, 128, 256), {}
    for d, (i, o) in enumerate(zip(ends, ends[1:])):
        shapes |= separable(f'dense{d}/conv0', i, o) if d else {
            'dense0/conv0/filters': (3, 3, 3, 32), 'dense0/conv0/bias': (32,)}
        for n in (1, 2, 3): shapes |= separable(f'dense{d}/conv{n}', o, o)
    return shapes | {'fc/weights': (256, 7), 'fc/bias': (7,)}


BLOCKS = ['conv32_1', 'conv32_2', 'conv32_3', 'conv64_down', 'conv64_1', 'conv64_2', 'conv64_3',
          'conv128_down', 'conv128_1', 'conv128_2', 'conv256_down', 'conv256_1', 'conv256_2',
          'conv256_down_out']


def descriptor_shapes():
    def scaled(name, k, i, o): return {f'{name}/conv/filters': (k, k, i, o)} | {
        f'{name}/{end}': (o,) for end in ('conv/bias', 'scale/weights', 'scale/biases')}
    shapes, c = scaled('conv32_down', 7, 3, 32), 32
    for name in BLOCKS:
        o = int(name[4:].split('_')[0])
        shapes |= scaled(f'{name}/conv1', 3, c, o) | scaled(f'{name}/conv2', 3, o, o)
        c = o
    return shapes | {'fc': (256, 128)}


def by_chance(name, shape):
    fan = math.prod(shape[:2]) if 'depthwise' in name else math.prod(shape[:-1])
    if len(shape) == 1: return LUCK.normal(1 if 'scale/weights' in name else 0, .1, shape)
    return LUCK.normal(0, (1/fan)**.5, shape)


def write(folder, name, shapes):
    "Write weights as bytes, pairs of bytes, or floats by turns; return what they stand for."
    listed, raw, meant = [], b'', {}
    for i, (tensor, shape) in enumerate(shapes.items()):
        w, about = by_chance(tensor, shape).astype(np.float32), dict(
            name=tensor, shape=[*shape], dtype='float32')
        if (kind := ('uint8', 'uint16', None)[i % 3]):
            low, scale = float(w.min()), float(np.ptp(w))/(255 if kind == 'uint8' else 65535)
            q = np.round((w - low)/scale).astype(kind)
            about['quantization'], w = dict(dtype=kind, scale=scale, min=low), (
                q*np.float32(scale) + np.float32(low)).astype(np.float32)
            raw += q.tobytes()
        else: raw += w.tobytes()
        listed, meant[tensor] = [*listed, about], w
    half = len(raw)//2 # in two files, as large networks are
    for j, part in enumerate((raw[:half], raw[half:])): (folder/f'{name}-{j}.bin').write_bytes(part)
    (folder/f'{name}-weights_manifest.json').write_text(json.dumps(
        [dict(paths=[f'{name}-{j}.bin' for j in range(2)], weights=listed)]))
    return meant


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('judges')
    return folder, write(folder, ExpressionJudge.file, expression_shapes()), write(
        folder, FaceDescriptor.file, descriptor_shapes())


# ---- the same networks in NumPy, images last to first: (h, w, c) ---------------------------------
def same(x, k, s):
    pads = []
    for d in x.shape[:2]:
        t = max((math.ceil(d/s) - 1)*s + k - d, 0)
        pads.append((t//2, t - t//2))
    return np.pad(x, (*pads, (0, 0)))


def windows(x, k, s): # (h, w, c, k, k)
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(0, 1))[::s, ::s]


def conv(x, f, s, pad=True):
    return np.einsum('hwcij,ijco->hwo', windows(same(x, len(f), s) if pad else x, len(f), s), f,
                     optimize=True)


def relu(x): return np.maximum(x, 0)


def expression(w, x):
    def separated(x, n, s):
        y = np.einsum('hwcij,ijc->hwc', windows(same(x, 3, s), 3, s),
                      w[f'{n}/depthwise_filter'][..., 0])
        return y @ w[f'{n}/pointwise_filter'][0, 0] + w[f'{n}/bias']
    x = (x - MEAN)/255
    for d in range(4):
        n = f'dense{d}'
        a = relu(separated(x, f'{n}/conv0', 2) if d else
                 conv(x, w[f'{n}/conv0/filters'], 2) + w[f'{n}/conv0/bias'])
        b = separated(a, f'{n}/conv1', 1)
        c = separated(relu(a + b), f'{n}/conv2', 1)
        x = relu(a + b + c + separated(relu(a + b + c), f'{n}/conv3', 1))
    z = np.exp((z := x.mean((0, 1)) @ w['fc/weights'] + w['fc/bias']) - z.max())
    return z/z.sum()


def descriptor(w, x):
    def layer(x, n, s, pad):
        y = conv(x, w[f'{n}/conv/filters'], s, pad) + w[f'{n}/conv/bias']
        return y*w[f'{n}/scale/weights'] + w[f'{n}/scale/biases']
    x = relu(layer((x - MEAN)/255, 'conv32_down', 2, False))
    x = windows(x, 3, 2).max((-1, -2))
    for n in BLOCKS:
        down = 'down' in n
        y = layer(relu(layer(x, f'{n}/conv1', 1 + down, not down)), f'{n}/conv2', 1, True)
        if down:
            h, v = x.shape[0]//2, x.shape[1]//2
            x = x[:2*h, :2*v].reshape(h, 2, v, 2, -1).mean((1, 3))
            y = np.pad(y, ((0, h - y.shape[0]), (0, v - y.shape[1]), (0, 0)))
            x = np.pad(x, ((0, 0), (0, 0), (0, y.shape[2] - x.shape[2])))
        x = relu(x + y)
    return x.mean((0, 1)) @ w['fc']


def pictures(n, size): # of coloured squares: pure noise looks all the same to a mean
    coarse = LUCK.integers(0, 256, (n, 5, 5, 3), np.uint8).repeat(-(-size//5), 1)
    fine = coarse.repeat(-(-size//5), 2)[:, :size, :size]
    return torch.from_numpy(fine)


@pytest.mark.parametrize('kind, forward', [(ExpressionJudge, expression),
                                           (FaceDescriptor, descriptor)])
def test_a_judge_says_what_plain_numpy_says(files, kind, forward):
    x, weights = pictures(2, kind.size), files[1 + (kind is FaceDescriptor)]
    said = judges.said_by(kind.load(files[0]), x, device='cpu')
    wanted = np.stack([forward(weights, one.numpy().astype(np.float32)) for one in x])
    assert np.ptp(wanted, 0).max() > 1e-3 # it looks at the picture
    np.testing.assert_allclose(said, wanted, atol=1e-4*max(1, np.abs(wanted).max()))


@pytest.mark.skipif(not os.environ.get('SYNTHNB_JUDGES'), reason='SYNTHNB_JUDGES names no folder')
@pytest.mark.parametrize('kind, forward', [(ExpressionJudge, expression),
                                           (FaceDescriptor, descriptor)])
def test_so_do_the_real_ones(kind, forward):
    folder, x = os.environ['SYNTHNB_JUDGES'], pictures(2, kind.size)
    weights = judges.read_weights(folder, kind.file)
    wanted = np.stack([forward(weights, one.numpy().astype(np.float32)) for one in x])
    np.testing.assert_allclose(judges.said_by(kind.load(folder), x, device='cpu'), wanted,
                               atol=1e-4)


# ---- what is wrong with files --------------------------------------------------------------------
def broken(files, tmp_path, change, file=ExpressionJudge.file):
    for p in files[0].glob(f'{file}*'): (tmp_path/p.name).write_bytes(p.read_bytes())
    manifest = tmp_path/f'{file}-weights_manifest.json'
    listed = json.loads(manifest.read_text())
    change(tmp_path, listed[0])
    manifest.write_text(json.dumps(listed))
    return tmp_path


def shorten(folder, _):
    p = folder/f'{ExpressionJudge.file}-1.bin'
    p.write_bytes(p.read_bytes()[:-3])


def lengthen(folder, _):
    p = folder/f'{ExpressionJudge.file}-1.bin'
    p.write_bytes(p.read_bytes() + b'123')


@pytest.mark.parametrize('change, error, said', [
    (shorten, ValueError, 'cut off'), (lengthen, ValueError, 'of another version'),
    (lambda f, g: (f/f'{ExpressionJudge.file}-0.bin').unlink(), FileNotFoundError, 'face-api'),
    (lambda f, g: g['weights'][0].update(name='dense9/conv0/filters'), ValueError,
     'unknown tensor dense9.conv0.filters'),
    (lambda f, g: g['weights'][-1].update(name=g['weights'][1]['name']), ValueError, 'lacks'),
    (lambda f, g: g['weights'][0].update(shape=[3, 3, 32, 3]), ValueError, 'another shape of'),
    (lambda f, g: g['weights'][0]['quantization'].update(dtype='int4'), ValueError, 'as int4'),
    (lambda f, g: g.pop('paths'), ValueError, 'no list of tensors')])
def test_a_wrong_file_is_refused(files, tmp_path, change, error, said):
    with pytest.raises(error, match=said): ExpressionJudge.load(broken(files, tmp_path, change))


# ---- questions about sets ------------------------------------------------------------------------
def image_set(folder, x, labels, classes, **columns):
    writer = ImageSetWriter(folder, len(x), x.shape[1], classes)
    writer.write(x, labels, **columns)
    return writer.close()


def test_a_copy_is_the_same_person_and_confirmed_by_what_the_judge_says(files, tmp_path):
    x, kinds = pictures(4, 20).numpy(), ['neutral', 'happiness', 'contempt']
    real = image_set(tmp_path/'real', x, [0, 0, 1, 1], kinds)
    pool = image_set(tmp_path/'pool', x[[2, 0, 1]], [0, 1, 2], kinds, source=[2, 0, 1])
    judge, who = ExpressionJudge.load(files[0]), FaceDescriptor.load(files[0])
    who.within = 1e-3
    assert judges.identity_shares(who, pool, real, device='cpu') == (1., 0.)
    assert judges.identity_shares(who, pool, real, [], 'cpu') == (None, None)
    said = judges.said_by(judge, pool, device='cpu')
    assert np.allclose(said, judges.said_by(judge, real, [2, 0, 1], 'cpu'), atol=1e-5)
    guess = said[:, :2].argmax(1)
    yes = judges.confirmed(said, guess, kinds)
    assert (yes == 1).all() and np.isnan(judges.confirmed(said, [2]*3, kinds)).all()
    assert judges.said_by(judge, real, [], 'cpu').shape == (0, 7)


def test_affectnets_words_are_known():
    from synthnb.data import AFFECTNET_CLASSES
    at = judges.judge_columns(AFFECTNET_CLASSES)
    assert [ExpressionJudge.said[i] if i >= 0 else None for i in at] == [
        'neutral', 'happy', 'sad', 'surprised', 'fearful', 'disgusted', 'angry', None]
