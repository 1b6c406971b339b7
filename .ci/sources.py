"On a notebook's page the source that ships is shown once, in the order in which it is written."
import ast, re
from itertools import groupby

from nbdev.showdoc import showdoc_nm

DEFINITIONS = ast.FunctionDef, ast.ClassDef


def show_once(cells): # → cells
    """nbdev puts a signature for each name around a source, the last name first.
    A source that is shown has them all, and gets a heading with its names; others keep theirs."""
    shown = {id(c): names_in(source_of(c)) for c in cells if "#| code-fold: show" in source_of(c)}
    known = {name for names in shown.values() for name in names}
    cells = [c for c in cells if documented(c) not in known]
    out = []
    for is_doc, run in groupby(cells, key=lambda c: documented(c) is not None):
        if is_doc: out += sorted(run, key=line_of)
        else:
            for c in run: out += [*headings(shown.get(id(c), [])), c]
    return out


def source_of(cell): return "".join(cell["source"]) if cell["cell_type"] == "code" else ""


def names_in(source): # → the public names that it defines
    nodes = [n for n in ast.parse(source).body if isinstance(n, DEFINITIONS)]
    return [showdoc_nm(n) for n in nodes if not n.name.startswith("_") or n.name.startswith("__")]


def documented(cell): # → the name whose signature the cell shows
    found = re.search(r"^show_doc\((.+)\)$", source_of(cell), re.M)
    return found[1] if found else None


def line_of(cell): # → where the name is defined in its module
    return int(re.search(r"\.py#L(\d+)", str(cell["outputs"]))[1])


def headings(names): # → a cell, if there are any
    if not names: return []
    places = "".join(f'<span id="{name.lower()}"></span>' for name in names)
    text = f"{places}\n\n### {', '.join(names)}"
    return [dict(cell_type="markdown", metadata={}, source=text.splitlines(keepends=True))]
