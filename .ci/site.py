"""Build the site into _docs and check every link and formula in it: `python .ci/site.py`

nbdev runs the cells that document names, smalldocs makes the pages, KaTeX sets the formulas.
"""
import json, re, runpy, shutil, sys
from pathlib import Path

from nbdev.config import get_config
from nbdev.serve import proc_nbs
from smalldocs.site import build

from answers import fold_answers
from chinese import EDITION, edition_of, in_chinese, pieces_of
from folds import fold_asides, fold_later
from formulas import set_formulas
from links import broken_links, keep_links, settle_names
from pages import finish_pages
from reference import improve_entries, index_page
from solutions import fold_solutions
from sources import show_once

SHELVES = {"The course": "nbs", "Engine": "nbs/engine", "Tools": "nbs/tools"}
LISTED = re.compile(r"href: (nbs/\S+\.ipynb)")
NOT_PAGES = (r"^([_.]|distill_nb$|tests$|checkpoints$|runs$|outputs$|exports$|build$|dist$|"
    "venv$|env$)")


def module_of(notebook): return re.sub(r"^\d+_", "", notebook.stem)


def edit(path, change): # text → text
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def prepare_notebook(path, notebooks, proc, cfg):
    """nbdev names the page of nbs/03_gqa.ipynb nbs/gqa.html; smalldocs keeps the notebook's name.
    So drop that wish, and lead links to published pages to the notebooks: these can be checked."""
    nb = json.loads(path.read_text(encoding="utf-8"))
    first = nb["cells"][0]
    if first["cell_type"] == "raw":
        first["source"] = [s for s in first["source"] if not s.startswith("output-file:")]
    for cell in nb["cells"]:
        if cell["cell_type"] != "markdown": continue
        cell["source"] = keep_links("".join(cell["source"])).splitlines(keepends=True)
    cells = fold_later(show_once(nb["cells"]), path.stem)
    nb["cells"] = fold_asides(fold_solutions(cells))
    text = json.dumps(nb, ensure_ascii=False, indent=1)
    site = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/")
    for notebook in notebooks:
        page = notebook.with_name(f"{module_of(notebook)}.html").relative_to(proc).as_posix()
        text = text.replace(f"{site}/{page}", f"/{notebook.relative_to(proc).as_posix()}")
    for folder in ("reference", "try", EDITION):
        text = text.replace(f"{site}/{folder}/", f"/{folder}/")
    path.write_text(text, encoding="utf-8")


def add_edition(proc):
    "The lessons once more, in Chinese, and their list in the sidebar."
    (proc/EDITION).mkdir(parents=True, exist_ok=True)
    listed = []
    for path in sorted(proc.glob("nbs/*.ipynb")):
        pieces = pieces_of(edition_of(path))
        title, about = next(iter(pieces.values()))[1].split("\n\n> ")
        title = title.removeprefix("# ")
        nb = in_chinese(json.loads(path.read_text(encoding="utf-8")), pieces, "../")
        head = dict(title=title, description=about, lang="zh-CN")
        nb["cells"][0]["source"] = f"---\n{json.dumps(head, ensure_ascii=False)}\n---"
        to = proc/EDITION/path.name
        to.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")
        text = json.dumps(f"{path.name[:2]} {title}", ensure_ascii=False)
        listed += [f"          - text: {text}", f"            href: {EDITION}/{path.name}"]
    section = "\n".join(["      - section: 课程（中文版）", "        contents:", *listed, ""])
    last = "            contents: reference/*.qmd\n" # so no English page leads on to a Chinese one
    first = f"      - text: 中文\n        href: {EDITION}/00_tour.ipynb\n"
    edit(proc/"_quarto.yml", lambda text: text.replace(last, last + section)
        .replace("    right:\n", first + "    right:\n", 1)
        .replace("nbs/*.ipynb,", f"nbs/*.ipynb, {EDITION}/*.ipynb,"))


