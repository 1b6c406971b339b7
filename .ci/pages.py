"What every built page gets: how it looks where a link to it is shared, and a sidebar at its place."
import re

TITLE = re.compile(r"<title>(.*?)</title>", re.S)
DESCRIPTION = re.compile(r'<meta name="description" content="([^"]*)">')
AT_ITS_PLACE = """<script>
const bar = document.getElementById("quarto-sidebar"), here = bar?.querySelector(".active")
if (here) bar.scrollTop += here.getBoundingClientRect().top - bar.getBoundingClientRect().top
  - bar.clientHeight / 2
</script>"""


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
        text = text.replace(title[0], title[0] + metas, 1)
        page.write_text(text.replace("</body>", AT_ITS_PLACE + "</body>"), encoding="utf-8")
