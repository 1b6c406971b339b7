"The built site: every page in a real browser, then the reference and the sources that it shows."
import ast, re
from collections import Counter
from configparser import ConfigParser
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHELVES = [sorted((ROOT / folder).glob("*.ipynb")) for folder in ("nbs", "nbs/engine", "nbs/tools")]
NOTEBOOKS = [p for shelf in SHELVES for p in shelf]
HOWTO = sorted((ROOT / "howto").glob("*.md"))
MODULES = sorted((ROOT / "distill_nb").glob("[!_]*.py"))


def page_of(path): return path.relative_to(ROOT).with_suffix(".html").as_posix()


CHINESE = {f"nbs/zh/{p.stem}.html": p for p in SHELVES[0]} # page → its lesson
PAGES = ["index.html", "try/index.html", *map(page_of, NOTEBOOKS), *CHINESE, *map(page_of, HOWTO),
         "reference/index.html", *(f"reference/{p.stem}.html" for p in MODULES)]
WIDTHS = 1280, 390
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)

# Formulas that are not drawn: set by nothing, refused, or of no height; and TeX left in the text.
UNSET = r"""() => {
  const undrawn = m => !m.querySelector('.katex-html') || m.querySelector('.katex-error')
    || m.querySelector('.katex').getBoundingClientRect().height < 5
  const bad = [...document.querySelectorAll('.math')].filter(undrawn)
  const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT)
  const left = []
  while (walk.nextNode()) {
    const {data, parentElement} = walk.currentNode
    if (/\\[(\[]|\$\$/.test(data) && !parentElement.closest('pre, code, script, style, annotation'))
      left.push(data.slice(0, 80))
  }
  return [...bad.map(m => m.textContent.slice(0, 80)), ...left]
}"""
# Drawings of no size, or wider than the box that they scroll in.
UNDRAWN = r"""() => {
  const drawings = [...document.querySelectorAll('main svg')].filter(s => !s.closest('.katex'))
  return drawings.filter(s => {
    const r = s.getBoundingClientRect(), box = s.parentElement
    const end = box.getBoundingClientRect().left + box.scrollWidth
    return r.height < 40 || r.width < 100 || r.right > end + 1
  }).map(s => s.getAttribute('aria-label') || s.outerHTML.slice(0, 80))
}"""
# What is cut off at the right, for the page itself does not scroll:
# whatever ends beyond the window and stands in no box that scrolls.
CUT = r"""() => [...document.querySelectorAll('main *')].filter(e => {
  const r = e.getBoundingClientRect()
  if (r.right <= innerWidth + 1 || r.width <= 1) return false
  for (let box = e.parentElement; box && box.id != 'quarto-content'; box = box.parentElement)
    if (getComputedStyle(box).overflowX != 'visible') return false
  return true
}).map(e => e.outerHTML.slice(0, 120))"""
# Words that one cannot read on their ground (WCAG's contrast, 4.5 to 1).
FAINT = r"""() => {
  const numbers = s => s.match(/[\d.]+/g).map(Number)
  const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4
  const light = c => {
    const [r, g, b] = c.slice(0, 3).map(linear)
    return .2126 * r + .7152 * g + .0722 * b
  }
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = numbers(getComputedStyle(e).backgroundColor)
      if (c.length < 4 || c[3] > .5) return c
    }
    return [255, 255, 255]
  }
  const words = 'main :is(p, li, td, th, a, code, pre span, h1, h2, h3, .description), '
    + '.katex .mord, .sidebar-link, .navbar .nav-link, #TOC a'
  const faint = new Set()
  for (const e of document.querySelectorAll(words)) {
    if (!e.offsetParent || !e.textContent.trim()) continue
    const under = ground(e), [r, g, b_, alpha = 1] = numbers(getComputedStyle(e).color)
    const seen = [r, g, b_].map((v, i) => alpha * v + (1 - alpha) * under[i])
    const [a, b] = [light(seen), light(under)]
    if ((Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5)
      faint.add(`${e.tagName} ${e.className}: ${getComputedStyle(e).color} on ${under}`)
  }
  return [...faint]
}"""
IS_DARK = r"""() => {
  const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).map(Number)
  return r + g + b < 384
}"""
# Pictures that are not there, also those further down, which load when one comes near.
MISSING = """async () => {
  const all = [...document.querySelectorAll('img')]
  const load = i => { i.loading = 'eager'; return i.decode().catch(() => null) }
  await Promise.all(all.map(load))
  return all.filter(i => !i.naturalWidth).map(i => i.src.slice(0, 80))
}"""
HAS_KATEX = "[...document.fonts].some(f => f.family.startsWith('KaTeX') && f.status == 'loaded')"
LINKS = "all => all.map(a => a.href)"


