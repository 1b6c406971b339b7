"""What every built page gets: how it looks where a link to it is shared, a sidebar at its place,
and lines of code and of printed prose that wrap below their own beginning."""
import re

TITLE = re.compile(r"<title>(.*?)</title>", re.S)
DESCRIPTION = re.compile(r'<meta name="description" content="([^"]*)">')
CODE = re.compile(r'(<pre class="sourceCode python[^"]*"><code[^>]*>)(.*?)(</code></pre>)', re.S)
PRINTED = re.compile(r'(<div class="cell-output cell-output-std\w+">\s*<pre><code>)'
                     r'(.*?)(</code></pre>)', re.S)
SPAN = re.compile(r'<span class="[^"]*">|</span>')
AT_ITS_PLACE = """<script>
const bar = document.getElementById("quarto-sidebar"), here = bar?.querySelector(".active")
if (here) bar.scrollTop += here.getBoundingClientRect().top - bar.getBoundingClientRect().top
  - bar.clientHeight / 2
</script>"""


def whole_spans(text): # → its lines; a span that goes on in the next line begins there again
    open_spans = []
    for line in text.splitlines(keepends=True):
        begin = "".join(open_spans)
        for tag in SPAN.findall(line):
            if tag == "</span>": open_spans.pop()
            else: open_spans.append(tag)
        yield begin + line + "</span>" * len(open_spans)


def own_span(line): # which knows its indentation
    shown = re.sub(r"<[^>]+>", "", line)
    indent = len(shown) - len(shown.lstrip(" "))
    return f'<span class="line" style="--indent: {indent}ch">{line}</span>'


def hang(match): # each line of code in a span of its own
    return match[1] + "".join(map(own_span, whole_spans(match[2]))) + match[3]


def wrap_prose(match): # of what is printed; columns stay under each other
    def is_prose(line): return len(line) > 40 and "  " not in line.strip()
    lines = match[2].splitlines(keepends=True)
    return match[1] + "".join(own_span(x) if is_prose(x) else x for x in lines) + match[3]


def finish_pages(site, cfg):
    home = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        title, described = TITLE.search(text), DESCRIPTION.search(text)
        if not title: continue
        tags = dict(type="article", site_name="distill_nb", title=title[1],
                    url=f"{home}/{page.relative_to(site).as_posix()}")
        if described: tags["description"] = described[1]
        metas = "".join(f'<meta property="og:{k}" content="{v}">' for k, v in tags.items())
        text = CODE.sub(hang, text.replace(title[0], title[0] + metas, 1))
        text = PRINTED.sub(wrap_prose, text)
        page.write_text(text.replace("</body>", AT_ITS_PLACE + "</body>"), encoding="utf-8")
