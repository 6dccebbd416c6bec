"""12_latent as a user runs it, an autoencoder's training that is killed, and what is refused."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import test_experiment
import torch
import torch.nn.functional as F
from apart import Apart, notebook
from here import arguments
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_resume import child, kill_when

miniature = test_experiment.miniature # AffectNet's layout


def run(runs, *args):
    "12_latent at smoke scale: (exit status, output)."
    return test_experiment.run(runs, *args, notebook='12_latent')


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    "One finished run, which the tests below share."
    runs = tmp_path_factory.mktemp('runs')
    status, output = test_experiment.run_forked(runs, '-p', 'seed', '3', notebook='12_latent')
    assert status == 0, output[-3000:]
    return runs, runs/'12_latent'/'scale=smoke,seed=3'


CHILD = '''
import os, sys, time, torch
from synthnb import vae
from synthnb.drawn import drawn_set
torch.set_num_threads(1)
os.environ['SLOW'] = sys.argv[1] # and no constant of the code below, which is part of the names
update = vae.LatentTraining.update
def slowly(self): time.sleep(float(os.environ['SLOW'])); return update(self)
vae.LatentTraining.update = slowly
loop = vae.run_to_end
vae.run_to_end = lambda *args, **kw: loop(*args, save_seconds=0., **kw)
sets = [drawn_set(n, 32, 'balanced', seed=0, name=name)
        for n, name in ((64, 'train'), (32, 'valid'))]
vae.fit_vae(*sets, strategy='bandit', conditional=True, seed=5, device='cpu', preset='smoke',
            size=32, epochs=6)
'''


@pytest.mark.long
def test_a_training_killed_by_the_system_comes_to_the_same_autoencoder(tmp_path):
    a, b, script = tmp_path/'a', tmp_path/'b', CHILD
    assert child(a, script=script).wait(timeout=120) == 0
    kill_when(child(b, .03, script=script),
              lambda: list(b.glob('artefacts/vae/*.part/training.pt')))
    assert not list(b.glob('artefacts/vae/*/vae.safetensors'))
    assert child(b, script=script).wait(timeout=120) == 0
    whole, again = (next(r.glob('artefacts/vae/*/vae.safetensors')).parent for r in (a, b))
    for name in ('vae.safetensors', 'half_way.safetensors', 'snapshots.npy', 'decisions.json'):
        assert (whole/name).read_bytes() == (again/name).read_bytes()
    pd.testing.assert_frame_equal(*(pd.read_csv(f/'history.csv').drop(columns='seconds')
                                    for f in (whole, again)))


def test_the_networks_are_the_thesiss():
    from synthnb.vae import VAE, WideVAE, count_flops, parameter_counts
    assert parameter_counts(VAE()) == dict(encoder=65_952, heads=524_416, decoder_input=266_240,
                                           decoder=102_819, total=959_427)
    assert count_flops(VAE()) == 207_253_960
    assert parameter_counts(WideVAE())['total'] == 12_724_227


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5),
       st.integers(1, 6), st.integers(1, 6))
def test_a_spread_kernel_is_upsampling_and_convolution(seed, b, c_in, c_out, h, w):
    from synthnb.shapevae import UpConv
    gen = torch.Generator().manual_seed(seed)
    layer, x = (UpConv(c_in, c_out).double(),
                torch.randn(b, c_in, h, w, generator=gen, dtype=torch.float64).requires_grad_())
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode='nearest'),
                     layer.weight, layer.bias, padding=1)
    assert torch.allclose(layer(x), plain, atol=1e-12)
    g = torch.randn(plain.shape, dtype=torch.float64)
    inputs = (x, layer.weight, layer.bias)
    for mine, theirs in zip(torch.autograd.grad(layer(x), inputs, g),
                            torch.autograd.grad(plain, inputs, g)):
        assert torch.allclose(mine, theirs, atol=1e-11)


@settings(deadline=None)
@given(st.lists(st.floats(.001, .4), min_size=1, max_size=9))
def test_the_category_is_the_listings(losses):
    "The listing, line by line: `medium` is asked before `high`."
    from synthnb.vae import loss_category
    trend, mean = np.diff(losses[-3:]), np.mean(losses[-3:])
    if np.all(trend < 0) and mean < .05: said = 'low'
    elif np.all(trend < 0) and mean > .05: said = 'medium'
    elif np.all(trend < 0) and mean > .15: said = 'high'
    else: said = 'high'
    assert loss_category(losses) == said
    if (trend < 0).all() and mean > .15: assert loss_category(losses, 'intended') == 'high' != said


def test_the_record_is_complete_and_its_numbers_are_its_tables(first):
    runs, folder = first
    found = json.loads((folder/'metrics.json').read_text())['metrics']
    table = {p.stem: pd.read_csv(p) for p in (folder/'tables').glob('*.csv')}
    assert set(table) >= {'models', 'history', 'augmentations', 'scores', 'thesis', 'classifier',
                          'claims', 'over_seeds', 'verdicts'}
    assert {p.stem for p in (folder/'figures').glob('*.png')} >= {
        'real', 'figure4_1', 'figureC12_C14', 'figure5_1', 'samples',
        'figureC1_C6', 'figure5_2', 'figureC10_C11', 'pools', 'against_none'}
    assert len(found['scores']) == 11 and len(found['classifier']) == 7
    for s in found['scores'].values():
        assert np.isclose(s['RMSE']**2, s['MSE']) and np.isclose(np.exp(s['LMSE']), s['MSE'])
    timed = json.loads((folder/'metrics.json').read_text())['provenance']['timings']['claims']
    assert not set(timed) & set(found['claims'])
    assert {k.split()[0] for k in timed} == {'ms', 'seconds'}
    looks = {k for k in found['claims'] if k.startswith('valid_half_way')} # as of old, and no claim
    measured = table['claims'][table['claims'].kind != 'text']
    assert set(measured.key) | looks == set(found['claims']) | set(timed) and len(looks) == 4
    assert not table['claims'].key.duplicated().any()
    none, cutout = found['scores']['none'], found['scores']['cutout']
    assert np.isclose(found['claims']['MSE cutout none'], -100*(cutout['MSE']/none['MSE'] - 1))
    assert (table['verdicts'].verdict == 'undecided (only 1 seed)').all(), (
        'one seed decides nothing')
    assert set(table['verdicts'].whose) == {'the paper', 'our variant', 'our control'}
    assert 'too few seeds' in (folder/'answer.md').read_text()
    assert (found['models']["the thesis's VAE, 128 px"]['parameters'] == 959_427
            and found['extractor'].startswith('resnet10-drawn'))


@pytest.mark.long
def test_photographs_in_affectnets_layout(miniature, tmp_path):
    status, output = run(tmp_path, '-p', 'data', 'affectnet', '-p', 'root', str(miniature),
                         '-p', 'classes', 'neutral,happiness')
    assert status == 0 and 'training4.jpg' in output and 'They are left out' in output, (
        output[-3000:])
    record = next(tmp_path.glob('12_latent/*/metrics.json')).parent
    found = json.loads((record/'metrics.json').read_text())['metrics']
    assert str(tmp_path) not in (record/'params.json').read_text() + json.dumps(found), (
        'a record must not hold a path of the machine')
    assert 'drawn' not in found['extractor'], ('photographs are not judged by a network that '
                                               'learned from drawings')


@pytest.mark.parametrize('args, said', [
    (['-p', 'kl', 'median'], 'choose one of mean, sum'),
    (['-p', 'data', 'csv', '-p', 'root', 'nowhere.csv'], 'nowhere.csv'),
])
def test_bad_parameters_are_refused_with_advice(tmp_path, args, said):
    status, output = run(tmp_path, *args)
    assert status != 0 and said in output, output[-2000:]
    assert not list(tmp_path.glob('12_latent/*/metrics.json'))


def keys(o):
    return {k for v in o.values() for k in keys(v)} | set(o) if isinstance(o, dict) else set()


@pytest.mark.long
def test_two_runs_of_the_same_have_the_same_metrics(first):
    "What a clock says is no metric; the claim on time is judged from the provenance."
    runs, folder = first
    before = (folder/'metrics.json').read_text()
    status, output = run(runs, '-p', 'seed', '3')
    assert status == 0 and 'made in' not in output, output[-3000:]
    old, new = json.loads(before), json.loads((folder/'metrics.json').read_text())
    assert old['metrics'] == new['metrics']
    assert not [k for k in keys(old['metrics'])
                if 'seconds' in k or k.startswith('ms ') or k.endswith('_ms')]
    verdicts = pd.read_csv(folder/'tables'/'verdicts.csv').set_index('comparison')
    for key, value in new['provenance']['timings']['claims'].items():
        text = pd.read_csv(folder/'tables'/'claims.csv').set_index('key').claim[key]
        assert np.isclose(verdicts.ours[text], value, rtol=1e-4) and verdicts.seeds[text] == 1


def test_half_way_is_read_on_the_test_images(first):
    "Today's claim: the test images' MSE by the weights kept in the middle, at the latents' mean."
    from synthnb.vae import VAE, reconstruction_scores
    from synthnb.data import ImageSet
    runs, folder = first
    found = json.loads((folder/'metrics.json').read_text())['metrics']
    sets = [ImageSet(p.parent) for p in runs.glob('artefacts/drawn/*/set.json')]
    test = [s for s in sets if len(s) == 80]
    vaes = [VAE.load(p, 'cpu') for p in runs.glob('artefacts/vae/*/half_way.safetensors')]
    have = [reconstruction_scores(v, t, 'cpu')['MSE'] for v in vaes
            if not v.n_classes for t in test]
    for s, k in found['scores'].items():
        assert (np.isclose(have, k['MSE_half_way'], rtol=1e-5).any()
                and k['MSE_half_way'] != k['valid_half_way']), s
    claims = pd.read_csv(folder/'tables'/'claims.csv').set_index('key').claim
    assert set(k for k in claims.index if 'half_way' in k) == {
        f'MSE_half_way {a} {b}' for a in ('cutout', 'adaptive-literal')
        for b in ('none', 'cutout-images')}
    assert 'validation images' not in ' '.join(claims)


@pytest.mark.long
@pytest.mark.ci
def test_older_records_are_read_under_true_names(first, tmp_path):
    "Half-way numbers of validation images do not count as of test images, and times are kept."
    runs, folder = first
    shutil.copytree(runs, tmp_path/'runs')
    old = tmp_path/'runs'/'12_latent'/'scale=smoke,seed=2'
    shutil.copytree(folder, old)
    record, params = (json.loads((old/f'{name}.json').read_text())
                      for name in ('metrics', 'params'))
    timings, found = record['provenance'].pop('timings'), record['metrics']
    for s in found['scores'].values():
        del s['MSE_half_way']
        s['half_way'] = s.pop('valid_half_way')
    found['claims'] = {k.replace('MSE_half_way', 'half_way'): v
                       for k, v in found['claims'].items()} | timings['claims']
    (old/'metrics.json').write_text(json.dumps(record))
    (old/'params.json').write_text(json.dumps(params | dict(seed=2)))
    status, output = run(tmp_path/'runs', '-p', 'seed', '3')
    assert status == 0, output[-3000:]
    tables = tmp_path/'runs'/'12_latent'/'scale=smoke,seed=3'/'tables'
    verdicts = pd.read_csv(tables/'verdicts.csv')
    half = verdicts.comparison.str.contains('half-way')
    assert (verdicts.seeds[half] == 1).all() and (verdicts.seeds[~half] == 2).all()
    seeds = pd.read_csv(tables/'over_seeds.csv').groupby('metric').seeds.agg(['min', 'max'])
    assert (seeds.loc['MSE_half_way'] == 1).all() and (seeds.drop('MSE_half_way') == 2).all().all()


SPY = """
import json, os, synthnb.train
from hashlib import blake2b
def spied(images): return [blake2b(x.tobytes(), digest_size=8).hexdigest() for x in images]
def spy(train, valid, *args, plain=synthnb.train.train_classifier, **kw):
    with open(os.environ['SPY'], 'a') as f:
        for what, images in (('train', train), ('valid', valid)):
            if kw.get('desc') in ('judge', 'oracle') and images is not None:
                f.write(json.dumps([what, spied(images.pixels.numpy())]) + '\\n')
    return plain(train, valid, *args, **kw)
