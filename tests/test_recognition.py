"""00m: networks and margins against formulas, files in their exact formats, kills, bad input."""
import math
import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from synthnb.data import Images, ImageSetWriter
from synthnb.recognition import (DEPTHS, RECIPE, IRNet, MarginHead, Pairs, Recogniser,
                                 RecogniserConfig, RecogniserTraining, adaface_logits,
                                 arcface_logits, bin_pairs, colour_check, disparate_impact,
                                 draw_identities, embed, fairness, fit_recogniser, group_table,
                                 join_pairs, lfw_pairs, load_recogniser, make_pairs, public_names,
                                 public_state, rate_at, read_faces, recogniser_history,
                                 rfw_pairs, sgd, train_recogniser, verify)

smoke = RecogniserConfig.preset('smoke')
STYLES = 'adaface', 'insightface'


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('error') # a warning that no test expects fails it
        yield


def lively(net):
    "A network whose batch norms do something."
    gen = torch.Generator().manual_seed(1)
    for m in net.modules():
        if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            m.running_mean.copy_(torch.randn(m.running_mean.shape, generator=gen)/10)
            m.running_var.copy_(torch.rand(m.running_var.shape, generator=gen) + .5)
            if m.affine:
                m.weight.data.copy_(torch.rand(m.weight.shape, generator=gen) + .5)
                m.bias.data.copy_(torch.randn(m.bias.shape, generator=gen)/10)
    return net.eval()


def small(style='adaface', depth=18, size=32, **more):
    torch.manual_seed(0)
    return lively(IRNet(depth, 4, size, 8, style=style, **more))


