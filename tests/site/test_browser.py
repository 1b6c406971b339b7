"The built site in a real browser, page by page."
import ast, re
from configparser import ConfigParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted(p for p in (ROOT / "distill_nb").glob("[!_]*.py"))
PAGES = ["index.html", *(f"nbs/{p.stem}.html" for p in LESSONS),
         *(f"howto/{p.stem}.html" for p in sorted((ROOT / "howto").glob("*.md"))),
         "try/index.html", "reference/index.html", *(f"reference/{p.stem}.html" for p in MODULES)]
WIDTHS = 1280, 390

# Formulas that are not drawn: set by nothing, refused, or without a height; and TeX that is
# left in the text.
UNSET = r"""() => {
  const isBad = m => !m.querySelector('.katex-html') || m.querySelector('.katex-error')
    || m.querySelector('.katex').getBoundingClientRect().height < 5
  const bad = [...document.querySelectorAll('.math')].filter(isBad)
  const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT)
  const shown = 'pre, code, script, style, annotation'
  const left = []
  while (walk.nextNode()) {
    const text = walk.currentNode
    if (/\\[(\[]|\$\$/.test(text.data) && !text.parentElement.closest(shown))
      left.push(text.data.slice(0, 80))
  }
  return [...bad.map(m => m.textContent.slice(0, 80)), ...left]
}"""
# Drawings of no size, or wider than the box that they scroll in.
UNDRAWN = r"""() => {
  const isBad = s => {
    const r = s.getBoundingClientRect(), box = s.parentElement
    const end = box.getBoundingClientRect().left + box.scrollWidth
    return r.height < 40 || r.width < 100 || r.right > end + 1
  }
  const drawings = [...document.querySelectorAll('main svg')].filter(s => !s.closest('.katex'))
  return drawings.filter(isBad).map(s => s.getAttribute('aria-label') || s.outerHTML.slice(0, 80))
}"""
# What is cut off at the right, for the page itself does not scroll: whatever ends beyond the
# window and stands in no box that scrolls.
CUT = r"""() => {
  const isCut = e => {
    const r = e.getBoundingClientRect()
    if (r.right <= innerWidth + 1 || r.width <= 1) return false
    for (let box = e.parentElement; box && box.id != 'quarto-content'; box = box.parentElement)
      if (getComputedStyle(box).overflowX != 'visible') return false
    return true
  }
  return [...document.querySelectorAll('main *')].filter(isCut).map(e => e.outerHTML.slice(0, 120))
}"""
# Words that one cannot read on their ground (WCAG's contrast, 4.5 to 1).
FAINT = r"""() => {
  const read = `main :is(p, li, td, th, a, code, pre span, h1, h2, h3, .description),
    .katex .mord, .sidebar-link, .navbar .nav-link, #TOC a`
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
  const faint = new Set()
  for (const e of document.querySelectorAll(read)) {
    if (!e.offsetParent || !e.textContent.trim()) continue
    const colour = getComputedStyle(e).color
    const under = ground(e), [r, g, b_, alpha = 1] = numbers(colour)
    const over = [r, g, b_].map((v, i) => alpha * v + (1 - alpha) * under[i])
    const [a, b] = [light(over), light(under)]
    if ((Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5)
      faint.add(`${e.tagName} ${e.className}: ${colour} on ${under}`)
  }
  return [...faint]
}"""
IS_DARK = r"""() => {
  const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).map(Number)
  return r + g + b < 384
}"""


def test_the_site_has_these_pages_and_no_others(site):
    assert sorted(str(p.relative_to(ROOT / "_docs"))
                  for p in (ROOT / "_docs").rglob("*.html")) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_page(name, site, page):
    outside = []
    page.emulate_media(reduced_motion="reduce")  # colours change at once
    page.route(lambda url: not url.startswith((site, "data:")),
               lambda route: (outside.append(route.request.url), route.abort()))
    page.goto(f"{site}/{name}")
    page.evaluate("document.fonts.ready")
    assert page.title() and page.locator("h1").first.is_visible()
    links = page.locator("#quarto-sidebar a[href$='.html']").evaluate_all(
        "all => all.map(a => a.getAttribute('href').split('/').pop())")
    assert [p.stem for p in LESSONS if f"{p.stem}.html" not in links] == [], (
        "the sidebar names every lesson")
    page.locator("img").evaluate_all(
        """all => Promise.all(all.map(i => {
             i.loading = 'eager'
             return i.decode().catch(() => null) }))""")
    assert page.locator("img").evaluate_all(
        "all => all.filter(i => !i.naturalWidth).map(i => i.src.slice(0, 80))") == []
    assert page.evaluate(UNSET) == []
    if page.locator(".math").count():
        assert page.evaluate(
            "[...document.fonts].some(f => f.family.startsWith('KaTeX') && f.status == 'loaded')")
    for width in WIDTHS:
        page.set_viewport_size(dict(width=width, height=844))
        assert page.evaluate("document.documentElement.scrollWidth") <= width + 1, (
            f"the page scrolls sideways at {width}")
        assert page.evaluate(CUT) == [], f"cut off at {width}"
        assert page.evaluate(UNDRAWN) == []
    page.set_viewport_size(dict(width=WIDTHS[0], height=844))
    assert not page.evaluate(IS_DARK) and page.evaluate(FAINT) == []
    page.locator(".quarto-color-scheme-toggle").first.click()
    page.wait_for_function(
        f"({IS_DARK})() && document.documentElement.classList.contains('quarto-dark')",
        timeout=5000)
    assert page.evaluate(FAINT) == []
    assert outside == [], outside
    assert page.wrong == [], page.wrong


