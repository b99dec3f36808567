"""A headless Chromium, the system's or Playwright's own; tests that need one are skipped where there is none."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# As root, and without a GPU.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@contextmanager
def open_browser():
    """Start a browser, and end it with the block."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright's Python client")
    with playwright.sync_playwright() as started:
        path = next(filter(None, map(shutil.which, NAMES)), None)
        if path is None and not Path(started.chromium.executable_path).is_file():
            pytest.skip("needs Chromium: apt-get install chromium, or playwright install chromium")
        try:
            browser = started.chromium.launch(executable_path=path, args=ARGUMENTS)
        except playwright.Error as error:
            # Playwright's own needs libraries that only root can install.
            pytest.skip(f"Chromium does not start here: {str(error).splitlines()[0]}")
        try:
            yield browser
        finally:
            browser.close()
