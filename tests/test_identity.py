"""What a cache takes for identity: what changes the numbers changes the name, in every chapter."""
import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from apart import Apart, lines
from PIL import Image
from torch import nn

from synthnb import (beyond, clip, core, drawn, gan, noise, qdgs, repair, rl, samplers,
                     scores, shapes, shapevae, train, vae)
from synthnb.core import artefact, code_of, code_parts, hash_of, name_of
from synthnb.data import Images, ImageSet, ImageSetWriter, data_digest, load_data

ROOT = Path(__file__).resolve().parent.parent
SMALL = dict(width=8, crop=16, updates=6, validations=1)


def image_set(folder, pixels, labels, k=2):
    writer = ImageSetWriter(folder, len(labels), pixels.shape[1], [f'c{i}' for i in range(k)])
    writer.write(pixels, labels)
    return writer.close()


def table(seed=0, n=24, size=16):
    pixels = torch.randint(256, (n, size, size, 3), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(seed))
    return Images(pixels, torch.arange(n) % 2, ['c0', 'c1'])


def unseen_by_a_sample(images):
    "Another table that a look at every 997th byte cannot tell from this one."
    pixels = torch.zeros_like(images.pixels)
    pixels.view(-1)[::997] = images.pixels.view(-1)[::997]
    return Images(pixels, images.labels, images.classes)


# ---- sets and tables -----------------------------------------------------------------------------
def test_a_table_is_all_of_its_bytes():
    a, b = table(), unseen_by_a_sample(table())
    assert (a.pixels != b.pixels).float().mean() > .9 and hash_of(a) != hash_of(b)
    assert hash_of(a) == hash_of(table())


def test_weights_of_one_table_are_not_returned_for_another(tmp_path):
    a = table()
    train.train_classifier(a, folder=tmp_path, **SMALL)
    with pytest.raises(ValueError, match='other settings, seed or images'):
        train.train_classifier(unseen_by_a_sample(a), folder=tmp_path, **SMALL)


def test_a_set_is_all_of_its_bytes(tmp_path):
    pixels, labels = np.zeros((300, 8, 8, 3), np.uint8), np.arange(300) % 2
    looked_at = np.linspace(0, 299, 64).astype(int) # what was once taken for the whole
    other = np.full_like(pixels, 200)
    other[looked_at] = 0
    assert (image_set(tmp_path/'a', pixels, labels).fingerprint
            != image_set(tmp_path/'b', other, labels).fingerprint)


def test_a_pool_rewritten_in_place_loses_its_scores(tmp_path, capsys):
    pool = image_set(tmp_path/'pool', np.zeros((300, 8, 8, 3), np.uint8), np.arange(300) % 2)
    def brightness(images, labels, rows): return images.float().mean((1, 2, 3))/255
    brightness.key = 'brightness'
    scores.score_pool(pool, 'score', brightness, device='cpu')
    before, facts = pool.column('score').copy(), os.stat(pool.folder/'images.npy')
    pool.pixels.write(1, np.full((3, 8, 8, 3), 255, np.uint8)) # rows that no sample of 64 holds
    os.utime(pool.folder/'images.npy', ns=(facts.st_atime_ns, facts.st_mtime_ns)) # as old as before
    scores.score_pool(ImageSet(pool.folder), 'score', brightness, device='cpu')
    assert before.max() == 0 and pool.column('score')[1:4].min() == 1
    assert 'reused' not in capsys.readouterr().out


def photographs(root, shade):
    for split, n in (('train', 12), ('test', 6)):
        for c in 'ab':
            (root/split/c).mkdir(parents=True)
            for i in range(n):
                Image.new('RGB', (16, 16), (shade, 9*i + (split == 'test'),
                                            200*(c == 'b'))).save(root/split/c/f'{i}.png')


def test_two_folders_of_one_name_are_two_data_sets(tmp_path):
    for name, shade in (('one', 0), ('two', 250)): photographs(tmp_path/name/'data', shade)
    one, two = (load_data('folder', tmp_path/name/'data', size=16, seed=0)
                for name in ('one', 'two'))
    assert (one['train'].folder != two['train'].folder
            and one['test'].images.mean() < two['test'].images.mean())
    assert hash_of(tmp_path/'one'/'data'/'train') != hash_of(tmp_path/'two'/'data'/'train')
    assert (data_digest('folder', tmp_path/'one'/'data')
            != data_digest('folder', tmp_path/'two'/'data'))


