"How long the lessons of the course are, as a table: `python .ci/lengths.py`"
import json, re
from pathlib import Path
from typing import NamedTuple

LESSONS = sorted((Path(__file__).parents[1]/"nbs").glob("*.ipynb"))
WORDS, LINES, CELL = 2500, 220, 20 # at most: of prose and of code in a lesson, lines in a cell
PER_MINUTE, PER_LINE = 200, 4 # words; seconds


class Length(NamedTuple):
    words:int # of prose
    lines:int # of code that you see
    long_cells:int # over 20 lines; an exported class may be longer, once

    @property
    def minutes(self): return self.words / PER_MINUTE + self.lines * PER_LINE / 60


def words_of(source): # of a markdown cell
    prose = re.sub(r"```.*?```|^:::.*$|\]\([^)]*\)", " ", source, flags=re.S | re.M)
    return len(re.findall(r"\w[\w'’-]*", prose))


def lines_of(source): # of a code cell
    shown = [line for line in source.splitlines() if line.strip() and not line.startswith("#|")]
    return 0 if re.search(r"^#\| *(hide|default_exp)", source, re.M) else len(shown)


def length_of(path) -> Length:
    words = lines = long_cells = 0
    classes = 1 # that may be long
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown": words += words_of(source)
        if cell["cell_type"] != "code": continue
        count = lines_of(source)
        lines += count
        if count <= CELL: continue
        if classes and source.startswith("#| export") and "\nclass " in source: classes -= 1
        else: long_cells += 1
    return Length(words, lines, long_cells)


def table() -> str:
    head = f"{'lesson':<14}{'words':>7}{'code lines':>12}"
    rows = [f"{head}{'cells over ' + str(CELL):>15}{'minutes':>9}"]
    lengths = {path.stem: length_of(path) for path in LESSONS}
    total = Length(*map(sum, zip(*lengths.values())))
    for name, x in {**lengths, "all": total}.items():
        over = x.words > WORDS, x.lines > LINES, x.long_cells > 0
        marks = ["*" if o and name != "all" else " " for o in over]
        rows.append(f"{name:<14}{x.words:>6,}{marks[0]}{x.lines:>11,}{marks[1]}"
                    f"{x.long_cells:>14}{marks[2]}{x.minutes:>9.0f}")
    goal = f"* over the goal of {WORDS:,} words, {LINES} lines, no cell over {CELL}"
    return "\n".join([*rows, goal])


if __name__ == "__main__": print(table())