def faces(people=6, views=4, size=16, seed=0, channels=3):
    "A pattern for each person, and a little noise."
    gen = torch.Generator().manual_seed(seed)
    own = torch.rand(people, 4, 4, channels, generator=gen).repeat_interleave(size//4, 1)
    own = own.repeat_interleave(size//4, 2).repeat_interleave(views, 0)
    noise = .1*torch.randn(own.shape, generator=gen)
    return ((own + noise).clamp(0, 1)*255).byte(), np.arange(people).repeat(views)


def table(**options):
    x, who = faces(**options)
    return Images(x, torch.zeros(len(x), dtype=torch.long), ['face']), who


def as_set(folder, x):
    writer = ImageSetWriter(folder, len(x), x.shape[1], ['face'], x.shape[3])
    writer.write(x, np.zeros(len(x), int))
    return writer.close()


# ---- networks ----

def by_names(state, x, blocks):
    "insightface's network, written anew over its names."
    def norm(x, name):
        return F.batch_norm(x, *(state.get(f'{name}.{k}') for k in (
            'running_mean', 'running_var', 'weight', 'bias')))
    x = F.prelu(norm(F.conv2d(x, state['conv1.weight'], padding=1), 'bn1'), state['prelu.weight'])
    for s, n in enumerate(blocks, 1):
        for i in range(n):
            at, stride = f'layer{s}.{i}', 1 if i else 2
            y = F.conv2d(norm(x, f'{at}.bn1'), state[f'{at}.conv1.weight'], padding=1)
            y = F.prelu(norm(y, f'{at}.bn2'), state[f'{at}.prelu.weight'])
            y = norm(F.conv2d(y, state[f'{at}.conv2.weight'], stride=stride, padding=1),
                     f'{at}.bn3')
            if f'{at}.downsample.0.weight' in state:
                x = norm(F.conv2d(x, state[f'{at}.downsample.0.weight'], stride=stride),
                         f'{at}.downsample.1')
            else: x = x[:, :, ::stride, ::stride]
            x = x + y
    x = F.linear(norm(x, 'bn2').flatten(1), state['fc.weight'], state['fc.bias'])
    return norm(x, 'features')


@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize('size', (32, 40, 56))
def test_the_network_is_its_formula_under_insightfaces_names(style, size):
    net, names = small(style, size=size), public_names(DEPTHS[18])
    rows = {k: names.get(k.rpartition('.')[0]) for k in net.state_dict()}
    assert all(rows.values()) # every tensor has a public name
    state = {f'{rows[k]}.{k.rpartition(".")[2]}': v for k, v in net.state_dict().items()}
    if style == 'insightface': assert set(state) == set(public_state(net))
    x = torch.randn(3, 3, size, size)
    torch.testing.assert_close(net(x), by_names(state, x, DEPTHS[18]), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize('depth', DEPTHS)
def test_public_names_are_all_that_there_are(depth):
    blocks, each = DEPTHS[depth], ('weight', 'bias', 'running_mean', 'running_var',
                                   'num_batches_tracked')
    with torch.device('meta'): nets = {s: IRNet(depth, style=s) for s in STYLES}
    want = {'conv1.weight', 'prelu.weight', 'fc.weight', 'fc.bias',
            *(f'{n}.{k}' for n in ('bn1', 'bn2', 'features') for k in each)}
    for s, n in enumerate(blocks, 1):
        for i in range(n):
            at = f'layer{s}.{i}'
            want |= {f'{at}.{k}.weight' for k in ('conv1', 'prelu', 'conv2')}
            want |= {f'{at}.bn{j}.{k}' for j in (1, 2, 3) for k in each}
        want |= {f'layer{s}.0.downsample.0.weight', *(f'layer{s}.0.downsample.1.{k}' for k in each)}
    assert set(public_state(nets['insightface'])) == want
    ada, n = set(public_state(nets['adaface'])), sum(blocks)
    assert {k.split('.')[1] for k in ada if k.startswith('body.')} == {str(i) for i in range(n)}
    short = {int(k.split('.')[1]) for k in ada if 'shortcut_layer' in k}
    assert short == {sum(blocks[:s]) for s in (1, 2, 3)} # where channels change
    assert not any(k.startswith('output_layer.4.w') for k in ada) # the last norm has no factor
    assert nets['insightface'].output_layer[4].weight.requires_grad is False


@pytest.mark.parametrize('more, words', ((dict(depth=20), '10, 18, 34, 50, 101'),
                                         (dict(depth=(1, 2)), 'four stages'),
                                         (dict(size=8), '16 px or more'),
                                         (dict(style='se'), 'adaface or insightface')))
def test_networks_that_cannot_be(more, words):
    with pytest.raises(ValueError, match=words): IRNet(**more)


# ---- margins ----

def test_arcface_is_the_cosine_of_the_larger_angle_and_goes_on_as_a_line():
    gen = torch.Generator().manual_seed(0)
    cosine, y = torch.rand(60, 7, generator=gen).double()*1.99 - .995, torch.arange(60) % 7
    for m in (.1, .5, 1.):
        found = arcface_logits(cosine, y, m, 30.)
        for i in range(60):
            for j in range(7):
                c = float(cosine[i, j])
                if j == y[i]: c = (math.cos(math.acos(c) + m) if math.acos(c) < math.pi - m
                                   else c - m*math.sin(m))
                assert float(found[i, j]) == pytest.approx(30*c, abs=1e-9)
    assert (arcface_logits(cosine, y) <= 64*cosine).all()


def test_adaface_is_its_equation():
    gen = torch.Generator().manual_seed(0)
    cosine, y = torch.rand(40, 5, generator=gen).double()*2 - 1, torch.arange(40) % 5
    norms = torch.rand(40, 1, generator=gen).double()*150
    norms[0] = 0
    found = adaface_logits(cosine, norms, y, torch.tensor(30.), torch.tensor(12.))
    for i in range(40):
        q = .333*(min(max(float(norms[i]), .001), 100) - 30)/(12 + 1e-3)
        q = min(max(q, -1), 1)
        for j in range(5):
            c = min(max(float(cosine[i, j]), -.999), .999)
            if j == y[i]:
                angle = min(max(math.acos(c) - .4*q, 1e-3), math.pi - 1e-3)
                c = math.cos(angle) - .4 - .4*q
            assert float(found[i, j]) == pytest.approx(64*c, abs=1e-5)


@pytest.mark.parametrize('kind', ('arcface', 'adaface'))
def test_gradients_and_no_margin(kind):
    torch.manual_seed(0)
    head = MarginHead(6, 4, kind, 0.).eval().double()
    z, y = torch.randn(8, 6).double()*4, torch.arange(8) % 4
    logits, cosine = head(z, y)
    by_hand = torch.stack([z[i]@head.kernel/(z[i].norm()*head.kernel.norm(dim=0))
                           for i in range(8)])
    torch.testing.assert_close(cosine, by_hand)
    torch.testing.assert_close(logits, 64*cosine, atol=1e-5, rtol=1e-6)
    head.margin = .4
    loss = lambda z: F.cross_entropy(head(z, y)[0], y)
    if kind == 'arcface': assert torch.autograd.gradcheck(loss, z.requires_grad_())
    else: # the lengths count, but give no gradient: hold them and compare
        norms = z.norm(dim=1, keepdim=True)
        held = lambda z: F.cross_entropy(adaface_logits(
            head.cosine(z), norms, y, head.mean, head.std, .4), y)
        own, = torch.autograd.grad(loss(z.requires_grad_()), z)
        assert torch.autograd.gradcheck(held, z)
        torch.testing.assert_close(own, torch.autograd.grad(held(z), z)[0])
    assert loss(z) > F.cross_entropy(64*cosine, y) # a margin makes it harder


def test_a_perfect_cosine_has_a_finite_gradient():
    for kind in ('arcface', 'adaface'):
        head = MarginHead(4, 2, kind)
        z = head.kernel.detach().T.clone().requires_grad_()
        F.cross_entropy(head(z, torch.tensor([0, 1]))[0], torch.tensor([0, 1])).backward()
        assert z.grad.isfinite().all() and head.kernel.grad.isfinite().all()


def test_running_lengths_move_in_training_only():
    head, z = MarginHead(4, 2), torch.randn(6, 4)*7
    y, lengths, mean, std = torch.zeros(6).long(), z.norm(dim=1), 20., 100.
    for _ in range(3):
        head(z, y)
        mean, std = .99*mean + .01*float(lengths.mean()), .99*std + .01*float(lengths.std())
    assert float(head.mean) == pytest.approx(mean, rel=1e-5)
    assert float(head.std) == pytest.approx(std, rel=1e-5)
    head.eval()(z, y)
    assert float(head.mean) == pytest.approx(mean, rel=1e-5)


# ---- files ----

class Callback: pass # as Lightning leaves its own in a checkpoint


def lightning(net, **more):
    return {'epoch': 25, 'global_step': 9, 'pytorch-lightning_version': '1.4.4', 'state_dict': {
        **{f'model.{k}': v for k, v in public_state(net).items()},
        'head.kernel': torch.zeros(8, 3), 'head.t': torch.zeros(1)}, **more}


@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize('kind', ('plain', 'lightning', 'checkpoint', 'parallel', 'safetensors',
                                  'half', 'old'))
def test_files_in_their_formats(tmp_path, style, kind):
    net = small(style, depth=(1, 2, 1, 3))
    state = public_state(net)
    saved = dict(
        plain=state, lightning=lightning(net), half={k: v.half() for k, v in state.items()},
        checkpoint=dict(epoch=1, global_step=2, state_dict_backbone=state,
                        state_dict_softmax_fc=dict(weight=torch.zeros(3, 8)), state_optimizer={}),
        parallel={f'module.{k}': v for k, v in state.items()},
        old={k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}).get(kind)
    path = tmp_path/f'a.{"safetensors" if kind == "safetensors" else "pt"}'
    save_file(state, path) if kind == 'safetensors' else torch.save(saved, path)
    r = load_recogniser(str(path), 'rgb')
    assert r.net.spec['depth'] == (1, 2, 1, 3) and r.net.spec['width'] == 4 and r.size == 32
    assert r.net.spec['style'] == style and r.embedding == 8 and not r.net.training
    x = torch.randn(2, 3, 32, 32)
    tolerance = dict(atol=.3, rtol=.05) if kind == 'half' else dict(atol=0, rtol=0)
    torch.testing.assert_close(r.net(x), net(x), **tolerance)
    again = load_recogniser(r.save(tmp_path/'own.safetensors'), 'rgb')
    assert again.fingerprint == r.fingerprint and again.net.spec == r.net.spec
    with pytest.raises(ValueError, match='says that its network wants rgb'):
        load_recogniser(tmp_path/'own.safetensors', 'bgr')


def test_colours_must_be_said(tmp_path):
    torch.save(public_state(small()), tmp_path/'a.pt')
    with pytest.raises(TypeError, match='colours'): load_recogniser(tmp_path/'a.pt')
    for word in ('RGB', 'brg', None, True):
        with pytest.raises(ValueError, match=r'expected .rgb.'): load_recogniser(
            tmp_path/'a.pt', word)


def test_objects_beside_the_weights_are_refused_and_the_recipe_works(tmp_path):
    net, path = small(), tmp_path/'ir 101.ckpt'
    torch.save(lightning(net, callbacks={Callback: dict(best=1.)}), path)
    with pytest.raises(ValueError, match='Nothing was run') as e: load_recogniser(path, 'bgr')
    recipe = str(e.value).split('\n', 1)[1]
    assert recipe == RECIPE.format(path=str(path), new=str(path.with_suffix('.safetensors')))
    exec(recipe, {})
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_recogniser(path.with_suffix('.safetensors'), 'bgr').net(x), net(x))


class Evil:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.mkdir, (str(self.mark),)


def test_a_malicious_checkpoint_is_not_run(tmp_path):
    path, ran = tmp_path/'a.ckpt', tmp_path/'ran'
    torch.save(lightning(small(), callbacks=Evil(ran)), path)
    with pytest.raises(ValueError, match='do not trust this file'): load_recogniser(path, 'bgr')
    assert not ran.exists()
    torch.load(path, weights_only=False) # the test would notice
    assert ran.exists()


def test_files_that_are_none(tmp_path):
    net = small()
    torch.save(public_state(net), tmp_path/'a.pt')
    Recogniser(small(), 'rgb').save(tmp_path/'own.safetensors')
    for name, data in dict(lfs=b'version https://git-lfs.github.com/spec/v1\n',
                           page=b'\n<!DOCTYPE html><html>').items():
        (tmp_path/f'{name}.ckpt').write_bytes(data)
    for name in ('a.pt', 'own.safetensors'):
        whole = (tmp_path/name).read_bytes()
        for cut in (0, 3, 100, len(whole)//2, len(whole) - 10):
            torn = tmp_path/f'torn{Path(name).suffix}'
            torn.write_bytes(whole[:cut])
            with pytest.raises(ValueError, match='torn'): load_recogniser(torn, 'rgb')
    for name, words in (('lfs', 'git lfs pull'), ('page', 'web page')):
        with pytest.raises(ValueError, match=words): load_recogniser(tmp_path/f'{name}.ckpt', 'bgr')
    with pytest.raises(FileNotFoundError, match='no recogniser'):
        load_recogniser(tmp_path/'none.pt', 'rgb')


def edited(change, style='adaface'):
    state = {k: v.clone() for k, v in public_state(small(style)).items()}
    change(state)
    return state


@pytest.mark.parametrize('style, change, words', (
    ('adaface', lambda s: s.pop('body.0.res_layer.3.weight'), r'lacks body\.0\.res_layer\.3'),
    ('adaface', lambda s: s.pop('output_layer.3.weight'), 'lacks output_layer.3.weight'),
    ('adaface', lambda s: s.update({'more.weight': torch.ones(2)}), 'has the unknown more.weight'),
    ('adaface', lambda s: s.update({'body.1.res_layer.3.weight': torch.ones(3)}), 'another shape'),
    ('adaface', lambda s: s['output_layer.3.weight'].fill_(math.nan), 'not finite'),
    ('adaface', lambda s: s.update({'output_layer.3.weight': torch.ones(8, 33)}), '33 columns'),
    ('adaface', lambda s: s.update({'body.0.res_layer.se_block.fc1.weight': torch.ones(2)}),
     'IR-SE'),
    ('adaface', lambda s: s.update({'body.3.res_layer.1.weight': torch.ones(12, 4, 3, 3)}),
     'bottlenecks'),
    ('insightface', lambda s: s.pop('features.bias'), 'lacks output_layer.4.bias'),
    ('insightface', lambda s: s.pop('layer1.0.bn1.weight'), 'no known recogniser'),
    ('insightface', lambda s: [s.pop(k) for k in [*s] if k.startswith('layer3')], 'no IR network')))
def test_weights_that_do_not_fit(tmp_path, style, change, words):
    torch.save(edited(change, style), tmp_path/'a.pt')
    with pytest.raises(ValueError, match=words): load_recogniser(tmp_path/'a.pt', 'rgb')


def test_other_things_in_a_file(tmp_path):
    for thing, words in ((torch.ones(3), 'holds a Tensor'), ({'fc.weight': torch.ones(2, 2)},
                                                             'no known recogniser'),
                         ({}, 'no known recogniser')):
        torch.save(thing, tmp_path/'a.pt')
        with pytest.raises(ValueError, match=words): load_recogniser(tmp_path/'a.pt', 'rgb')


# ---- colours and embeddings ----

def red_only():
    "A network that looks at its first channel, and pairs that only red tells apart."
    net = small(size=16)
    net.input_layer[0].weight[:, 1:] = 0
    x, who = faces(20, 4)
    x = x.clone()
    x[..., 1:] = torch.randint(256, (80, 16, 16, 2), generator=torch.Generator().manual_seed(5))
    return net, x, make_pairs(who, 80, folds=2)


def test_the_wrong_order_of_colours_is_warned_of():
    with torch.no_grad(): net, x, pairs = red_only()
    right = colour_check(Recogniser(net, 'rgb'), x, pairs, n_boot=50)
    assert right.colours == 'rgb' and right.hi < 0 and right.auc > right.other
    with pytest.warns(UserWarning, match='load the recogniser with colours=.rgb'):
        wrong = colour_check(Recogniser(net, 'bgr'), x, pairs, n_boot=50)
    assert (wrong.auc, wrong.other) == (right.other, right.auc) and wrong.lo > 0


def test_embeddings_are_of_an_image_and_its_mirror(tmp_path):
    r, (x, _) = Recogniser(small(size=16), 'bgr'), faces()
    z = embed(r, x)
    seen = x.permute(0, 3, 1, 2).float()/127.5 - 1
    raw = r.net(seen.flip(1)) + r.net(seen.flip(1).flip(3))
    torch.testing.assert_close(torch.from_numpy(z), F.normalize(raw), atol=1e-5, rtol=1e-4)
    for other in (as_set(tmp_path/'set', x), x.numpy(), Images(x, torch.zeros(24).long(), ['a'])):
        np.testing.assert_allclose(embed(r, other, batch=7), z, atol=1e-5)
    mask = np.arange(24) % 3 == 0
    np.testing.assert_allclose(embed(r, x, mask), z[mask], atol=1e-5)
    grey = embed(r, x[..., :1])
    np.testing.assert_allclose(grey, embed(r, x[..., :1].expand(-1, -1, -1, 3)), atol=1e-6)
    assert embed(r, x, []).shape == (0, 8)


def test_images_that_cannot_be_embedded():
    r, (x, _) = Recogniser(small(size=32), 'rgb'), faces()
    with pytest.raises(ValueError, match='import them at 32 px'): embed(r, x)
    assert embed(r, x, resize=True).shape == (24, 8)
    with pytest.raises(ValueError, match='expected images as uint8'): embed(r, x.float())
    with pytest.raises(ValueError, match='expected images as uint8'): embed(r, x[..., :2])
    big = faces(size=32)[0]
    for value in (math.nan, math.inf, 0):
        broken = Recogniser(small(size=32), 'rgb')
        if value == 0: # the last norm makes everything 0
            broken.net.output_layer[4].running_var.fill_(math.inf)
        else: broken.net.output_layer[3].bias.fill_(value)
        with pytest.raises(ValueError, match='NaN, infinite or all zero'): embed(broken, big)


# ---- training ----

def training(images, who, config=smoke, **more):
    return RecogniserTraining(images, who, config, device='cpu', **more)


@pytest.mark.parametrize('more', (dict(), dict(head='arcface', style='insightface', dropout=.4)))
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, more):
    (images, who), config = table(), replace(smoke, updates=7, **more)
    whole = train_recogniser(training(images, who, config))
    for stop in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            train_recogniser(training(images, who, config), tmp_path, stop_after=stop,
                             save_seconds=0)
    went_on = training(images, who, config)
    assert train_recogniser(went_on, tmp_path).fingerprint == whole.fingerprint
    assert [r['step'] for r in went_on.history] == [*range(1, 8)]
    assert train_recogniser(training(images, who, config, seed=1)).fingerprint != whole.fingerprint
    with pytest.raises(ValueError, match='belongs to another model'):
        train_recogniser(training(images, who, replace(config, lr=.01)), tmp_path)


def test_where_the_images_lie_and_how_people_are_called_changes_nothing(tmp_path, monkeypatch):
    images, who = table()
    on_disk = as_set(tmp_path/'set', images.pixels)
    on_disk.add_column('who', who)
    want = train_recogniser(training(images, who)).fingerprint
    assert train_recogniser(training(on_disk, 'who')).fingerprint == want
    assert train_recogniser(training(images, [f'p{w}' for w in who])).fingerprint == want
    monkeypatch.setattr(RecogniserTraining, 'held', 0)
    assert train_recogniser(training(on_disk, who)).fingerprint == want
    rows = np.arange(24) < 12
    assert train_recogniser(training(on_disk, who, rows=rows)).fingerprint == train_recogniser(
        training(images.subset(rows), who[rows])).fingerprint


def test_colours_of_a_training():
    (x, who), labels = faces(), torch.zeros(24).long()
    other = train_recogniser(training(Images(x.flip(3), labels, ['a']), who))
    own = train_recogniser(training(Images(x, labels, ['a']), who, replace(smoke, colours='bgr')))
    assert own.colours == 'bgr'
    for a, b in zip(own.net.state_dict().values(), other.net.state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize('head', ('arcface', 'adaface'))
def test_it_learns_who_is_who(head):
    images, who = table(people=8, views=6)
    config = replace(smoke, updates=60, batch=24, head=head, width=8)
    t = training(images, who, config)
    r = train_recogniser(t)
    assert t.history[-1]['right'] > .8 > t.history[0]['right']
    z = embed(r, images)
    near = (z@z.T - 9*np.eye(48)).argmax(1)
    assert (who[near] == who).mean() > .9


def test_decay_spares_batch_norms_only():
    net, head = IRNet(10, 4, 16, 8, style='insightface'), MarginHead(8, 3)
    decayed, free = ({id(p) for p in g['params']} for g in sgd(net, head, smoke).param_groups)
    norms = {id(p) for n, p in net.named_parameters() if p.requires_grad and any(
        isinstance(net.get_submodule(n.rpartition('.')[0]), c)
        for c in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))}
    everything = {id(p) for p in net.parameters() if p.requires_grad} | {id(head.kernel)}
    assert free == norms and decayed == everything - norms and len(norms) > 20


def test_the_papers_schedule():
    paper = RecogniserConfig.preset('paper')
    x, who = faces(2, 100)
    t = training(Images(x, torch.zeros(200).long(), ['a']), who,
                 replace(smoke, updates=None, batch=64))
    assert t.total == 26*3 and (paper.lr, paper.batch, paper.updates) == (.01, 64, None)
    rates = [rate_at(s, t.total, .01) for s in range(t.total)]
    falls = [s for s in range(1, t.total) if rates[s] != rates[s - 1]]
    assert falls == [36, 60, 72] and rates[-1] == pytest.approx(1e-5)


def test_start_hands_on_the_network_but_no_head(tmp_path):
    images, who = table()
    first = train_recogniser(training(images, who))
    t = training(images, who % 3, start=first)
    assert all(torch.equal(a, b) for a, b in zip(t.net.state_dict().values(),
                                                 first.net.state_dict().values()))
    assert t.head.kernel.shape == (16, 3)
    assert train_recogniser(t).fingerprint != first.fingerprint
    for change, words in ((dict(width=8), 'width 4 .here 8'), (dict(style='insightface'), 'style'),
                          (dict(colours='bgr'), r'colours rgb .here bgr'),
                          (dict(depth=18), 'depth')):
        with pytest.raises(ValueError, match=words):
            training(images, who, replace(smoke, **change), start=first)
    with pytest.raises(ValueError, match='size 16 .here 32'):
        training(table(size=32)[0], who, start=first)


def test_an_artefact_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path/'runs'))
    x, who = faces()
    real = as_set(tmp_path/'real', x)
    r, folder = fit_recogniser(real, who, smoke, device='cpu')
    again, same = fit_recogniser(real, who + 5, smoke, device='cpu') # other numbers, same people
    assert folder == same and again.fingerprint == r.fingerprint
    assert not (folder/'training.pt').exists()
    assert list(recogniser_history(folder)) == ['step', 'loss', 'right', 'norm']
    others = dict(identities=who % 3), dict(rows=np.arange(12)), dict(start=r), dict(seed=1)
    folders = {fit_recogniser(real, **dict(identities=who, config=smoke, device='cpu') | o)[1]
               for o in others}
    assert len(folders | {folder}) == 5


