"""The real path over the hub's own protocol: the default teacher and data set by their ids.

The vocabulary is the full one, and nothing is stubbed. What it needs is built once: into
$DISTILL_NB_REHEARSAL where that is set, and kept there; else into a folder of this session.
"""
import json, math, os, re, resource, subprocess, sys, time
from pathlib import Path

import pytest
from shell import metrics, run

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "rehearsal"
TEACHER = "models/Qwen/Qwen2.5-0.5B"
CORPUS = "datasets/wikimedia/wikipedia/20231101.zh/train-00000-of-00001.parquet"
SMALL = """
--hidden-size 32 --num-layers 1 --num-heads 2 --num-kv-heads 1 --intermediate-size 64
--vocab-size 4096 --max-seq-len 32
""".split()
TRAIN = """
train --device cpu --batch-size 1 --sample-mb 2 --warmup-steps 2 --eval-batches 2 --log-interval 5
--save-interval 6
""".split()
NO_HUB = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    "The folder that the hub serves."
    folder = Path(os.environ.get("DISTILL_NB_REHEARSAL") or tmp_path_factory.mktemp("hub"))
    def make(script, out): subprocess.run([sys.executable, HERE / script, out], check=True)
    if not (folder / TEACHER / "tokenizer.json").exists(): make("make_teacher.py", folder / TEACHER)
    if not (folder / CORPUS).exists(): make("make_corpus.py", folder / CORPUS)
    return folder


