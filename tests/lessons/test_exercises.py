"""Every exercise: what stands in the lesson does not pass its check, the solution does, and the
likely wrong answers (`wrong_answers/`) do not. Of a lesson only the cells are run that a check
needs."""
import re
from functools import cache
from pathlib import Path

import pytest
from lesson import code_of, needed

from distill_nb.lesson import _solutions

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning") # of plotted tensors

HERE = Path(__file__).parent
LESSONS = {p.stem[:2]: p for p in sorted((HERE.parents[1] / "nbs").glob("*.ipynb"))[1:]}
CALL = re.compile(r"^(check_\w+\(.+\))\n# show_solution\(\"(\d\d\.\d+)\"\)$")
NOT_YET = re.compile(r"(.+\n)*Not yet: .+: (at \[.+\] )?expected .+, got .+\n")
PASSED = re.compile(r"(.+\n)*\w+: passed\n")


def calls(lesson): # → {"03.1": (number of its cell, "check_x(x)")}
    found = {i: CALL.match(source) for i, source in enumerate(code_of(LESSONS[lesson]))}
    return {m[2]: (i, m[1]) for i, m in found.items() if m}


def wrong_answers(lesson): # → [("03.1", what is wrong, code that ends with the call)]
    path = HERE / "wrong_answers" / f"{lesson}.py"
    if not path.is_file(): return []
    _, *parts = re.split(r"^# %% (\S+) (.+)\n", path.read_text(encoding="utf-8"), flags=re.M)
    return list(zip(parts[::3], parts[1::3], parts[2::3]))


EXERCISES = [e for lesson in LESSONS for e in calls(lesson)]
WRONG = [w for lesson in LESSONS for w in wrong_answers(lesson)]


@cache
def lesson_run(lesson): # → the names that the checks of a lesson find, solutions not among them
    import matplotlib
    matplotlib.use("Agg")
    sources = code_of(LESSONS[lesson])
    shared = {"__name__": "__main__", "__file__": str(LESSONS[lesson])}
    ends = [i for i, _ in calls(lesson).values()]
    answers = "\n".join([*_solutions(lesson).values(), *(w for _, _, w in wrong_answers(lesson))])
    for i in needed([*sources, answers], [*ends, len(sources)]):
        if i in ends or i == len(sources): continue
        exec(compile(sources[i], f"{lesson}, cell {i}", "exec"), shared)
    return shared


@pytest.fixture
def run(monkeypatch, capsys):
    def run(exercise, *codes): # → what the last of them prints
        lesson = exercise[:2]
        monkeypatch.chdir(LESSONS[lesson].parent)
        found = dict(lesson_run(lesson))
        for code in codes:
            capsys.readouterr()
            exec(compile(code, exercise, "exec"), found)
        return capsys.readouterr().out
    return run


def solved(exercise): # → the solutions up to this one
    mine = _solutions(exercise[:2])
    return [mine[e] for e in mine if e <= exercise]


def test_every_lesson_has_three_exercises_or_more_and_a_solution_for_each():
    for lesson in LESSONS:
        numbers = list(calls(lesson))
        assert numbers == [f"{lesson}.{i + 1}" for i in range(len(numbers))] == [
            *_solutions(lesson)]
        assert len(numbers) >= 3
        source = "\n".join(code_of(LESSONS[lesson]))
        assert len(re.findall(r"^@exercise\n(@.+\n)?def check_", source, re.M)) == len(numbers)


@pytest.mark.parametrize("exercise", EXERCISES)
def test_solution_passes_and_the_stub_does_not(exercise, run):
    _, call = calls(exercise[:2])[exercise]
    assert NOT_YET.fullmatch(run(exercise, call))
    assert PASSED.fullmatch(run(exercise, *solved(exercise), call))


@pytest.mark.parametrize("exercise, what, code", WRONG, ids=[f"{e} {w}" for e, w, _ in WRONG])
def test_wrong_answer_does_not_pass(exercise, what, code, run):
    assert NOT_YET.fullmatch(run(exercise, *solved(exercise), code)), what


def test_every_exercise_has_a_wrong_answer():
    "A check that could not fail would teach nothing."
    assert sorted({e for e, _, _ in WRONG}) == EXERCISES
