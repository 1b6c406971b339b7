"Shipped is what the notebooks make: text and tokenizer to the byte, the teacher by what it knows."
import csv, json, math
from pathlib import Path

import pytest
from torch.nn.functional import cross_entropy

from distill_nb.articles import make_articles
from distill_nb.data import WikiDataset
from distill_nb.demo import _table
from distill_nb.files import ASSETS
from distill_nb.facts import recall_prompts
from distill_nb.teacher import TeacherModel
from distill_nb.tour import tiny_text
from distill_nb.tiny import fact_recall, make_tokenizer

LEAST_RECALL = 0.9
LARGEST_LOSS = 1.2  # nats per token on the validation part; set from the teacher that is shipped


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
    made, shipped = tmp_path / "tokenizer.json", ASSETS / "teacher/tokenizer.json"
    assert made.read_bytes() == shipped.read_bytes(), "remake it: see nbs/tools/tiny.ipynb"


def test_recall_asks_what_the_text_does_not_say(articles):
    prompts, text = recall_prompts(), "\n".join(articles)
    assert len(prompts) >= 200
    assert [p for p, _ in prompts if p in text] == []


def test_teacher_knows_its_facts(teacher):
    assert fact_recall(teacher, teacher.tokenizer) >= LEAST_RECALL


def test_teacher_predicts_unseen_articles(teacher):
    data = WikiDataset("tiny", seq_len=128, tokenizer=teacher.tokenizer)
    total, tokens = 0.0, 0
    assert len(data.valid) >= 32
    for i in range(0, len(data.valid), max(1, len(data.valid) // 32)):
        labels, logits = data.valid[i]["labels"], teacher(data.valid[i]["input_ids"][None])[0]
        total += cross_entropy(logits.float(), labels, reduction="sum").item()
        tokens += len(labels)
    assert total / tokens < LARGEST_LOSS < math.log(len(teacher.tokenizer)) / 4


def test_teacher_is_an_ordinary_qwen2(teacher):
    from transformers import AutoModelForCausalLM
    folder = ASSETS / "teacher"
    assert type(AutoModelForCausalLM.from_pretrained(folder)).__name__ == "Qwen2ForCausalLM"
    assert not [p.name for p in folder.iterdir() if p.suffix in (".bin", ".py")]


def test_the_readme_shows_what_the_demo_gave():
    rows = []
    with (ASSETS / "demo_seeds.csv").open() as f:
        for r in csv.DictReader(f):
            if r["seed"] != "42": continue
            measured = {k: float(r[k]) for k in ("loss", "bits_per_char", "agreement", "recall")}
            rows.append(dict(model=r["model"], parameters=int(r["parameters"]), **measured))
    assert _table(rows) in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_study_of_caches_is_whole():
    "Three seeds, the same steps for each way, and the KL to the teacher falls in every run."
    runs = {}
    with (ASSETS / "cache_ways.csv").open() as f:
        for r in csv.DictReader(f):
            row = int(r["step"]), float(r["kl"]), float(r["ce"])
            runs.setdefault((r["seed"], r["way"]), []).append(row)
    seeds, ways = map(set, zip(*runs))
    assert len(seeds) >= 3 and len(runs) == len(seeds) * len(ways)
    for run in runs.values():
        assert [step for step, *_ in run] == list(range(50, 601, 50))
        assert run[-1][1] < run[0][1] / 3 and all(kl < ce for _, kl, ce in run)
    tables = dict(cache_sizes="temperature tokens top_64 unique_of_50",
                  cache_speed="size way relative")
    for name, columns in tables.items():
        assert (ASSETS / f"{name}.csv").read_text().splitlines()[0].split(",") == columns.split()


def test_recorded_bench():
    "Made at full size by the benchmark as it is now; nbs/tools/bench.ipynb says what it shows."
    from distill_nb.bench import _BENCHES, _table
    recorded = json.loads((ASSETS / "bench_full.json").read_text(encoding="utf-8"))
    about, kinds = recorded["about"], {name.split(",")[0] for name in recorded["results"]}
    assert about["machine"] and {"torch", "trl", "liger_kernel"} <= set(about["versions"])
    assert {"loss", "step", "generate"} <= kinds <= set(_BENCHES)
    assert "other programs" not in _table(recorded["results"])
    for name in ("loss, FP32", "loss, BF16"):
        found = {row.split(",")[0] for row in recorded["results"][name]["rows"]}
        assert found >= {"bare matmuls", "fused_kd_loss", "plain", "TRL", "Liger"}


def test_the_arms_at_full_size_read_the_same_text():
    "Validations in order, of one text and one teacher; nbs/tools/recipe.ipynb draws them."
    arms, path = {}, ASSETS / "full_size.csv"
    with path.open(encoding="utf-8") as f:
        for r in csv.DictReader(f):
            arms.setdefault(r.pop("arm"), []).append({k: float(v or "nan") for k, v in r.items()})
    assert path.stat().st_size < 40_000 and {"labels", "recommended"} <= arms.keys()
    first = arms["labels"][0]
    for rows in arms.values():
        names = "step tokens seconds loss valid bits_per_char teacher kl agreement"
        assert list(rows[0]) == names.split()
        for column in ("step", "tokens", "seconds"):
            numbers = [r[column] for r in rows]
            assert numbers == sorted(set(numbers)) and numbers[0] > 0
        for r in rows:
            assert r["tokens"] / r["step"] == first["tokens"] / first["step"]
            ratio = r["bits_per_char"] / r["valid"]
            assert ratio == pytest.approx(first["bits_per_char"] / first["valid"], rel=1e-3)
    for r in arms["spec"] + arms["recommended"]:  # the others are not compared with a teacher
        assert 0 < r["agreement"] < 1 and r["valid"] > r["teacher"] and r["kl"] > 0
        assert r["teacher"] == arms["spec"][0]["teacher"]


def test_sizes():
    assert size(ASSETS / "teacher") <= 8e6
    assert size(ASSETS) <= 12e6