@pytest.mark.parametrize('who, words', (
    (np.zeros(24), '1 identity'), (np.arange(24), 'none of 24 identities has a second image'),
    (np.arange(23), 'identities for 24 images'), ([None] + [1, 2]*11 + [1], '1 identities are'),
    (np.where(np.arange(24) < 3, np.nan, 1), '3 identities are missing')))
def test_people_that_nothing_can_be_learnt_of(who, words):
    with pytest.raises(ValueError, match=words): training(table()[0], who)


def test_people_with_one_picture_are_said():
    images, who = table()
    with pytest.warns(UserWarning, match='1 of 7 identities have a single image'):
        training(images, np.where(np.arange(24) == 0, 9, who))


def test_a_diverging_training_is_refused(tmp_path):
    images, who = table()
    with pytest.raises(ValueError, match='lower lr'):
        train_recogniser(training(images, who, replace(smoke, lr=1e30)), tmp_path, save_seconds=0)
    with pytest.raises(ValueError, match='squares'):
        training(Images(images.pixels[:, :12], images.labels, ['a']), who)


@pytest.mark.parametrize('settings, words', (
    (dict(depth=20), '10, 18, 34'), (dict(head='cosface'), 'adaface, arcface'),
    (dict(batch=1), 'at least 2'), (dict(margin=1.6), 'below 1.57'), (dict(scale=0), 'above 0'),
    (dict(colours='rbg'), 'rgb, bgr'), (dict(epochs=3), 'unknown setting epochs')))
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words): RecogniserConfig.of(**settings)


