"""CelebA in torchvision's layout: read as torchvision does; 08_celeba on it and on drawn ones."""
import json
import os
import re
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import test_experiment
import torch
from PIL import Image

from synthnb.arms import READINGS

NAMES = ['5_o_Clock_Shadow', 'Bald', 'Black_Hair', 'Blond_Hair',
         'Brown_Hair', 'Male', 'Smiling', 'Young']
PARTS = dict(train=260, valid=60, test=60)


def write_celeba(root, seed=0):
    "A folder for torchvision.datasets.CelebA: hair on top, brightness for Male, grey for old."
    folder, rng, n = Path(root)/'celeba', np.random.default_rng(seed), sum(PARTS.values())
    (folder/'img_align_celeba').mkdir(parents=True)
    bits = rng.integers(0, 2, (n, len(NAMES)))
    bits[:, 2:5] = np.eye(4, dtype=int)[rng.integers(0, 4, n)][:, :3]
    files = [f'{i + 1:06d}.jpg' for i in range(n)]
    colours = np.array([(20, 20, 20), (230, 210, 90), (120, 70, 30), (200, 0, 200)])
    for f, b in zip(files, bits):
        x = np.full((218, 178, 3), 90 + 90*b[5]) + rng.integers(-20, 20, (218, 178, 3))
        x[20:90] = colours[np.append(b[2:5], 1).argmax()]
        x[150:] = x[150:]*(.5 + .5*b[7])
        Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(
            folder/'img_align_celeba'/f, quality=95)
    def table(name, header, rows):
        head = [str(n), header] if header else []
        (folder/name).write_text('\n'.join([*head, *(f'{f} {r}' for f, r in zip(files, rows))])
                                 + '\n')
    table('list_attr_celeba.txt', ' '.join(NAMES) + ' ',
          [' '.join(f'{2*v - 1:2d}' for v in b) for b in bits])
    table('list_eval_partition.txt', '', np.repeat([0, 1, 2], list(PARTS.values())))
    table('identity_CelebA.txt', '', range(n))
    table('list_bbox_celeba.txt', 'image_id x_1 y_1 width height', ['1 2 3 4']*n)
    table('list_landmarks_align_celeba.txt', 'lefteye_x lefteye_y', ['5 6']*n)
    return Path(root)


@pytest.fixture(scope='module')
def celeba(tmp_path_factory):
    return write_celeba(tmp_path_factory.mktemp('celeba'))


@pytest.mark.parametrize('split', PARTS)
def test_labels_partition_and_pixels_are_torchvisions(celeba, split):
    from torchvision import datasets
    from torchvision import transforms as T

    from synthnb.data import CELEBA_ATTRIBUTES, load_attributes
    look = T.Compose([T.CenterCrop(178), T.Resize(36, T.InterpolationMode.LANCZOS)])
    # it knows the checksums of the whole CelebA
    with mock.patch.object(datasets.CelebA, '_check_integrity', lambda self: True):
        theirs = datasets.CelebA(celeba, split, transform=look)
    ours = load_attributes('celeba', celeba, 36)[split]
    at = [theirs.attr_names.index(a) for a in CELEBA_ATTRIBUTES]
    assert len(ours) == len(theirs) == PARTS[split] and ours.attributes == CELEBA_ATTRIBUTES
    assert np.array_equal(ours.attribute_matrix, theirs.attr[:, at].numpy())
    pixels = np.stack([np.asarray(theirs[i][0]) for i in range(20)]).astype(int)
    assert np.abs(ours.gather(range(20)).numpy() - pixels).mean() < 2, (
        'other pixels than a centre crop of 178')


def test_the_root_may_be_either_folder(celeba):
    from synthnb.data import load_attributes
    a, b = (load_attributes('celeba', root, 36, dict(train=50))['train']
            for root in (celeba, celeba/'celeba'))
    assert a.fingerprint == b.fingerprint and len(a) == 50


