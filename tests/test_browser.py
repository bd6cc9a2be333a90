"""JupyterLab in a real browser: a reader opens a notebook, runs all of its cells, and sees what they print and draw."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from longalign.common import paths

pytestmark = pytest.mark.browser
TOKEN = "for-this-test-only"


def chromium():
    """Where a Chromium is installed; the test is skipped where there is none, or no playwright to drive it."""
    pytest.importorskip("playwright", reason="needs playwright: make test-browser installs it")
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    if not any(found):
        pytest.skip("needs Chromium, on Debian: apt-get install chromium")
    return next(filter(None, found))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A server on copies of the notebooks in another folder, since they are saved there: its address and the folder."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(paths.notebooks(), folder / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
               f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    environment = os.environ | {
        "LONGALIGN_ROOT": str(paths.root()), "LONGALIGN_RUNS": str(folder / "run"), "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
    }  # fmt: skip
    environment.pop("MPLBACKEND", None)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd="/", env=environment, stdout=log, stderr=log)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api?token={TOKEN}") as reply:
            assert "version" in json.load(reply)
            break
        assert server.poll() is None, (folder / "log").read_text()
        time.sleep(0.3)
    yield address, folder
    server.terminate()
    server.wait(timeout=30)


@pytest.mark.parametrize("name", ["02_packing_and_attention", "03_loss_weighting", "05_data_scale"])
def test_a_notebook_runs_by_hand_with_its_defaults_and_its_figure_is_seen(lab, name):
    executable = chromium()
    from playwright.sync_api import sync_playwright

    address, folder = lab
    file = folder / "notebooks" / f"{name}.ipynb"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(f"{address}/lab/tree/notebooks/{name}.ipynb?reset&token={TOKEN}")
        page.wait_for_selector("#jp-main-statusbar >> text=/Python 3.*Idle/", timeout=90_000)
        page.click("text=Run >> nth=0")
        page.click("text=Run All Cells >> nth=0")
        executed = _saved(page, file)
        assert not [o for cell in executed for o in cell.outputs if o.output_type == "error"]
        assert any("image/png" in o.get("data", {}) for cell in executed for o in cell.outputs)
        page.keyboard.press("Escape")
        image = _scrolled_to_image(page)
        assert image.evaluate("image => image.naturalWidth") > 200
        assert image.bounding_box()["height"] > 100
        browser.close()


def _saved(page, file):
    """The code cells of the notebook once all of them were executed and saved."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1000)
        cells = [c for c in nbformat.read(file, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
        if all(cell.execution_count for cell in cells):
            return cells
    raise AssertionError(f"not all cells of {file.name} were executed within two minutes")


def _scrolled_to_image(page):
    """The first figure: only cells in sight are drawn, so the notebook is scrolled until there is one."""
    page.hover(".jp-WindowedPanel-outer")
    page.mouse.wheel(0, -100_000)
    for _ in range(60):
        image = page.query_selector(".jp-RenderedImage img")
        if image is not None and image.bounding_box():
            image.scroll_into_view_if_needed()
            return image
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(200)
    raise AssertionError("no figure is seen in the notebook")
