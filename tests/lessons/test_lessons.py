"Every lesson keeps to the anatomy of a lesson, and what is saved in it can be published."
import ast, json, re
from pathlib import Path

import pytest

from distill_nb.lesson import _solutions

ROOT = Path(__file__).parents[2]
COURSE = sorted((ROOT / "nbs").glob("*.ipynb"))
ENGINE, TOOLS = (sorted((ROOT / "nbs" / shelf).glob("*.ipynb")) for shelf in ("engine", "tools"))
LESSONS = [*ENGINE, *COURSE, *TOOLS]  # in the order of the shelves: arrows run from right to left
FULL = [p for p in COURSE if p.stem != "00_tour"]


def module_of(path): return re.sub(r"^\d\d_", "", path.stem)


SHELF = {module_of(p): i for i, shelf in enumerate((ENGINE, COURSE, TOOLS)) for p in shelf}
NUMBERS = {module_of(p): p.stem[:2] for p in COURSE}  # module → place in the course
PAGES = [*LESSONS, ROOT / "index.ipynb"]
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)


def cells(path, kind=None):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c | dict(source="".join(c["source"])) for c in found if kind in (None, c["cell_type"])]


def outputs(path): return [o for c in cells(path, "code") for o in c["outputs"]]


def is_exported(cell): return re.search(r"^#\|\s*exports?\b", cell["source"], re.M) is not None


def modules_of(source):
    "The modules of the package that a cell imports, also inside its functions."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distill_nb."):
            yield node.module.split(".")[1]
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names
                        if a.name.startswith("distill_nb."))


def test_the_course_is_numbered_from_00_to_11():
    assert [p.stem for p in COURSE] == [f"{i:02}_{m}" for i, m in enumerate(
        "tour rmsnorm rope gqa swiglu student teacher data loss trainer generator export".split())]


def imports(path):
    "The modules that the exported cells import, also inside functions."
    return sorted({m for c in cells(path, "code") if is_exported(c)
                   for m in modules_of(c["source"])})


@each_lesson
def test_arrows_run_one_way(path):
    "Engine ← course ← tools, and within the course from larger numbers to smaller ones."
    own = module_of(path)
    for m in imports(path):
        assert SHELF[m] <= SHELF[own], f"{own} imports {m} of a later shelf"
        if m in NUMBERS and own in NUMBERS: assert NUMBERS[m] < NUMBERS[own]


def test_no_circles_on_a_shelf():
    arrows, done = {module_of(p): set(imports(p)) for p in LESSONS}, set()
    while free := {m for m in arrows.keys() - done if arrows[m] <= done}: done |= free
    assert arrows.keys() == done, f"these import each other: {sorted(arrows.keys() - done)}"


def stands_on(path):
    "What the exported cells import; of a page that exports nothing, what its cells show."
    if any(map(is_exported, cells(path, "code"))): return imports(path)
    shown = [c["source"] for c in cells(path, "code") if "#| hide" not in c["source"]]
    return sorted({m for source in shown for m in modules_of(source)} - {"tour"})


@each_lesson
def test_header_says_what_the_lesson_stands_on_and_costs(path):
    title, header = (c["source"] for c in cells(path)[:2])
    assert re.fullmatch(r"# .+\n\n> .+", title), (
        "nbdev makes the first cell the page's title, and drops what else stands in it")
    costs = r"\*\*Costs:\*\* about \d+ s on two cores, [\d.]+ GB of memory, no network"
    line = re.search(rf"^\*\*Stands on:\*\* (.+) · {costs}$", header, re.M)
    assert line, f"no header line of the form **Stands on:** … · {costs}"
    said = re.findall(r"\[[^]]+\]\(([\w./]+)\.ipynb\)", line[1])
    assert sorted(module_of(Path(m)) for m in said) == stands_on(path)
    if not said: assert line[1] == "nothing but PyTorch"


@each_page
def test_every_cell_has_run_without_an_error(path):
    assert not [o for o in outputs(path) if o["output_type"] == "error"
                or o.get("name") == "stderr"]
    if path.name != "index.ipynb": assert outputs(path), "no saved output"


@each_page
def test_every_cell_runs_by_run_all(path):
    """What nbdev_test passes over, JupyterLab runs: code that is only to be read stands in a
    text cell."""
    assert [c["source"] for c in cells(path, "code") if "eval: false" in c["source"]] == []


@each_page
def test_nothing_saved_belongs_to_one_machine(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"(?<![\w.~/])/(?:work|tmp|root|home|Users)/[\w./-]*", text) == []
    assert not re.search(r"Traceback \(most recent call last\)| object at 0x[0-9a-f]{6}", text)
    assert "application/vnd.jupyter.widget" not in text, "left-overs of a progress bar or a widget"
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("path", FULL, ids=lambda p: p.stem)
def test_lesson_has_three_pictures_and_its_last_parts(path):
    assert sum("image/png" in o.get("data", {}) for o in outputs(path)) >= 3
    text = "\n".join(c["source"] for c in cells(path, "markdown"))
    assert "## In five lines" in text and "## Where it comes from" in text
    five = text.split("## In five lines")[1].split("\n## ")[0]
    assert len(re.findall(r"^(?:[-*]|\d\.) ", five, re.M)) == 5


@pytest.mark.parametrize("path", FULL, ids=lambda p: p.stem)
def test_solutions_stand_beside_the_lesson_and_not_in_it(path):
    "`Run all` leaves the exercises to you. That solutions are right: test_exercises.py."
    parts = re.split(r"^## Exercises\b.*$", "\n".join(c["source"] for c in cells(path)), flags=re.M)
    assert len(parts) == 2, "one section of exercises"
    exercises = parts[1].split("## In five lines")[0]
    asked = re.findall(r'^# show_solution\("(.+)"\)$', exercises, re.M)
    assert asked == list(_solutions(path.stem[:2])) and ".callout-tip" not in exercises
    assert len(re.findall(r"^def check_\w+", exercises, re.M)) == len(asked) >= 3
    assert [e for e, code in _solutions(path.stem[:2]).items() if code in exercises] == []


@each_page
def test_imports_have_cells_of_their_own(path):
    """To document the package nbdev runs every cell that imports something: what else is in it
    would run without the cells before it."""
    for cell in cells(path, "code"):
        source = re.sub(r"^[%!].*$", "pass", cell["source"], flags=re.M)
        kinds = {isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body}
        assert kinds != {True, False} or "nbdev_export()" in cell["source"], cell["source"]


def test_nothing_is_left_to_do():
    for path in (ROOT / "README.md", *PAGES):
        assert "TODO" not in path.read_text(encoding="utf-8"), path.name
