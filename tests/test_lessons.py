"Every lesson keeps to the anatomy of a lesson, and what is saved in it can be published."
import ast, json, re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "nbs").glob("*.ipynb"))
FULL = [p for p in LESSONS if p.stem != "00a_tour"][:13]
NUMBERS = {p.stem.partition("_")[2]: i for i, p in enumerate(LESSONS)}  # module → place in the course
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
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distill_nb."): yield node.module.split(".")[1]
        if isinstance(node, ast.Import): yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("distill_nb."))


def test_there_are_lessons(): assert [NUMBERS[n] for n in "config rmsnorm rope gqa swiglu student teacher data loss checkpoint trainer generator export".split()] == [0, *range(2, 14)]


@each_lesson
def test_header_says_what_the_lesson_stands_on_and_costs(path):
    "`Stands on` is what the exported cells import, smaller numbers only."
    title, header = (c["source"] for c in cells(path)[:2])
    assert re.fullmatch(r"# .+\n\n> .+", title), "nbdev makes the first cell the page's title, and drops what else stands in it"
    line = re.search(r"^\*\*Stands on:\*\* (.+) · \*\*Costs:\*\* about \d+ s on two cores, [\d.]+ GB of memory, no network$", header, re.M)
    assert line, "no header line of the form **Stands on:** … · **Costs:** about N s on two cores, M GB of memory, no network"
    imported = sorted({m for c in cells(path, "code") if is_exported(c) for m in modules_of(c["source"])}, key=NUMBERS.get)
    own = path.stem.partition("_")[2]
    assert [m for m in imported if NUMBERS[m] >= NUMBERS[own]] == []
    said = re.findall(r"\[(\d\d\w?) [^]]+\]\((\d\d\w?)_(\w+)\.ipynb\)", line[1])
    assert [m for _, _, m in said] == imported and all(a == b for a, b, _ in said)
    if not imported: assert line[1] == "nothing but PyTorch"


@each_page
def test_every_cell_has_run_without_an_error(path):
    assert not [o for o in outputs(path) if o["output_type"] == "error" or o.get("name") == "stderr"]
    if path.name != "index.ipynb": assert outputs(path), "no saved output"


@each_page
def test_every_cell_runs_by_run_all(path):
    "What nbdev_test passes over, JupyterLab runs: code that is only to be read stands in a text cell."
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
def test_every_exercise_has_a_folded_solution(path):
    parts = re.split(r"^## Exercises\b.*$", "\n".join(c["source"] for c in cells(path)), flags=re.M)
    assert len(parts) == 2, "one section of exercises"
    exercises = parts[1].split("## In five lines")[0]
    count = len(re.findall(r"^def check_\w+", exercises, re.M))
    folded = len(re.findall(r'^::: \{\.callout-tip collapse="?true"?\}$', exercises, re.M))
    assert count >= 3 and folded == count and len(re.findall(r"^:::$", exercises, re.M)) == folded


@each_page
def test_imports_have_cells_of_their_own(path):
    "To document the package nbdev runs every cell that imports something: what else is in it would run without the cells before it."
    for cell in cells(path, "code"):
        kinds = {isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(re.sub(r"^[%!].*$", "pass", cell["source"], flags=re.M)).body}
        assert kinds != {True, False} or "nbdev_export()" in cell["source"], cell["source"]


def test_nothing_is_left_to_do():
    for path in (ROOT / "README.md", *PAGES): assert "TODO" not in path.read_text(encoding="utf-8"), path.name
