"A notebook's cells as code: those that a piece of code needs, in their order."
import ast, json, re, symtable


def code_of(path): # → a list of sources, without lines for the notebook alone
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return [re.sub(r"^[%!].*$", "", s, flags=re.M) for s in sources]


def names(source): # → those that it binds, uses at once, and uses in a function, perhaps later
    top = symtable.symtable(source, "cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    now, later = {s.get_name() for s in top.get_symbols() if s.is_referenced()}, set()
    def visit(table, found):
        for inside in table.get_children():
            at_once = inside.get_type() == "class" or inside.get_name() in COMPREHENSIONS
            of = found if at_once else later
            of.update(s.get_name() for s in inside.get_symbols() if s.is_global())
            visit(inside, of)
    visit(top, now)
    return bound, now, later


COMPREHENSIONS = "listcomp", "setcomp", "dictcomp", "genexpr"


def is_import(source):
    body = ast.parse(source).body
    return bool(body) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


def needed(sources, ends): # numbers of cells to run → with those that they stand on, in order
    """A name means what the last cell before its user bound it to; in a function, which may be
    called later, also what the last cell before the end bound it to. Imports are all run."""
    table, chosen = [names(s) for s in sources], {i for i, s in enumerate(sources) if is_import(s)}
    waiting, end = [*ends], max(ends)
    def last(name, before): return [j for j in range(before) if name in table[j][0]][-1:]
    while waiting:
        i = waiting.pop()
        if i in chosen: continue
        chosen.add(i)
        _, now, later = table[i]
        for name in now | later: waiting += last(name, i)
        for name in later: waiting += last(name, end)
    return sorted(chosen)
