"""The picture of README.md, from the data of the study and the demo:
`python .ci/study_picture.py > site/study.svg`"""
import csv
from pathlib import Path
from statistics import mean

ASSETS = Path(__file__).parents[1]/"distill_nb"/"assets"
TITLE = "Loss of a tiny student in nats per token"
NOTE = "mean of the seeds, shorter is better"
WIDTH, HEIGHT = 480, 338
STYLE = f"""<style>
.study text {{ font: 14px sans-serif; fill: #1c2733 }}
.study .head {{ font-weight: bold }}
.study .end {{ text-anchor: end }}
</style>
<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#f4f6f8"/>"""
GREY, BLUE = "#8a94a0", "#2563c9"


def rows(name):
    with (ASSETS/name).open(encoding="utf-8") as f: return list(csv.DictReader(f))


def losses(table, **wanted): # of all seeds
    return [float(r["loss"]) for r in table if all(r[k] == v for k, v in wanted.items())]


def groups(): # (title, [(label, losses, taught)])
    study, demo = rows("study.csv"), rows("demo_seeds.csv")
    def of(alpha, share="1.0", steps="900"):
        return losses(study, alpha=alpha, temperature="1.0", steps=steps, share=share)
    first = [("labels only, a tenth of the text", of("0.0", "0.1"), False),
             ("labels only, all of the text", of("0.0"), False),
             ("with a teacher, a tenth of the text", of("0.9", "0.1"), True),
             ("with a teacher, all of the text", of("0.9"), True),
             ("labels only, for as much work", of("0.0", steps="1625"), False)]
    then = [("labels only", losses(demo, model="labels only"), False),
            ("labels only, for as much work", losses(demo, model="labels, same work"), False),
            ("with a teacher", losses(demo, model="distilled"), True)]
    return [("AdamW, a random start, 900 steps", first),
            ("Muon, 180 steps; a teacher also gives the start", then)]


def picture():
    scale, parts, said, y = 72, [], [], 70
    for title, bars in groups():
        parts.append(f'<text class="head" x="20" y="{y}">{title}</text>')
        y += 12
        for label, found, taught in bars:
            loss, colour = mean(found), BLUE if taught else GREY
            long = round(loss * scale)
            parts.append(
                f'<text class="end" x="252" y="{y + 15}">{label}</text>'
                f'<rect x="260" y="{y + 2}" width="{long}" height="18" fill="{colour}"/>'
                f'<text x="{267 + long}" y="{y + 16}">{loss:.2f}</text>')
            said.append(f"{label} {loss:.2f}")
            y += 25
        y += 32
    parts += [f'<text class="head" x="20" y="24">{TITLE}</text>',
              f'<text x="20" y="42">{NOTE}</text>']
    about = f'{TITLE}, {NOTE}. {"; ".join(said)}'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" class="study" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" style="max-width: 100%; height: auto" role="img" '
            f'aria-label="{about}">\n{STYLE}\n' + "\n".join(parts) + "\n</svg>\n")


if __name__ == "__main__": print(picture(), end="")
