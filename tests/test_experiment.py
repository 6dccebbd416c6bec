"""The main experiment as a user runs it, at smoke scale: by papermill in a process of its own where
it is run first and where it is killed first; where it is killed again or runs beside another, in a
process that begins with the imports done; else in the process of the tests.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from apart import Apart
from apart import notebook as cells_of
from here import arguments, run_here
from PIL import Image

from synthnb import samplers
from synthnb.data import ImageSet

ROOT = Path(__file__).resolve().parent.parent


def by_protocol(notebook, protocol, args):
    "The arguments, with the protocol before them where the notebook has one."
    return ('-p', 'protocol', protocol, *args)*(notebook in ('07_affectnet', '08_celeba')) or args


def start(runs, *args, scale='smoke', notebook='07_affectnet', protocol='updates'):
    "papermill on a notebook in a new process; `args` are its further arguments."
    Path(runs).mkdir(exist_ok=True)
    args = by_protocol(notebook, protocol, args)
    command = [sys.executable, '-m', 'papermill', str(ROOT/'nbs'/f'{notebook}.ipynb'),
               str(Path(runs)/'executed.ipynb'),
               '--kernel', 'python3', '-p', 'scale', scale, '--no-progress-bar', '--stdout-file',
               '-', '--stderr-file', '-', *args]
    env = os.environ | dict(SYNTHNB_RUNS=str(runs), JUPYTER_PREFER_ENV_PATH='1')
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def run_apart(runs, *args, timeout=400, **kw):
    "The same, waited for: (exit status, output)."
    return ended(start(runs, *args, **kw), timeout)


def run_forked(runs, *args, timeout=400, **kw):
    "The same by `begun`: at smoke scale, without papermill and the imports."
    return ended(begun(runs, *args, **kw), timeout)


def run(runs, *args, scale='smoke', notebook='07_affectnet', protocol='updates'):
    "The same in this process: (exit status, output)."
    return run_here(runs, notebook, '-p', 'scale', scale, *by_protocol(notebook, protocol, args))


def begun(runs, *args, notebook='07_affectnet', protocol='updates', cores=None):
    "A notebook at smoke scale in a process of its own, without papermill and the imports."
    more = dict(OMP_NUM_THREADS=str(cores)) if cores else {}
    params = arguments('-p', 'scale', 'smoke', *by_protocol(notebook, protocol, args))
    return Apart(cells_of, ROOT/'nbs'/f'{notebook}.ipynb', params,
                 env=dict(SYNTHNB_RUNS=str(runs)) | more)


def ended(process, timeout=400):
    "Waited for: (exit status, output)."
    output = process.communicate(timeout=timeout)[0]
    return process.returncode, output


def disk_asked(output):
    "The gigabytes that a run said it needs."
    return float(re.search(r'needs about ([\d.]+) GB of disk', output)[1])


def numbers(runs, name):
    "What a run measured, without its times."
    return json.loads((Path(runs)/'07_affectnet'/name/'metrics.json').read_text())['metrics']


@pytest.fixture(scope='module')
def first(tmp_path_factory):
    "One finished run, which the tests below share."
    runs = tmp_path_factory.mktemp('runs')
    status, output = run_apart(runs, '-p', 'sampler', 'cl-sam')
    assert status == 0, output[-3000:]
    return runs, output


def test_the_record_is_complete(first):
    runs, output = first
    folder = runs/'07_affectnet'/'scale=smoke'
    assert {p.name for p in folder.iterdir()} >= {'params.json',
                                                  'metrics.json', 'tables', 'figures'}
    assert {p.stem for p in (folder/'tables').glob('*.csv')} >= {
        'table2', 'table3', 'over_seeds', 'verdicts'}
    assert {p.stem for p in (folder/'figures').glob('*.png')} >= {
        'figure2_classes', 'figure4_confidence', 'figure5_extremes'}
    record = json.loads((folder/'metrics.json').read_text())
    assert 0 <= record['metrics']['arm_mean_class_accuracy'] <= 1
    assert {'commit', 'dirty', 'torch', 'device', 'seconds', 'peak_memory',
            'data'} <= set(record['provenance'])
    parts = sum(float(t) for t in re.findall(r'made in ([\d.]+) s', output))
    assert parts < record['provenance']['seconds'] < 400, (
        'a run lasts as long as what it made, and not for hours')
    assert (record['metrics']['n_added'] == record['metrics']['n_real']
            and record['metrics']['n_pool'] == 7*record['metrics']['n_real'])


def test_each_p_stands_beside_its_own_statistic(first):
    "The interval is of mean class accuracy, McNemar's test of plain: each with its difference."
    runs, output = first
    found = numbers(runs, 'scale=smoke')
    gain = found['against_control']
    mean = re.search(
        r'mean class accuracy: ([-+.\d]+) points \[([-+.\d]+), ([-+.\d]+)\] over test images$',
        output, re.M)
    assert [float(v) for v in mean.groups()] == [round(100*gain[k], 1)
                                                 for k in ('difference', 'lo', 'hi')]
    plain = re.search(
        r"plain accuracy: ([.\d]+) to ([.\d]+)%.*: (\d+) against (\d+) of 80 images, "
        r"McNemar's p = (\S+)$",
        output, re.M)
    was, now, only_a, only_b, p = (float(v) for v in plain.groups())
    assert ((only_a, only_b) == (gain['only_a'], gain['only_b'])
            and np.isclose(p, gain['p'], rtol=.1))
    assert abs((now - was) - 100*(only_b - only_a)/80) < .11, (
        'the counts and the accuracies are of the same difference')


def test_another_sampler_reuses_what_is_dear(first):
    runs, before = first
    status, output = run(runs, '-p', 'sampler', 'random')
    assert status == 0, output[-3000:]
    for stage in ('gan', 'pool'): assert re.search(rf'^{stage} .*reused', output, re.M), output
    assert len(re.findall(r'^classifier .*made in', output, re.M)) == 1, (
        'only the new arm is trained')
    assert disk_asked(output) < .8*disk_asked(before), 'room for a pool that is there'
    both = [numbers(runs, n)['room']['disk'] for n in ('scale=smoke', 'sampler=random,scale=smoke')]
    assert both[0] == both[1], 'what a record says does not depend on who came first'


def test_the_same_run_again_gives_the_same_numbers(first):
    runs, _ = first
    before = numbers(runs, 'scale=smoke')
    status, output = run(runs, '-p', 'sampler', 'cl-sam')
    assert status == 0 and 'made in' not in output, output[-3000:]
    assert numbers(runs, 'scale=smoke') == before


def kill_all(process):
    "SIGKILL papermill and its kernel, which Jupyter starts in a session of its own."
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family: member.kill()
    psutil.wait_procs([m for m in family if isinstance(m, psutil.Process)], timeout=20)
    process.communicate()


@pytest.mark.long
@pytest.mark.ci
def test_killed_anywhere_it_ends_with_the_same_numbers(first, tmp_path):
    "Killed when GAN, pool or classifier has just begun, and once anywhere, it still ends the same."
    runs, _ = first
    for stage, begin in dict(gan=start, pool=begun, classifier=begun).items():
        process = begin(tmp_path, '-p', 'sampler', 'cl-sam')
        while process.poll() is None and not list(tmp_path.glob(f'artefacts/{stage}/*.part')):
            time.sleep(.005)
        assert process.poll() is None, (f'it ended before {stage} could be seen: '
                                        f'{process.communicate()[0][-2000:]}')
        kill_all(process)
    process = begun(tmp_path, '-p', 'sampler', 'cl-sam')
    time.sleep(3)
    if process.poll() is None: kill_all(process)
    status, output = ended(begun(tmp_path, '-p', 'sampler', 'cl-sam'))
    assert status == 0 and 'it has filled before it was stopped' in output, output[-3000:]
    assert numbers(tmp_path, 'scale=smoke') == numbers(runs, 'scale=smoke')


@pytest.mark.long
@pytest.mark.ci
def test_two_runs_at_once_make_nothing_twice(first, tmp_path):
    runs, _ = first
    both = [begun(tmp_path, '-p', 'sampler', s) for s in ('cl-sam', 'cr-sam')]
    outputs = [p.communicate(timeout=400)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], outputs
    made = [m for o in outputs
            for m in re.findall(r'^(\S+ +\w{12})  (?:made in|[\d,]+ images in)', o, re.M)]
    assert (any(m.startswith('realism') for m in made)
            and any(m.startswith('gan') for m in made)), outputs
    assert len(made) == len(set(made)) and made, made
    assert numbers(tmp_path, 'scale=smoke') == numbers(runs, 'scale=smoke')
    assert not list(tmp_path.glob('artefacts/*/*.part'))


@pytest.mark.parametrize('args, said', [
    (['-p', 'smapler', 'cl-sam'],
     'unknown parameter smapler: this notebook has sampler, ratio, data'),
    (['-p', 'sampler', 'best'], 'choose one of none, random, cl-sam, cr-sam, oracle'),
    (['-p', 'data', 'affectnet', '-p', 'root', 'nowhere'], 'nowhere does not exist'),
   ])
def test_bad_parameters_are_refused_with_advice(tmp_path, args, said):
    status, output = run(tmp_path, *args)
    assert status != 0 and said in output, output[-2000:]
    assert not list(tmp_path.glob('07_affectnet/*/metrics.json'))


def test_an_unknown_scale_is_refused(tmp_path):
    status, output = run(tmp_path, scale='huge')
    assert status != 0 and 'choose one of smoke, laptop, gpu, paper' in output


@pytest.fixture
def miniature(tmp_path):
    "AffectNet's layout with 370 squares of noise, of which one is torn."
    lists, folder = (tmp_path/'a'/'Manually_Annotated_file_lists',
                     tmp_path/'a'/'Manually_Annotated_Images'/'0')
    lists.mkdir(parents=True), folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, n in (('training', 330), ('validation', 40)):
        rows = []
        for i in range(n):
            name = f'{split}{i}.jpg'
            Image.fromarray(rng.integers(0, 120, (40, 40, 3), np.uint8)
                            + np.uint8(100*(i % 2))).save(folder/name)
            rows.append((f'0/{name}', 0, 0, 40, 40, '',
                         (0, 1, 8)[i % 3 if i > 90 else i % 2], -2, -2))
        pd.DataFrame(rows, columns=['subDirectory_filePath', 'face_x', 'face_y', 'face_width',
                                    'face_height', 'facial_landmarks', 'expression', 'valence',
                                    'arousal']).to_csv(lists/f'{split}.csv', index=False)
    (folder/'training4.jpg').write_bytes((folder/'training4.jpg').read_bytes()[:200])
    return tmp_path/'a'


def test_photographs_in_affectnets_layout(miniature, tmp_path):
    args = ('-p', 'data', 'affectnet', '-p', 'root', str(miniature), '-p', 'sampler', 'cr-sam',
            '-p', 'classes', 'neutral,happiness')
    status, output = run(tmp_path, *args)
    assert status == 0 and 'training4.jpg' in output and 'They are left out' in output, (
        output[-3000:])
    record = next(tmp_path.glob('07_affectnet/*/metrics.json')).parent
    assert str(tmp_path) not in (record/'params.json').read_text(), (
        "a record must not hold a path of the machine")
    assert 'preserved_kept' not in json.loads((record/'metrics.json').read_text())['metrics'], (
        'photographs have no oracle')


def test_a_csv_that_names_missing_files_is_refused(tmp_path):
    pd.DataFrame(dict(path=[f'{i}.jpg' for i in range(200)],
                      label=['a', 'b']*100)).to_csv(tmp_path/'list.csv', index=False)
    status, output = run(tmp_path, '-p', 'data', 'csv', '-p', 'root', str(tmp_path/'list.csv'))
    assert status != 0 and 'images could not be read' in output and 'the file is missing' in output


def test_a_class_without_images_is_refused(miniature, tmp_path):
    status, output = run(tmp_path, '-p', 'data', 'affectnet', '-p', 'root', str(miniature))
    assert (status != 0 and 'no training images of class sadness' in output
            and 'classes=neutral,happiness' in output)


@pytest.mark.long
def test_an_edited_parameters_cell_overwrites_no_record(plateau, tmp_path):
    "In JupyterLab: scale = 'smoke', save, Run All. The notebook on disk then has smoke as default."
    project, published = tmp_path/'project', tmp_path/'project'/'runs'/'07_affectnet'/'default'
    shutil.copytree(ROOT/'nbs', project/'nbs', ignore=shutil.ignore_patterns('images', '.*'))
    shutil.copy(ROOT/'settings.ini', project)
    shutil.copytree(ROOT/'runs'/'07_affectnet'/'default', published)
    shutil.copy(ROOT/'runs'/'07_affectnet'/'defaults.json', published.parent)
    shutil.copytree(plateau/'artefacts', project/'runs'/'artefacts') # which would be made again
    before = {p: p.read_bytes() for p in published.rglob('*') if p.is_file()}
    path = project/'nbs'/'07_affectnet.ipynb'
    book = json.loads(path.read_text())
    cell, = (c for c in book['cells'] if 'parameters' in c['metadata'].get('tags', []))
    cell['source'] = [line.replace("scale = 'laptop'", "scale = 'smoke'")
                      for line in cell['source']]
    path.write_text(json.dumps(book))
    process = Apart(cells_of, path, {}, cwd=project, env=dict(SYNTHNB_RUNS=str(project/'runs')))
    status, output = ended(process)
    assert status == 0, output[-3000:]
    assert before == {p: p.read_bytes() for p in published.rglob('*') if p.is_file()}
    made = json.loads((published.parent/'scale=smoke,protocol=plateau'/'params.json').read_text())
    assert (made['scale'], made['protocol']) == ('smoke', 'plateau')


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    "Two folders of one name: a class of dark and one of bright noise, and the other way round."
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp('digits')
    for name, shades in (('one', (0, 100)), ('two', (100, 0))):
        for c, shade in zip('ab', shades):
            (folder/name/'photos'/c).mkdir(parents=True)
            for i in range(70):
                Image.fromarray(rng.integers(0, 120, (20, 20, 3), np.uint8) + np.uint8(shade)).save(
                    folder/name/'photos'/c/f'{i}.png')
    return folder


@pytest.mark.long
def test_two_folders_of_one_name_leave_two_records_and_files_are_named(digits, tmp_path):
    for name in ('one', 'two'):
        status, output = run(tmp_path, '-p', 'data', 'folder', '-p',
                             'root', str(digits/name/'photos'))
        assert status == 0, output[-3000:]
    records = sorted(p.parent for p in tmp_path.glob('07_affectnet/*/metrics.json'))
    assert len(records) == 2 and all(re.search(r'root=photos-[0-9a-f]{12}', r.name)
                                     for r in records)
    assert all(pd.read_csv(r/'tables'/'over_seeds.csv').seeds.max() == 1
               for r in records), ('never averaged as two seeds')
    for record in records:
        kept = pd.read_csv(record/'selection.csv')
        assert (list(kept) == ['row', 'class', 'source', 'file']
                and kept.file.str.fullmatch(r'[ab]/\d+\.png').all())
        assert (kept.file.str[0] != kept['class']).all(), (
            'a face is translated to another class than that of its file')


# ---- to the plateau ------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def plateau(first, tmp_path_factory):
    "Runs of the protocol of today, in a folder where there is one of the earlier protocol too."
    runs = tmp_path_factory.mktemp('plateau')
    shutil.copytree(first[0]/'artefacts', runs/'artefacts') # GAN and pool are the same
    for protocol in ('updates', 'plateau'):
        status, output = run(runs, '-p', 'sampler', 'random', protocol=protocol)
        assert status == 0, output[-3000:]
    return runs


ENDS = dict(plateau='', updates='_updates', views='_views')


def test_three_readings_of_the_same_trainings(plateau):
    name = 'sampler=random,scale=smoke,protocol=plateau'
    found = numbers(plateau, name)
    assert found['n_added'] == found['n_real'] == 160 and found['settings']['trainings'] == 2
    assert [found[f'read_{r}'] for r in ENDS] == [
        dict(control='best', arm='best'), dict(control='at 12', arm='at 12'),
        dict(control='at 8', arm='at 12')], 'half of 12 views, at the nearest look'
    for end in ENDS.values():
        assert len(found[f'arm_each{end}']) == 2
        assert np.isclose(np.mean(found[f'arm_each{end}']), found[f'arm_mean_class_accuracy{end}'])
        gain = found[f'against_control{end}']
        assert gain['lo'] <= gain['difference'] <= gain['hi'] and gain['trainings'] == 2
        assert np.isclose(gain['difference'], found[f'arm_mean_class_accuracy{end}']
                          - found[f'control_mean_class_accuracy{end}'])
        assert found[f'baseline_each{end}'] == found[f'control_each{end}'], 'they are one'
        assert 0 < found[f'arm_log_loss{end}'] < 14
    assert found['arm_accuracy_updates'] != found['arm_accuracy'] or (
        found['arm_plateau_at'] == [12, 12])
    tables = plateau/'07_affectnet'/name/'tables'
    assert pd.read_csv(tables/'readings.csv').reading.tolist() == [*ENDS]
    verdicts = pd.read_csv(tables/'verdicts.csv')
    assert {'at the plateau', 'equal updates', 'equal views', 'verdict'} <= {*verdicts}


def test_protocols_are_never_averaged(plateau):
    for name in ('sampler=random,scale=smoke', 'sampler=random,scale=smoke,protocol=plateau'):
        table = pd.read_csv(plateau/'07_affectnet'/name/'tables'/'over_seeds.csv')
        assert table.seeds.tolist() == [1, 1], name
    assert 'control_each' not in numbers(plateau, 'sampler=random,scale=smoke')


@pytest.mark.long
def test_processes_have_the_numbers_of_one_after_the_other(plateau, tmp_path):
    status, output = ended(begun(tmp_path, '-p', 'sampler', 'random', '-p', 'real', '160',
                                 protocol='plateau', cores=2))
    assert status == 0, output[-3000:]
    name = 'sampler=random,scale=smoke,protocol=plateau' # 160 is what the table says
    assert numbers(tmp_path, name) == numbers(plateau, name)


@pytest.mark.long
@pytest.mark.parametrize('sampler, adds', [('more-real', 160), ('near', 160), ('pretrain', 1120),
                                           ('right', None), ('rare', None), ('fid', 160)])
def test_controls(plateau, sampler, adds):
    status, output = run(plateau, '-p', 'sampler', sampler, protocol='plateau')
    assert status == 0, output[-3000:]
    assert not re.search(r'^gan .*made in', output, re.M), 'the GAN is shared'
    found = numbers(plateau, f'sampler={sampler},scale=smoke,protocol=plateau')
    if adds: assert found['n_added'] == adds
    if sampler == 'right': assert found['preserved_kept'] in (1, None)
    if sampler == 'rare': assert 0 < found['n_added'] <= 160
    assert found['control_each'] == numbers(
        plateau, 'sampler=random,scale=smoke,protocol=plateau')['control_each']


def test_a_recipe_is_of_real_only_too(plateau):
    status, output = run(plateau, '-p', 'sampler', 'random', '-p', 'recipe', 'smooth',
                         protocol='plateau')
    assert status == 0, output[-3000:]
    name = 'sampler=random,scale=smoke,protocol=plateau'
    smooth, jitter = (numbers(plateau, n) for n in (f'{name},recipe=smooth', name))
    assert smooth['control_log_loss'] != jitter['control_log_loss']
    free = pd.read_csv(plateau/'07_affectnet'/f'{name},recipe=smooth'/'tables'/'free.csv')
    assert {*free.recipe} == {'jitter', 'smooth'}


def test_noise_is_a_recipe(plateau):
    status, output = run(plateau, '-p', 'sampler', 'none', '-p', 'recipe', 'gaussian',
                         protocol='plateau')
    assert status == 0, output[-3000:]
    noisy = numbers(plateau, 'sampler=none,scale=smoke,protocol=plateau,recipe=gaussian')
    plain = numbers(plateau, 'sampler=random,scale=smoke,protocol=plateau')
    assert noisy['control_each'] == noisy['arm_each'] != plain['control_each']


@pytest.mark.parametrize('above', [False, True])
def test_the_front_pages_sampler_in_a_copy_of_07(plateau, tmp_path, monkeypatch, above):
    "Its lines, all of them, at either end of the first code cell; the run comes to its end."
    monkeypatch.setattr(samplers, 'REGISTRY', {**samplers.REGISTRY}) # it is gone at the end
    monkeypatch.setattr(samplers, 'DECIDES', {**samplers.DECIDES})
    said = (ROOT/'README.md').read_text().split('A sampler of your own', 1)[1]
    lines, where = said.split('```python\n')[1].split('```\n')[:2]
    assert 'Put it into the first code cell of 07, and `-p sampler least-sure` trains' in where
    book = json.loads((ROOT/'nbs'/'07_affectnet.ipynb').read_text())
    cell = next(c for c in book['cells'] if c['cell_type'] == 'code')
    both = [lines, ''.join(cell['source'])]
    cell['source'] = ['\n'.join(both if above else both[::-1])]
    (copy := tmp_path/'copy.ipynb').write_text(json.dumps(book))
    status, output = run_here(plateau, copy.with_suffix(''), scale='smoke', sampler='least-sure')
    assert status == 0, output[-3000:]
    assert 'least-sure keeps 160 of 1,120' in output and not re.search(
        r'^(gan|pool) .*made in', output, re.M), output
    name, usual = (f'sampler={s},scale=smoke,protocol=plateau' for s in ('least-sure', 'random'))
    assert f'\n{name}: ' in output, 'what the last cell prints'
    found, other = numbers(plateau, name), numbers(plateau, usual)
    assert found['n_added'] == 160 and found['control_each'] == other['control_each']
    kept = pd.read_csv(plateau/'07_affectnet'/name/'selection.csv')
    pool = ImageSet(next(plateau.glob('artefacts/pool/*/set.json')).parent)
    score, mine = pool.column('confidence-cross-fit'), np.isin(np.arange(len(pool)), kept.row)
    for c, label in enumerate(pool.classes):
        of = pool.labels == c
        assert (kept['class'] == label).sum() == (mine & of).sum() > 9
        assert score[mine & of].max() <= score[~mine & of].min(), 'the least sure are kept'


@pytest.mark.parametrize('protocol, args, said', [
    ('plateau', ['-p', 'exposure', 'fixed'], 'exposure=fixed is of protocol=updates'),
    ('plateau', ['-p', 'recipe', 'cutout'], 'choose one of plain, jitter, trivial'),
    ('plateau', ['-p', 'augment', 'none'], 'recipe=plain'),
    ('plateau', ['-p', 'recipe', 'dynamic', '-p', 'sampler', 'pretrain'], 'begins anew'),
    ('plateau', ['-p', 'sampler', 'right', '-p', 'data', 'folder'], 'needs data=drawn'),
    ('plateau', ['-p', 'folds', '5'], 'drawn faces are drawn anew by each seed'),
    ('plateau', ['-p', 'folds', '1', '-p', 'data', 'folder'], '2 and more of photographs'),
    ('updates', ['-p', 'folds', '5', '-p', 'data', 'folder'], 'under protocol=plateau'),
    ('updates', ['-p', 'recipe', 'mixup'], 'need protocol=plateau'),
    ('updates', ['-p', 'sampler', 'more-real'], 'need protocol=plateau'),
    ('epochs', [], 'choose one of plateau, updates')])
def test_what_a_protocol_has_not_is_refused(tmp_path, protocol, args, said):
    status, output = run(tmp_path, *args, protocol=protocol)
    assert status != 0 and said in output, output[-2000:]
    assert not list(tmp_path.glob('07_affectnet/*/*')) and not list(tmp_path.glob('artefacts/*/*'))


@pytest.mark.long
@pytest.mark.parametrize('sampler', ['more-real', 'near'])
def test_more_photographs_are_those_left_out(digits, tmp_path, sampler):
    status, output = run(
        tmp_path, '-p', 'data', 'folder', '-p', 'root', str(digits/'one'/'photos'), '-p', 'sampler',
        sampler, '-p', 'real', '30', '-p', 'changes', 'n_valid=20', protocol='plateau')
    assert status == 0, output[-3000:]
    record = next(tmp_path.glob('07_affectnet/*/metrics.json'))
    found = json.loads(record.read_text())['metrics']
    assert (found['n_real'], found['n_added'], found['judge']) == (30, 30, 'baseline')
    parts, = (made for p in tmp_path.glob('artefacts/trainings/*/artefact.json')
              if len(made := json.loads(p.read_text())['params']['parts']) == 2
              and json.loads(p.read_text())['params']['training'] == 0)
    assert parts[0][0] != parts[1][0], 'another import than the real set'
