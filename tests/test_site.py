"""The pages that `make site` has built, in a real browser without a network: formulas, figures, search, links."""

import functools
import http.server
import threading

import pytest

from longalign.common import paths
from test_browser import chromium

pytestmark = pytest.mark.browser
SITE = paths.root() / "site" / "html"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and writes no log."""

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="module")
def page():
    """A page of a browser that reaches this site alone, and the site's address."""
    executable = chromium()
    from playwright.sync_api import sync_playwright

    assert (SITE / "docs" / "index.html").exists(), "make site builds it, and make test-browser asks for it"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with sync_playwright() as playwright, server:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        opened, asked = browser.new_page(), []
        opened.on("request", lambda request: asked.append(request.url))
        yield opened, address
        browser.close()
        server.shutdown()
    assert asked and all(url.startswith((address, "data:")) for url in asked), "pages ask nobody else for anything"


@pytest.mark.parametrize(
    ("place", "title", "sign"),
    [
        ("docs/index", "LongAlign, reproducible", "text=Five minutes"),
        ("docs/learn/notation", "Notation", "mjx-container"),
        ("docs/reference/python", "Public names", "text=plan_packing"),
        ("docs/results/figures", "Figures", "img"),
        ("docs/learn/teaching", "Teaching", "img"),
        ("results/notebooks/90_report", "The report", "text=interval that decides"),
        ("results/notebooks/03_loss_weighting", "Loss weighting", "mjx-container"),
    ],
)
def test_a_page_opens_with_its_formulas_and_figures(page, place, title, sign):
    opened, address = page
    reply = opened.goto(f"{address}/{place}.html", wait_until="load")
    assert reply.status == 200 and opened.inner_text("h1").startswith(title)
    opened.wait_for_selector(sign, state="attached", timeout=30_000)
    broken = "images => images.filter(image => image.complete && !image.naturalWidth).length"
    assert opened.eval_on_selector_all("article img", broken) == 0


def test_the_report_shows_no_code(page):
    opened, address = page
    opened.goto(f"{address}/results/notebooks/90_report.html")
    assert "import pandas" not in opened.inner_text("article")


def test_the_search_finds_the_glossary(page):
    opened, address = page
    opened.goto(f"{address}/search.html?q=cu_seqlens")
    opened.wait_for_selector("#search-results li", timeout=30_000)
    assert "glossary" in opened.inner_text("#search-results").lower()