def test_the_site_has_these_pages_and_no_others(site):
    docs = ROOT / "_docs"
    assert sorted(p.relative_to(docs).as_posix() for p in docs.rglob("*.html")) == sorted(PAGES)


def check_what_is_drawn(page):
    "Pictures, formulas and drawings are there, and at no width is anything cut off."
    assert page.title() and page.locator("h1").first.is_visible()
    assert page.evaluate(MISSING) == []
    assert page.evaluate(UNSET) == []
    if page.locator(".math").count(): page.wait_for_function(HAS_KATEX)  # or it times out
    for width in WIDTHS:
        page.set_viewport_size(dict(width=width, height=844))
        scrolled = page.evaluate("document.documentElement.scrollWidth")
        assert scrolled <= width + 1, f"the page scrolls sideways at {width}"
        assert page.evaluate(CUT) == [], f"cut off at {width}"
        assert page.evaluate(UNDRAWN) == []
    page.set_viewport_size(dict(width=WIDTHS[0], height=844))


def settings():
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def check_links_to_colab_and_source(page, path, site, other=None): # language, its page
    at = "{user}/{repo}/blob/{branch}/".format(**settings()) + path.relative_to(ROOT).as_posix()
    told = "all => all.map(a => [a.innerText, a.href])"
    links = page.locator(".lesson-links a").evaluate_all(told)
    if other: assert links.pop(0) == [other[0], f"{site}/{other[1]}"]
    words = ("在 Colab 中打开", "GitHub 上的源文件") if other and other[0] == "English" else (
        "Open in Colab", "Source on GitHub")
    assert links == [[words[0], f"https://colab.research.google.com/github/{at}"],
                     [words[1], f"https://github.com/{at}"]]
    github = page.locator("nav.navbar a", has_text="GitHub").first
    assert github.get_attribute("href") == settings()["git_url"]


def check_that_it_opens(page, button, inside):
    for i in range(button.count()):
        assert not inside(i).is_visible()
        button.nth(i).click()
        inside(i).wait_for(state="visible")


def check_folds(page, path):
    "Solutions and answers are folded until you ask for them."
    text = path.read_text(encoding="utf-8")
    headers = page.locator(".callout-tip .callout-header")
    bodies = page.locator(".callout-tip .callout-collapse")
    folded = text.count("::: {.callout-tip collapse=") + text.count("# show_solution(")
    assert headers.count() == bodies.count() == folded
    check_that_it_opens(page, headers, lambda i: bodies.nth(i).locator("pre").first)
    answers = page.locator("details.answer")
    if path in SHELVES[0]: assert bool(answers.count()) == ("Before you run it" in text)
    check_that_it_opens(page, answers.locator("> summary"),
                        lambda i: answers.nth(i).locator(".cell-output").first)


def check_contrast(page):
    "Light, then dark."
    assert not page.evaluate(IS_DARK) and page.evaluate(FAINT) == []
    page.locator(".quarto-color-scheme-toggle").first.click()
    is_quarto_dark = "document.documentElement.classList.contains('quarto-dark')"
    page.wait_for_function(f"({IS_DARK})() && {is_quarto_dark}")
    assert page.evaluate(FAINT) == []


@pytest.mark.parametrize("name", PAGES)
def test_page(name, site, page):
    outside, notebook = [], ROOT / Path(name).with_suffix(".ipynb")
    def stop(route):
        outside.append(route.request.url)
        route.abort()
    page.emulate_media(reduced_motion="reduce")  # colours change at once
    page.route(lambda url: not url.startswith((site, "data:")), stop)
    page.goto(f"{site}/{name}")
    page.evaluate("document.fonts.ready")
    check_what_is_drawn(page)
    if notebook in NOTEBOOKS:
        other = ("中文", f"nbs/zh/{notebook.stem}.html") if notebook in SHELVES[0] else None
        check_links_to_colab_and_source(page, notebook, site, other)
        check_folds(page, notebook)
    if name in CHINESE:
        lesson = CHINESE[name]
        check_links_to_colab_and_source(page, lesson, site, ("English", page_of(lesson)))
        check_folds(page, lesson)
        assert page.locator("html").get_attribute("lang") == "zh-CN"
    check_contrast(page)
    assert outside == [], outside
    assert page.wrong == [], page.wrong


def test_dark_mode_stays_and_follows_the_visitor(site, browser):
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(f"{site}/index.html")
    assert page.evaluate(IS_DARK)
    page.locator(".quarto-color-scheme-toggle").first.click()
    page.wait_for_function(f"!({IS_DARK})()")
    page.goto(f"{site}/nbs/02_rope.html")
    assert not page.evaluate(IS_DARK), "the choice is forgotten on the next page"
    context.close()


