"A notebook's cells as code: those that a piece of code needs, run in their order."
import ast, builtins, json, re


def code_of(path): # → a list of sources, without lines for the notebook alone
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return [re.sub(r"^[%!].*$", "", s, flags=re.M) for s in sources]


def names(source): # → the names that it binds at its top level, and those that it uses anywhere
    bound, used = set(), set()
    def bind(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)): bound.add(child.name)
            elif isinstance(child, ast.alias): bound.add((child.asname or child.name).split(".")[0])
            elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                bound.add(child.id)
            else: bind(child)
    tree = ast.parse(source)
    bind(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load): used.add(node.id)
    return bound, used


def is_import(source):
    body = ast.parse(source).body
    return bool(body) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)


def needed(sources, ends): # numbers of cells to run → with those that they stand on, in order
    """A name means what the last cell before its user bound it to, and in a function, which may
    be called later, what the last one before the end bound it to."""
    table, chosen = [names(s) for s in sources], {i for i, s in enumerate(sources) if is_import(s)}
    waiting, end = [*ends], min(ends)
    while waiting:
        i = waiting.pop()
        if i in chosen: continue
        chosen.add(i)
        for name in table[i][1] - vars(builtins).keys():
            for before in {i, end}:
                where = [j for j in range(before) if name in table[j][0]]
                waiting += where[-1:]
    return sorted(chosen)
