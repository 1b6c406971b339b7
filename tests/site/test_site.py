"What the site's builder checks, and that sidebar, README, map and folders agree."
import json, re, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = "nbs", "nbs/engine", "nbs/tools"
SHELVES = {folder: sorted((ROOT / folder).glob("*.ipynb")) for folder in FOLDERS}
NOTEBOOKS = [p for shelf in SHELVES.values() for p in shelf]


@pytest.fixture(autouse=True)
def builder(monkeypatch): monkeypatch.syspath_prepend(str(ROOT / ".ci"))


def read(name): return (ROOT / name).read_text(encoding="utf-8")


def on_shelf(folder, paths): return [p for p in paths if p.rpartition("/")[0] == folder]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_notebook_is_in_the_sidebar_and_in_readme_once_and_in_one_order(folder):
    sidebar = re.findall(r"href: (nbs/\S+)$", read("_quarto.yml").split("  sidebar:")[1], re.M)
    table = re.findall(r"^\| \[\w+\]\((nbs/\S+?)\) \|", read("README.md"), re.M)
    assert on_shelf(folder, sidebar) == on_shelf(folder, table)
    there = [p.relative_to(ROOT).as_posix() for p in SHELVES[folder]]
    assert sorted(on_shelf(folder, table)) == there


@pytest.mark.parametrize("shelf", ["engine", "tools"])
def test_the_map_names_the_modules_of_the_workshop_in_the_order_of_the_sidebar(shelf):
    from distill_nb.lesson import _SHELVES
    small, = (rest for name, _, _, _, _, _, *rest in _SHELVES if name == shelf)
    listed = re.findall(rf"href: nbs/{shelf}/(\w+)\.ipynb", read("_quarto.yml"))
    exporting = [m for m in listed if "#| default_exp" in read(f"nbs/{shelf}/{m}.ipynb")]
    assert " · ".join(small).split(" · ") == exporting


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_map_at_the_top_of_a_notebook_is_todays_and_marks_its_place(path):
    from distill_nb.tour import model_map
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    calls = [c for c in cells if "".join(c["source"]).startswith("model_map(")]
    here = path.stem[:2] if path.parent.name == "nbs" else path.parent.name
    marked = [] if here == "00" else [here]
    assert len(calls) == 1 or not calls and here in ("engine", "tools")
    for call in calls:
        assert re.findall(r'"(\w+)"', "".join(call["source"])) == marked
        assert "".join(call["outputs"][0]["data"]["image/svg+xml"]) == model_map(*marked).data


def test_picture_on_readme_is_the_tours():
    from distill_nb.tour import model_map
    assert read("site/model_map.svg") == model_map().data + "\n", "README says how it is made"
    assert "(site/model_map.svg)" in read("README.md")


def test_the_picture_of_the_study_is_that_of_its_data():
    from study_picture import picture
    drawn = picture()
    assert read("site/study.svg") == drawn, "README says how it is made"
    described, = re.findall(r"^!\[(.*)\]\(site/study.svg\)$", read("README.md"), re.M)
    numbers = re.findall(r">(\d\.\d\d)</text>", drawn)
    assert sorted(re.findall(r"\d\.\d\d", described)) == sorted(numbers) and len(numbers) == 8
    a_tenth, all_of_it = (float(re.search(rf"{label} ([\d.]+)", drawn)[1]) for label in (
        "with a teacher, a tenth of the text", "labels only, all of the text"))
    assert a_tenth < all_of_it, "as README says"


def test_what_readme_shows_is_what_the_three_write():
    from try_page import greedy, models
    sample, = re.findall(r"^\*\*A sample\.\*\* (\S+) .*?```text\n(.*?)```", read("README.md"),
                         re.M | re.S)
    students, tokenizer = models()
    for line, (name, model) in zip(sample[1].splitlines(), students.items(), strict=True):
        text = tokenizer.decode(greedy(model, tokenizer, sample[0], 8))
        assert line.split()[-1] == text.split("\n")[0] and line.startswith(name)


def test_every_word_of_the_facts_has_its_gloss():
    from try_page import fact_table
    table = fact_table()
    words = {w for fact in table["facts"] for w in (fact[0], fact[2])}
    words |= {relation["noun"] for relation in table["relations"].values()}
    chinese = {w for w in words if re.search("[\u4e00-\u9fff]", w)}
    assert chinese - set(table["glosses"]) == set() and len(chinese) > 300


