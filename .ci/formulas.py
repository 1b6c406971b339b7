"Formulas set by KaTeX while the site is built: a visitor's browser runs no script for them and asks no third party for anything."
import html, json, re, shutil, subprocess, sys, tempfile
from pathlib import Path

from vendor import fetch

KATEX = "katex", "0.19.1", "sha512-jG8uKntjSEcm2EpQOh0XturpPuuC9r3Sq5HLHdsFdWZT27E672SF19QEi+of0/YeOy15lDgRhKvr5614uRrEfA=="
FORMULA = re.compile(r'(<span class="math (inline|display)">)\\[(\[](.*?)\\[)\]]</span>', re.S)
# from a list of [formula, whether it stands on a line of its own] to a list of {html} or {error}; strict, but for Chinese in a formula's words
NODE = """
const katex = require(process.argv[1])
const strict = code => code === "unicodeTextInMathMode" ? "ignore" : "error"
const set = ([tex, displayMode]) => { try { return {html: katex.renderToString(tex, {displayMode, strict, output: "htmlAndMathml"})} } catch (e) { return {error: e.message} } }
console.log(JSON.stringify(JSON.parse(require("fs").readFileSync(0, "utf8")).map(set)))
"""


def set_all(formulas): # [(tex, whether on a line of its own)] → [{html} or {error}]
    "All at once: node takes longer to start than to set them."
    if not shutil.which("node"): sys.exit("KaTeX sets the site's formulas and runs in node, which is not there: install it (npm brings it), then build the site again")
    with tempfile.TemporaryDirectory() as folder:
        script, = fetch(*KATEX, ["dist/katex.min.js"], folder)
        res = subprocess.run(["node", "-e", NODE, script], input=json.dumps(formulas), capture_output=True, text=True, encoding="utf-8")
    if res.returncode: sys.exit(f"KaTeX did not run: {res.stderr}")
    return json.loads(res.stdout)


def style(site):
    "KaTeX's stylesheet beside its fonts, each in the one format that every browser of today reads."
    css, *_ = fetch(*KATEX, ["dist/katex.min.css", "dist/fonts/*.woff2"], site/"site_libs/katex")
    css = site/"site_libs/katex/dist/katex.min.css"
    css.write_text(re.sub(r',url\(fonts/[^)]*\.(?:woff|ttf)\) format\("\w+"\)', "", css.read_text(encoding="utf-8")), encoding="utf-8")
    return css


def set_formulas(site): # → what KaTeX refused, with its page
    "Set the formulas of every page, and lead its head to our own copy of the stylesheet."
    pages = {p: p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    found = sorted({(html.unescape(m[3]), m[2] == "display") for text in pages.values() for m in FORMULA.finditer(text)})
    done, css, refused = dict(zip(found, set_all(found))), style(site), []
    for page, text in pages.items():
        def katex(m):
            tex = html.unescape(m[3])
            res = done[tex, m[2] == "display"]
            if m[2] == "inline" and re.search(r"\\\\[A-Za-z]", tex): res = dict(error="a doubled backslash is a new line, and no command")
            if "error" in res: refused.append(f"{page.relative_to(site)}: {res['error']}: {tex}")
            return m[1] + res.get("html", m[3]) + "</span>"
        has_some = FORMULA.search(text)
        text = re.sub(r'<link [^>]*katex[^>]*>|<script [^>]*katex[^>]*></script>', "", FORMULA.sub(katex, text))
        link = f'<link rel="stylesheet" href="{"../" * (len(page.relative_to(site).parts) - 1)}{css.relative_to(site)}">'
        page.write_text(text.replace("</head>", link + "</head>", 1) if has_some else text, encoding="utf-8")
    return refused
