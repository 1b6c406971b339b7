"Formulas set by KaTeX while the site is built: a visitor's browser runs no script for them."
import html, json, re, shutil, subprocess, sys, tempfile

from vendor import fetch

KATEX = ("katex", "0.19.1", "sha512-"
    "jG8uKntjSEcm2EpQOh0XturpPuuC9r3Sq5HLHdsFdWZT27E672SF19QEi+of0/YeOy15lDgRhKvr5614uRrEfA==")
FORMULA = re.compile(r'(<span class="math (inline|display)">)\\[(\[](.*?)\\[)\]]</span>', re.S)
OF_OTHERS = re.compile(r'<link [^>]*katex[^>]*>|<script [^>]*katex[^>]*></script>')
# From a list of [formula, whether it stands on a line of its own] to a list of {html} or {error};
# strict, but for Chinese in a formula's words.
NODE = """
const katex = require(process.argv[1])
const strict = code => code === "unicodeTextInMathMode" ? "ignore" : "error"
const set = ([tex, displayMode]) => {
  try { return {html: katex.renderToString(tex, {displayMode, strict, output: "htmlAndMathml"})} }
  catch (e) { return {error: e.message} }
}
console.log(JSON.stringify(JSON.parse(require("fs").readFileSync(0, "utf8")).map(set)))
"""


def set_all(formulas): # [(tex, whether on a line of its own)] → [{html} or {error}]
    "All at once: node takes longer to start than to set them."
    if not shutil.which("node"):
        sys.exit("KaTeX sets the site's formulas and runs in node, which is not there: "
            "install it (npm brings it), then build the site again")
    with tempfile.TemporaryDirectory() as folder:
        script, = fetch(*KATEX, ["dist/katex.min.js"], folder)
        res = subprocess.run(["node", "-e", NODE, script], input=json.dumps(formulas),
            capture_output=True, text=True, encoding="utf-8")
    if res.returncode: sys.exit(f"KaTeX did not run: {res.stderr}")
    return json.loads(res.stdout)


def style(site):
    "KaTeX's stylesheet beside its fonts, each in the one format that every browser of today reads."
    css, *_ = fetch(*KATEX, ["dist/katex.min.css", "dist/fonts/*.woff2"], site/"site_libs/katex")
    css = site/"site_libs/katex/dist/katex.min.css"
    other_formats = r',url\(fonts/[^)]*\.(?:woff|ttf)\) format\("\w+"\)'
    text = css.read_text(encoding="utf-8")
    css.write_text(re.sub(other_formats, "", text), encoding="utf-8")
    return css


def set_formulas(site): # → what KaTeX refused, with its page
    "Set the formulas of every page, and lead its head to our own copy of the stylesheet."
    pages = {p: p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    found = sorted({formula(m) for text in pages.values() for m in FORMULA.finditer(text)})
    done, css, refused = dict(zip(found, set_all(found))), style(site), []
    for page, text in pages.items():
        where = page.relative_to(site)
        def katex(m):
            tex, on_its_own_line = formula(m)
            res = done[tex, on_its_own_line]
            if not on_its_own_line and re.search(r"\\\\[A-Za-z]", tex):
                res = dict(error="a doubled backslash is a new line, and no command")
            if "error" in res: refused.append(f"{where}: {res['error']}: {tex}")
            return m[1] + res.get("html", m[3]) + "</span>"
        head = ""
        if FORMULA.search(text):
            up = "../" * (len(where.parts) - 1)
            head = f'<link rel="stylesheet" href="{up}{css.relative_to(site)}">'
        text = OF_OTHERS.sub("", FORMULA.sub(katex, text))
        page.write_text(text.replace("</head>", head + "</head>", 1), encoding="utf-8")
    return refused


def formula(m): # → (tex, whether on a line of its own)
    return html.unescape(m[3]), m[2] == "display"