# What nbdev makes of the exported cells, and what becomes of that

def code(source, **rest): return dict(cell_type="code", source=source, outputs=[], **rest)


def signature(name, line):
    shown = dict(data={"text/markdown": f"[source](https://x.example/m.py#L{line})\n\n### {name}"})
    return dict(cell_type="code", source=f"#| echo: false\nshow_doc({name})", outputs=[shown])


def test_a_source_is_shown_once_and_signatures_without_one_come_in_its_order():
    from sources import show_once
    source = code("#| code-fold: show\ndef b(): pass\ndef a(): pass\ndef _c(): pass\nclass D: pass")
    other = dict(cell_type="markdown", source="text")
    cells = [signature("D", 9), source, signature("a", 8), signature("b", 7), other,
             signature("y", 12), signature("x", 11), other]
    heading, *rest = show_once(cells)
    assert "".join(heading["source"]).endswith("### b, a, D")
    assert re.findall(r'id="(\w+)"', "".join(heading["source"])) == ["b", "a", "d"]
    assert rest == [source, other, signature("x", 11), signature("y", 12), other]


def test_a_solution_is_folded_below_its_check():
    from distill_nb.lesson import _solutions
    from solutions import fold_solutions
    check = code('check_pool(pool)\n# show_solution("03.3")')
    call = code('show_solution("00.1")')  # it shows what it puts out
    shown, folded, other = fold_solutions([check, call])
    assert "".join(shown["source"]) == "check_pool(pool)" and other is call
    assert "".join(folded["source"]).startswith('::: {.callout-tip collapse="true"}\n')
    assert _solutions("03")["03.3"] in "".join(folded["source"])


def test_a_named_tuple_shows_its_fields():
    from typing import NamedTuple
    from reference import fields_of
    class Pair(NamedTuple):
        first: int # the one
        second: str = "b"
    fields = fields_of(Pair, otherwise=None)
    first, second = fields["first"], fields["second"]
    assert list(fields) == ["first", "second"]
    assert (first.anno, first.docment) == (int, "the one")
    assert (second.anno, second.default, second.docment) == (str, "b", None)


# How code is shown

def test_a_line_of_code_wraps_below_its_own_beginning():
    "A string of several lines has a span in each, and what is copied stays the same."
    from pages import CODE, hang
    code = ('<pre class="sourceCode python cell-code"><code class="python">def f():\n'
            '    <span class="st">"""one\n  two"""</span>\n\n</code></pre>')
    shown = CODE.sub(hang, code)
    lines = re.findall(r'<span class="line" style="--indent: (\d)ch">', shown)
    assert lines == ["0", "4", "2", "0"]
    assert shown.count('<span class="st">') == 2 and shown.count("<span") == shown.count("</span>")
    def text(page): return re.sub(r"<[^>]+>", "", page)
    assert text(shown) == text(code)


def test_what_folds():
    "Imports and the drawing of a picture; what is exported or has been told to fold stays."
    from folds import IMPORTS, PICTURE, fold_asides, summary_of
    def cell(source, *outputs): return dict(cell_type="code", source=source, outputs=outputs)
    picture = dict(data={"image/png": ""})
    assert summary_of(cell("import torch\nfrom math import pi")) == IMPORTS
    assert summary_of(cell("fig, ax = plt.subplots()\nax.plot(x)", picture)) == PICTURE
    learns = cell("x = train()\ny = judge(x)\nz = x + y\nax.plot(z)", picture)
    stays = [learns, cell("ax.plot(x)"), cell("#| export\nimport torch"), cell("x = 1"),
             cell("#| code-fold: true\nimport torch"), dict(cell_type="markdown", source="import")]
    assert [summary_of(c) for c in stays] == [None] * len(stays)
    folded, = fold_asides([cell(["import torch"])])
    assert folded["source"][0] == "#| code-fold: true\n" and folded["source"][2] == "import torch"