@pytest.mark.parametrize("start, words, found", [("index", "RoPE", "nbs/02_rope"),
    ("nbs/zh/00_tour", "旋转位置编码", "nbs/zh/02_rope")], ids=["english", "chinese"])
def test_search_finds_a_lesson_in_the_language_of_the_page(start, words, found, site, page):
    page.goto(f"{site}/{start}.html")
    page.locator(".smalldocs-search input").first.fill(words)
    result = page.locator(".smalldocs-search-results a").first
    result.wait_for(state="visible", timeout=10_000)
    assert words.lower() in result.inner_text().lower()
    result.click()
    page.wait_for_url(f"**/{found}.html*")
    assert page.locator("h1").first.is_visible()


def test_next_and_previous_lead_through_the_course_and_the_workshop(site, page):
    page.goto(f"{site}/nbs/00_tour.html")
    listed = page.locator("#quarto-sidebar a[href$='.html']").evaluate_all(LINKS)
    notebooks = [href for href in listed if "/nbs/" in href and "/zh/" not in href]
    assert [h for h in listed if "/zh/" in h] == [f"{site}/{name}" for name in CHINESE]
    assert notebooks[:12] == [f"{site}/{page_of(p)}" for p in SHELVES[0]]
    assert sorted(notebooks) == sorted(f"{site}/{page_of(p)}" for p in NOTEBOOKS)
    def walk(link): # → the notebooks on the way, to the last link of its kind or out of them
        seen = [page.url] if "/nbs/" in page.url else []
        while (a := page.locator(link)).count() and "/howto/" not in page.url:
            a.click()
            page.wait_for_load_state() # the links stand at the end of the page
            if "/nbs/" in page.url: seen.append(page.url)
        return seen
    assert walk(".nav-page-next a") == notebooks
    page.goto(notebooks[-1])
    assert walk(".nav-page-previous a") == notebooks[::-1]


def test_the_workshop_is_folded_until_one_is_in_it(site, page):
    def visible(text): return page.locator("#quarto-sidebar a", has_text=text).first.is_visible()
    page.goto(f"{site}/nbs/02_rope.html")
    assert visible("03 Grouped-query") and visible("Engine") and not visible("Checkpoints")
    page.goto(f"{site}/nbs/engine/checkpoint.html")
    assert visible("Checkpoints") and not visible("Playground")


# The reference, and the sources on the pages of the notebooks

def main_of(name):
    html = (ROOT / "_docs" / name).read_text(encoding="utf-8")
    return BeautifulSoup(html, "lxml").find("main")


def texts(main, selector): return [e.get_text().strip() for e in main.select(selector)]


def public(module):
    "The classes and functions of a module's `__all__`, in its order; no methods patched in."
    tree = ast.parse(module.read_text(encoding="utf-8"))
    exported, = (ast.literal_eval(n.value) for n in tree.body
                 if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
    defined = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    return [n.name for n in defined if n.name in exported]


def test_reference_names_everything_public_and_nothing_else(site):
    rows = [a["href"] for a in main_of("reference/index.html").select("td a")]
    wanted = [f"{m.stem}.html#{name}" for m in MODULES for name in public(m)]
    assert Counter(rows) == Counter(wanted)
    for m in MODULES:
        page = f"{m.stem}.html#"
        assert [h for h in rows if h.startswith(page)] == [h for h in wanted if h.startswith(page)]
    loss = main_of("reference/loss.html")
    assert loss.find(id="kd_loss")
    assert "KDLoss(loss: Tensor, kl: Tensor, ce: Tensor)" in texts(loss, "pre")
    cells = texts(loss, "td")
    at = cells.index("temperature")
    assert cells[at:at + 4] == ["temperature", "float", "2.0", "softens both distributions"]


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_reference_of_a_module_has_its_public_names_in_its_order(module, site):
    main = main_of(f"reference/{module.stem}.html")
    assert [h.removeprefix("class ") for h in texts(main, "h2")] == public(module)
    assert [m for m in texts(main, "h3") if re.search(r"\._|^[^.]*$", m)] == [], "of which class?"
    assert [c for c in texts(main, "pre") if re.match(r"[A-Z]\w*\(\*args, \*\*kwargs\)", c)] == []


@each_notebook
def test_every_source_is_shown_once(path, site):
    code = "\n".join(texts(main_of(page_of(path)), "pre"))
    module = ROOT / "distill_nb" / (re.sub(r"^\d+_", "", path.stem) + ".py")
    heads = Counter(re.findall(r"^(?:def|class) (\w+)", code, re.M))
    names = public(module) if module.is_file() else [] # of a page that exports nothing
    assert [name for name in names if heads[name] != 1] == []
    assert not re.search(r"def [A-Z]\w+\(\s*\*args, \*\*kwargs", code)
