"The page that names everything public, shelf by shelf and module by module."
import inspect, re
from types import SimpleNamespace

from smalldocs import api


def index_page(folder, shelves): # where smalldocs writes the modules' pages; shelf → notebooks
    "Every class and function with its one line, and a link to its entry."
    lines = ["# Reference", "", "Everything that `distill_nb` exports, made from its docstrings and",
        "the comments beside its parameters. Each module is written in the notebook of its name.", ""]
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
    def fields_of(symbol): # name → type, default and comment
        if not hasattr(symbol, "_fields"): return docments(symbol)
        comments = api.class_comments(symbol)
        parameters = inspect.signature(symbol).parameters.values()
        return {p.name: SimpleNamespace(anno=p.annotation, default=p.default,
            docment=comments.get(p.name)) for p in parameters}
    api.has_init = lambda klass: hasattr(klass, "_fields") or has_init(klass)
    api.safe_docments = fields_of