def test_dark_mode_stays_and_follows_the_visitor(site, browser):
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(f"{site}/index.html")
    assert page.evaluate(IS_DARK)
    page.locator(".quarto-color-scheme-toggle").first.click()
    page.wait_for_function(f"!({IS_DARK})()", timeout=5000)
    page.goto(f"{site}/nbs/02_rope.html")
    assert not page.evaluate(IS_DARK), "the choice is forgotten on the next page"
    context.close()


@pytest.mark.parametrize("name", [f"nbs/{p.stem}.html" for p in LESSONS])
def test_folded_solutions_open(name, site, page):
    page.goto(f"{site}/{name}")
    headers = page.locator(".callout-tip .callout-header")
    bodies = page.locator(".callout-tip .callout-collapse")
    notebook = (ROOT / "nbs" / f"{Path(name).stem}.ipynb").read_text(encoding="utf-8")
    folded = notebook.count("::: {.callout-tip collapse=")
    assert headers.count() == bodies.count() == folded
    for i in range(headers.count()):
        code = bodies.nth(i).locator("pre").first
        assert not code.is_visible()
        headers.nth(i).click()
        code.wait_for(state="visible", timeout=5000)


def test_search_finds_a_lesson(site, page):
    page.goto(f"{site}/index.html")
    page.locator(".smalldocs-search input").first.fill("RoPE")
    result = page.locator(".smalldocs-search-results a").first
    result.wait_for(state="visible", timeout=10_000)
    assert "rope" in result.inner_text().lower()
    result.click()
    page.wait_for_url("**/nbs/02_rope.html*")
    assert page.locator("h1").first.is_visible()


def test_next_and_previous_lead_through_the_whole_course(site, page):
    page.goto(f"{site}/nbs/00_tour.html")
    listed = page.locator("#quarto-sidebar a[href$='.html']").evaluate_all(
        "all => all.map(a => a.href)")
    start, = (i for i, href in enumerate(listed) if href.endswith("nbs/00_tour.html"))
    course = [href for href in listed[start:] if "/nbs/" in href]
    assert sorted(Path(href).stem for href in course) == [p.stem for p in LESSONS]
    def walk(link): # → the lessons on the way, to the last link of its kind or out of the course
        seen = [page.url] if "/nbs/" in page.url else []
        while (a := page.locator(link)).count() and "/howto/" not in page.url:
            a.click()
            page.wait_for_load_state() # the links stand at the end of the page
            if "/nbs/" in page.url: seen.append(page.url)
        return seen
    assert walk(".nav-page-next a") == course
    page.goto(course[-1])
    assert walk(".nav-page-previous a") == course[::-1]


def settings():
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_lesson_leads_to_colab_and_to_its_source(path, site, page):
    page.goto(f"{site}/nbs/{path.stem}.html")
    at = "{user}/{repo}/blob/{branch}/nbs/".format(**settings()) + path.name
    links = page.locator(".lesson-links a").evaluate_all(
        "all => all.map(a => [a.innerText, a.href])")
    assert links == [["Open in Colab", f"https://colab.research.google.com/github/{at}"],
                     ["Source on GitHub", f"https://github.com/{at}"]]
    github = page.locator("nav.navbar a", has_text="GitHub").first
    assert github.get_attribute("href") == settings()["git_url"]


def test_reference_names_everything_public(site, page):
    page.goto(f"{site}/reference/index.html")
    links = page.locator("main td a").evaluate_all(
        "all => all.map(a => [a.innerText, a.getAttribute('href')])")
    rows = dict((href, name) for name, href in links)
    for module in MODULES:
        tree = ast.parse(module.read_text(encoding="utf-8"))
        named = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        patched = [n for n in named if any("patch" in ast.dump(d) for d in n.decorator_list)]
        public = [n for n in named if not n.name.startswith("_") and n not in patched]
        assert [n.name for n in public
                if rows.get(f"{module.stem}.html#{n.name}") != n.name] == [], module.stem
    page.goto(f"{site}/reference/loss.html")
    entry = page.locator("#kd_loss")
    assert entry.is_visible()
    assert re.search(r"temperature\s+float\s+2\.0\s+softens both distributions",
                     page.locator("main").inner_text())
