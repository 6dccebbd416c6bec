"""SIGKILL amid a GAN's training and a pool's writing; a full disk; another's checkpoint.

What is killed is a process of its own, at a moment that this process sees on disk, not after a
guessed number of seconds.
"""
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from apart import Apart, lines

CHILD = '''
import os, sys, time
import numpy as np
from synthnb import gan
from synthnb.drawn import drawn_set
os.environ['SLOW'] = sys.argv[1] # and no constant of the code below, which is part of the names
translate = gan.StarGAN.translate
def slowly(self, *args): time.sleep(float(os.environ['SLOW'])); return translate(self, *args)
gan.StarGAN.translate = slowly
train = gan.train_stargan
gan.train_stargan = lambda *args, **kw: train(*args, save_seconds=0, **kw)
config = gan.StarGANConfig.preset('laptop', updates=24, batch=8, warmup=4)
real = drawn_set(64, 36, 'balanced', seed=0, name='train')
_, folder = gan.fit_stargan(real, config, seed=0, device='cpu')
pool = gan.pool_of(folder, real, device='cpu')
print(folder/'stargan.pt'); print(pool.folder/'images.npy')
'''


def child(runs, slow=0., script=CHILD):
    "The child above, or another script, as a process that has nothing to do with this one."
    return Apart(lines, script, str(slow), env=dict(SYNTHNB_RUNS=str(runs)), split=True)


def finish(runs):
    "Let it come through: the paths of the model and of the pool's pixels."
    out, err = child(runs).communicate(timeout=300)
    assert out.strip(), err[-2000:]
    return [Path(line) for line in out.strip().splitlines()[-2:]]


def kill_when(process, seen, patience=120):
    "SIGKILL as soon as `seen()` is true, which it must be before the process ends by itself."
    end = time.time() + patience
    while not seen():
        assert process.poll() is None, ('it ended before it could be killed: '
                                        + process.communicate()[1][-2000:])
        assert time.time() < end, 'nothing to kill at'
        time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The uninterrupted run."
    return finish(tmp_path_factory.mktemp('whole'))


def test_killed_while_the_gan_trains(whole, tmp_path):
    kill_when(child(tmp_path), lambda: list(tmp_path.glob('artefacts/gan/*.part/training.pt')))
    assert not list(tmp_path.glob('artefacts/gan/*/artefact.json')), (
        'it was killed too late to prove anything')
    model, pool = finish(tmp_path)
    mine, theirs = (torch.load(p, weights_only=True) for p in (model, whole[0]))
    for net in ('G', 'D'):
        assert all(torch.equal(mine[net][k], theirs[net][k]) for k in theirs[net])
    assert pool.read_bytes() == whole[1].read_bytes()


def test_killed_while_the_pool_is_written(whole, tmp_path):
    def half_way():
        notes = list(tmp_path.glob('artefacts/pool/*.part/progress.json'))
        return notes and json.loads(notes[0].read_text())['done'] > 0
    kill_when(child(tmp_path, slow=.7), half_way)
    assert not list(tmp_path.glob('artefacts/pool/*/artefact.json'))
    assert finish(tmp_path)[1].read_bytes() == whole[1].read_bytes()


CLOCK = '''
import itertools, time
right, asked = time.time, itertools.count()
time.time = lambda: right() + (0, -3600, 86400)[next(asked) % 3] # an hour back, then a day ahead
time.time_ns = lambda: int(1e9*time.time())
''' + CHILD + "assert next(asked) > 24, 'by the clock checkpoints are written'\n"


def test_a_clock_that_jumps_between_two_looks_at_it_changes_no_digit(whole, tmp_path):
    "Not while the GAN trains and the pool is made, nor where that is killed and goes on."
    partly, begun = tmp_path/'killed', '*.part/training.pt'
    kill_when(child(partly, script=CLOCK), lambda: list(partly.glob(f'artefacts/gan/{begun}')))
    assert not list(partly.glob('artefacts/gan/*/artefact.json')), 'it was killed too late'
    for runs in (tmp_path/'through', partly):
        process = child(runs, script=CLOCK)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-2000:]
        model, pool = (Path(line) for line in out.strip().splitlines()[-2:])
        mine, theirs = (torch.load(p, weights_only=True) for p in (model, whole[0]))
        for net in ('G', 'D'):
            assert all(torch.equal(mine[net][k], theirs[net][k]) for k in theirs[net])
        assert pool.read_bytes() == whole[1].read_bytes()
        assert not list(runs.glob('artefacts/*/*.part')), 'nothing is left half made'


@pytest.fixture
def small_disk(tmp_path):
    "A file system of a few MB of its own; skipped where one may not be mounted."
    disk = tmp_path/'disk'
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if not shutil.which("mount") or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip('mounting a small file system needs the rights to do so')
    yield disk
    subprocess.run(['umount', disk])


def test_a_full_disk_is_said_and_what_was_made_is_kept(whole, small_disk):
    process = child(small_disk)
    _, err = process.communicate(timeout=300)
    assert process.returncode not in (0, -signal.SIGBUS), 'it should have failed, and with an error'
    assert 'no space left on the device' in err and 'SYNTHNB_RUNS' in err, err[-2000:]
    subprocess.run(['mount', '-o', 'remount,size=60m', small_disk], check=True)
    assert finish(small_disk)[1].read_bytes() == whole[1].read_bytes()


def test_a_checkpoint_of_another_model_is_refused(whole, tmp_path):
    from synthnb.gan import StarGAN, load_official
    from synthnb.train import Classifier
    other = tmp_path/'other.pt'
    torch.save(dict(weight=torch.ones(3)), other)
    for load in (StarGAN.load, load_official, Classifier.load):
        with pytest.raises(ValueError, match='other.pt'): load(other)
    state = torch.load(whole[0], weights_only=True)
    state['G'] = {k: v for k, v in state['G'].items() if 'main.0' not in k}
    torch.save(state, other)
    with pytest.raises(ValueError, match='other.pt'): StarGAN.load(other)


def test_nan_scores_are_never_kept_and_are_reported(tmp_path):
    from synthnb.data import ImageSetWriter
    from synthnb.samplers import select
    writer = ImageSetWriter(tmp_path/'pool', 40, 8, ['a', 'b'])
    writer.write(np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 2)
    pool = writer.close()
    pool.add_column('confidence', np.where(np.arange(40) < 10, np.nan, np.arange(40)/40))
    with pytest.warns(UserWarning, match='10 images have a score'):
        kept = select('cl-sam', pool, 20)
    assert kept.indices.min() >= 10 and kept.report['nan'].sum() == 10
