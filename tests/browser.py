"""A browser for the tests that look at pages, where one is installed."""
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
                None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='no chromium, chromium-browser or '
                                    'google-chrome is installed: apt-get install chromium')


@pytest.fixture(scope='module')
def chromium():
    sync_api = pytest.importorskip('playwright.sync_api')
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM,
                                    args=['--no-sandbox']*(os.geteuid() == 0))
        yield browser
        browser.close()


@contextmanager
def served(place, *command, **env): # its address
    "JupyterLab on a free port of this machine, begun by this Python with a command, in a folder."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env |= dict(JUPYTER_PREFER_ENV_PATH='1', JUPYTER_CONFIG_DIR=str(place/'.config'),
                JUPYTER_DATA_DIR=str(place/'.data'))
    with open(place/'lab.log', 'w') as log: server = subprocess.Popen(
        [sys.executable, *command, '--no-browser', '--allow-root', '--ip=127.0.0.1',
         f'--port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token='],
        cwd=place, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            try: socket.create_connection(('127.0.0.1', port), .2).close(); break
            except OSError: time.sleep(.2)
        yield f'http://127.0.0.1:{port}'
    finally:
        server.terminate()
        server.wait(20)


def run(page, i):
    "Run a cell in JupyterLab, once the notebook listens."
    cell = page.locator('.jp-Notebook .jp-Cell').nth(i)
    cell.wait_for(timeout=60_000)
    for _ in range(30):
        cell.locator('.cm-content').click()
        page.keyboard.press('Shift+Enter')
        page.wait_for_timeout(500)
        if cell.locator('.jp-InputPrompt').first.inner_text().strip() not in ('', '[ ]:'): return
    raise AssertionError(f'cell {i} did not run in 15 s')
