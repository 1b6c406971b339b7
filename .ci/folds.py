"""What a reader of a lesson's page can pass over folds to a line: imports, and how a picture is
drawn."""
import ast, re

DRAWING = re.compile(r"\b(ax|axes|fig|plt|left|right|bars)\b[\w.\[\]]*[.(]|plot_style")
LATER = { # lesson → the cells of its class that a first reading can leave out
    "09_trainer": {"cell-47", "cell-54", "schedule", "prepare", "cell-63", "flush", "cell-66",
                   "save", "cell-75"}}
IMPORTS, PICTURE = "Imports", "How the picture is drawn"


def is_imports(source):
    body = ast.parse(source).body
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def draws(cell):
    "It makes a picture, and most of its lines are about that."
    if not any("image/png" in o.get("data", {}) for o in cell["outputs"]): return False
    nodes = ast.parse("".join(cell["source"])).body
    def lines(node): return node.end_lineno - node.lineno + 1
    drawing = sum(lines(n) for n in nodes if DRAWING.search(ast.unparse(n)))
    return drawing > sum(map(lines, nodes)) / 2


def summary_of(cell): # → None where it stays open
    source = "".join(cell["source"])
    stays = re.search(r"^#\| *(export|hide|code-fold)|^[%!]", source, re.M)
    if cell["cell_type"] != "code" or stays: return None
    if is_imports(source): return IMPORTS
    return PICTURE if draws(cell) else None


def fold_asides(cells):
    for cell in cells:
        summary = summary_of(cell)
        if summary is None: continue
        head = f'#| code-fold: true\n#| code-summary: "{summary}"\n'
        cell["source"] = [*head.splitlines(keepends=True), *cell["source"]]
    return cells


def fold_later(cells, lesson):
    for cell in cells:
        if cell.get("id") not in LATER.get(lesson, ()): continue
        assert cell["source"][0] == "#| code-fold: show\n", cell["id"]
        cell["source"][0] = "#| code-fold: true\n"
    return cells