# ---- pairs ----

@pytest.mark.parametrize('seed', range(3))
def test_made_pairs(seed):
    rng = np.random.default_rng(seed)
    who = rng.permutation(np.repeat(np.arange(40), rng.integers(2, 6, 40)))
    group = np.array(['a', 'b'])[who % 2]
    for groups in (None, group):
        p = make_pairs(who, 80, seed, 4, groups)
        assert len(p) == 80 and p.same.sum() == 40 and np.bincount(p.fold).tolist() == [20]*4
        assert ((who[p.first] == who[p.second]) == p.same).all() and (p.first != p.second).all()
        assert len({frozenset(r) for r in zip(p.first, p.second)}) == 80
        folds = [{*p.person[p.fold == f].flatten()} for f in range(4)]
        assert sum(map(len, folds)) == len(set.union(*folds)) # nobody is in two
        if groups is not None:
            assert (group[p.first] == group[p.second]).all() and (p.group == group[p.first]).all()
            assert (p.group == 'a').sum() == 40
    again = make_pairs(who, 80, seed, 4)
    assert (again.first == make_pairs(who, 80, seed, 4).first).all()


def test_nobody_counts_more_for_having_more_pictures():
    who = np.repeat(np.arange(50), [60] + [4]*49) # one of 256 images has 60
    p = make_pairs(who, 60, 0, folds=1)
    assert (p.person[p.same] == 0).any(1).mean() < .2 # of all pairs they have 86%
    assert (p.person[~p.same] == 0).any(1).mean() < .2 # and 42%


