"The lessons of the course get no longer than they are: words, code lines, cells over 20 lines."
import json, sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / ".ci"))
from lengths import CELL, LESSONS, LINES, WORDS, Length, length_of, lines_of, table

# Where a lesson is over the goal today. Lower a number when the lesson gets shorter, and take the
# row away when it is below 2,500 words and 220 lines and has no cell over 20: none is ever raised.
TODAY = {
    "09_trainer": (2160, 338, 0)}

WIDTH = 88 # characters of a code line that the site shows without wrapping it


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_is_within_its_limits(path):
    limits = map(max, TODAY.get(path.stem, (0, 0, 0)), (WORDS, LINES, 0))
    now = length_of(path)
    for name, count, limit in zip(Length._fields, now, limits, strict=True):
        assert count <= limit, f"{path.stem} has {count:,} {name}, and {limit:,} are allowed"
    assert now.minutes < 36, "README says about half an hour"
    assert path.stem in table()


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_code_lines_fit_on_the_page(path):
    assert wide_lines(path) == []


def wide_lines(path): # of the cells that you see
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [line for source in sources if lines_of(source)
            for line in source.splitlines() if len(line) > WIDTH]


def test_what_is_wide(tmp_path):
    def cell(source): return dict(cell_type="code", source=source)
    fits, wide = "x = " + "1" * (WIDTH - 4), "y = " + "1" * (WIDTH - 3)
    path = tmp_path / "a.ipynb"
    cells = [cell(f"{fits}\n{wide}\n"), cell(f"#| hide\n{wide}"), dict(cell(wide), cell_type="raw")]
    path.write_text(json.dumps(dict(cells=cells)), encoding="utf-8")
    assert wide_lines(path) == [wide]


def test_what_is_counted(tmp_path):
    def cell(kind, source): return dict(cell_type=kind, source=source)
    line = "x = 1\n"
    prose = "# Two words\n\n[a link](../x.ipynb) it's 铁\n\n```text\nno prose\n```\n"
    cells = [cell("markdown", prose),
             cell("code", "#| hide\n" + line * 30), cell("code", "#| exports\n\n" + line * CELL),
             cell("code", "#| exports\nclass A:\n" + line * CELL), cell("code", line * (CELL + 1)),
             cell("code", "#| exports\nclass B:\n" + line * CELL)]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(dict(cells=cells)), encoding="utf-8")
    now = length_of(path)
    assert now == (6, CELL + 3 * (CELL + 1), 2)
    assert Length(400, 30, 0).minutes == 4
