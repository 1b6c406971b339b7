"The links of the built pages: where they lead, and which lead nowhere."
import html, re
from urllib.parse import unquote, urlsplit

NAME_LINK = re.compile(r"\[(`[^`\n]+`)\]\([^()\s]*\)")
# [[`name`](page of the name)](page): a link with a link in its text
IN_LINK = re.compile(rf"\[((?:[^\[\]\n]|{NAME_LINK.pattern})+)\](?=\([^()\s]+\))")
LINK = re.compile(r'(<(?:a|img|link|source)\b[^>]*?\s(?:href|src)=")([^"]*)')


def read(site):
    "The built pages: path to text, and path to the places that a link can lead to."
    pages = {p: p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    ids = re.compile(r'\sid="([^"]+)"')
    return pages, {p: {html.unescape(i) for i in ids.findall(t)} for p, t in pages.items()}


def target(page, link):
    "The file and the place in it that a link leads to; no file for a link out of the site."
    url = urlsplit(html.unescape(link))
    if url.scheme or url.netloc: return None, ""
    file = (page.parent/unquote(url.path)).resolve() if url.path else page
    return file/"index.html" if file.is_dir() else file, unquote(url.fragment)


def keep_links(text):
    "nbdev links names in backticks, inside a link as well, which then falls apart: undo that."
    return IN_LINK.sub(lambda m: NAME_LINK.sub(r"\1", m[0][1:-1]).join("[]"), text)


def settle_names(site, symbols):
    """nbdev links every name in backticks, also one that has no entry of its own on its page:
    lead it to its class, else to the page."""
    pages, places = read(site)
    for page, text in pages.items():
        def settle(m):
            file, place = target(page, m[2])
            if place not in symbols or place in places.get(file, [place]): return m[0]
            owner = place.rpartition(".")[0]
            return m[1] + m[2].partition("#")[0] + (f"#{owner}" if owner in places[file] else "")
        page.write_text(LINK.sub(settle, text), encoding="utf-8")


def broken_links(site):
    "Links and pictures of the built pages that lead to no file, or to no such place in it."
    pages, places = read(site)
    for page, text in pages.items():
        text = re.sub(r"<(script|style|pre)\b.*?</\1>", "", text, flags=re.S)
        for link in {m[2] for m in LINK.finditer(text)}:
            file, place = target(page, link)
            if file is None: continue
            if not file.exists(): yield f"{page.relative_to(site)}: {link}: no such file"
            elif place and place not in places.get(file, [place]):
                yield f"{page.relative_to(site)}: {link}: no such place on the page"