class Hub:
    "The stand-in, its address, and what it was asked."
    script = "hub.py"

    def __init__(self, root, log, *flags):
        self.log = log
        log.touch()
        command = [sys.executable, HERE / self.script, root, "--log", log, *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()

    def asked(self, text):
        return [line for line in self.log.read_text().splitlines() if text in line]

    def __enter__(self): return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def settings(address, folder):
    "A machine that has nothing yet and knows no other hub."
    os.environ.pop("HF_HUB_OFFLINE", None)
    return dict(HF_ENDPOINT=address, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1",
                HF_HOME=str(folder / "hf"), DISTILL_NB_CACHE=str(folder / "tokens"))


@pytest.fixture(scope="module")
def hub(material, tmp_path_factory):
    with Hub(material, tmp_path_factory.mktemp("log") / "requests.log") as hub: yield hub


@pytest.fixture(scope="module")
def machine(hub, tmp_path_factory): return settings(hub.address, tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def trained(hub, machine, tmp_path_factory):
    "Six steps of the full run, then, from the checkpoint, four more."
    folder, logs, requests = tmp_path_factory.mktemp("run"), [], []
    for steps, resume in ((6, []), (10, ["--resume"])):
        begin, asked = time.monotonic(), len(hub.asked(".parquet"))
        flags = [*TRAIN, "--max-steps", steps, "--checkpoint-dir", folder, *resume]
        status, _, err = run(*flags, timeout=1800, **machine)
        assert status == 0, err
        logs.append(err)
        requests.append(len(hub.asked(".parquet")) - asked)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        speed = [r["tokens_per_s"] for r in metrics(folder) if "tokens_per_s" in r]
        seconds = time.monotonic() - begin
        print(f"to step {steps}: {seconds:.0f} s, {speed} tokens/s, peak {peak:.1f} GB")
    return dict(folder=folder, logs=logs, requests=requests)


def test_the_loss_falls(trained):
    rows = [r for r in metrics(trained["folder"]) if "loss" in r]
    assert [r["step"] for r in rows] == list(range(1, 11))
    print([round(r["ce"], 2) for r in rows])
    first, last = [r["valid"] for r in metrics(trained["folder"]) if "valid" in r]
    print(first, last)
    assert last["student_ce"] < first["student_ce"] < math.log(151936) and last["kl"] < first["kl"]
    at_first, at_last = (sum(r["ce"] for r in part) / 3 for part in (rows[:3], rows[-3:]))
    assert at_last < at_first - 0.5
    assert last["teacher_ce"] < 4, "the teacher is a pretrained one"


def test_it_is_the_specification_s_model(trained):
    from safetensors import safe_open
    folder = trained["folder"] / "step-00000010"
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == 151936
    assert config["num_layers"] == 12 and config["max_seq_len"] == 512
    with safe_open(folder / "model.safetensors", "pt") as f:
        assert sum(math.prod(f.get_slice(k).get_shape()) for k in f.keys()) == 123_417_088
    assert "494,032,768 parameters" in trained["logs"][0]


def test_it_goes_on_from_its_checkpoint(trained):
    assert "going on from" in trained["logs"][1] and "step-00000006" in trained["logs"][1]


def test_second_run_opens_the_tokens_without_a_request_for_data(trained):
    assert trained["requests"][0] > 0 and trained["requests"][1] == 0


def test_generate(trained, machine):
    flags = ["--strategy", "top_p", "--max-new-tokens", 8, "--seed", 1]
    status, out, err = run("generate", "中国的", "--checkpoint", trained["folder"], *flags, **machine)
    assert status == 0 and out.startswith("中国的") and len(out.strip()) > 3, err


def test_evaluate(trained, machine):
    flags = ["--checkpoint", trained["folder"], "--eval-batches", 1]
    status, out, err = run("evaluate", *flags, **machine)
    assert status == 0, err
    student, teacher = re.search(r"loss, nats per token +([\d.]+) ± [\d.]+ +([\d.]+)", out).groups()
    assert 0 < float(teacher) < 4 < float(student) < 12


def test_export_loads_in_transformers_with_the_same_logits(trained, machine, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from distill_nb.student import StudentModel
    out = tmp_path / "hf"
    status, _, err = run("export", "--checkpoint", trained["folder"], "--out", out, **machine)
    assert status == 0, err
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    ids = tokenizer("中国的首都是北京。", return_tensors="pt")["input_ids"]
    assert type(model).__name__ == "LlamaForCausalLM"
    assert ids.shape[1] < 8, "the tokenizer of Qwen2.5"
    student = StudentModel.load(trained["folder"] / "step-00000010")
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, student(ids), atol=1e-4, rtol=1e-4)


def refused(status, err, *wanted, told=r"teacher "):
    "Status 2 and one line; before it only what the package tells of the teacher."
    *before, line = err.splitlines()
    assert status == 2 and line.startswith("distill_nb: "), err
    assert [w for w in wanted if w not in line] == [], err
    assert all(re.match(told, b) for b in before), err


def test_hub_that_is_not_there(tmp_path):
    begin = time.monotonic()
    machine = settings(NO_HUB, tmp_path)
    status, _, err = run(*TRAIN, "--checkpoint-dir", tmp_path / "run", **machine)
    refused(status, err, "Qwen/Qwen2.5-0.5B", "--preset tiny")
    assert time.monotonic() - begin < 60 and not (tmp_path / "run").exists()


def test_teacher_that_is_cached_needs_no_hub(trained, machine, tmp_path):
    "With the teacher and the tokens of the first run, a run needs no network."
    flags = ["--checkpoint", trained["folder"], "--eval-batches", 1]
    status, _, err = run("evaluate", *flags, **machine | dict(HF_ENDPOINT=NO_HUB))
    assert status == 0 and "Retrying" not in err, err


def test_hub_without_the_data_set(hub, teacher_folder, tmp_path):
    flags = [*TRAIN, *SMALL, "--teacher", teacher_folder, "--checkpoint-dir", tmp_path / "run"]
    machine = settings(hub.address, tmp_path)
    status, _, err = run(*flags, "--dataset", "wikimedia/nothing", **machine)
    refused(status, err, "'wikimedia/nothing'", "--preset tiny")
    status, _, err = run(*flags, "--dataset-name", "20231101.xx", **machine)
    refused(status, err, "20231101.xx")
    assert not list((tmp_path / "tokens").glob("*/about.json")) and not (tmp_path / "run").exists()


def test_hub_that_dies_in_the_middle_of_the_stream(material, teacher_folder, tmp_path):
    "One line, and no half of the data is kept: when the hub is back, all of it comes."
    flags = [*TRAIN, *SMALL, "--teacher", teacher_folder, "--max-steps", 2]
    flags += ["--checkpoint-dir", tmp_path / "run"]
    begin = time.monotonic()
    with Hub(material, tmp_path / "first.log", "--dies-in", ".parquet") as hub:
        status, _, err = run(*flags, **settings(hub.address, tmp_path))
        assert hub.process.wait(10) == 1, "it died as it was asked to"
    again = r"\S+/train-00000-of-00001.parquet, row group 0: .*; trying again in \d s"
    refused(status, err, "'wikimedia/wikipedia'", "--preset tiny",
            told=rf"teacher |{again}|text: |\s*$")
    assert time.monotonic() - begin < 120
    assert not list((tmp_path / "tokens").glob("*/about.json")) and not (tmp_path / "run").exists()
    with Hub(material, tmp_path / "second.log") as hub:
        status, _, err = run(*flags, **settings(hub.address, tmp_path))
    assert status == 0, err
    (about,) = (tmp_path / "tokens").glob("*/about.json")
    assert sum(json.loads(about.read_text())["tokens"].values()) > 100_000
