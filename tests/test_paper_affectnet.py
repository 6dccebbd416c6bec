"""07_affectnet at the paper's own scale, on tiny files in AffectNet's layout."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_experiment
import torch
from PIL import Image

from synthnb.core import as_changes
from synthnb.data import AFFECTNET_CLASSES, AFFECTNET_COLUMNS, ImageSet

pytestmark = pytest.mark.long # see tools/test.py


def write_affectnet(root, each=None, valid=2, seed=0):
    "AffectNet's lists and pictures: a face is a box of its class's colour in a picture of noise."
    rng, root = np.random.default_rng(seed), Path(root)
    colours = rng.integers(40, 216, (8, 3))
    for split, counts in (('training', each or [8]*8), ('validation', [valid]*8)):
        rows = []
        for label in np.repeat(range(8), counts):
            name, x = f'{len(rows) % 3}/{split}{len(rows)}.jpg', rng.integers(0, 256, (180, 200, 3))
            x[10:160, 20:170] = colours[label] + rng.integers(-25, 25, (150, 150, 3))
            path = root/'Manually_Annotated_Images'/name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(path)
            rows.append((name, 20, 10, 150, 150, '', label, 0., 0.))
        rows.append((rows[0][0], 20, 10, 150, 150, '', 9, 0., 0.)) # 'uncertain': not one of eight
        lists = root/'Manually_Annotated_file_lists'
        lists.mkdir(exist_ok=True)
        pd.DataFrame(rows, columns=AFFECTNET_COLUMNS).to_csv(lists/f'{split}.csv', index=False)
    return root


def paper_run(runs, monkeypatch, root, changes, *args):
    "The notebook with scale=paper, some sizes cut: its record's metrics, its folder, its output."
    monkeypatch.delenv('IN_TEST') # which would make it smoke
    status, output = test_experiment.run(
        runs, '-p', 'data', 'affectnet', '-p', 'root', str(root), '-p', 'device', 'cpu',
        '-p', 'changes', changes, *args, scale='paper')
    assert status == 0, output[-3000:]
    folder = next(Path(runs).glob('07_affectnet/*/metrics.json')).parent
    return json.loads((folder/'metrics.json').read_text())['metrics'], folder, output


def made(runs, stage): # the parameters of each artefact of a stage
    return [json.loads(p.read_text())['params'] for p in Path(runs).glob(
        f'artefacts/{stage}/*/artefact.json')]


# sizes only, and what a CPU cannot wait for: the networks' widths, the batch
FEW = ('n_train=44,n_valid=16,n_test=16,updates=1,batch=4,gan_updates=6,gan_dim=4,gan.batch=2,'
       'gan.repeats=1,cap=6')


def disk(runs): # gigabytes
    return sum(p.stat().st_size for p in Path(runs).rglob('*') if p.is_file())/1e9


def test_the_selector_of_the_paper(tmp_path, monkeypatch):
    "Eight classes, a cap, the official StarGAN, RL paid by the sign of a reward."
    each = [12, 12, 12, 8, 6, 5, 12, 4]
    root = write_affectnet(tmp_path/'AffectNet', each)
    few = f'{FEW},width=4,weights=None,rl.episodes=2,rl.child_passes=1'
    found, folder, output = paper_run(tmp_path/'runs', monkeypatch, root, few,
                                      '-p', 'sampler', 'rl', '-p', 'scorer', 'seen')
    runs = tmp_path/'runs'
    assert found['classes'] == AFFECTNET_CLASSES and found['n_pool'] == 7*found['n_real']
    real = next(s for p in runs.glob('artefacts/import/*/set.json')
                if len(s := ImageSet(p.parent)) == found['n_real'] and s.counts.max() == 6)
    assert real.size == 144 and real.counts.min() >= 2, real.counts
    used = found['settings']
    assert (used['crop'], used['arch'], used['stem'], used['optimiser'], used['lr']) == (
        128, 'resnet50', 'imagenet', 'sgd', .01)
    assert found['precision'] == dict(classifier='float32', gan='float32')
    (gan,), (policy,) = made(runs, 'gan'), made(runs, 'policy')
    assert gan['config'] | dict(loss='wgan-gp', n_critic=5, conditional=False, ema=0.,
                                residual=False, schedule='official') == gan['config']
    assert policy['config'] | dict(reward='sign', sees_label=False, fraction=.01, judge='valid',
                                   children=1, episodes=2) == policy['config']
    assert all(c['recipe']['precision'] == 'float32' and c['recipe']['optimiser'] == 'sgd'
               for c in made(runs, 'classifier'))
    assert json.loads((folder/'params.json').read_text())['changes'] == as_changes(few)
    assert 'changes=' in folder.name and 'needs about' in output
    verdicts = pd.read_csv(folder/'tables'/'verdicts.csv')
    assert set(verdicts.whose) == {'the paper'}, 'at scale=paper rl is the paper\'s method'
    assert 'On photographs of AffectNet' in (folder/'answer.md').read_text()
    assert disk(runs)/1.5 < found['room']['disk'] < disk(runs)*1.5


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    "A file of a ResNet-50, as torchvision has it, with random weights."
    from torchvision.models import resnet50
    path = tmp_path_factory.mktemp('weights')/'resnet50.pth'
    torch.save(resnet50().state_dict(), path)
    return path


def test_weights_from_a_file(tmp_path, monkeypatch, imagenet):
    "cl-sam as the paper has it, from ImageNet's weights in a file: known by content, not by place."
    root = write_affectnet(tmp_path/'AffectNet')
    few = FEW.replace('n_train=44,n_valid=16,n_test=16', 'n_train=12,n_valid=6,n_test=6')
    found, folder, _ = paper_run(
        tmp_path/'runs', monkeypatch, root, few, '-p', 'classes', 'neutral,happiness,anger',
        '-p', 'weights', str(imagenet), '-p', 'scorer', 'seen', '-p', 'exposure', 'fixed')
    assert found['n_pool'] == 2*found['n_real'] and found['n_added'] == found['n_real'] == 12
    assert found['updates'] == 2, 'the arm and its control are trained twice as long'
    recipes = [c['recipe'] for c in made(tmp_path/'runs', 'classifier')]
    assert len(recipes) == 4 and all(str(imagenet.parent) not in str(r['weights']) for r in recipes)
    said = json.loads((folder/'params.json').read_text())['weights']
    assert said.startswith('resnet50.pth-') and str(imagenet.parent) not in json.dumps(found)
    verdicts = pd.read_csv(folder/'tables'/'verdicts.csv')
    assert {'the paper', 'our control'} <= set(verdicts.whose)
    from synthnb.train import Classifier
    net = Classifier.load(next((tmp_path/'runs').glob('artefacts/classifier/*/*.safetensors')))
    start = torch.load(imagenet, weights_only=True)['layer3.2.conv2.weight']
    moved = (net.net.state_dict()['layer3.2.conv2.weight'] - start).abs().mean()/start.abs().mean()
    assert net.mean[0] == .485 and moved < .2, 'it starts where the file says, and barely moves'


@pytest.mark.parametrize('args, said', [
    (['-p', 'weights', 'w.pth'], 'starts from scratch: leave weights empty'),
    (['-p', 'changes', 'n_trains=3'], "changes: unknown 'n_trains'"),
    (['-p', 'changes', 'rl.episode=3', '-p', 'sampler', 'rl'], 'unknown setting episode'),
    (['-p', 'changes', 'optimiser=adam'], "optimiser='adam'"),
])
def test_what_does_not_fit_is_refused(tmp_path, args, said):
    status, output = test_experiment.run(tmp_path, *args)
    assert status != 0 and said in output, output[-2000:]
    assert not list(tmp_path.glob('07_affectnet/*/*')), 'it leaves no folder'


@pytest.mark.parametrize('args, said', [
    (['-p', 'weights', 'whole.pth'], 'conv1.weight is of torch.int64'),
    (['-p', 'augment', 'crops'], 'could not download the weights'),
], ids=['whole numbers', 'no network'])
def test_weights_are_asked_for_before_an_image_is_read(tmp_path, monkeypatch, args, said):
    monkeypatch.delenv('IN_TEST')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'empty'))
    for name in ('http_proxy', 'https_proxy'): monkeypatch.setenv(name, 'http://127.0.0.1:9')
    torch.save({'conv1.weight': torch.zeros(64, 3, 7, 7, dtype=torch.int64)}, tmp_path/'whole.pth')
    args = [str(tmp_path/a) if a.endswith('.pth') else a for a in args]
    root, runs = write_affectnet(tmp_path/'AffectNet'), tmp_path/'runs'
    status, output = test_experiment.run(
        runs, '-p', 'data', 'affectnet', '-p', 'root', str(root), '-p', 'device', 'cpu', *args,
        scale='paper')
    assert status != 0 and said in output, output[-2000:]
    assert not list(runs.glob('07_affectnet/*/*')) and not list(runs.glob('artefacts/import/*'))


def test_folds_keep_predictions_and_pool_them(tmp_path):
    "Two of three folds: what is kept of each, and the table of both."
    root, runs = write_affectnet(tmp_path/'Faces', [12]*8, 4), tmp_path/'runs'
    images = root/'Manually_Annotated_Images'
    names = sorted(str(p.relative_to(images)) for p in images.rglob('*.jpg'))
    who = {name: f'p{i//4}' for i, name in enumerate(names)}
    pd.DataFrame({AFFECTNET_COLUMNS[0]: names, 'identity': [*who.values()]}).to_csv(
        root/'identities.csv', index=False)
    for seed in range(2):
        status, output = test_experiment.run(
            runs, '-p', 'sampler', 'random', '-p', 'data', 'affectnet', '-r', 'root', str(root),
            '-p', 'folds', '3', '-p', 'seed', str(seed), '-p', 'device', 'cpu', protocol='plateau')
        assert status == 0, output[-3000:]
    found = sorted(runs.glob('07_affectnet/*/predictions.npz'))
    assert len(found) == 2 and all(p.stat().st_size < 60_000 for p in found)
    tested = []
    for path in found:
        with np.load(path) as held: kept = dict(held)
        record = json.loads((path.parent/'metrics.json').read_text())['metrics']
        assert kept['arm'].dtype == np.uint8 and kept['arm'].shape == (2, len(kept['y']))
        for side in ('arm', 'control', 'arm_views', 'control_updates'):
            who, _, end = side.partition('_')
            name = f'{who}_mean_class_accuracy' + f'_{end}'*bool(end)
            shares = [[(g[kept['y'] == c] == c).mean() for c in np.unique(kept['y'])]
                      for g in kept[side]]
            assert np.isclose(np.mean(shares), record[name]), side
        tested += [*kept['row']]
    assert len(tested) == len(set(tested)) > 64 # of 128, two thirds
    by_folds = pd.read_csv(path.parent/'tables'/'folds.csv')
    assert by_folds.folds.tolist() == [2]*6 and by_folds.images[0] == len(tested)
    assert set(by_folds.classes) == {'all', 'without sadness'}
    people = pd.read_csv(path.parent/'tables'/'fold_people.csv')
    assert people.images.sum() == len(tested) and people['of one person, at most'].max() <= 4
