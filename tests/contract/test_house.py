"The house stays small: modules, functions, classes, lines and public names keep to their sizes."
import ast, json, os, re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(p for p in (ROOT / "distill_nb").glob("*.py") if p.name != "_modidx.py")
COURSE = {re.sub(r"^\d\d_", "", p.stem) for p in (ROOT / "nbs").glob("*.ipynb")}
LONGEST_COURSE, LONGEST_OTHER = 250, 400  # lines of a module, as exported
LONGEST_FUNCTION, MOST_METHODS, MOST_ATTRIBUTES, WIDEST = 40, 15, 15, 100
MOST_PUBLIC = 185

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)


def tree(path): return ast.parse(path.read_text(encoding="utf-8"))


def functions(node):
    return [n for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def length(function): return function.end_lineno - function.lineno + 1


def patched_class(function):
    "The class that a function of the module is patched into, as its first argument says; or None."
    patched = any("patch" in ast.unparse(d) for d in function.decorator_list)
    of = function.args.args[0].annotation if patched and function.args.args else None
    return of.id if isinstance(of, ast.Name) else None


def attributes(node):
    "The names x for which something below `node` sets self.x."
    return {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
            and isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name)
            and n.value.id == "self"}


def classes(path):
    "Class → its methods and its attributes, those of patched methods too."
    body = tree(path).body
    found = {}
    for c in body:
        if isinstance(c, ast.ClassDef):
            methods = {f.name for f in c.body if isinstance(f, ast.FunctionDef)}
            found[c.name] = methods, attributes(c)
    for f in body:
        of = patched_class(f) if isinstance(f, ast.FunctionDef) else None
        if of in found:
            found[of][0].add(f.name)
            found[of][1].update(attributes(f))
    return found


def public(path):
    "What `from module import *` gives, as nbdev lists it."
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


@each_module
def test_a_module_is_read_in_one_sitting(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (LONGEST_COURSE if path.stem in COURSE else LONGEST_OTHER)


@each_module
def test_functions_are_short(path):
    assert {f.name: length(f) for f in functions(tree(path)) if length(f) > LONGEST_FUNCTION} == {}


@each_module
def test_classes_have_few_methods_and_attributes(path):
    for name, (methods, names) in classes(path).items():
        assert len(methods) <= MOST_METHODS, f"{name} has {len(methods)} methods: {sorted(methods)}"
        assert len(names) <= MOST_ATTRIBUTES, f"{name} has {len(names)} attributes: {sorted(names)}"


def test_few_names_are_public():
    names = {path.stem: public(path) for path in MODULES}
    counts = {module: len(there) for module, there in names.items() if there}
    assert sum(counts.values()) <= MOST_PUBLIC, counts
    assert [n for there in names.values() for n in there if n.startswith("_")] == []


def lines_by_hand(path):
    "The lines of a module but for what nbdev writes: its list of names, and the lesson's promise."
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.parent.name == "distill_nb": lines[0] = ""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            del lines[node.lineno - 1:node.end_lineno]
    return lines


def sources():
    "Name and lines of all code that people read: modules, lesson cells, tests."
    for path in [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))]:
        yield path.relative_to(ROOT).as_posix(), lines_by_hand(path)
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield f"{path.name}, {cell['id']}", "".join(cell["source"]).splitlines()


def test_no_line_is_wide():
    wide = {}
    for name, lines in sources():
        found = [len(line) for line in lines if len(line) > WIDEST]
        if found: wide[name] = found
    assert wide == {}, f"{sum(map(len, wide.values()))} lines are wider than {WIDEST}: {wide}"


@pytest.fixture(scope="module")
def shared(): "Something costly, as the groups of conftest.py are for."


def test_what_is_shared_stays_on_one_worker(shared, request):
    "Of several workers (pytest -n 2) one gets all tests of a group: its name ends their ids."
    if "PYTEST_XDIST_WORKER" in os.environ: assert request.node.nodeid.endswith("@test_house")
