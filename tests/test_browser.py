"The built site in a real browser, and a lesson run in JupyterLab."
import functools, json, subprocess, sys, threading, time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browsing import ROOT, run_all

pytestmark = pytest.mark.slow

LESSONS = sorted((ROOT / "nbs").glob("*.ipynb"))
PAGES = ["index.html", *(f"nbs/{p.stem}.html" for p in LESSONS)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope="module")
def site():
    "The address of the built site."
    subprocess.run([sys.executable, ".ci/site.py"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(ROOT / "_docs")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("name", PAGES)
def test_page(name, site, page):
    outside = []
    page.route(lambda url: not url.startswith((site, "data:")), lambda route: (outside.append(route.request.url), route.abort()))
    page.goto(f"{site}/{name}")
    assert page.title() and page.locator("h1").first.is_visible()
    links = page.locator("a[href$='.html']").evaluate_all("all => all.map(a => a.getAttribute('href').split('/').pop())")
    assert [p.stem for p in LESSONS if f"{p.stem}.html" not in links] == [], "the sidebar names every lesson"
    page.locator("img").evaluate_all("all => Promise.all(all.map(i => { i.loading = 'eager'; return i.decode().catch(() => null) }))")
    assert page.locator("img").evaluate_all("all => all.filter(i => !i.naturalWidth).map(i => i.src.slice(0, 80))") == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"), "the page scrolls sideways"
    assert outside == [], outside
    assert page.wrong == [], page.wrong


@pytest.mark.parametrize("name", PAGES[1:13])
def test_folded_solutions_open(name, site, page):
    page.goto(f"{site}/{name}")
    headers, bodies = page.locator(".callout-tip .callout-header"), page.locator(".callout-tip .callout-collapse")
    assert headers.count() == bodies.count() >= 3
    for i in range(headers.count()):
        code = bodies.nth(i).locator("pre").first
        assert not code.is_visible()
        headers.nth(i).click()
        code.wait_for(state="visible", timeout=5000)


@pytest.mark.parametrize("name", ["index.html", "nbs/08_loss.html"])
def test_page_on_a_telephone(name, site, browser):
    page = browser.new_page(viewport=dict(width=390, height=844))
    page.goto(f"{site}/{name}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 391, "the page scrolls sideways"
    page.close()


def test_formulas_are_set(site, page):
    page.goto(f"{site}/nbs/08_loss.html")
    assert page.locator("math").count() > 0
    assert page.locator("math").first.bounding_box()["height"] > 5


def test_lesson_runs_in_jupyterlab(lab, page):
    address, folder = lab
    path = folder / "nbs/01_rmsnorm.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code": cell.update(outputs=[], execution_count=None)
    path.write_text(json.dumps(notebook), encoding="utf-8")
    run_all(page, address, "nbs/01_rmsnorm.ipynb")
    end = time.monotonic() + 300
    while True: # save until the last cell has run
        page.wait_for_timeout(2000)
        page.keyboard.press("Control+s")
        code = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()]
        if code[-1]["execution_count"]: break
        assert time.monotonic() < end, "the last cell has not run"
    outputs = [o for c in code for o in c["outputs"]]
    assert [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"] == []
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 3