def test_what_a_first_reading_leaves_out_folds():
    from folds import LATER, fold_later
    for lesson, ids in LATER.items():
        cells = json.loads(read(f"nbs/{lesson}.ipynb"))["cells"]
        exported = {c["id"] for c in cells if "".join(c["source"]).startswith("#| exports\n")}
        assert ids < exported # and some stay open
    def cell(i): return dict(id=i, source=["#| code-fold: show\n", "x = 1"])
    def cells(): return [cell("save"), cell("fit")]
    heads = [c["source"][0] for c in fold_later(cells(), "09_trainer")]
    assert heads == ["#| code-fold: true\n", "#| code-fold: show\n"]
    assert fold_later(cells(), "08_loss") == cells()


def test_printed_prose_wraps_and_columns_stay():
    from pages import PRINTED, wrap_prose
    prose = "    " + "words and " * 9
    columns = "loss" + " " * 40 + "1.25\n", "0.5  0.25  " * 9 + "\n", "short\n"
    begin, end = '<div class="cell-output cell-output-stdout">\n<pre><code>', "</code></pre>"
    wrapped = f'<span class="line" style="--indent: 4ch">{prose}</span>'
    page = begin + "".join(columns) + "{}" + end
    assert PRINTED.sub(wrap_prose, page.format(prose)) == page.format(wrapped)


# Links and formulas

def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_broken_links_are_told_with_their_page(tmp_path):
    from links import broken_links
    write(tmp_path / "a.html", """<a href="b/c.html#here">1</a> <a href="b/">2</a> 
        <img src="no.png">
        <pre><a href="inside-code"></pre> <a href="https://elsewhere.example/">3</a>""")
    write(tmp_path / "b/c.html", """<h1 id="here">h</h1>
        <a href="../a.html">1</a> <a href="#gone">2</a>""")
    assert sorted(broken_links(tmp_path.resolve())) == [
        "a.html: b/: no such file", "a.html: no.png: no such file",
        "b/c.html: #gone: no such place on the page"]


def test_a_name_in_a_link_does_not_break_the_link():
    from links import keep_links
    name = "[`teacher_dtype`](https://pages.example/device.html#teacher_dtype)"
    assert keep_links(f"a [{name}](device.ipynb) b") == "a [`teacher_dtype`](device.ipynb) b"
    assert keep_links(f"[{name} and `b`](https://x.y)") == "[`teacher_dtype` and `b`](https://x.y)"
    for alone in (name, f"[a](b.ipynb) and {name} (here)", f"[a] {name}", f"x[{name}] = 3"):
        assert keep_links(alone) == alone


@pytest.mark.slow
def test_formula_that_katex_refuses_is_told_with_its_page(tmp_path):
    from formulas import set_formulas
    inline = r'<span class="math inline">\({}\)</span>'
    display = r'<span class="math display">\[{}\]</span>'
    def page(*formulas): return "<head></head>" + "".join(formulas)
    good = page(inline.format("a &lt; b"), display.format(r"\text{铁} \cdot x^2"))
    write(tmp_path / "sub/good.html", good)
    write(tmp_path / "bad.html", page(inline.format(r"\frac{1}{")))
    write(tmp_path / "doubled.html", page(inline.format(r"1 - \\sum_j q_j")))
    write(tmp_path / "without.html", page())
    refused, doubled = sorted(set_formulas(tmp_path))
    assert doubled.startswith("doubled.html: a doubled backslash")
    assert refused.startswith("bad.html: ") and r"\frac{1}{" in refused
    good = (tmp_path / "sub/good.html").read_text(encoding="utf-8")
    assert good.count('class="katex"') == 2 and "katex-error" not in good
    assert '"../site_libs/katex/dist/katex.min.css"' in good
    assert "katex" not in (tmp_path / "without.html").read_text(encoding="utf-8")
    dist = tmp_path / "site_libs/katex/dist"
    css = (dist / "katex.min.css").read_text(encoding="utf-8")
    fonts = {u.partition(")")[0] for u in css.split("url(")[1:]}
    assert fonts and [font for font in fonts if not (dist / font).is_file()] == []


def test_without_node_the_builder_says_so_in_one_line(tmp_path):
    code = "from formulas import set_all; set_all([['x', False]])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / ".ci",
                          env=dict(PATH=str(tmp_path)), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "node" in done.stderr
