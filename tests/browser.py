"""A browser for the tests that look at pages, where one is installed."""
import os
import shutil

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
