"""Build the site into _docs and check every link in it, in pure Python: `python .ci/site.py`

nbdev runs the cells that document names, smalldocs makes the pages from _quarto.yml. With Quarto, `nbdev_docs` builds from the same files.
"""
import html, json, re, runpy, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from latex2mathml.converter import convert as latex_to_mathml
from nbdev.config import get_config
from nbdev.serve import proc_nbs

NOT_PAGES = r"^([_.]|distill_nb$|tests$|checkpoints$|runs$|outputs$|exports$|build$|dist$|venv$|env$)"


def keep_names(proc, cfg):
    """nbdev names the page of nbs/00_config.ipynb nbs/config.html, as Quarto does on its word; smalldocs keeps the notebook's name.
    So drop the wish, and turn nbdev's links to published pages into links to notebooks, which can be checked."""
    notebooks = {re.sub(r"^\d+[a-z]*_", "", p.stem.lower()): p.name for p in proc.glob("nbs/*.ipynb")}
    base = re.escape(f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/"))
    for p in [proc/"index.ipynb", *proc.glob("nbs/*.ipynb")]:
        nb = json.loads(p.read_text(encoding="utf-8"))
        if nb["cells"] and nb["cells"][0]["cell_type"] == "raw":
            nb["cells"][0]["source"] = [s for s in nb["cells"][0]["source"] if not s.startswith("output-file:")]
        text = json.dumps(nb, ensure_ascii=False, indent=1)
        text = re.sub(base + r"/nbs/(\w+)\.html", lambda m: f"/nbs/{notebooks[m[1]]}" if m[1] in notebooks else m[0], text)
        p.write_text(text, encoding="utf-8")


LINK = re.compile(r'(<(?:a|img|link|source)\b[^>]*?\s(?:href|src)=")([^"]*)')


def read(site):
    "The built pages: path to text, and path to the places that a link can lead to."
    pages = {p: p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    places = {p: {html.unescape(i) for i in re.findall(r'\sid="([^"]+)"', t)} for p, t in pages.items()}
    return pages, places


def target(page, link):
    "The file and the place in it that a link leads to; no file for a link out of the site."
    url = urlsplit(html.unescape(link))
    if url.scheme or url.netloc: return None, ""
    file = (page.parent/unquote(url.path)).resolve() if url.path else page
    return file/"index.html" if file.is_dir() else file, unquote(url.fragment)


def settle_names(site, symbols):
    "nbdev links every name in backticks, also one that has no entry of its own on its page: lead to its class, else to the page."
    pages, places = read(site)
    for page, text in pages.items():
        def settle(m):
            file, place = target(page, m[2])
            if place not in symbols or place in places.get(file, [place]): return m[0]
            owner = place.rpartition(".")[0]
            return m[1] + m[2].partition("#")[0] + (f"#{owner}" if owner in places[file] else "")
        page.write_text(LINK.sub(settle, text), encoding="utf-8")


def set_formulas(site):
    "Formulas as MathML, which browsers set themselves: no script from elsewhere, and they show without the network."
    unread = []
    for page in site.rglob("*.html"):
        def mathml(m):
            tex = re.sub(r"(begin|end)\{aligned\}", r"\1{align*}", html.unescape(m[3]))
            res = latex_to_mathml(tex, display="block" if m[2] == "display" else "inline")
            unread.extend(f"{page.relative_to(site)}: no MathML for {u} in {tex}" for u in re.findall(r"<mi>(&|\\\w+)</mi>", res))
            return m[1] + res + "</span>"
        text = re.sub(r'(<span class="math (inline|display)">)\\[(\[](.*?)\\[)\]]</span>', mathml, page.read_text(encoding="utf-8"), flags=re.S)
        page.write_text(re.sub(r'<link [^>]*katex[^>]*>|<script [^>]*katex[^>]*></script>', "", text), encoding="utf-8")
    return unread


def keep_to_itself(site):
    "The themes ask a third party for their fonts: the visitor's own serve as well, and the site works without the network."
    for css in site.rglob("*.css"):
        css.write_text(re.sub(r"@import url\([^)]*\);", "", css.read_text(encoding="utf-8")), encoding="utf-8")


def broken_links(site):
    "Links and pictures of the built pages that lead to no file, or to no such place in it."
    pages, places = read(site)
    for page, text in pages.items():
        text = re.sub(r"<(script|style|pre)\b.*?</\1>", "", text, flags=re.S)
        for link in {m[2] for m in LINK.finditer(text)}:
            file, place = target(page, link)
            if file is None: continue
            if not file.exists(): yield f"{page.relative_to(site)}: {link}: no such file"
            elif place and place not in places.get(file, [place]): yield f"{page.relative_to(site)}: {link}: no such place on the page"


def main():
    cfg = get_config()
    shutil.rmtree(cfg.config_path/"_proc", ignore_errors=True)
    proc = proc_nbs(n_workers=2, skip_folder_re=NOT_PAGES)
    keep_names(proc, cfg)
    for command in ("check", "render"):
        if subprocess.run(["smalldocs", command, proc]).returncode: sys.exit(f"smalldocs {command} _proc: see above")
    site = cfg.doc_path
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(proc/site.name, site)
    site = site.resolve()
    index = runpy.run_path(str(cfg.lib_path/"_modidx.py"))["d"]["syms"]
    settle_names(site, {link.partition("#")[2] for names in index.values() for link, _ in names.values()})
    keep_to_itself(site)
    import try_page # here, as the processes that nbdev starts import this file, and need no torch
    try_page.fill(site/"try")
    wrong = sorted(set_formulas(site)) + sorted(broken_links(site))
    print(*wrong, f"{len(list(site.rglob('*.html')))} pages in {site.name}/, {len(wrong)} broken links or formulas", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__": main()