@pytest.mark.parametrize('who, more, words', (
    ([1]*9, {}, '1 identities on 9'), (range(9), {}, 'someone with a second image'),
    ([1, 1, 2, 3], dict(n=4, folds=2), 'pairs of the same person, and 1 are needed'),
    ([1, 1, 2, 2], dict(n=100, folds=1), 'take fewer')))
def test_pairs_that_cannot_be_made(who, more, words):
    with pytest.raises(ValueError, match=words): make_pairs(list(who), **more)


def test_lfws_list(tmp_path):
    path = tmp_path/'pairs.txt'
    for tab in ('\t', '  '):
        path.write_text('\n'.join(tab.join(r.split()) for r in (
            '2 2', 'A 1 2', 'B 10 2', 'A 1 B 2', 'C 1 D 1', 'E 1 2', 'F 1 2', 'E 3 F 1', 'E 1 F 1'
        )) + '\n')
        p = lfw_pairs(path)
        assert p.same.tolist() == [True, True, False, False]*2
        assert p.fold.tolist() == [0]*4 + [1]*4
        second = [p.files[i] for i in p.second[:3]]
        assert second == ['A/A_0002.jpg', 'B/B_0002.jpg', 'B/B_0002.jpg']
        assert p.files[p.first[1]] == 'B/B_0010.jpg' and p.person[6].tolist() == ['E', 'F']
    path.write_text('1\nA\t1\t2\nA\t1\tB\t2\n') # as pairsDevTest.txt begins
    assert lfw_pairs(path).fold.tolist() == [0, 0]
    for text, words in (('2\t2\nA\t1\t2\n', 'has 1 pairs, and its first line promises 8'),
                        ('A\t1\t2\n', 'rfw_pairs'), ('', 'is empty'),
                        ('1\t1\nA\t1\t2\nA\t1\tB\n', 'the pair 2'),
                        ('1\t1\nA\t1\tx\nA\t1\tB\t1\n', 'the pair 1')):
        path.write_text(text)
        with pytest.raises(ValueError, match=words): lfw_pairs(path)
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError, match='is no text'): lfw_pairs(path)
    with pytest.raises(FileNotFoundError, match='no list of pairs'): lfw_pairs(tmp_path/'none')


