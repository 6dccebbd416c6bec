"""16_yours as a user runs it: five lines of Python, one command, and what is refused."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from apart import Apart, lines
from execute import cells
from here import as_alone, executed, run_here
from PIL import Image
from sklearn.datasets import load_digits

from synthnb.core import load_json, read_runs
from synthnb.train import mirror_verdict

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT/'nbs'/'16_yours.ipynb'
WORLD = {'OMP_NUM_THREADS': '1', 'JUPYTER_PREFER_ENV_PATH': '1', 'PYTHONPATH': str(ROOT)}


def digits(folder, rows, wrong=0, classes='012', suffix='jpg'):
    "Files of scikit-learn's digits, one folder a class; the first have the next class's label."
    found = load_digits()
    mine = np.flatnonzero(np.isin(found.target, [int(c) for c in classes]))[rows]
    for i, row in enumerate(mine):
        label = (found.target[row] + (i < wrong)) % len(classes)
        (folder/classes[label]).mkdir(parents=True, exist_ok=True)
        x = Image.fromarray((found.images[row]*15.9).astype(np.uint8)).resize((24, 24))
        x.save(folder/classes[label]/f'{row}.{suffix}')
    return folder


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "An empty folder with two in it: real images, and a pool a third of which is labelled wrong."
    place = tmp_path_factory.mktemp('user')
    digits(place/'photos', slice(0, 120))
    digits(place/'generated', slice(120, 300), wrong=60)
    return place


def yours(runs, **params):
    "The notebook's cells in this process: its names, its output."
    with as_alone(runs) as said: return executed(NOTEBOOK, params), said.getvalue()


# ---- as the front page says ----------------------------------------------------------------------
def told(kind): # the first block of this kind in the README's section
    section = (ROOT/'README.md').read_text(encoding='utf-8').split('own pool', 1)[1]
    return re.search(rf'```{kind}\n(.*?)```', section, re.DOTALL)[1]


def test_the_five_lines_of_the_front_page_run_from_an_empty_folder(folders, tmp_path):
    five = told('python').strip().splitlines()
    assert len(five) <= 5 and five[0] == 'from synthnb.answer import judge_pool'
    process = Apart(lines, '\n'.join(five), cwd=folders, split=True,
                    env=WORLD | dict(SYNTHNB_RUNS=str(tmp_path/'runs')))
    said, wrong = process.communicate(timeout=300)
    assert process.returncode == 0, wrong[-3000:]
    assert 'adding one image of the pool for each real one, chosen by cl-sam' in said
    out = folders/'answer'
    assert {p.name for p in out.iterdir()} >= {'index.html', 'selected.csv', 'pool.csv'}
    kept = pd.read_csv(out/'selected.csv', dtype=str, keep_default_na=False)
    assert all(Path(p).is_file() for p in kept.path) and (kept.refused == '').all()
    assert {*kept.label} == {*'012'} and kept.kept_by.str.contains('cl-sam').all()
    assert {p.name for p in folders.iterdir()} == {'photos', 'generated', 'answer'}


def test_the_command_of_the_front_page_on_two_folders_of_jpegs(folders, tmp_path):
    command = told('bash').strip().replace('REAL', str(folders/'photos')).replace(
        'FAKE', str(folders/'generated'))
    words = command.split()
    assert words[0] == 'papermill' and words[2] == 'out.ipynb'
    words[2] = str(tmp_path/'out.ipynb')
    env = os.environ | WORLD | dict(SYNTHNB_RUNS=str(tmp_path/'runs'))
    more = ('--kernel', 'python3', '-p', 'links', 'True', '-p', 'dataset', 'True')
    done = subprocess.run([sys.executable, '-m', *words, *more], cwd=ROOT, env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    record, = (p.parent for p in (tmp_path/'runs').glob('16_yours/*/metrics.json'))
    assert re.fullmatch(r'root=photos-[0-9a-f]{12},pool=generated-[0-9a-f]{12},data=auto,'
                        r'scale=smoke', record.name)
    assert {p.name for p in (record/'page').iterdir()} >= {
        'index.html', 'selected.csv', 'pool.csv', 'links', 'dataset'}
    assert not re.search(str(folders), ''.join(p.read_text() for p in record.glob('*.json')))
    said = json.dumps(json.loads((tmp_path/'out.ipynb').read_text()))
    assert '## How to read it' in said and 'nobody knows what is wrong with them' in said


# ---- digits with planted faults ------------------------------------------------------------------
@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    runs = tmp_path_factory.mktemp('runs')
    return runs, *yours(runs)


def test_without_anything_digits_are_judged_whose_faults_are_known(demo):
    runs, names, said = demo
    record = runs/'16_yours'/'scale=smoke'
    found = load_json(record/'metrics.json')['metrics']
    planted = pd.read_csv(record/'tables'/'planted.csv')
    assert planted.planted.tolist() == [20, 20] and found['found_blank'] == 100
    assert found['found_repeated'] >= 90 and found['suspicion_auc'] > .8
    assert 'Of the planted faults the first look found' in (record/'answer.md').read_text()
    kept = pd.read_csv(record/'tables'/'kept.csv').set_index('kept by')
    assert kept['blank, %']['cl-sam'] == 0 and kept['wrong label, %']['cl-sam'] < 10
    page = (record/'page'/'index.html').read_text()
    assert len(page) < 5e6 and 'Leaks: they repeat test images' in page
    again, more = yours(runs) # everything is found
    assert '  made in' not in more
    assert again['answer'].table.equals(names['answer'].table)


def test_what_is_planted_is_what_is_said(demo):
    planted = demo[1]['planted']
    real, (x, y), fault = planted(seed=1)
    train, test = real['train'], real['test']
    share = pd.Series(fault).value_counts(normalize=True)
    assert share['wrong label'] == .2 and abs(share['blank'] - .1) < 1e-9
    assert abs(share['repeats a test image'] - .1) < 1e-9 and len(train[1]) == 200
    flat = lambda a: a.reshape(len(a), -1).astype(float) - a.mean((1, 2))[:, None]
    near = lambda a, b: np.array([(np.corrcoef(v, flat(b))[0, 1:]).max() for v in flat(a)])
    assert near(x[fault == 'repeats a test image'][:9], test[0]).min() > .98
    rest = fault == ''
    assert np.median(near(x[rest][:20], test[0])) < .97
    assert (x[fault == 'blank'].reshape(99, -1).std(1) == 0).all()
    assert all((a == b).all() for a, b in zip(planted(seed=1)[1], (x, y)))
    assert (planted(seed=2)[1][1] != y).any()


# ---- what may be done to real images -------------------------------------------------------------
def views(runs): # names of those that were made
    return {load_json(p)['params']['name'] for p in runs.glob('artefacts/view/*/artefact.json')}


def test_the_default_mirrors_and_warns_of_digits(demo):
    runs, names, _ = demo
    assert views(runs) == {'mirrored', 'shifted', 'shifted again'}
    assert mirror_verdict(names['mirrors']).startswith('WARNING: mirror images do not keep')
    found = load_json(runs/'16_yours'/'scale=smoke'/'metrics.json')['metrics']
    assert found['mirror_fall']['all'] > .3


@pytest.mark.long
@pytest.mark.ci
def test_digits_are_not_mirrored_where_it_says_so(tmp_path):
    names, _ = yours(tmp_path/'runs', augment='crops')
    assert names['mirrors'] is None and views(tmp_path/'runs') == {'shifted', 'shifted again'}
    assert 'augmented' in {*names['answer'].controls.control}
    assert 'mirror_fall' not in load_json(names['run'].folder/'metrics.json')['metrics']
    # nor in a generator's training
    class Asked(Exception): pass
    def ask(name, order): raise Asked(order.gan.flips)
    root = digits(tmp_path/'mine', slice(0, 90))
    names |= dict(generated=ask, root=str(root), data='folder') # the globals of `our_pool`
    for mirrored in (False, True):
        names['mirrored'] = mirrored
        with as_alone(tmp_path/'runs'), pytest.raises(Asked, match=str(mirrored)):
            names['our_pool']('stargan')


def until_read(runs, **params):
    "What the notebook has read, before anything is judged."
    names = {'__name__': '__main__'}
    with as_alone(runs):
        for source in cells(NOTEBOOK, params):
            if 'run = Run(' in source: return names
            exec(source, names)


@pytest.mark.parametrize('torn', ['photos', 'generated'])
def test_a_share_of_torn_files_may_be_allowed(tmp_path, torn):
    for name, rows in (('photos', slice(0, 37)), ('generated', slice(40, 77))):
        digits(tmp_path/name, rows)
    for i in range(3): (tmp_path/torn/f'{i}'/'torn.jpg').write_text(f'no picture {i}')
    given = dict(root=str(tmp_path/'photos'), pool=str(tmp_path/'generated'))
    with pytest.raises(ValueError, match=r'3 of 40 .*(?s:.*)-p unreadable 0\.08$'):
        until_read(tmp_path/'runs', **given)
    names = until_read(tmp_path/'runs', **given, unreadable=.1)
    assert len(names['real'].images) == len(names['images']) == 37
    with pytest.raises(ValueError, match='unreadable='):
        until_read(tmp_path/'runs', **given, unreadable=5)


@pytest.mark.skipif(not (ROOT/'runs'/'16_yours').exists(), reason='no record yet')
def test_the_records_say_what_the_issue_asks_for():
    found = read_runs('16_yours', ROOT/'runs')
    found = found[(found.data == 'digits') & (found.scale == 'laptop')]
    assert len(found) and (found.found_repeated >= 95).all() and (found.found_blank >= 95).all()
    assert (found.suspicion_auc >= .9).all()
    for arms in found.arms:
        assert arms['random']['over none hi'] < 0 # it hurts
        assert arms['cl-sam']['over random lo'] > 0 and arms['cl-sam']['over none hi'] >= 0


# ---- a generator of ours goes through the same door ----------------------------------------------
def test_a_generator_by_name_is_written_as_jpegs_and_read_back(tmp_path):
    digits(tmp_path/'mine', slice(0, 200))
    names, said = yours(tmp_path/'runs', root=str(tmp_path/'mine'), pool='cvae', data='folder')
    files = names['images'].files()
    assert len(files) == len(names['images']) and all(f.endswith('.jpg') for f in files)
    assert (names['run'].folder/'metrics.json').exists() and 'pool=cvae' in names['run'].folder.name
    tested = names['real'].images.files(names['real'].split == 'test')
    assert tested and not {*tested} & {*names['given']['train'].files()}


# ---- what is refused -----------------------------------------------------------------------------
@pytest.mark.parametrize('params, words', [
    (dict(root='photos'), 'give both'), (dict(pool='generated'), 'give both'),
    (dict(data='folder'), 'data=folder needs root and pool'),
    (dict(root='photos', pool='nowhere'), 'nowhere'),
    (dict(root='photos', pool='stargan'), 'say what root is'),
    (dict(sampler='best'), "sampler='best'"), (dict(mapping='0=cat'), 'mapping'),
    (dict(judge='fine-tune'), 'features='), (dict(ratio=0), 'ratio'), (dict(sampla=1), 'sampla')])
def test_what_cannot_be_meant_is_refused_with_advice(folders, tmp_path, monkeypatch, params, words):
    params = {k: str(folders/v) if k in ('root', 'pool') and v != 'stargan' else v
              for k, v in params.items()}
    status, said = run_here(tmp_path, '16_yours', **params)
    assert status == 1 and words in said.strip().splitlines()[-1], said[-2000:]
    assert not [*tmp_path.glob('16_yours/*/metrics.json')]


def test_a_pool_that_repeats_the_test_set_is_refused_by_the_names_of_its_files(folders, tmp_path):
    for part, rows in (('train', slice(0, 90)), ('test', slice(90, 150))):
        digits(tmp_path/'real'/part, rows)
    digits(tmp_path/'fake', slice(100, 190), suffix='png')
    params = dict(root=str(tmp_path/'real'), pool=str(tmp_path/'fake'))
    status, said = run_here(tmp_path/'runs', '16_yours', **params)
    assert status == 1 and 'repeat test images' in said and str(tmp_path/'fake'/'0') in said
    names, _ = yours(tmp_path/'runs', **params, allow_leaks=True)
    leaks = np.flatnonzero(names['answer'].look.marks.leak >= 0)
    assert len(leaks) >= 45
    for s in names['answer'].selections.values(): assert not np.isin(s.indices, leaks).any()


@pytest.mark.long
@pytest.mark.ci
def test_other_names_of_classes_are_led_to_yours(tmp_path):
    for part, rows in (('train', slice(0, 60)), ('test', slice(60, 120))):
        digits(tmp_path/'real'/part, rows)
    fake = digits(tmp_path/'fake', slice(120, 240))
    for c, name in zip('012', ('zero', 'one', 'two')): (fake/c).rename(fake/name)
    params = dict(root=str(tmp_path/'real'), pool=str(fake))
    status, said = run_here(tmp_path/'runs', '16_yours', **params)
    assert status == 1 and 'mapping={' in said
    names, _ = yours(tmp_path/'runs', **params, mapping="{'zero': '0', 'one': '1', 'two': '2'}")
    assert names['images'].classes == ['0', '1', '2'] and (names['images'].counts > 30).all()


def test_a_class_of_one_image_is_said_before_anything_is_trained(tmp_path):
    real = tmp_path/'real'
    for c in range(12):
        (real/f'flower {c}').mkdir(parents=True)
        for i in range(1 + 3*(c > 1)):
            Image.new('RGB', (12, 12), (20*c, 40*i, 200)).save(real/f'flower {c}'/f'{i}.png')
    status, said = run_here(tmp_path/'runs', '16_yours', root=str(real), pool=str(real))
    assert status == 1 and 'reads flower 0 has 1, as do 1 others: take a larger' in said, (
        said[-800:])
    assert not list(tmp_path.glob('runs/artefacts/classifier/*'))
