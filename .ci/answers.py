"""A lesson asks "Before you run it: …". On its page the answer is folded until you ask for it:
what the next cells put out, and the paragraph that says it in words."""
import re

from bs4 import BeautifulSoup

ASKED = re.compile("Before you run it|运行之前") # in English and in Chinese
TITLES = {"en": ("What it prints", "The answer"), "zh-CN": ("输出", "答案")}


def fold_answers(site):
    for page in site.glob("nbs/**/*.html"):
        text = page.read_text(encoding="utf-8")
        if not ASKED.search(text): continue
        soup = BeautifulSoup(text, "html.parser")
        for p in soup.find_all("p"):
            if ASKED.search(p.get_text()): fold(soup, p)
        page.write_text(str(soup), encoding="utf-8")


def fold(soup, question):
    cells, said = after(question)
    shown = [outputs for outputs in map(outputs_of, cells) if outputs]
    if not shown: return
    before, title = TITLES[soup.html["lang"]]
    for outputs in shown[:-1]: wrap(soup, outputs, before)
    answer = wrap(soup, shown[-1], title)
    if said is not None: answer.append(said)


def after(question): # → the cells that follow, and the paragraph after them or None
    cells = []
    for tag in question.find_next_siblings():
        if "cell" in tag.get("class", []): cells.append(tag)
        elif cells and tag.get_text(strip=True): return cells, tag if tag.name == "p" else None
    return cells, None


def outputs_of(cell): return cell.find_all("div", class_="cell-output", recursive=False)


def wrap(soup, outputs, title): # → the folded element
    answer, summary = soup.new_tag("details", attrs={"class": "answer"}), soup.new_tag("summary")
    summary.string = title
    outputs[0].insert_before(answer)
    for tag in (summary, *outputs): answer.append(tag)
    return answer