def test_rfws_list_and_its_pictures(tmp_path):
    lines = [f'm.{i}\t1\t2' if i % 2 else f'm.{i}\t1\tm.{i + 1}\t2' for i in range(6000)]
    path = tmp_path/'African_pairs.txt'
    path.write_text('\n'.join(lines))
    p = rfw_pairs(path)
    assert len(p) == 6000 and np.bincount(p.fold).tolist() == [600]*10
    assert (p.same == (np.arange(6000) % 2 == 1)).all() and {*p.group} == {'African'}
    assert p.files[p.second[0]] == 'African/m.1/m.1_0002.jpg'
    path.write_text('\n'.join(lines[:-3]))
    with pytest.raises(ValueError, match='torn'): rfw_pairs(path)
    path.write_text('\n'.join(lines[:10]))
    p = rfw_pairs(path, 'Asian')
    with pytest.raises(FileNotFoundError, match='files of the list are not below'):
        read_faces(tmp_path, p, 16)
    for i, f in enumerate(p.files):
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (16, 16), (i, 0, 0)).save(tmp_path/f, quality=100)
    x = read_faces(tmp_path, p, 16)
    assert x.shape == (len(p.files), 16, 16, 3)
    assert (np.abs(x[:, 8, 8, 0].astype(int) - np.arange(len(x))) <= 2).all()
    (tmp_path/p.files[3]).write_bytes(b'no picture')
    with pytest.raises(ValueError, match='is no picture'): read_faces(tmp_path, p, 16)


def test_four_lists_are_one(tmp_path):
    parts = {}
    for race, n in (('African', 10), ('Asian', 20)):
        (tmp_path/f'{race}_pairs.txt').write_text('\n'.join(
            f'm.{i}\t1\t2' if i % 2 else f'm.{i}\t1\tm.{i + 1}\t2' for i in range(n)))
        parts[race] = rfw_pairs(tmp_path/f'{race}_pairs.txt')
    p = join_pairs(parts)
    assert len(p) == 30 and p.group.tolist() == ['African']*10 + ['Asian']*20
    for i in range(30):
        own, at = (parts['African'], i) if i < 10 else (parts['Asian'], i - 10)
        assert p.files[p.second[i]] == own.files[own.second[at]]
        assert p.fold[i] == own.fold[at] and (p.person[i] == own.person[at]).all()
    own = parts['Asian']
    rows = join_pairs(dict(a=replace(own, files=None), b=replace(own, person=None)))
    assert rows.person is None and rows.files is None
    assert rows.first[20] == own.first[0] + len(own.files)
    with pytest.raises(ValueError, match='no lists'): join_pairs({})


# ---- .bin files ----

def encoded(i=0, size=16, kind='PNG'):
    import io
    Image.new('RGB', (size, size), (i, 100, 200)).save(f := io.BytesIO(), kind)
    return f.getvalue()


PICTURES = [encoded(i) for i in (10, 20, 30, 40)]


def python_2(pictures, same):
    "A pickle as cPickle of Python 2 writes it, protocol 2."
    def text(b):
        return (b'U' + bytes([len(b)]) if len(b) < 256 else b'T' + len(b).to_bytes(4, 'little')) + b
    body = b']q\x01(' + b''.join(text(b) + b'q' + bytes([i + 2]) for i, b in enumerate(pictures))
    return (b'\x80\x02' + body + b'e]q\x60(' + b''.join(b'\x88' if s else b'\x89' for s in same)
            + b'e\x86q\x61.')


def bin_file(tmp_path, data):
    (tmp_path/'a.bin').write_bytes(data)
    return tmp_path/'a.bin'


@pytest.mark.parametrize('protocol', ('python 2', *range(6)))
@pytest.mark.parametrize('kind', (bool, np.bool_, int))
def test_a_bin_file_of_any_age(tmp_path, protocol, kind):
    same = [kind(True), kind(False)]
    if protocol == 'python 2': data = python_2(PICTURES, same)
    else: data = pickle.dumps((PICTURES, same), protocol)
    old = data.replace(b'numpy._core.multiarray', b'numpy.core.multiarray') if (
        protocol in (0, 1, 2)) else data # as older versions of NumPy wrote
    for d in {data, old}:
        x, p = bin_pairs(bin_file(tmp_path, d), 16, 2)
        assert x[:, 3, 3].tolist() == [[i, 100, 200] for i in (10, 20, 30, 40)]
        assert p.same.tolist() == [True, False] and p.fold.tolist() == [0, 1]
        assert p.first.tolist() == [0, 2] and p.second.tolist() == [1, 3]


def test_bin_pictures_of_another_size(tmp_path):
    pictures = [encoded(1, 20), encoded(2, 16, 'JPEG'), *PICTURES[:2]]
    x, _ = bin_pairs(bin_file(tmp_path, pickle.dumps((pictures, [True, False]), 2)), 16, 2)
    assert x.shape == (4, 16, 16, 3) and x[0, 8, 8].tolist() == [1, 100, 200]


