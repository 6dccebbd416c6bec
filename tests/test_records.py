"""Records keep their names, and notebooks show what records hold: neither grows stale silently."""
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from apart import Apart, notebook

from synthnb.arms import arm_table
from synthnb.core import (declared_parameters, load_json, read_runs, recorded_defaults,
                          run_name)
from synthnb.metrics import seed_interval

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT/'runs'
EXPERIMENTS = sorted(p.name for p in RUNS.iterdir() if (p/'defaults.json').exists())
# what is now another default than the one that names leave out, by experiment
REPLACED = dict.fromkeys(('07_affectnet', '08_celeba'), dict(protocol='plateau'))
NUMBER = re.compile(r'[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?')


# ---- names ---------------------------------------------------------------------------------------
@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_the_name_default_still_means_what_it_meant(experiment):
    declared = declared_parameters(ROOT/'nbs'/f'{experiment}.ipynb')
    recorded = load_json(RUNS/experiment/'defaults.json')
    assert declared == recorded | REPLACED.get(experiment, {}), (
        f'the parameters cell of nbs/{experiment}.ipynb differs from '
        f'runs/{experiment}/defaults.json, by which records are named. Put the cell back; or, for '
        'a new parameter, add it there with the value that the records so far were made with')


@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_every_record_is_named_by_its_parameters(experiment):
    defaults = load_json(RUNS/experiment/'defaults.json')
    for path in RUNS.glob(f'{experiment}/*/params.json'):
        said = defaults | load_json(path)
        assert run_name({k: said[k] for k in defaults}, defaults) == path.parent.name, path
        assert said.get('data', 'drawn') in ('drawn', 'digits') or re.fullmatch(
            r'.+-[0-9a-f]{12}', said['root']), (f'{path}: data without its content')


@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_no_record_claims_a_clean_commit_that_changed_while_it_ran(experiment):
    for path in RUNS.glob(f'{experiment}/*/metrics.json'):
        about = load_json(path)['provenance']
        assert 'commit_at_start' not in about or about['dirty'], path


# ---- what notebooks show -------------------------------------------------------------------------
class Cells(HTMLParser):
    "The texts of a table's data cells."
    def __init__(self, html):
        super().__init__()
        self.texts, self.inside = [], False
        self.feed(html)
    def handle_starttag(self, tag, attrs):
        if tag == 'td': self.texts.append(''); self.inside = True
    def handle_endtag(self, tag):
        if tag == 'td': self.inside = False
    def handle_data(self, data):
        if self.inside: self.texts[-1] += data


def numbers(text): return [t.replace(',', '').rstrip('.') for t in NUMBER.findall(text)]


def shows(token, values):
    "Whether a number as printed is one of these, rounded, or in per cent."
    # a table rounded to whole numbers shows 22.0
    digits = len(token.partition('.')[2].partition('e')[0].rstrip('0'))
    room = .5*10.**-digits*(1 + 1e-6) + 1e-12 if 'e' not in token else abs(float(token))*.06
    return bool((np.abs(values - float(token)) <= room + 1e-6*np.abs(values)).any())


def shown_tables(notebook):
    "(tables that it writes, numbers that its stored output shows) of each cell that writes tables."
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        names = (re.findall(r"write_table\(f?'([^']+)'", ''.join(cell['source']))
                 if cell['cell_type'] == 'code' else [])
        html = ''.join(''.join(o.get('data', {}).get('text/html', []))
                       for o in cell.get('outputs', []))
        if names and html: yield names, [t for text in Cells(html).texts for t in numbers(text)]


def page_of(experiment): # the record that the notebook's stored page is of
    declared = declared_parameters(ROOT/'nbs'/f'{experiment}.ipynb')
    return RUNS/experiment/run_name(declared, recorded_defaults(experiment, declared))


@pytest.mark.parametrize('experiment', EXPERIMENTS)
def test_stored_tables_show_the_record(experiment):
    tables, seen = page_of(experiment)/'tables', 0
    for names, tokens in shown_tables(ROOT/'nbs'/f'{experiment}.ipynb'):
        files = [f for n in names for f in tables.glob(re.sub(r'{[^}]*}', '*', n) + '.csv')]
        if not files: continue
        cells = [text for f in files
                 for text in pd.read_csv(f, dtype=str).fillna('').to_numpy().ravel()]
        values = np.array([float(t) for text in cells for t in numbers(text)])
        stale = [t for t in tokens if not shows(t, values) and not shows(t, 100*values)]
        assert not stale, (f'nbs/{experiment}.ipynb shows {stale[:5]} where {names} of the record '
                           f'do not: make outputs NAMES={experiment}')
        seen += len(tokens)
    if tables.exists(): assert seen > 20
    else: assert not seen and not [*shown_tables(ROOT/'nbs'/f'{experiment}.ipynb')], (
        f'nbs/{experiment}.ipynb shows tables, and {tables.parent} is no record')


def one_seed(experiment): # is there no second one of the page's settings?
    declared = declared_parameters(ROOT/'nbs'/f'{experiment}.ipynb')
    if 'seed' not in declared: return False
    other = run_name(declared | dict(seed=1), recorded_defaults(experiment, declared))
    return not (RUNS/experiment/other).exists()


