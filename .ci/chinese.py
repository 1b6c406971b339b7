"""The Chinese edition of the course: `nbs/zh/NN_lesson.md` holds the prose of a lesson's notebook,
a piece for each markdown cell, below a line `<!-- cell digest -->` with the digest of the English
it was made from. An empty piece leaves its cell out.

    python .ci/chinese.py            write the notebooks, for JupyterLab: _zh/NN_lesson.ipynb
    python .ci/chinese.py behind     list the cells whose English has changed since, or that miss
    python .ci/chinese.py stamp NN   all pieces of lesson NN say what the English says now
"""
import hashlib, json, re, sys
from pathlib import Path

from smalldocs.markdown import pandoc_id

from folds import IMPORTS, PICTURE

ROOT = Path(__file__).resolve().parent.parent
EDITION = "nbs/zh" # its prose, and its place on the site
WRITTEN = "_zh" # where nbdev does not look for modules
PHRASES = { # what the site's build and nbdev add
    f'"{IMPORTS}"\n': '"导入"\n', f'"{PICTURE}"\n': '"这幅图是怎么画的"\n',
    '"Exported source"\n': '"导出的源代码"\n', "### Solution\n": "### 答案\n"}
PIECE = re.compile(r"^<!-- (\S+?)(?: (\w{8}))? -->\n", re.M)
FENCED = re.compile(r"^```.*?^```", re.S | re.M)
HEADING = re.compile(r"^#+ .+?(?= *$)", re.M)
BESIDE = re.compile(r"\]\((?!\d\d_|https?:|#|/)") # a link to what is no lesson


def lessons(): return sorted(ROOT.glob("nbs/[0-9]*.ipynb"))


def edition_of(lesson): return ROOT/EDITION/f"{lesson.stem}.md"


def read_lesson(path): return json.loads(path.read_text(encoding="utf-8"))


def digest(english): return hashlib.sha256(english.encode()).hexdigest()[:8]


def prose_of(nb): # → cell's id → English
    return {c["id"]: "".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "markdown"}


def pieces_of(path): # → cell's id → (digest, Chinese)
    if not path.exists(): return {}
    _, *parts = PIECE.split(path.read_text(encoding="utf-8"))
    return {cell: (stamp, text.strip())
            for cell, stamp, text in zip(parts[::3], parts[1::3], parts[2::3])}


def behind(lesson): # → lines, none where the edition is up to date
    english, pieces = prose_of(read_lesson(lesson)), pieces_of(edition_of(lesson))
    for cell, text in english.items():
        if cell not in pieces: yield f"{lesson.stem}: {cell} has no translation"
        elif pieces[cell][0] != digest(text): yield f"{lesson.stem}: {cell} has changed in English"
    for cell in pieces.keys() - english.keys(): yield f"{lesson.stem}: {cell} is no cell any more"


def stamp(lesson):
    english, path = prose_of(read_lesson(lesson)), edition_of(lesson)
    parts = [f"<!-- {cell} {digest(english[cell])} -->\n{text}\n"
             for cell, (_, text) in pieces_of(path).items()]
    path.write_text("\n".join(parts), encoding="utf-8")


def headings(text): # not what stands in code
    return HEADING.findall(FENCED.sub("", text))


def translated(english, chinese): # headings keep the places that links lead to
    for old, new in zip(headings(english), headings(chinese)):
        chinese = chinese.replace(new, f"{new} {{#{pandoc_id(old.lstrip('# '))}}}", 1)
    return chinese


def in_chinese(nb, pieces,
               above, # the folder of the lessons, from that of the edition
               on_site=True): # JupyterLab would show the places of headings
    "The notebook; where a piece is missing, its English."
    cells = []
    for cell in nb["cells"]:
        source = "".join(cell["source"])
        for english, chinese in PHRASES.items(): source = source.replace(english, chinese)
        if cell["cell_type"] == "markdown":
            _, chinese = pieces.get(cell.get("id"), ("", source))
            if not chinese: continue
            source = translated(source, chinese) if on_site else chinese
            source = BESIDE.sub(f"]({above}", source)
        cells.append(cell | dict(source=source.splitlines(keepends=True)))
    return nb | dict(cells=cells)


def for_jupyterlab(lesson): # → a notebook
    return in_chinese(read_lesson(lesson), pieces_of(edition_of(lesson)), "../nbs/", False)


def write():
    folder = ROOT/WRITTEN
    folder.mkdir(exist_ok=True)
    for lesson in lessons():
        text = json.dumps(for_jupyterlab(lesson), ensure_ascii=False, indent=1)
        (folder/lesson.name).write_text(text + "\n", encoding="utf-8")
    print(f"{len(lessons())} notebooks in {WRITTEN}/")


def main(command="", number=""):
    if command == "stamp": stamp(next(p for p in lessons() if p.name.startswith(number)))
    elif command == "behind":
        late = [line for lesson in lessons() for line in behind(lesson)]
        print(*late or ["every lesson says what the English says"], sep="\n")
    else: write()


if __name__ == "__main__": main(*sys.argv[1:])