def programs(mark):
    "Pickles that do something when they are read as usual."
    mark = str(mark).encode()
    yield pickle.dumps(([Evil(mark.decode())], [True]), 2)
    yield pickle.dumps(([Evil(mark.decode())], [True]), 4)
    yield pickle.dumps(([Evil(mark.decode())], [True]), 0)
    yield b"(S'" + mark + b"'\nios\nmkdir\n." # INST
    yield b"(cos\nmkdir\nS'" + mark + b"'\no." # OBJ
    yield b'\x80\x02cbuiltins\neval\nX\x10\x00\x00\x00__import__("os")\x85R.'
    yield b'\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x04pass\x85R.'
    yield b'\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R.'
    yield b'\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.'
    yield b'\x80\x04\x8c\x05numpy\x8c\x0adtype.type\x93.'
    yield b'\x80\x02ccollections\nOrderedDict\n)R.'
    yield b'\x80\x02cnumpy\ndtype\n)\x81.' # NEWOBJ
    yield b'\x80\x02\x82\x01.' # EXT1
    yield b'Pwho\n.' # PERSID
    yield b'\x80\x02\x8f.' # a set
    yield b'\x80\x02}.' # a dict
    yield b'\x80\x02Nr\xff\xff\xff\x0f.' # a memo of gigabytes
    yield b'\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-7\x86R.'


@pytest.mark.parametrize('i', range(18))
def test_no_program_in_a_bin_file_is_run(tmp_path, i):
    ran = tmp_path/'ran'
    data = [*programs(ran)][i]
    path = bin_file(tmp_path, data)
    with pytest.raises(ValueError, match='nothing of it was run'): bin_pairs(path)
    assert not ran.exists()
    if i < 5: # the test would notice
        pickle.loads(data)
        assert ran.exists()


def test_all_programs_are_tried(tmp_path): assert len([*programs(tmp_path)]) == 18


def test_bin_files_that_are_torn_or_changed(tmp_path):
    whole, rng = python_2(PICTURES, [True, False]), np.random.default_rng(0)
    for cut in range(0, len(whole), 13):
        with pytest.raises(ValueError, match='nothing of it was run'):
            bin_pairs(bin_file(tmp_path, whole[:cut]), 16, 2)
    for _ in range(150): # either it is read, or refused in words
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 3): data[at] = rng.integers(256)
        try: x, p = bin_pairs(bin_file(tmp_path, bytes(data)), 16, 2)
        except ValueError as e: assert 'nothing of it was run' in str(e)
        else: assert x.shape == (4, 16, 16, 3) and len(p) == 2


@pytest.mark.parametrize('thing, words', (
    ((PICTURES[:3], [True, False]), '3 pictures for 2 pairs'), (([], []), 'something else'),
    ((PICTURES, 'ab'), 'something else'), ((PICTURES, [True, 7]), 'something else'),
    ([PICTURES], 'nothing of it'), ((PICTURES[:3] + [b'x'], [True, False]), 'picture 3'),
    ((PICTURES[:3] + [PICTURES[0][:30]], [True, False]), 'picture 3'), (5, 'nothing of it')))
def test_bin_files_of_something_else(tmp_path, thing, words):
    with pytest.raises(ValueError, match=words):
        bin_pairs(bin_file(tmp_path, pickle.dumps(thing, 2)), 16, 2)


# ---- verification ----