def test_a_torn_picture_is_named_and_left_out(tmp_path, capsys):
    from synthnb.data import load_attributes
    root = write_celeba(tmp_path, seed=1)
    torn = root/'celeba'/'img_align_celeba'/'000007.jpg'
    torn.write_bytes(torn.read_bytes()[:900])
    sets = load_attributes('celeba', root, 36)
    said = capsys.readouterr().out
    assert (len(sets['train']) == PARTS['train'] - 1 and '000007.jpg' in said
            and 'They are left out' in said)
    for i in range(10, 20): (root/'celeba'/'img_align_celeba'/f'{i:06d}.jpg').unlink()
    with pytest.raises(ValueError, match='the file is missing'): load_attributes('celeba', root, 36)


def test_one_class_an_image_is_as_it_was(tmp_path):
    "Sets without attributes keep their labels; a classifier's file without the new entry is read."
    from synthnb.data import Images
    from synthnb.drawn import drawn_set
    from synthnb.train import Classifier, train_classifier
    plain = drawn_set(64, 36, 'balanced', seed=5, name='plain')
    images = Images.from_sets((plain, None))
    assert (plain.attributes is None and images.labels.shape == (64,)
            and images.classes == plain.classes)
    path = train_classifier(images, None, width=8, updates=2)[0].save(tmp_path/'c.safetensors')
    assert b'multi_label' not in path.read_bytes() and not Classifier.load(path).multi_label


def run(runs, *args, **kw):
    "08_celeba at smoke scale: (exit status, output)."
    return test_experiment.run(runs, *args, notebook='08_celeba', **kw)


def record(runs):
    folder = next(Path(runs).glob('08_celeba/*/metrics.json')).parent
    return folder, json.loads((folder/'metrics.json').read_text())['metrics']


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    "One finished run on drawn faces."
    runs = tmp_path_factory.mktemp('runs')
    status, output = test_experiment.run_forked(runs, notebook='08_celeba', timeout=600)
    assert status == 0, output[-3000:]
    return runs


