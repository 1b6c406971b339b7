"""Every exercise, of a lesson or of a page beside the course: what stands there does not pass its
check, the solution does, and the likely wrong answers (`wrong_answers/`) do not. Of a page only the
cells are run that a check needs."""
import re
from functools import cache
from pathlib import Path

import pytest
from lesson import code_of, needed

from distill_nb.files import ASSETS
from distill_nb.lesson import _solutions

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning") # of plotted tensors

HERE = Path(__file__).parent
TOUR, *COURSE = sorted((HERE.parents[1] / "nbs").glob("*.ipynb"))
LESSONS = {p.stem[:2]: p for p in COURSE}
SHELVES = sorted((HERE.parents[1] / "nbs").glob("*/*.ipynb"))
PAGES = LESSONS | {p.stem: p for p in SHELVES if _solutions(p.stem)}
CALL = re.compile(r"^(check_\w+\(.+\))\n# show_solution\(\"(\w+\.\d+)\"\)$")
NOT_YET = re.compile(r"(.+\n)*Not yet: .+: (at \[.+\] )?expected .+, got .+\n")
PASSED = re.compile(r"(.+\n)*\w+: passed\n")


def page_of(exercise): return exercise.partition(".")[0]


def calls(page): # → {"03.1": (number of its cell, "check_x(x)")}
    found = {i: CALL.match(source) for i, source in enumerate(code_of(PAGES[page]))}
    return {m[2]: (i, m[1]) for i, m in found.items() if m}


def wrong_answers(page): # → [("03.1", what is wrong, code that ends with the call)]
    path = HERE / "wrong_answers" / f"{page}.py"
    if not path.is_file(): return []
    _, *parts = re.split(r"^# %% (\S+) (.+)\n", path.read_text(encoding="utf-8"), flags=re.M)
    return list(zip(parts[::3], parts[1::3], parts[2::3]))


EXERCISES = [e for page in PAGES for e in calls(page)]
WRONG = [w for page in PAGES for w in wrong_answers(page)]


@cache
def page_run(page): # → the names that the checks of a page find, solutions not among them
    import matplotlib
    matplotlib.use("Agg")
    *sources, _ = code_of(PAGES[page]) # the last cell exports
    shared = {"__name__": "__main__", "__file__": str(PAGES[page])}
    ends = [i for i, _ in calls(page).values()]
    answers = "\n".join([*_solutions(page).values(), *(w for _, _, w in wrong_answers(page))])
    for i in needed([*sources, answers], [*ends, len(sources)]):
        if i in ends or i == len(sources): continue
        exec(compile(sources[i], f"{page}, cell {i}", "exec"), shared)
    return shared


@pytest.fixture
def run(monkeypatch, capsys):
    def run(exercise, *codes): # → what the last of them prints
        page = page_of(exercise)
        monkeypatch.chdir(PAGES[page].parent)
        found = dict(page_run(page))
        for code in codes:
            capsys.readouterr()
            exec(compile(code, exercise, "exec"), found)
        return capsys.readouterr().out
    return run


def solved(exercise): # → the solutions up to this one
    mine = _solutions(page_of(exercise))
    return [mine[e] for e in mine if e <= exercise]


def test_every_lesson_has_three_exercises_or_more_and_each_exercise_a_solution():
    for page in PAGES:
        numbers = list(calls(page))
        assert numbers == [f"{page}.{i + 1}" for i in range(len(numbers))] == [*_solutions(page)]
        assert len(numbers) >= (3 if page in LESSONS else 1)
        source = "\n".join(code_of(PAGES[page]))
        assert len(re.findall(r"^@exercise\n(@.+\n)?def check_", source, re.M)) == len(numbers)


def test_no_solution_stands_in_a_page():
    "`Run all` leaves the exercises to you."
    for path in [TOUR, *COURSE, *SHELVES]:
        text = path.read_text(encoding="utf-8")
        assert ".callout-tip" not in text, path.stem
        assert "## Exercise" not in text or path in PAGES.values(), path.stem
    files = {p.stem for p in (ASSETS / "solutions").iterdir()}
    assert files == {*PAGES, TOUR.stem[:2]}


@pytest.mark.parametrize("exercise", EXERCISES)
def test_solution_passes_and_the_stub_does_not(exercise, run):
    _, call = calls(page_of(exercise))[exercise]
    assert NOT_YET.fullmatch(run(exercise, call))
    assert PASSED.fullmatch(run(exercise, *solved(exercise), call))


@pytest.mark.parametrize("exercise, what, code", WRONG, ids=[f"{e} {w}" for e, w, _ in WRONG])
def test_wrong_answer_does_not_pass(exercise, what, code, run):
    assert NOT_YET.fullmatch(run(exercise, *solved(exercise), code)), what


def test_every_exercise_has_a_wrong_answer():
    "A check that could not fail would teach nothing."
    assert {e for e, _, _ in WRONG} == {*EXERCISES}
