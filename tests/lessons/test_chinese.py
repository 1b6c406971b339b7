"The Chinese edition says what the lessons say today, with the same code, links and formulas."
import json, re, sys
from collections import Counter
from pathlib import Path

import nbformat, pytest
from markdown_it import MarkdownIt

sys.path.append(str(Path(__file__).parents[2] / ".ci"))
import chinese

LESSONS = chinese.lessons()
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda p: p.stem)


def pairs(lesson): # cell, English, Chinese
    english = chinese.prose_of(chinese.read_lesson(lesson))
    for cell, (_, text) in chinese.pieces_of(chinese.edition_of(lesson)).items():
        if text: yield cell, english[cell], text


@each_lesson
def test_it_is_not_behind(lesson): assert not [*chinese.behind(lesson)]


@each_lesson
def test_links_lead_to_the_same_places(lesson):
    def links(text): return Counter(re.findall(r"\]\(([^)\s]+)\)", text))
    for cell, english, text in pairs(lesson): assert links(text) == links(english), cell


@each_lesson
def test_headings_are_as_many_and_of_the_same_level(lesson):
    def levels(text): return [h.split(" ")[0] for h in chinese.headings(text)]
    for cell, english, text in pairs(lesson): assert levels(text) == levels(english), cell


@each_lesson
def test_formulas_are_the_same(lesson):
    def shown(text):
        return Counter(re.findall(r"\$\$(.+?)\$\$", chinese.FENCED.sub("", text), re.S))
    def bare(counts): # words in a formula may be translated
        return Counter({re.sub(r"\\text\{.*?\}", "", f): n for f, n in counts.items()})
    for cell, english, text in pairs(lesson):
        assert bare(shown(text)) == bare(shown(english)), cell


@each_lesson
def test_bold_and_slanted_words_are_set_as_such(lesson):
    for cell, _, text in pairs(lesson):
        text = chinese.FENCED.sub("", text)
        prose = re.sub(r"\$\$.+?\$\$|\$.+?\$|`[^`]+`", "x", text, flags=re.S)
        seen = re.sub(r"<[^>]+>", "", MarkdownIt().enable("table").render(prose))
        assert "**" not in seen and not re.search(r"(?<![\d ])\*(?![\d ])", seen), cell


@each_lesson
def test_it_is_a_notebook_for_jupyterlab_with_the_same_code(lesson):
    made, source = chinese.for_jupyterlab(lesson), chinese.read_lesson(lesson)
    nbformat.validate(made)
    def code(nb): return ["".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code"]
    assert code(made) == code(source)
    assert not any("{#" in text for text in chinese.prose_of(made).values())


def test_the_notebooks_are_written(tmp_path, monkeypatch):
    lesson = LESSONS[0]
    made = chinese.for_jupyterlab(lesson)
    monkeypatch.setattr(chinese, "ROOT", tmp_path)
    monkeypatch.setattr(chinese, "lessons", lambda: [lesson])
    monkeypatch.setattr(chinese, "for_jupyterlab", lambda path: made)
    chinese.write()
    written = tmp_path / chinese.WRITTEN / lesson.name
    assert json.loads(written.read_text(encoding="utf-8")) == made


def test_what_is_behind_is_named(tmp_path, monkeypatch):
    nb = dict(cells=[dict(cell_type="markdown", id=i, source=[text]) for i, text in
                     [("a", "# One\n\n> Two"), ("b", "# Same"), ("c", "new")]])
    lesson = tmp_path / "nbs" / "01_x.ipynb"
    (tmp_path / chinese.EDITION).mkdir(parents=True)
    lesson.write_text(json.dumps(nb), encoding="utf-8")
    monkeypatch.setattr(chinese, "ROOT", tmp_path)
    edition = chinese.edition_of(lesson)
    edition.write_text(f"<!-- a 00000000 -->\n# 一\n\n<!-- b {chinese.digest('# Same')} -->\n"
                       "# 同\n\n<!-- d 00000000 -->\n旧\n", encoding="utf-8")
    assert [*chinese.behind(lesson)] == ["01_x: a has changed in English",
        "01_x: c has no translation", "01_x: d is no cell any more"]
    a, b, c = chinese.in_chinese(nb, chinese.pieces_of(edition), "../")["cells"]
    assert "".join(b["source"]) == "# 同 {#same}" and "".join(c["source"]) == "new"


def test_what_is_no_lesson_is_linked_from_the_editions_folder():
    nb = dict(cells=[dict(cell_type="markdown", id="a", source=["x"])])
    text = "[a](engine/files.ipynb) [b](02_rope.ipynb#x) [c](https://x.org) [d](#y)"
    made = chinese.in_chinese(nb, {"a": ("", text)}, "../")["cells"][0]["source"]
    assert "".join(made) == text.replace("engine/", "../engine/")
