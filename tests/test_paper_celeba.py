"""08_celeba at the paper's own scale, on tiny files in CelebA's layout."""
import json

import numpy as np
import pandas as pd
import pytest
import test_celeba
import test_experiment
import torch
from test_paper_affectnet import disk, made

from synthnb.core import as_changes
from synthnb.data import CELEBA_ATTRIBUTES, ImageSet

pytestmark = pytest.mark.long # see tools/test.py

# sizes only, and what a CPU cannot wait for: the networks' widths, the batch
FEW = ('n_train=24,n_valid=12,n_test=20,updates=1,batch=4,width=4,gan_updates=6,gan_dim=4,'
       'gan.batch=2,gan.repeats=1')


@pytest.fixture(scope='module')
def celeba(tmp_path_factory): return test_celeba.write_celeba(tmp_path_factory.mktemp('CelebA'))


def paper_run(runs, monkeypatch, root, changes, *args):
    "The notebook with scale=paper, some sizes cut: its record's metrics, its folder, its output."
    monkeypatch.delenv('IN_TEST') # which would make it smoke
    status, output = test_experiment.run(
        runs, '-p', 'data', 'celeba', '-p', 'root', str(root), '-p', 'device', 'cpu',
        '-p', 'changes', changes, *args, scale='paper', notebook='08_celeba')
    assert status == 0, output[-3000:]
    folder = next(runs.glob('08_celeba/*/metrics.json')).parent
    return json.loads((folder/'metrics.json').read_text())['metrics'], folder, output


def of_paper(found, folder, runs, changes):
    "What holds of any run at the paper's scale."
    assert found['attributes'] == CELEBA_ATTRIBUTES and found['n_pool'] == 12*found['n_real'] == 288
    used = found['settings']
    assert (used['crop'], used['arch'], used['optimiser'], used['gan']) == (
        64, 'resnet50', 'sgd', 'official')
    assert found['precision'] == dict(classifier='float32', gan='float32')
    recipes = [c['recipe'] for c in made(runs, 'classifier')]
    assert all(r['precision'] == 'float32' and r['lr'] == .01 and r['crop'] == 64
               and 'weights' not in r for r in recipes), 'from scratch, unlike on AffectNet'
    assert json.loads((folder/'params.json').read_text())['changes'] == as_changes(changes)
    assert "On CelebA's photographs" in (folder/'answer.md').read_text()
    verdicts = pd.read_csv(folder/'tables'/'verdicts.csv')
    assert set(verdicts.whose) == {'the paper'} and verdicts.verdict.eq('not run').all()
    return ImageSet(next(runs.glob('artefacts/pool/*/set.json')).parent)


def test_with_a_stargan_of_our_own(celeba, tmp_path, monkeypatch):
    found, folder, output = paper_run(tmp_path, monkeypatch, celeba, FEW,
                                      '-p', 'scorer', 'seen', '-p', 'sampler', 'cr-sam')
    pool = of_paper(found, folder, tmp_path, FEW)
    (gan,) = made(tmp_path, 'gan')
    assert gan['config'] | dict(loss='wgan-gp', n_critic=5, multi_label=True, residual=False,
                                targets='permutation', schedule='official') == gan['config']
    assert pool.size == 72 and {'realism', 'confidence-seen'} <= set(pool.columns())
    assert 'needs about' in output
    assert disk(tmp_path)/1.5 < found['room']['disk'] < 1.5*disk(tmp_path)


def test_with_the_official_generator(celeba, tmp_path, monkeypatch):
    "The paper's own: translated at the generator's size, stored at 72, realism taken before."
    from synthnb.gan import Discriminator, Generator
    torch.manual_seed(0)
    G, D = tmp_path/'200000-G.ckpt', tmp_path/'200000-D.ckpt'
    torch.save(Generator(5, 4).state_dict(), G)
    torch.save(Discriminator(128, 5, 4).state_dict(), D)
    found, folder, _ = paper_run(tmp_path/'runs', monkeypatch, celeba, FEW, '-p', 'generator_file',
                                 str(G), '-p', 'discriminator_file', str(D))
    pool = of_paper(found, folder, tmp_path/'runs', FEW)
    assert pool.size == 72 and np.isfinite(pool.column('realism')).all()
    sizes = {ImageSet(p.parent).size for p in (tmp_path/'runs').glob('artefacts/import/*/set.json')}
    assert sizes == {72, 128} and not made(tmp_path/'runs', 'gan')


def test_an_unknown_change_is_refused(tmp_path):
    status, output = test_experiment.run(tmp_path, '-p', 'changes', 'gan.bacth=3',
                                         notebook='08_celeba')
    assert status != 0 and 'unknown setting bacth' in output, output[-2000:]
    assert not list(tmp_path.glob('08_celeba/*/*')), 'it leaves no folder'
