"The page that names everything public, module by module in the order of the course."
import re

from smalldocs.api import inventory


def index_page(folder, lessons): # where smalldocs writes the modules' pages; module → its lesson
    "Every class and function with its one line, and a link to its entry."
    lines = ["# Reference", "", "Everything that `distill_nb` exports, made from its docstrings and the comments beside its parameters. Each module is written in the lesson of its name.", ""]
    symbols = inventory(["distill_nb"])
    for module, lesson in lessons.items():
        mine = [s for s in symbols if s.module == f"distill_nb.{module}"]
        if not mine: continue
        lines += [f"## distill_nb.{module}", "", f"{mine[0].summary} Lesson [{lesson.stem}](../nbs/{lesson.name}).", "", "| name | what it is for |", "|---|---|"]
        lines += [f"| [{s.name}]({module}.qmd#{s.name}) | {cell(s.summary)} |" for s in mine if s.kind in ("class", "function")] + [""]
    folder.mkdir(exist_ok=True)
    (folder/"_metadata.yml").write_text("search: false\n", encoding="utf-8") # a name is found in its lesson, which explains it
    (folder/"index.md").write_text("\n".join(lines), encoding="utf-8")


def cell(text): return re.sub(r"([|$])", r"\\\1", text)