@pytest.mark.parametrize('notebook', sorted((ROOT/'nbs').glob('[01]*.ipynb')), ids=lambda p: p.stem)
def test_no_output_speaks_of_seeds_that_are_missing(notebook):
    if notebook.stem in EXPERIMENTS and one_seed(notebook.stem): return
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        said = ''.join(''.join(o.get('text', '')) for o in cell.get('outputs', []))
        assert 'no two seeds yet' not in said and 'one seed so far' not in said, (
            f'{notebook.stem}: make outputs NAMES={notebook.stem}')


# ---- tables over seeds, from the records ---------------------------------------------------------
def drawn(experiment, **wanted):
    found = read_runs(experiment, RUNS)
    wanted = dict(scale='laptop') | wanted
    return found[(found[list(wanted)] == pd.Series(wanted)).all(axis=1)]


def stored(experiment, name): return pd.read_csv(RUNS/experiment/'default'/'tables'/f'{name}.csv')


@pytest.mark.parametrize('experiment, name, wanted', [
    ('07_affectnet', 'over_seeds',
     dict(data='drawn', protocol='updates', exposure='shared', scorer='cross-fit', share='pool')),
    ('07_affectnet', 'exposure_fixed',
     dict(data='drawn', protocol='updates', exposure='fixed', scorer='cross-fit', share='pool')),
    ('08_celeba', 'over_seeds',
     dict(data='drawn', protocol='updates', scorer='cross-fit', share='pool'))])
def test_the_table_over_seeds_is_of_all_seeds(experiment, name, wanted):
    now, was = arm_table(drawn(experiment, **wanted)), stored(experiment, name)
    assert now.sampler.tolist() == was.sampler.tolist()
    for column in ('ratio', 'seeds', 'mean class accuracy, %', 'lo', 'hi', 'vs real only',
                   'vs random lo', 'labels preserved, %'):
        np.testing.assert_allclose(was[column].astype(float), now[column].astype(float), rtol=1e-5,
                                   atol=1e-5, err_msg=f'{name}: {column}')


def test_the_tables_over_seeds_of_whole_experiments_are_of_all_seeds():
    r = drawn('10_shapes', preset='paper', prompts='detailed', trial='first')
    arms = pd.DataFrame([a['0.98'] for a in r.accuracy])*100
    means = stored('10_shapes', 'over_seeds')
    arms = arms[[c for c in arms if arms[c].notna().all()]]
    assert len(r) == means.seeds[0] and np.allclose(sorted(means['mean']),
                                                    sorted(arms.mean()), atol=1e-3)
    r, was = drawn('12_latent', data='drawn', trial='first'), stored('12_latent', 'over_seeds')
    for strategy, mean in was[was.metric == 'MSE'].set_index('strategy')['mean'].items():
        assert np.isclose(mean, 1000*np.mean([s[strategy]['MSE'] for s in r.scores]),
                          rtol=1e-4), strategy
    r, was = (drawn('13_overfitting', data='drawn', trial='first', arch=''),
              stored('13_overfitting', 'over_seeds'))
    f1 = [100*m['plain']['test_f1'] for m in r.methods]
    assert was['test F1'][0] == '{:.1f} [{:.1f}, {:.1f}]'.format(*seed_interval(f1))


def again(notebook, tmp_path, runs):
    "A notebook executed now on a copy of the records; what it leaves and shows."
    env = os.environ | dict(SYNTHNB_RUNS=str(runs), JUPYTER_PREFER_ENV_PATH='1', MPLBACKEND='agg')
    env.pop('IN_TEST')
    command = [sys.executable, '-m', 'papermill', str(ROOT/'nbs'/f'{notebook}.ipynb'),
               str(tmp_path/'again.ipynb'), '--kernel', 'python3',
               '--no-progress-bar']
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path/'again.ipynb').read_text())


def test_the_verdicts_are_those_of_the_records(tmp_path):
    ours = subprocess.run(['git', 'ls-files', '-z', 'runs'], cwd=ROOT, capture_output=True,
                          text=True, check=True).stdout.split('\0') # not what `make run` has left
    for path in filter(None, ours):
        if 'figures' in Path(path).parts: continue
        (tmp_path/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/path, tmp_path/path)
    process = Apart(notebook, ROOT/'nbs'/'14_verdict.ipynb', {},
                    env=dict(SYNTHNB_RUNS=str(tmp_path/'runs'), IN_TEST=None))
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-3000:]
    for name in ('verdicts', 'summary', 'verdicts_photographs'):
        now, was = (pd.read_csv(f/'14_verdict'/'default'/'tables'/f'{name}.csv')
                    for f in (tmp_path/'runs', RUNS))
        pd.testing.assert_frame_equal(now, was, rtol=1e-4,
                                      obj=f'{name}.csv, which `make tables` would write')


def test_the_front_page_is_of_the_records(tmp_path):
    def said(notebook):
        outputs = [o for c in notebook['cells'] if c['cell_type'] == 'code' for o in c['outputs']]
        return [''.join(o['data'][k]) for o in outputs
                for k in ('text/markdown', 'text/html') if k in o.get('data', {})]
    now, was = (said(again('index', tmp_path, tmp_path/'runs')),
                said(json.loads((ROOT/'nbs'/'index.ipynb').read_text())))
    strip = lambda texts: [re.sub(r'\s+', ' ', re.sub(r'<style.*?</style>', '', t, flags=re.DOTALL))
                           .strip() for t in texts]
    assert strip(now) == strip(was), 'make outputs NAMES=index, then make readme'