def test_a_file_changed_in_place_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(core, 'SETTLED', -1e18) # as if all were long on the disk
    photographs(tmp_path/'data', 0)
    path = tmp_path/'data'/'test'/'a'/'0.png'
    before = load_data('folder', tmp_path/'data', size=16, seed=0)['test'].images.max(axis=(1, 2))
    facts, was = os.stat(path), path.read_bytes()
    Image.new('RGB', (16, 16), (90, 0, 0)).save(path)
    path.write_bytes(path.read_bytes().ljust(len(was), b'\0')[:max(len(was), path.stat().st_size)])
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    known = [(s.st_size, s.st_mtime_ns, s.st_ino) for s in (facts, os.stat(path))]
    assert known[0] == known[1], 'the time of change alone tells'
    after = load_data('folder', tmp_path/'data', size=16, seed=0)['test'].images.max(axis=(1, 2))
    assert before[:, 0].max() == 0 and after[:, 0].max() == 90


def test_a_folder_is_also_what_its_links_lead_to(tmp_path):
    for name, shade in (('one', 0), ('two', 250)):
        photographs(tmp_path/'there'/name, shade)
        (tmp_path/name/'data').mkdir(parents=True)
        for split in ('train', 'test'):
            (tmp_path/name/'data'/split).symlink_to(tmp_path/'there'/name/split)
    assert (data_digest('folder', tmp_path/'one'/'data')
            != data_digest('folder', tmp_path/'two'/'data'))
    assert (data_digest('folder', tmp_path/'one'/'data')
            == data_digest('folder', tmp_path/'there'/'one'))


# ---- scores: how a model looks at an image counts, not its weights alone -------------------------
def classifier(classes=('c0', 'c1'), multi_label=False):
    spec = dict(arch='resnet10', width=8, stem='small', stem_stride=2, in_channels=3)
    torch.manual_seed(0)
    return train.Classifier(train.classifier_net(n_classes=2, **spec), list(classes), 16, spec,
                            **train.PLAIN, multi_label=multi_label)


def looks(of):
    "The same weights under another crop, mean and std."
    for name, value in dict(crop=12, mean=[.4, .5, .5], std=[.2, .5, .5]).items():
        other = copy.copy(of)
        setattr(other, name, value)
        yield other


def test_a_classifier_is_also_its_preprocessing(tmp_path):
    c = classifier()
    for other in looks(c):
        assert (scores.class_confidence(c, device='cpu').key
                != scores.class_confidence(other, device='cpu').key)
        assert (samplers_key(c, 'likelihood', tmp_path)
                != samplers_key(other, 'likelihood', tmp_path))
        assert verdict_key(c, tmp_path) != verdict_key(other, tmp_path)
    assert (scores.class_confidence(c, device='cpu').key
            == scores.class_confidence(classifier(), device='cpu').key)
    m = classifier(multi_label=True)
    for other in looks(m):
        assert (train.attribute_confidence(m, device='cpu').key
                != train.attribute_confidence(other, device='cpu').key)


def samplers_key(judge, column, tmp_path):
    return key_of(tmp_path, column, lambda pool: beyond.score_by_features(
        samplers.Scoring(pool, pool, pool, judge, device='cpu'),
        column, beyond.gaussian_likelihood))


def verdict_key(judge, tmp_path):
    return key_of(tmp_path, 'verdict', lambda pool: samplers.verdict_of(pool, judge, 'cpu'))


def key_of(tmp_path, column, score):
    "The key under which a score is kept, of one pool in a folder of its own."
    pool = image_set(tmp_path/str(len(list(tmp_path.iterdir()))),
                     table().pixels.numpy(), table().labels.numpy())
    score(pool)
    return scores.column_record(pool, column)['key']


def test_cross_fitting_is_also_the_sources_of_the_pool(tmp_path):
    pool, folds, two = (image_set(tmp_path/'pool', table().pixels.numpy(), table().labels.numpy()),
                        np.arange(24) % 2, [classifier()]*2)
    keys = set()
    for source in (np.arange(24), np.arange(24)[::-1].copy()):
        pool.add_column('source', source)
        keys.add(scores.cross_fitted_confidence(pool, folds, two, device='cpu').key)
    assert len(keys) == 2


def test_a_selector_is_also_the_sources_of_its_pool(tmp_path):
    pool = image_set(tmp_path/'pool', table().pixels.numpy(), table().labels.numpy())
    names = [hash_of(rl.named_pool(pool))]
    for source in (np.arange(24), np.arange(24)[::-1].copy()):
        pool.add_column('source', source)
        names.append(hash_of(rl.named_pool(pool)))
    assert len(set(names)) == 3


