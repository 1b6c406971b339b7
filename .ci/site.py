"""Build the site into _docs and check every link and formula in it: `python .ci/site.py`

nbdev runs the cells that document names, smalldocs makes the pages from _quarto.yml, KaTeX sets the formulas.
"""
import json, re, runpy, shutil, sys

from nbdev.config import get_config
from nbdev.serve import proc_nbs
from smalldocs.site import build

from formulas import set_formulas
from links import broken_links, settle_names
from reference import index_page

NOT_PAGES = r"^([_.]|distill_nb$|tests$|checkpoints$|runs$|outputs$|exports$|build$|dist$|venv$|env$)"


def prepare_notebook(path, cfg, notebooks): # page name → notebook's name
    """nbdev names the page of nbs/00_config.ipynb nbs/config.html, as Quarto does on its word; smalldocs keeps the notebook's name.
    So drop the wish, and turn nbdev's links to published pages into links to notebooks, which can be checked."""
    nb = json.loads(path.read_text(encoding="utf-8"))
    if nb["cells"] and nb["cells"][0]["cell_type"] == "raw":
        nb["cells"][0]["source"] = [s for s in nb["cells"][0]["source"] if not s.startswith("output-file:")]
    base = re.escape(f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/"))
    text = json.dumps(nb, ensure_ascii=False, indent=1)
    text = re.sub(base + r"/nbs/(\w+)\.html", lambda m: f"/nbs/{notebooks[m[1]]}" if m[1] in notebooks else m[0], text)
    text = re.sub(base + "/(reference|try)/", r"/\1/", text)
    path.write_text(text.replace("*Call self as a function.*", ""), encoding="utf-8") # Python's own words for a function that has none


def prepare(proc, cfg):
    "What smalldocs needs to know beyond what nbdev says."
    lessons = {re.sub(r"^\d+[a-z]*_", "", p.stem.lower()): p for p in sorted(proc.glob("nbs/*.ipynb"))}
    for p in [proc/"index.ipynb", *lessons.values()]: prepare_notebook(p, cfg, {page: p.name for page, p in lessons.items()})
    index_page(proc/"reference", lessons)
    quarto = proc/"_quarto.yml"
    quarto.write_text(re.sub(r"(text: GitHub\s+href: )\S+", rf"\g<1>{cfg.git_url}", quarto.read_text(encoding="utf-8")), encoding="utf-8") # a fork's own


def add_lesson_links(site, cfg):
    "Under the title of each lesson, where it can be run and where it is kept."
    for page in site.glob("nbs/*.html"):
        at = f"{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{page.stem}.ipynb"
        links = f'<p class="lesson-links"><a href="https://colab.research.google.com/github/{at}">Open in Colab</a> · <a href="https://github.com/{at}">Source on GitHub</a></p>'
        page.write_text(re.sub(r'(<header id="title-block-header".*?</header>)', lambda m: m[1] + links, page.read_text(encoding="utf-8"), count=1, flags=re.S), encoding="utf-8")


def keep_to_itself(site):
    "The themes ask a third party for their fonts: the visitor's own serve as well, and the site works without the network."
    for css in site.rglob("*.css"):
        css.write_text(re.sub(r"@import url\([^)]*\);", "", css.read_text(encoding="utf-8")), encoding="utf-8")


def main():
    cfg = get_config()
    shutil.rmtree(cfg.config_path/"_proc", ignore_errors=True)
    proc = proc_nbs(n_workers=2, skip_folder_re=NOT_PAGES)
    prepare(proc, cfg)
    wrong, site = build(proc, quiet=True).warnings, cfg.doc_path
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(proc/site.name, site)
    site = site.resolve()
    index = runpy.run_path(str(cfg.lib_path/"_modidx.py"))["d"]["syms"]
    settle_names(site, {link.partition("#")[2] for names in index.values() for link, _ in names.values()})
    keep_to_itself(site)
    add_lesson_links(site, cfg)
    import try_page # here, as the processes that nbdev starts import this file, and need no torch
    try_page.fill(site/"try")
    wrong += [*sorted(set_formulas(site)), *sorted(broken_links(site))]
    print(*wrong, f"{len(list(site.rglob('*.html')))} pages in {site.name}/, {len(wrong)} things wrong", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__": main()
