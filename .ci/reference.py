"The page that names everything public, shelf by shelf and module by module."
import inspect, re
from types import SimpleNamespace

from smalldocs import api


def index_page(folder, shelves): # where smalldocs writes the modules' pages; shelf → notebooks
    "Every class and function with its one line, and a link to its entry."
    lines = ["# Reference", "", "Everything that `distill_nb` exports, made from its docstrings",
        "and the comments beside its parameters.", "Each module is written in a notebook.", ""]
    symbols = api.inventory(["distill_nb"])
    for shelf, notebooks in shelves.items():
        lines += [f"## {shelf}", ""]
        for module, notebook in notebooks.items():
            mine = [s for s in symbols if s.module == f"distill_nb.{module}"]
            if not mine: continue
            lines += [f"### distill_nb.{module}", "",
                f"{mine[0].summary} [The notebook](../{notebook}).", ""]
            public = [s for s in mine if s.kind in ("class", "function")]
            if public: lines += ["| name | what it is for |", "|---|---|"]
            lines += [f"| [{s.name}]({module}.qmd#{s.name}) | {cell(s.summary)} |" for s in public]
            lines.append("")
    folder.mkdir(exist_ok=True)
    # a name is found in its notebook, which explains it
    (folder/"_metadata.yml").write_text("search: false\n", encoding="utf-8")
    (folder/"index.md").write_text("\n".join(lines), encoding="utf-8")


def cell(text): return re.sub(r"([|$])", r"\\\1", text)


def show_named_tuples():
    "smalldocs shows the constructor of a dataclass; let it show that of a NamedTuple too."
    has_init, docments = api.has_init, api.safe_docments
    api.has_init = lambda klass: is_named_tuple(klass) or has_init(klass)
    api.safe_docments = lambda symbol: fields_of(symbol, docments)


def is_named_tuple(symbol): return hasattr(symbol, "_fields")


def fields_of(symbol, otherwise): # → name → type, default and comment
    if not is_named_tuple(symbol): return otherwise(symbol)
    comments, fields = api.class_comments(symbol), {}
    for name, p in inspect.signature(symbol).parameters.items():
        said = comments.get(name)
        fields[name] = SimpleNamespace(anno=p.annotation, default=p.default, docment=said)
    return fields
