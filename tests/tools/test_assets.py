"What is shipped is what the notebooks make: text and tokenizer byte for byte, the teacher by what it knows."
import csv, json, math
from pathlib import Path

import pytest
import torch

from distill_nb.articles import make_articles
from distill_nb.data import WikiDataset
from distill_nb.demo import table
from distill_nb.files import ASSETS
from distill_nb.facts import recall_prompts
from distill_nb.teacher import TeacherModel
from distill_nb.tour import tiny_text
from distill_nb.tiny import fact_recall, make_tokenizer

LEAST_RECALL = 0.9
LARGEST_LOSS = 1.2  # nats a token on the validation part; set from the teacher that is shipped


def size(folder): return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def articles(): return make_articles()


@pytest.fixture(scope="module")
def teacher(): return TeacherModel("tiny", "cpu")


def test_text(articles):
    text = tiny_text()
    assert text == "\n\n".join(articles) + "\n", "remake it: see nbs/tools/tiny.ipynb"
    assert len(text.encode()) >= 1.5e6


def test_tokenizer(articles, tmp_path):
    make_tokenizer(articles).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (ASSETS / "teacher" / "tokenizer.json").read_bytes(), "remake it: see nbs/tools/tiny.ipynb"


def test_recall_asks_what_the_text_does_not_say(articles):
    prompts, text = recall_prompts(), "\n".join(articles)
    assert len(prompts) >= 200
    assert [p for p, _ in prompts if p in text] == []


def test_teacher_knows_its_facts(teacher): assert fact_recall(teacher, teacher.tokenizer) >= LEAST_RECALL


def test_teacher_predicts_unseen_articles(teacher):
    data, total, tokens = WikiDataset("tiny", seq_len=128, tokenizer=teacher.tokenizer), 0.0, 0
    assert len(data.valid) >= 32
    for i in range(0, len(data.valid), max(1, len(data.valid) // 32)):
        labels = data.valid[i]["labels"]
        total += torch.nn.functional.cross_entropy(teacher(data.valid[i]["input_ids"][None])[0].float(), labels, reduction="sum").item()
        tokens += len(labels)
    assert total / tokens < LARGEST_LOSS < math.log(len(teacher.tokenizer)) / 4


def test_teacher_is_an_ordinary_qwen2(teacher):
    from transformers import AutoModelForCausalLM
    assert type(AutoModelForCausalLM.from_pretrained(ASSETS / "teacher")).__name__ == "Qwen2ForCausalLM"
    assert not list((ASSETS / "teacher").glob("*.bin")) and not list((ASSETS / "teacher").glob("*.py"))


def test_the_readme_shows_what_the_demo_gave():
    with (ASSETS / "demo_seeds.csv").open() as f: rows = [r for r in csv.DictReader(f) if r["seed"] == "42" and "same work" not in r["model"]]
    numbers = [dict(model=r["model"], parameters=int(r["parameters"]), **{k: float(r[k]) for k in ("loss", "agreement", "recall")}) for r in rows]
    assert table(numbers) in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_study_of_caches_is_whole():
    "Three seeds, the same steps for each way, and the KL to the teacher falls in every run."
    with (ASSETS / "cache_ways.csv").open() as f: rows = list(csv.DictReader(f))
    runs = {(r["seed"], r["way"]): [] for r in rows}
    for r in rows: runs[r["seed"], r["way"]].append((int(r["step"]), float(r["kl"]), float(r["ce"])))
    assert len({seed for seed, _ in runs}) >= 3 and len(runs) == len({s for s, _ in runs}) * len({w for _, w in runs})
    for run in runs.values():
        assert [step for step, *_ in run] == list(range(50, 601, 50)) and run[-1][1] < run[0][1] / 3 and all(kl < ce for _, kl, ce in run)
    for name, columns in (("cache_sizes", "temperature tokens top_64 unique_of_50"), ("cache_speed", "size way relative")):
        assert (ASSETS / f"{name}.csv").read_text().splitlines()[0].split(",") == columns.split()


def test_recorded_bench():
    "Made at full size by the benchmark as it is now, while the machine was quiet; nbs/tools/bench.ipynb says what it shows."
    from distill_nb.bench import BENCHES, table
    recorded = json.loads((ASSETS / "bench_full.json").read_text(encoding="utf-8"))
    assert recorded["about"]["machine"] and {"torch", "trl", "liger_kernel"} <= set(recorded["about"]["versions"])
    assert {"loss", "step", "generate"} <= {name.split(",")[0] for name in recorded["results"]} <= set(BENCHES)
    assert "other programs" not in table(recorded["results"])
    for name in ("loss, FP32", "loss, BF16"): assert {n.split(",")[0] for n in recorded["results"][name]["rows"]} >= {"bare matmuls", "fused_kd_loss", "plain", "TRL", "Liger"}


def test_sizes():
    assert size(ASSETS / "teacher") <= 8e6
    assert size(ASSETS) <= 12e6
