"""13_overfitting at the paper's scale, sizes cut, on AffectNet's layout; and on a folder's."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_overfitting
import torch
from PIL import Image

from synthnb.core import as_changes

pytestmark = pytest.mark.long # see tools/test.py

ROOT = Path(__file__).resolve().parent.parent
CUT = ('n_train=14,n_valid=7,n_test=7,epochs=2,sweep=(1,),noise.interval=1,'
       'noise.width=8') # for the time it takes


def faces(folder):
    "AffectNet's layout, all eight classes: a red frame at the face's edge, clutter around it."
    lists, images = (folder/'Manually_Annotated_file_lists',
                     folder/'Manually_Annotated_Images'/'0')
    lists.mkdir(parents=True), images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, each in (('training', 3), ('validation', 1)):
        rows = []
        for i in range(8*each):
            picture = rng.integers(0, 90, (200, 200, 3), np.uint8)
            picture[30:180, 30:180] = [250, 0, 0]
            picture[40:170, 40:170] = rng.integers(0, 90, 3, np.uint8)
            Image.fromarray(picture).save(images/f'{split}{i}.png')
            rows.append((f'0/{split}{i}.png', 30, 30, 150, 150, '', i % 8, -2, -2))
        pd.DataFrame(rows, columns=['subDirectory_filePath', 'face_x', 'face_y', 'face_width',
                                    'face_height', 'facial_landmarks', 'expression', 'valence',
                                    'arousal']).to_csv(lists/f'{split}.csv', index=False)
    return folder


@pytest.fixture(scope='module')
def paper(tmp_path_factory):
    "One run at scale=paper: the folder of runs, its record, what it printed."
    runs = tmp_path_factory.mktemp('paper')
    root = faces(tmp_path_factory.mktemp('data')/'AffectNet')
    env = os.environ | dict(SYNTHNB_RUNS=str(runs), JUPYTER_PREFER_ENV_PATH='1')
    env.pop('IN_TEST') # which would make the scale smoke
    done = subprocess.run(
        [sys.executable, '-m', 'papermill', str(ROOT/'nbs'/'13_overfitting.ipynb'),
         str(runs/'executed.ipynb'), '--kernel', 'python3', '--no-progress-bar', '--stdout-file',
         '-', '-p', 'scale', 'paper', '-p', 'data', 'affectnet', '-p', 'root', str(root),
         '-p', 'device', 'cpu', '-p', 'changes', CUT],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    record, = (runs/'13_overfitting').glob('*/metrics.json')
    return runs, record.parent, done.stdout


def test_it_is_the_papers_training(paper):
    runs, record, output = paper
    found = json.loads((record/'metrics.json').read_text())['metrics']
    told = dict(arch='resnet18', stem='imagenet', crop=128, batch_size=64, optimiser='adam',
                lr=1e-4, weight_decay=1e-4, augment='none', precision='float32', w0=.1,
                gradient='autograd', units='first', step='epoch')
    assert {k: found['settings'][k] for k in told} == told
    made = [json.loads(p.read_text())['params'] for p in runs.glob('artefacts/noise/*/*.json')]
    assert len(made) == 15 and {m['config']['precision'] for m in made} == {'float32'}
    assert set(found['sweep']) == {'1', 'iteration'} and set(found['units']) == {
        'first', 'last', 'all'}


def test_seven_classes_of_the_eight_and_each_face_whole(paper):
    runs, record, output = paper
    found = json.loads((record/'metrics.json').read_text())['metrics']
    assert "the paper's seven, without AffectNet's contempt" in output
    assert sorted(found['classes']) == ['anger', 'disgust', 'fear', 'happiness', 'neutral',
                                        'sadness', 'surprise']
    stored = [np.load(p) for p in runs.glob('artefacts/import/*/images.npy')]
    assert sorted(map(len, stored)) == [7, 7, 14]
    from synthnb.data import centre_crop
    for images in stored:
        assert images.shape[1:] == (128, 128, 3)
        seen = centre_crop(torch.from_numpy(images), found['settings']['crop']).numpy()
        for edge in (seen[:, 2], seen[:, -3], seen[:, :, 2], seen[:, :, -3]): # the red frame
            assert edge[..., 0].min() > 200 and edge[..., 1:].max() < 60
        assert seen[:, 20:-20, 20:-20, 0].max() < 120


def test_the_record_says_what_was_changed_and_answers(paper):
    runs, record, output = paper
    assert json.loads((record/'params.json').read_text())['changes'] == as_changes(CUT)
    assert 'changes=' in record.name and 'scale=paper' in record.name
    answer = (record/'answer.md').read_text()
    assert answer.startswith('On the photographs of AffectNet at paper scale')
    assert as_changes(CUT) in answer
    verdict = pd.read_csv(record/'tables'/'verdict.csv')
    assert set(verdict.whose) == {'the paper', 'our variant', 'our control'}


def test_the_room_that_it_asks_for_is_what_it_takes(paper):
    runs, record, output = paper
    found = json.loads((record/'metrics.json').read_text())
    written = sum(p.stat().st_size for p in runs.glob('artefacts/*/*/**/*') if p.is_file())/1e9
    assert written/1.5 < found['metrics']['room']['disk'] < 1.5*written
    held = found['provenance']['peak_memory']['host']/1e9
    assert held/1.5 < found['metrics']['room']['memory'] < 1.5*held


def test_the_papers_network_has_its_full_width():
    from synthnb.data import Images
    from synthnb.drawn import drawn_set
    from synthnb.noise import NoiseConfig, NoisyTraining, noise_room
    config = NoiseConfig.preset('paper')
    images = Images.from_sets((drawn_set(7, 128, 'balanced', 0), None))
    training = NoisyTraining(images, images, 'dynamic', config, device='cpu')
    weights = sum(p.numel() for n, p in training.net.named_parameters() if not n.endswith('.w'))
    assert weights == 11_180_616 # torchvision's ResNet-18 with eight classes
    group, = training.optimiser.param_groups
    assert isinstance(training.optimiser, torch.optim.Adam) and (
        group['lr'], group['weight_decay']) == (1e-4, 1e-4)
    room = noise_room(config, dict(train=280_401, valid=3500, test=3500), 128, 21)
    assert 14 < room['disk'] < 20


def test_the_command_of_the_dropout_row_works_on_a_folder_of_pictures(tmp_path):
    "14_verdict offers it for CIFAR-10 and Stanford Cars."
    rng = np.random.default_rng(0)
    for split, n in (('train', 24), ('test', 12)):
        for label in ('aeroplane', 'car', 'cat'):
            folder = tmp_path/'pictures'/split/label
            folder.mkdir(parents=True)
            for i in range(n): Image.fromarray(
                rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder/f'{i}.png')
    status, output = test_overfitting.run(
        tmp_path/'runs', '-p', 'data', 'folder', '-p', 'root', str(tmp_path/'pictures'),
        '-p', 'sweeps', 'False')
    assert status == 0, output[-3000:]
    record, = (tmp_path/'runs'/'13_overfitting').glob('*/metrics.json')
    found = json.loads(record.read_text())['metrics']
    assert found['classes'] == ['aeroplane', 'car', 'cat'] and np.isfinite(
        found['claims']['dropout_hurts'])


@pytest.mark.parametrize('changes, said', [
    ('n_trains=3', "unknown 'n_trains'"), ('noise.widht=3', 'unknown setting widht')])
def test_a_wrong_change_is_refused_and_leaves_nothing(tmp_path, changes, said):
    status, output = test_overfitting.run(tmp_path, '-p', 'changes', changes)
    assert status != 0 and said in output, output[-2000:]
    assert not (tmp_path/'13_overfitting').exists()
