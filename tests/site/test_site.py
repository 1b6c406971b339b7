"What the site's builder checks, and what README shows."
import subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def builder(monkeypatch): monkeypatch.syspath_prepend(str(ROOT / ".ci"))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_broken_links_are_told_with_their_page(tmp_path):
    from links import broken_links
    write(tmp_path / "a.html",
          '<a href="b/c.html#here">1</a> <a href="b/">2</a> <img src="no.png"> '
          '<pre><a href="inside-code"></pre> '
          '<a href="https://elsewhere.example/">3</a>')
    write(tmp_path / "b/c.html",
          '<h1 id="here">h</h1> <a href="../a.html">1</a> <a href="#gone">2</a>')
    assert sorted(broken_links(tmp_path.resolve())) == [
        "a.html: b/: no such file", "a.html: no.png: no such file",
        "b/c.html: #gone: no such place on the page"]


@pytest.mark.slow
def test_formula_that_katex_refuses_is_told_with_its_page(tmp_path):
    from formulas import set_formulas
    write(tmp_path / "sub/good.html",
          r'<head></head><span class="math inline">\(a &lt; b\)</span>'
          r'<span class="math display">\[\text{铁} \cdot x^2\]</span>')
    write(tmp_path / "bad.html", r'<head></head><span class="math inline">\(\frac{1}{\)</span>')
    write(tmp_path / "doubled.html",
          r'<head></head><span class="math inline">\(1 - \\sum_j q_j\)</span>')
    write(tmp_path / "without.html", '<head></head>')
    refused, doubled = sorted(set_formulas(tmp_path))
    assert doubled.startswith("doubled.html: a doubled backslash")
    assert refused.startswith("bad.html: ") and r"\frac{1}{" in refused
    good = (tmp_path / "sub/good.html").read_text(encoding="utf-8")
    assert good.count('class="katex"') == 2 and "katex-error" not in good
    assert '"../site_libs/katex/dist/katex.min.css"' in good
    assert "katex" not in (tmp_path / "without.html").read_text(encoding="utf-8")
    css = (tmp_path / "site_libs/katex/dist/katex.min.css").read_text(encoding="utf-8")
    for font in {u.partition(")")[0] for u in css.split("url(")[1:]}:
        assert (tmp_path / "site_libs/katex/dist" / font).is_file(), font


def test_without_node_the_builder_says_so_in_one_line(tmp_path):
    code = "from formulas import set_all; set_all([['x', False]])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / ".ci",
                          env=dict(PATH=str(tmp_path)), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "node" in done.stderr


def test_picture_on_readme_is_the_tours():
    from distill_nb.tour import model_map
    assert (ROOT / "site/model_map.svg").read_text(encoding="utf-8") == model_map().data + "\n", (
        "README says how it is made")
    assert "(site/model_map.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