def prepare(proc, cfg):
    "What smalldocs needs to know beyond what nbdev says."
    notebooks = sorted(proc.glob("nbs/**/*.ipynb"))
    for path in [proc/"index.ipynb", *notebooks]: prepare_notebook(path, notebooks, proc, cfg)
    quarto = proc/"_quarto.yml"
    shelves = {title: {} for title in SHELVES} # in the order of the sidebar
    for name in dict.fromkeys(LISTED.findall(quarto.read_text(encoding="utf-8"))):
        title, = (t for t, folder in SHELVES.items() if folder == name.rpartition("/")[0])
        module = module_of(Path(name)) # some pages export nothing
        if (cfg.lib_path/f"{module}.py").is_file(): shelves[title][module] = name
    add_edition(proc)
    improve_entries()
    index_page(proc/"reference", shelves)
    modules = ", ".join(f"reference/{m}.qmd" for shelf in shelves.values() for m in shelf)
    edit(quarto, lambda text: text.replace("reference/*.qmd", f"[{modules}]"))
    github = re.compile(r"(text: GitHub\s+href: )\S+") # a fork's own
    edit(quarto, lambda text: github.sub(rf"\g<1>{cfg.git_url}", text))


def add_notebook_links(site, cfg):
    "Under a notebook's title: its other language, where it can be run and where it is kept."
    header = re.compile(r'<header id="title-block-header".*?</header>', re.S)
    for page in site.glob("nbs/**/*.html"):
        name = page.relative_to(site).with_suffix(".ipynb").as_posix()
        chinese = name.startswith(EDITION)
        at = f"{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{name.replace(EDITION, 'nbs')}"
        in_colab, source = (("在 Colab 中打开", "GitHub 上的源文件") if chinese
                            else ("Open in Colab", "Source on GitHub"))
        links = (f'<p class="lesson-links">{other_language(site, page, chinese)}'
            f'<a href="https://colab.research.google.com/github/{at}">{in_colab}</a> · '
            f'<a href="https://github.com/{at}">{source}</a></p>')
        edit(page, lambda text: header.sub(lambda m: m[0] + links, text, count=1))


def other_language(site, page, chinese): # → a link to it, if there is one
    lang, words, at = (("en", "English", f"../{page.name}") if chinese
                       else ("zh-CN", "中文", f"zh/{page.name}"))
    if not (page.parent/at).is_file(): return ""
    tag = f'<link rel="alternate" hreflang="{lang}" href="{at}">'
    edit(page, lambda text: text.replace("</head>", f"{tag}</head>", 1))
    return f'<a href="{at}" lang="{lang}" hreflang="{lang}">{words}</a> · '


def search_by_language(site):
    "A page's search finds a lesson in the language of the page."
    entries = json.loads((site/"search.json").read_text(encoding="utf-8"))
    chinese = [e for e in entries if e["href"].startswith(EDITION)]
    others = [e for e in entries if not e["href"].startswith(EDITION)]
    lessons = {e["href"].partition("#")[0].replace(EDITION, "nbs") for e in chinese}
    shared = [e for e in others if e["href"].partition("#")[0] not in lessons]
    for name, found in {"search.json": others, "search.zh.json": chinese + shared}.items():
        (site/name).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    asks = 'offset + "search.json"'
    by_language = 'offset + `search${document.documentElement.lang == "zh-CN" ? ".zh" : ""}.json`'
    script = site/"site_libs/smalldocs.js"
    assert asks in script.read_text(encoding="utf-8")
    edit(script, lambda text: text.replace(asks, by_language))


def keep_to_itself(site):
    "The themes ask a third party for fonts. The visitor's own serve as well, without the network."
    for css in site.rglob("*.css"):
        edit(css, lambda text: re.sub(r"@import url\([^)]*\);", "", text))


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
    settle_names(site, {link.partition("#")[2] for names in index.values()
                        for link, _ in names.values()})
    keep_to_itself(site)
    search_by_language(site)
    add_notebook_links(site, cfg)
    fold_answers(site)
    finish_pages(site, cfg)
    import try_page # here, as the processes that nbdev starts import this file, and need no torch
    try_page.fill(site/"try")
    wrong += [*sorted(set_formulas(site)), *sorted(broken_links(site))]
    pages = len(list(site.rglob("*.html")))
    print(*wrong, f"{pages} pages in {site.name}/, {len(wrong)} things wrong", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__": main()