synthnb.train.train_classifier = spy
"""
TELL = ("with open(os.environ['SPY'], 'a') as f: f.write(json.dumps(['held out', "
        "spied(test.images) + spied(sets['valid'].images)]) + '\\n')")


def spied_run(tmp_path, *args):
    "12_latent, noting the images that its judge learned from or was chosen by, and those held out."
    root = test_experiment.ROOT
    nb = json.loads((root/'nbs'/'12_latent.ipynb').read_text())
    code = lambda text, id: dict(cell_type='code', id=id, metadata={}, outputs=[],
                                 execution_count=None, source=text)
    at = next(i for i, c in enumerate(nb['cells'])
              if 'declared = declared_parameters' in ''.join(c['source']))
    nb['cells'].insert(at, code(SPY, 'spy00000')), nb['cells'].append(code(TELL, 'spy00001'))
    (tmp_path/'spied.ipynb').write_text(json.dumps(nb))
    process = Apart(notebook, tmp_path/'spied.ipynb',
                    dict(scale='smoke', classifiers=False) | arguments(*args),
                    env=dict(SYNTHNB_RUNS=str(tmp_path/'runs'), SPY=str(tmp_path/'spied.json')))
    said, _ = process.communicate(timeout=500)
    lines = ((tmp_path/'spied.json').read_text().splitlines()
             if (tmp_path/'spied.json').exists() else [])
    return process.returncode, said, [json.loads(line) for line in lines]


@pytest.fixture
def unsplit(tmp_path):
    "A user's pictures, two classes of 160, as folders and as a CSV; a tenth twice, renamed."
    rng, rows = np.random.default_rng(0), []
    for c in 'ab':
        (tmp_path/'mine'/c).mkdir(parents=True)
        for i in range(160):
            pixels = rng.integers(0, 150, (24, 24, 3), np.uint8) + np.uint8(100*(c == 'b'))
            for name in (f'{i}.png', f'{i}-again.png')[:1 + (i < 16)]:
                Image.fromarray(pixels).save(tmp_path/'mine'/c/name)
                rows.append((f'mine/{c}/{name}', c))
    pd.DataFrame(rows, columns=['path', 'label']).to_csv(tmp_path/'mine.csv', index=False)
    return dict(folder=tmp_path/'mine', csv=tmp_path/'mine.csv')


@pytest.mark.long
@pytest.mark.parametrize('data', ['folder', 'csv'])
def test_the_judge_has_seen_no_image_that_it_is_asked_about(data, unsplit, tmp_path):
    "Neither to learn from nor to be chosen by, whatever another seed's split, wherever it lies."
    status, output, notes = spied_run(tmp_path, '-p', 'data', data, '-p', 'root',
                                      str(unsplit[data]), '-p', 'seed', '1')
    assert status == 0, output[-3000:]
    held = {k for what, images in notes if what == 'held out' for k in images}
    seen = [k for what, images in notes if what != 'held out' for k in images]
    assert held and len(seen) >= 100
    assert not held & set(seen), (f'the judge has seen {len(held & set(seen))} of {len(held)} '
                                  'held-out images')


def test_a_judge_that_has_nothing_left_to_learn_from_says_so(tmp_path):
    for c in 'ab': (tmp_path/'mine'/c).mkdir(parents=True)
    for i in range(120): Image.new('RGB', (24, 24), (i, 0, 0)).save(tmp_path/'mine'/'a'/f'{i}.png')
    for i in range(120): # one picture in files that differ, so that the splits cannot tell
        note = PngInfo()
        note.add_text('number', str(i))
        Image.new('RGB', (24, 24), (0, 0, 9)).save(tmp_path/'mine'/'b'/f'{i}.png', pnginfo=note)
    status, output, _ = spied_run(tmp_path, '-p', 'data', 'folder', '-p', 'root',
                                  str(tmp_path/'mine'))
    assert (status != 0 and 'every training image of b is a test or '
            'validation image too' in output)
