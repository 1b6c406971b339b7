"The page that names everything public, shelf by shelf, and what its entries show."
import inspect, re
from types import SimpleNamespace

from smalldocs import api


def index_page(folder, shelves): # where the modules' pages are; shelf → module → its notebook
    "Every class and function with its one line, and a link to its entry."
    lines = ["# Reference", "", "Everything that `distill_nb` exports, made from its docstrings",
        "and the comments beside its parameters.", "Each module is written in a notebook.", ""]
    symbols = api.inventory(["distill_nb"])
    for shelf, notebooks in shelves.items():
        lines += [f"## {shelf}", ""]
        for module, notebook in notebooks.items():
            about, *names = [s for s in symbols if s.module == f"distill_nb.{module}"]
            lines += [f"### distill_nb.{module}", ""]
            lines += [f"{about.summary} [The notebook](../{notebook}).", ""]
            rows = [f"| [{s.name}]({module}.qmd#{s.name}) | {cell(s.summary)} |"
                for s in names if s.kind in ("class", "function")]
            if rows: lines += ["| name | what it is for |", "|---|---|", *rows, ""]
    folder.mkdir(exist_ok=True)
    # a name is found in its notebook, which explains it
    (folder/"_metadata.yml").write_text("search: false\n", encoding="utf-8")
    (folder/"index.md").write_text("\n".join(lines), encoding="utf-8")


def cell(text): return re.sub(r"([|$])", r"\\\1", text)


def improve_entries():
    "What smalldocs leaves out, or says twice."
    has_init, docments, unwrapped = api.has_init, api.safe_docments, api.unwrapped
    params_table = api.params_table
    api.has_init = lambda klass: is_named_tuple(klass) or has_init(klass)
    api.safe_docments = lambda symbol: fields_of(symbol, docments)
    api.unwrapped = lambda o: function_of(o, unwrapped)
    # a table without a comment would say no more than the signature
    api.params_table = lambda symbol, module: (params_table(symbol, module)
        if any(p.docment for p in api.safe_docments(symbol).values()) else "")


def function_of(o, otherwise):
    "The function of a method, also where fastcore patched it in: with its class in its name."
    if type(o).__name__ == "_clsmethod": return o.f
    inner = otherwise(o)
    if inspect.isfunction(o): inner.__qualname__ = o.__qualname__
    return inner


def is_named_tuple(symbol): return hasattr(symbol, "_fields")


def fields_of(symbol, otherwise): # → name → type, default and comment
    if not is_named_tuple(symbol): return otherwise(symbol)
    comments, fields = api.class_comments(symbol), {}
    for name, p in inspect.signature(symbol).parameters.items():
        said = comments.get(name)
        fields[name] = SimpleNamespace(anno=p.annotation, default=p.default, docment=said)
    return fields