def test_on_drawn_faces_the_record_is_complete_and_made_once(first):
    from synthnb.data import ImageSet, code_bits
    folder, found = record(first)
    assert found['n_pool'] == 12*found['n_real'] and found['n_added'] == found['n_real']
    pool = ImageSet(next(first.glob('artefacts/pool/*/set.json')).parent)
    score, verdict = pool.column('confidence-cross-fit'), pool.column('verdict')
    top = [np.flatnonzero(pool.labels == c)[np.argsort(-score[pool.labels == c], kind='stable')]
           for c in np.unique(pool.labels)]
    least, most = (np.concatenate([rows[:n] for rows in top]) for n in (160//12, 160//12 + 1))
    assert len(top) == 12 and len(least) < found['n_added'] < len(most)
    # what is kept lies between the 13 and the 14 surest of each combination
    right = verdict == pool.labels
    assert right[least].sum() - 1e-9 <= found['preserved_kept']*160 <= right[most].sum() + 1e-9
    assert np.isclose(right.mean(), found['preserved_pool'])
    for j, share in enumerate(found['preserved_pool_attribute']):
        assert np.isclose((code_bits(verdict, 5)[:, j] == code_bits(pool.labels, 5)[:, j]).mean(),
                          share)
    assert {p.stem for p in (folder/'tables').glob('*.csv')} >= {
        'table1', 'table4', 'over_seeds', 'verdicts'}
    assert {p.stem for p in (folder/'figures').glob('*.png')} >= {
        'figure1_translations', 'figure5_extremes', 'preservation'}
    status, output = run(first)
    assert status == 0 and 'made in' not in output and record(first)[1] == found


def test_on_celeba_with_the_official_generator(celeba, tmp_path):
    from synthnb.gan import Discriminator, Generator
    torch.manual_seed(0)
    torch.save(Generator(5, 8).state_dict(), tmp_path/'200000-G.ckpt')
    torch.save(Discriminator(40, 5, 8, 3).state_dict(), tmp_path/'200000-D.ckpt')
    files = '-p', 'generator_file', str(tmp_path/'200000-G.ckpt')
    both = *files, '-p', 'discriminator_file', str(tmp_path/'200000-D.ckpt')
    on_celeba = '-p', 'data', 'celeba', '-p', 'root', str(celeba), '-p', 'sampler', 'cr-sam'
    status, output = run(tmp_path/'a', *on_celeba, *files)
    assert status != 0 and 'give its discriminator_file too' in output, output[-2000:]
    status, output = run(tmp_path/'b', *on_celeba, *both)
    assert status == 0 and not list((tmp_path/'b'/'artefacts').glob('gan/*')), output[-3000:]
    folder, found = record(tmp_path/'b')
    assert found['n_pool'] == 12*found['n_real'] == 12*160 and 'preserved_kept' not in found, (
        'photographs have no oracle')
    assert str(celeba) not in (folder/'params.json').read_text(), (
        'a record must not hold a path of the machine')


@pytest.mark.parametrize('args, said', [
    (['-p', 'sampler', 'density'], 'it is a sampler for one class an image'),
    (['-p', 'sampler', 'best'], 'choose one of none, random, cl-sam, cr-sam, oracle'),
    (['-p', 'data', 'affectnet'], 'choose one of celeba, drawn'),
    (['-p', 'data', 'celeba', '-p', 'root', 'nowhere'], 'nowhere does not exist'),
])
def test_bad_parameters_are_refused_with_advice(tmp_path, args, said):
    status, output = run(tmp_path, *args)
    assert status != 0 and said in output, output[-2000:]
    assert not list(tmp_path.glob('08_celeba/*/metrics.json'))


# ---- to the plateau ------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def plateau(first, tmp_path_factory):
    "A run of the protocol of today."
    runs = tmp_path_factory.mktemp('plateau')
    shutil.copytree(first/'artefacts', runs/'artefacts') # GAN and pool are the same
    status, output = run(runs, '-p', 'sampler', 'random', protocol='plateau')
    assert status == 0, output[-3000:]
    return runs


def measured(runs, name):
    return json.loads((runs/'08_celeba'/name/'metrics.json').read_text())['metrics']


OF = 'sampler={},scale=smoke,protocol=plateau'


def test_three_readings_of_the_same_trainings(plateau):
    found = measured(plateau, OF.format('random'))
    assert found['n_added'] == found['n_real'] == 160 and found['settings']['trainings'] == 2
    assert [found[f'read_{r}'] for r in READINGS] == [
        dict(control='best', arm='best'), dict(control='at 12', arm='at 12'),
        dict(control='at 8', arm='at 12')], 'half of 12 views, at the nearest look'
    for end in READINGS.values():
        assert np.isclose(np.mean(found[f'arm_each{end}']), found[f'arm_mean_class_accuracy{end}'])
        assert np.isclose(np.mean(found[f'arm_attribute_accuracy{end}']),
                          found[f'arm_mean_class_accuracy{end}']), 'the mean of five attributes'
        gain = found[f'against_control{end}']
        assert gain['lo'] <= gain['difference'] <= gain['hi'] and gain['trainings'] == 2
        assert found[f'baseline_each{end}'] == found[f'control_each{end}'], 'they are one'
        assert 0 < found[f'arm_log_loss{end}'] < 12*np.log(2)
    tables = plateau/'08_celeba'/OF.format('random')/'tables'
    assert pd.read_csv(tables/'readings.csv').reading.tolist() == [*READINGS]
    verdicts = pd.read_csv(tables/'verdicts.csv')
    assert {'at the plateau', 'equal updates', 'equal views', 'verdict'} <= {*verdicts}


def test_its_numbers_are_those_of_its_classifiers(plateau):
    "What is recorded of real only, from its stored classifiers and the test faces anew."
    from synthnb.data import load_attributes
    from synthnb.train import Classifier
    found = measured(plateau, OF.format('random'))
    sizes = {k: found['settings'][f'n_{k}'] for k in ('train', 'valid', 'test')}
    with mock.patch.dict(os.environ, SYNTHNB_RUNS=str(plateau)):
        test = load_attributes('drawn', '', 36, sizes, 0)['test']
    said = [Classifier.load(p).predict_proba(test) > .5
            for p in plateau.glob('artefacts/trainings/*/classifier *.safetensors')]
    each = [(s == test.attribute_matrix).mean() for s in said]
    near = 2.5/test.attribute_matrix.size # two answers may turn: batches are summed otherwise
    for who in ('control', 'arm'):
        assert all(min(abs(e - v) for e in each) < near for v in found[f'{who}_each']), (
            each, found[f'{who}_each'], near)


@pytest.mark.long
@pytest.mark.parametrize('sampler, adds', [('more-real', 160), ('near', 160), ('pretrain', 1920),
                                           ('right', None), ('fid', 160)])
def test_controls(plateau, sampler, adds):
    status, output = run(plateau, '-p', 'sampler', sampler, protocol='plateau')
    assert status == 0, output[-3000:]
    assert not re.search(r'^gan .*made in', output, re.M), 'the GAN is shared'
    found, other = (measured(plateau, OF.format(s)) for s in (sampler, 'random'))
    if adds: assert found['n_added'] == adds
    if sampler == 'right': assert found['preserved_kept'] in (1, None)
    assert found['control_each'] == other['control_each'] and found['arm_each'] != (
        other['arm_each'])


@pytest.mark.long
@pytest.mark.ci
def test_another_recipe_is_of_real_only_too(plateau):
    status, output = run(plateau, '-p', 'sampler', 'random', '-p', 'recipe', 'smooth',
                         protocol='plateau')
    assert status == 0, output[-3000:]
    name = OF.format('random')
    smooth, jitter = (measured(plateau, n) for n in (f'{name},recipe=smooth', name))
    assert smooth['control_log_loss'] != jitter['control_log_loss']
    tables = plateau/'08_celeba'/f'{name},recipe=smooth'/'tables'
    assert {*pd.read_csv(tables/'free.csv').recipe} == {'jitter', 'smooth'}
    assert pd.read_csv(tables/'over_seeds.csv').seeds.tolist() == [1, 1], 'recipes are apart'


@pytest.mark.parametrize('protocol, args, said', [
    ('plateau', ['-p', 'recipe', 'sampling'], 'it is written for one class an image'),
    ('plateau', ['-p', 'recipe', 'mixup'], 'choose one of plain, jitter, trivial, rand, smooth'),
    ('plateau', ['-p', 'recipe', 'cutout'], 'choose one of plain, jitter'),
    ('plateau', ['-p', 'sampler', 'rare'], 'it is a sampler for one class an image'),
    ('plateau', ['-p', 'sampler', 'right', '-p', 'data', 'celeba'], 'needs data=drawn'),
    ('plateau', ['-p', 'augment', 'none'], 'recipe=plain'),
    ('updates', ['-p', 'recipe', 'smooth'], 'need protocol=plateau'),
    ('updates', ['-p', 'sampler', 'near'], 'need protocol=plateau'),
    ('epochs', [], 'choose one of plateau, updates')])
def test_what_a_protocol_has_not_is_refused(tmp_path, protocol, args, said):
    status, output = run(tmp_path, *args, protocol=protocol)
    assert status != 0 and said in output, output[-2000:]
    assert not list(tmp_path.glob('08_celeba/*/*')) and not list(tmp_path.glob('artefacts/*/*'))


@pytest.mark.long
def test_more_photographs_are_those_left_out(celeba, tmp_path):
    "Of 260 pictures 100 are trained on; those added are others, of the training part."
    status, output = run(tmp_path, '-p', 'data', 'celeba', '-p', 'root', str(celeba), '-p',
                         'sampler', 'more-real', '-p', 'real', '100', protocol='plateau')
    assert status == 0, output[-3000:]
    _, found = record(tmp_path)
    assert found['n_added'] == found['n_real'] == 100
    status, output = run(tmp_path, '-p', 'data', 'celeba', '-p', 'root', str(celeba), '-p',
                         'sampler', 'more-real', '-p', 'real', '200', protocol='plateau')
    assert status != 0 and 'the place leaves out 60' in output, output[-3000:]