def test_a_file_of_weights_counts_by_its_content(tmp_path):
    spec, names = dict(arch='resnet10', width=8, stem='small'), set()
    data = image_set(tmp_path/'set', table().pixels.numpy(), table().labels.numpy())
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(train.classifier_net(n_classes=2, **spec).state_dict(), tmp_path/'weights.pth')
        made = train.fit_classifier([(data, None)], data, device='cpu',
                                    weights=str(tmp_path/'weights.pth'), **SMALL)
        names.add(hash_of(made))
    assert len(names) == 2


# ---- searches and trials -------------------------------------------------------------------------
class Painter:
    "A generator that is no network: what it does is decided by its attributes."
    def __init__(self, shade): self.shade, self.latent_dim, self.size = shade, 6, 64
    def decode(self, z):
        return (z.mean(1)[:, None, None, None]*0 + self.shade).expand(-1, 3, 64, 64)
    def prior(self, n, gen): return torch.randn(n, 6, generator=gen)


class WithSettings(nn.Module):
    "A network whose plain settings decide as much as its weights."
    def __init__(self, gain):
        super().__init__()
        self.gain, self.latent_dim, self.size, self.layer = gain, 6, 64, nn.Identity()
    def decode(self, z):
        return torch.sigmoid(z.mean(1)*self.gain)[:, None, None, None].expand(-1, 3, 64, 64)
    def prior(self, n, gen): return torch.randn(n, 6, generator=gen)


@pytest.fixture(scope='module')
def text_image():
    return clip.fit_text_image(size=64, updates=2, n_pictures=40, batch_size=8, device='cpu')[0]


def guide_key(generator, text_image):
    return qdgs.Guide(generator, text_image, qdgs.OBJECTIVES['splatters'],
                      qdgs.DETAILED, device='cpu').key


def test_a_guide_is_all_that_its_generator_and_its_model_are(text_image):
    for kind in (Painter, WithSettings):
        assert guide_key(kind(.2), text_image) != guide_key(kind(.3), text_image)
        assert guide_key(kind(.2), text_image) == guide_key(kind(.2), text_image)
    for name in ('mean', 'std'):
        other = copy.deepcopy(text_image)
        getattr(other, name).mul_(1.1)
        assert guide_key(Painter(.2), text_image) != guide_key(Painter(.2), other)
    other = copy.deepcopy(text_image)
    swapped = [m for m in other.modules() if isinstance(m, nn.GELU)]
    assert swapped, 'our small model has an activation that quick_gelu would replace'
    for parent in other.modules():
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.GELU): parent._modules[name] = nn.SiLU()
    assert guide_key(Painter(.2), text_image) != guide_key(Painter(.2), other)


def test_trials_are_also_the_groups_that_they_are_counted_by():
    base, config = shapes.shapes_set(32, .5, size=64, seed=0), repair.RepairConfig.preset('smoke')
    def trials(groups):
        return repair.fit_trials({.5: (base, dict(longer=base))}, base, groups, config,
                                 trials=1, device='cpu')[repair.GROUPS]
    groups = 2*base.labels.numpy() + np.arange(32) % 2
    a, b = trials(groups), trials(groups ^ 1)
    assert np.array_equal(a.to_numpy(), b.to_numpy()[:, [1, 0, 3, 2]]), (
        'the same trainings, counted by other groups')
    assert not a.equals(b)


# ---- code ----------------------------------------------------------------------------------------
STEPS = {gan.fit_stargan: 'StarGANTraining.discriminator_update', gan.pool_of: 'translate',
         train.fit_classifier: 'ClassifierTraining.update',
         vae.fit_vae: 'LatentTraining.update', vae.vae_pool: 'sample_images',
         noise.fit_noisy: 'NoisyTraining.update',
         rl.fit_policy: 'PolicyTraining.update', qdgs.fit_qdgs: 'Search.update',
         shapevae.fit_shape_vae: 'ShapeVAETraining.update',
         clip.fit_text_image: 'ClipTraining.update', repair.fit_trials: 'one_trial',
         drawn.drawn_set: 'draw_mouth'}


@pytest.mark.parametrize('maker', STEPS, ids=lambda f: f.__name__)
def test_a_maker_reaches_what_it_computes_with(maker):
    names = {name for name, _ in code_parts(maker)}
    assert STEPS[maker] in names, sorted(names)
    assert not {'progress', 'artefact', 'save_json',
                'waiting_lock'} & names, ('plumbing changes no number')


WAYS = """
import functools
KINDS = {'a': 1, float: 2}
def loud(f):
    @functools.wraps(f)
    def inner(x): return f(x) + 1
    return inner
@loud
def called(x): return x*2
class A:
    table = {'k': called}
    def __init__(self): self._x = 3
    @property
    def x(self): return self._x*4
    @x.setter
    def x(self, v): self._x = v + 5
    class Inner:
        def run(self): return 6
def given(x=7): return x
def make(f): a = A(); a.x = given(); return called(a.x), A.Inner().run(), a.table, KINDS
"""