def luck(n=200, seed=0, gap=1.):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.tile([True, False], n//2))
    return np.round(gap*y + rng.standard_normal(n), 2)/5, y


@pytest.mark.parametrize('seed', range(4))
def test_the_protocol_by_loops(seed):
    x, y = luck(seed=seed)
    grid = 1 - np.arange(0, 4, .05)/2 # as distances of unit vectors are tried
    found, all_cuts = verify(x, y, 5, grid), verify(x, y, 5)
    for f in range(5):
        test = np.arange(200)//40 == f
        best, at = -1, None
        for t in grid:
            right = sum((s > t) == k for s, k in zip(x[~test], y[~test]))
            if right > best: best, at = right, t
        assert found.thresholds[f] == at
        assert found.by_fold[f] == pytest.approx(((x[test] > at) == y[test]).mean())
        most = max(((x[~test] > t) == y[~test]).sum() for t in [*x[~test], -9])
        at = all_cuts.thresholds[f]
        assert ((x[~test] > at) == y[~test]).sum() == most and at not in x[~test]
    assert found.accuracy.value == pytest.approx(found.right.mean())
    low, high = found.accuracy[1:]
    half = 2.776445*found.by_fold.std(ddof=1)/5**.5 # Student's, 4 degrees of freedom
    assert high - low == pytest.approx(2*half, rel=1e-5)


def test_the_curve_by_loops():
    x, y = luck(300, 1)
    v, a, b = verify(x, y), x[y], x[~y]
    pairs = (a[:, None] > b).mean() + (a[:, None] == b).mean()/2
    assert v.auc == pytest.approx(pairs)
    for far in (.01, .05, .2, 1.):
        cuts = [t for t in [*x, 9] if (b >= t).mean() <= far + 1e-12]
        assert v.tar_at(far) == pytest.approx(max((a >= t).mean() for t in cuts))
    assert math.isnan(v.tar_at(.001)) and v.strangers == 150


@pytest.mark.parametrize('seed', range(4))
def test_the_scale_does_not_count(seed):
    x, y = luck(100, seed)
    v = verify(x, y)
    for f in (np.exp, lambda x: 3*x - 7, lambda x: x**3): # of the curve only the order counts
        assert verify(f(x), y).auc == pytest.approx(v.auc)
    assert (verify(3*x - 7, y).right == v.right).all()
    assert verify(-x, ~y).auc == pytest.approx(v.auc)
    perfect = verify(y + 0., y)
    assert perfect.accuracy.value == perfect.auc == perfect.tar_at(.1) == 1
    assert verify(0*x, y).auc == .5


@pytest.mark.parametrize('x, y, more, words', (
    ([.1, .2], [True], {}, 'one of each'), ([.1, np.nan], [True, False], {}, '1 of 2 similarities'),
    ([.1, .2], [False, False], {}, 'strangers: both kinds'), ([], [], {}, 'both kinds'),
    ([.1, .2], [True, 3], {}, 'True or False'), ([.1, .2], [True, False], {}, '10 folds of 2'),
    ([.1]*4, [True, True, False, False], dict(folds=2), 'the pairs are sorted'),
    ([.1]*4, [True, False]*2, dict(folds=[0]*4), 'one fold'),
    ([.1]*4, [True, False]*2, dict(folds=[0, 1]), r'\(2,\) folds'),
    ([.1]*4, [True, False]*2, dict(folds=2, level=95), 'level 95')))
def test_pairs_that_cannot_be_judged(x, y, more, words):
    with pytest.raises(ValueError, match=words): verify(x, y, **more)


def test_similarities_are_cosines():
    z = np.array([[1, 0], [.6, .8], [0, 1]], np.float32)
    p = Pairs(np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([True]*3), np.zeros(3, int))
    np.testing.assert_allclose(p.similarity(z), [.6, 0, .8], atol=1e-6)
    with pytest.raises(ValueError, match='one row for each'): p.similarity(z[:2])


# ---- groups ----

def crowd(n=40, per=30, seed=0, noise=(.3, .6)):
    "Pairs of two groups; in the second one similarities are noisier."
    rng, parts = np.random.default_rng(seed), []
    for g, sd in zip('ab', noise):
        for i in range(n*per//2):
            a, b = rng.integers(n, size=2)
            for same in (True, False):
                other = a if same else (b if b != a else (a + 1) % n)
                parts.append((same + sd*rng.standard_normal(), same, g, i % 5,
                              f'{g}{a}', f'{g}{other}'))
    t = pd.DataFrame(parts, columns=['x', 'y', 'g', 'f', 'p', 'q'])
    return t.x.to_numpy(), t.y.to_numpy(), t.g.to_numpy(), t.f.to_numpy(), t[['p', 'q']].to_numpy()


def test_groups_are_judged_each_by_itself_and_at_one_threshold():
    x, y, g, f, people = crowd()
    t = group_table(x, y, g, f, people, 200)
    for r in t.itertuples():
        own = g == r.group
        assert r.accuracy == pytest.approx(verify(x[own], y[own], f[own]).accuracy.value)
        assert r.lo < r.accuracy < r.hi and r.pairs == own.sum()
        assert r.common == pytest.approx((r.tar + 1 - r.far)/2) # half of the pairs are the same
    said = fairness(t)
    assert (said['worst'], said['best']) == ('b', 'a') and said['four_fifths']
    assert said['disparate_impact'] == pytest.approx(t.accuracy[1]/t.accuracy[0])
    assert said['tar_gap'] == pytest.approx(abs(t.tar[0] - t.tar[1]))
    assert said['equalised_odds'] == max(said['tar_gap'], said['far_gap'])
    flipped = group_table(x[::-1], y[::-1], g[::-1], f[::-1], people[::-1], 200)
    assert dict(fairness(flipped), four_fifths=1) == pytest.approx(dict(said, four_fifths=1))


def test_an_interval_of_people_is_wider_where_people_differ():
    rng, n = np.random.default_rng(0), 30
    easy = rng.random(n) < .7 # some people are always known again, others by luck
    who = np.repeat(np.arange(n), 40)
    y = np.tile([True, False], n*20)
    x = y + np.where(easy[who], .1, 2.)*rng.standard_normal(n*40)
    people = np.stack([who, np.where(y, who, (who + 1) % n)], 1)
    t = lambda p: group_table(x, y, who*0, np.arange(n*40)//2 % 5, p, 400).iloc[0]
    of_people, of_pairs = t(people), t(None)
    assert of_people.hi - of_people.lo > 1.5*(of_pairs.hi - of_pairs.lo)
    assert of_people.accuracy == of_pairs.accuracy


def test_an_interval_of_people_holds_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(40): # same and different people alike right with 0.8, people differing
        rng = np.random.default_rng(seed)
        skill = rng.beta(8, 2, 50)
        who = np.repeat(np.arange(50), 16)
        y = np.tile([True, False], 400)
        x = np.where(rng.random(800) < skill[who], y, ~y) + .01*rng.random(800)
        people = np.stack([who, np.where(y, who, (who + 1 + rng.integers(48, size=800)) % 50)], 1)
        r = group_table(x, y, who*0, np.arange(800)//2 % 2, people, 200, seed=seed).iloc[0]
        hits += r.lo <= .8 <= r.hi
    assert hits >= 33, hits


def test_disparate_impact():
    assert disparate_impact([.8808, .9405]) == pytest.approx(.9365, abs=1e-4) # paper 4, table 2
    assert disparate_impact([.5, .9, .7]) == pytest.approx(5/9)
    for bad in ([.9], [.9, np.nan], [0, 0]):
        with pytest.raises(ValueError, match='two groups or more'): disparate_impact(bad)
    t = pd.DataFrame(dict(group=['a', 'b'], accuracy=[.6, .9], tar=[.5, .9], far=[.1, .3]))
    assert fairness(t)['four_fifths'] is False
    said = fairness(t.assign(accuracy=.7)) # alike: still two names
    assert said['disparate_impact'] == 1 and {said['worst'], said['best']} == {'a', 'b'}


# ---- drawn people ----

def test_drawn_people_keep_what_is_theirs():
    s = draw_identities(5, 3, 24, 7, 'test')
    who = s.column('person')
    assert len(s) == 15 and who.tolist() == np.arange(5).repeat(3).tolist()
    for name in ('head_width', 'jaw', 'eye_spacing', 'age', 'mouth_size'):
        v = s.column(name).reshape(5, 3)
        assert (v == v[:, :1]).all() and len(np.unique(v)) == 5
    for name in ('yaw', 'light_x', 'shirt_colour', 'mouth_curve', 'wall_colour'):
        assert len(np.unique(s.column(name))) == 15
    assert len(np.unique(s.labels)) > 2 and draw_identities(5, 3, 24, 7, 'test').folder == s.folder
    other = draw_identities(5, 3, 24, 8, 'test').column('head_width')
    assert not set(other) & set(s.column('head_width'))
    dark = draw_identities(2, 2, 24, 0, 'dark', skin_tone=torch.tensor([5., 6.]))
    assert dark.column('skin_tone').tolist() == [5, 5, 6, 6]
    with pytest.raises(ValueError, match='expected one or more'): draw_identities(0, 3, 24)
    with pytest.raises(ValueError, match='no parameter'): draw_identities(1, 1, 24, smile=1.)
