"""Tests run at smoke scale, on one thread, and keep runs and artefacts in a folder of their own."""
import os
import shutil
import sys
import tempfile

from browser import chromium # noqa: F401 (a fixture of all)

# Set before anything imports torch; processes that a test starts inherit them.
os.environ['IN_TEST'] = '1'
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'agg')

DEAREST = [f'test_{name}' for name in (
    'experiment', 'grid', 'latent', 'shapes', 'overfitting', 'mirrors', 'celeba', 'when', 'yours',
    'emotions', 'paper_shapes', 'fair_shapes', 'records', 'paper_overfitting', 'verdict', 'shipped',
    'browse', 'fair_latent', 'resume', 'samplers', 'rl', 'identity', 'plateau', 'recent', 'balance',
    'diffusion', 'dcgan', 'docs', 'lab')]


def pytest_configure(config):
    config.synthnb_runs = tempfile.mkdtemp(prefix='synthnb-runs-')
    os.environ['SYNTHNB_RUNS'] = config.synthnb_runs


def pytest_collection_modifyitems(items):
    "Files that take minutes come first: at the end no worker is alone with one."
    place = {name: i for i, name in enumerate(DEAREST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish(session):
    # before a test begins the server that the package's own processes come from, which has read it
    if 'apart' in sys.modules: sys.modules['apart'].begin()


def pytest_unconfigure(config):
    shutil.rmtree(config.synthnb_runs, ignore_errors=True)