@pytest.mark.parametrize('old, new', [
    ('+ 1', '+ 9'), ('x*2', 'x*9'), ('= 3', '= 9'), ('*4', '*9'), ('v + 5', 'v + 9'),
    ('return 6', 'return 9'), ('x=7', 'x=9'),
    (': 2}', ': 9}'), ('def given(x=7)', 'def given(*x)')])
def test_code_is_reached_in_every_way_that_python_has(old, new):
    def made(text):
        space = dict(__name__='__main__')
        exec(compile(text, '<maker>', 'exec'), space)
        return code_of(space['make'])
    assert WAYS.count(old) == 1 and made(WAYS) == made(WAYS) != made(WAYS.replace(old, new))
    said = WAYS.replace("def given(x=7): return x",
                        'def given(x=7):\n    "What is given."\n    # no more\n    return x')
    assert made(said) == made(WAYS)


EDIT = '''
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from synthnb.core import code_of
from synthnb import gan, train
print(code_of(gan.fit_stargan), code_of(train.fit_classifier), gan.__file__)
'''


def names_after(folder, old=None, new=None, module='gan'):
    "The names of two makers in a copy of the package in which one line is changed."
    import shutil
    shutil.copytree(ROOT/'synthnb', folder/'synthnb', ignore=shutil.ignore_patterns('__pycache__'))
    if old:
        text = (folder/'synthnb'/f'{module}.py').read_text()
        assert text.count(old) == 1, (old, text.count(old))
        (folder/'synthnb'/f'{module}.py').write_text(text.replace(old, new))
    process = Apart(lines, EDIT, str(folder), cwd=folder)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said[-2000:]
    *codes, place = said.split()
    assert place.startswith(str(folder)), place
    return codes


def test_an_edit_renames_what_it_changes_and_nothing_else(tmp_path):
    def after(name, *edit, **where): return names_after(tmp_path/name, *edit, **where)
    before = after('before')
    line = '    c = self.config\n    real, y, t, alpha = self.batch()\n    for opt'
    comment = after('comment', line, '    # said in other words\n' + line)
    docstring = after('docstring', '"One update of D, and one of G when it is due. [Choi 2018, '
                      'eqs. 5-6]"', '"An update."')
    step = after('step', 'due = not warm and (self.step + 1) % c.n_critic == 0',
                 'due = not warm and self.step % c.n_critic == 0')
    assert comment == docstring == before
    assert step[0] != before[0] and step[1] == before[1], 'the classifier does not use the GAN'


def test_equal_names_are_made_once_and_other_code_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv('SYNTHNB_RUNS', str(tmp_path))
    def one(folder): (folder/'x').write_text('1')
    def two(folder): (folder/'x').write_text('2')
    assert (artefact('thing', one, dict(n=1))/'x').read_text() == '1'
    assert (artefact('thing', two, dict(n=1))/'x').read_text() == '2', (
        'the code is part of the name')
    about = json.loads(next(tmp_path.glob('artefacts/thing/*/artefact.json')).read_text())
    assert ({'stage', 'params', 'code', 'seconds', 'made_with'} <= set(about)
            and 'torch' in about['made_with'])
    assert (name_of('thing', one, dict(n=1)) != name_of('thing', one, dict(n=2))
            and code_of(one) != code_of(two))


@pytest.mark.long
@pytest.mark.parametrize('more', ['', 'samplers, rl, qdgs, noise'])
def test_names_do_not_depend_on_the_process(more):
    "Each process orders sets, places functions and imports chapters in its own way."
    makers = ', '.join(f'{m.__module__.split(".")[1]}.{m.__name__}'
                       for m in [*STEPS, drawn.drawn_attributes])
    code = f'from synthnb import {", ".join({m.split(".")[0] for m in makers.split(", ")})}\n'
    code = ((f'from synthnb import {more}\n' if more else '') + code
            + 'from synthnb.core import code_of\n')
    said = {subprocess.run([sys.executable, '-c', f'{code}print(*map(code_of, [{makers}]))'],
                           capture_output=True, text=True, check=True, cwd=ROOT,
                           env=os.environ | dict(PYTHONHASHSEED=str(s), PYTHONPATH=str(ROOT)))
            .stdout for s in (1, 2)}
    assert said == {' '.join(map(code_of, [*STEPS, drawn.drawn_attributes])) + '\n'}
