"""The Chinese edition of the course: `nbs/zh/NN_lesson.md` holds the prose of `nbs/NN_lesson.ipynb`,
a piece for each markdown cell, below a line `<!-- cell digest -->` with the digest of the English
it was made from. An empty piece leaves its cell out.

    python .ci/chinese.py            write the notebooks, for JupyterLab: nbs/zh/NN_lesson.ipynb
    python .ci/chinese.py behind     list the cells whose English has changed since, or that miss
    python .ci/chinese.py stamp NN   all pieces of lesson NN say what the English says now
"""
import hashlib, json, re, sys
from pathlib import Path

from smalldocs.markdown import pandoc_id

ROOT = Path(__file__).resolve().parent.parent
EDITION = "nbs/zh"
PIECE = re.compile(r"^<!-- (\S+?)(?: (\w{8}))? -->\n", re.M)
HEADING = re.compile(r"^(#+) (.+?) *$", re.M)
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


def translated(english, chinese):
    "Headings keep the places that links lead to, and links lead out of the edition's folder."
    places = [pandoc_id(h) for _, h in HEADING.findall(english)]
    if len(places) != len(HEADING.findall(chinese)): places = []
    places = iter(places)
    chinese = HEADING.sub(lambda m: f"{m[0]} {{#{p}}}" if (p := next(places, "")) else m[0], chinese)
    return BESIDE.sub("](../", chinese)


def in_chinese(nb, pieces): # → the notebook; English stays where a piece is missing
    cells = []
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            english = "".join(cell["source"])
            _, chinese = pieces.get(cell["id"], ("", BESIDE.sub("](../", english)))
            if not chinese: continue
            cell = cell | dict(source=translated(english, chinese).splitlines(keepends=True))
        cells.append(cell)
    return nb | dict(cells=cells)


def write(folder, nbs): # lessons as notebooks → their editions in `folder`
    folder.mkdir(exist_ok=True)
    for lesson in nbs:
        nb = in_chinese(read_lesson(lesson), pieces_of(edition_of(lesson)))
        text = json.dumps(nb, ensure_ascii=False, indent=1)
        (folder/lesson.name).write_text(text + "\n", encoding="utf-8")


def main(command="", number=""):
    if command == "stamp": stamp(next(p for p in lessons() if p.name.startswith(number)))
    elif command == "behind":
        late = [line for lesson in lessons() for line in behind(lesson)]
        print(*late or ["every lesson says what the English says"], sep="\n")
    else: write(ROOT/EDITION, lessons())


if __name__ == "__main__": main(*sys.argv[1:])
