"""JupyterLab in a real browser: a reader opens and runs a notebook; a student answers an exercise, wrongly and rightly.

Screenshots lie beside the copies of the notebooks, in pytest's temporary folder.
"""

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
RELEASED = paths.root() / "course" / "release"
"""The students' notebooks, which `make course` makes."""
EXERCISE = "03_by_hand"
ANSWER = "eq2_by_hand = {}\neq3_by_hand = ((4 + 3) / (2 + 1) + 4 / 4) / 2\nshare_of_f = 1 / 2"
WRONG, RIGHT = ANSWER.format("(4 + 3 + 4) / (2 + 1 + 4)"), ANSWER.format("(4 / 2 + 3 / 1 + 4 / 4) / 3")
HINT = "Eq. 2 is the mean of the three token means"


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
    if RELEASED.is_dir():
        shutil.copytree(RELEASED, folder / "course")
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


@pytest.fixture
def page(lab):
    """A page of a browser."""
    executable = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1300, "height": 1000})
        browser.close()


@pytest.mark.parametrize("name", ["02_packing_and_attention", "03_loss_weighting", "05_data_scale"])
def test_a_notebook_runs_by_hand_with_its_defaults_and_its_figure_is_seen(lab, page, name):
    file = _opened(page, lab, f"notebooks/{name}.ipynb")
    _run_all(page)
    executed = _saved(page, file, lambda cells: all(cell.execution_count for cell in cells))
    assert not [o for cell in executed for o in cell.outputs if o.output_type == "error"]
    assert any("image/png" in o.get("data", {}) for cell in executed for o in cell.outputs)
    page.keyboard.press("Escape")
    image = _scrolled_to_image(page)
    assert image.evaluate("image => image.naturalWidth") > 200
    assert image.bounding_box()["height"] > 100
    page.screenshot(path=lab[1] / f"{name}.png")


def test_a_students_wrong_answer_fails_with_a_hint_and_the_right_one_passes(lab, page):
    if not RELEASED.is_dir():
        pytest.skip("needs the exercises: make course makes them")
    file, seen = _opened(page, lab, f"course/{EXERCISE}/{EXERCISE}.ipynb"), {}
    for name, answer, before, fails in (("wrong", WRONG, "YOUR CODE HERE", "by-hand-check"),
                                        ("right", RIGHT, "eq2_by_hand = ", "eq2-check")):  # fmt: skip
        _answered(page, before, answer)
        _run_all(page)  # to the first error: the later answers are not written
        cells = _saved(page, file, lambda cells, fails=fails: [*map(_name, filter(_errors, cells))] == [fails])
        seen[name] = {_name(cell): _errors(cell) for cell in cells}
        page.locator(".jp-CodeCell", has_text="eq2_by_hand = ").first.scroll_into_view_if_needed()
        page.screenshot(path=lab[1] / f"{EXERCISE}-{name}.png")
    assert seen["wrong"]["by-hand-check"].startswith(f"AssertionError: {HINT}")
    assert not seen["right"]["by-hand-check"] and seen["right"]["eq2-check"].startswith("NotImplementedError")


def _errors(cell):
    return "".join(f"{o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error")


def _name(cell):
    """What nbgrader calls a cell."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def _opened(page, lab, path):
    """Open a notebook of the server and wait for its kernel; returns its file."""
    address, folder = lab
    page.goto(f"{address}/lab/tree/{path}?reset&token={TOKEN}")
    page.wait_for_selector("#jp-main-statusbar >> text=/Python 3.*Idle/", timeout=90_000)
    return folder / path


def _answered(page, before, answer):
    """Write an answer in the place of the first cell that holds the text `before`."""
    cell = page.locator(".jp-CodeCell", has_text=before).first
    cell.scroll_into_view_if_needed()
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(answer)


def _run_all(page):
    page.click("text=Run >> nth=0")
    page.click("text=Run All Cells >> nth=0")


def _saved(page, file, finished):
    """The code cells of the notebook, saved again and again until they are `finished`."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1000)
        cells = [c for c in nbformat.read(file, as_version=4).cells if c.cell_type == "code" and c.source.strip()]
        if finished(cells):
            return cells
    raise AssertionError(f"{file.name} was not finished within ten minutes")


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
