"""The command: help, its sub-commands, and what bad input gets: one line with status 2, and
nothing written or lost."""
import dataclasses, json, os, re, shutil, subprocess, sys, time

import pytest
from shell import refused, snapshot

from distill_nb.cli import _COMMANDS as COMMANDS, _parse as parse, main
from distill_nb.config import BadInput, ModelConfig, RunConfig, TrainingConfig
from distill_nb.doctor import _without_gpu as without_gpu
from distill_nb.flags import flags_of


@pytest.fixture(scope="session")
def bad(tmp_path_factory, teacher_folder):
    "A folder of things that cannot be used."
    import pyarrow as pa, pyarrow.parquet as pq, torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.txt").write_text("")
    (folder / "gbk.txt").write_bytes("中国的名胜\n\n北京的名胜".encode("gbk"))
    (folder / "short.txt").write_text("中国\n\n北京", encoding="utf-8")
    for name in ("data.doc", "wiki_00"): (folder / name).write_text("text\n中国")
    (folder / "column.jsonl").write_text('{"content": "中国"}\n', encoding="utf-8")
    (folder / "broken.jsonl").write_text('{"text": \n')
    (folder / "broken.parquet").write_text("PAR1")
    pq.write_table(pa.table({"body": ["中国"]}), folder / "column.parquet")
    (folder / "nothing").mkdir()
    for name in ("no-weights", "damaged", "narrow"): shutil.copytree(teacher_folder, folder / name)
    (folder / "no-weights" / "model.safetensors").unlink()
    (folder / "damaged" / "model.safetensors").write_bytes(b"\xff" * 1000)
    config = Qwen2Config.from_pretrained(teacher_folder)
    config.vocab_size = 100
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder / "narrow")
    return folder


BAD_COMMANDS = [  # command line, then what its one line must say
    ("nope", "'nope' is not a command", "demo, train"),
    ("train --bogus 1", "--bogus", "distill_nb train --help"),
    ("train extra", "extra", "distill_nb train --help"),
    ("train --preset big", "'big'", "'tiny', 'recommended', 'qwen'", "distill_nb train --help"),
    ("train --batch-size many", "--batch-size", "'many'", "distill_nb train --help"),
    ("train --max-steps", "--max-steps", "distill_nb train --help"),
    ("train --alpha 2", "alpha=2.0 must be between 0 and 1"),
    ("train --seq-len 513", "seq_len=513 must be at most max_seq_len=512"),
    ("train --val-fraction 1", "val_fraction=1.0 must be between 0 and 1"),
    ("train --log-with paper", "log_with='paper' must be one of tensorboard, trackio, wandb"),
    ("train --teacher-cache=yes", "--teacher-cache takes no value"),
    ("train --hidden-size 510", "hidden_size=510 must be divisible by num_heads=8"),
    ("train --preset tiny --max-steps 0", "max-steps 0", "must be > 0"),
    ("train --preset tiny --accumulate 0", "accumulate 0", "must be > 0"),
    ("train --preset tiny --eval-batches 0", "eval-batches 0", "must be > 0"),
    ("train --preset tiny --sample-mb 0", "sample", "must be > 0"),
    ("train --preset tiny --seed -1", "seed -1", "must be between 0"),
    ("train --preset tiny --device tpu", "device='tpu'", "cpu"),
    ("demo --device tpu --out {new}", "device='tpu'", "cpu"),
    ("demo --out {run}", "output folder {run} is in use", "name another"),
    ("plan --tflops 0", "tflops 0", "must be > 0"),
    ("plan --teacher {bad}/nope", "'{bad}/nope'", "no such folder"),
    ("study --preset tiny --alphas 0 0.5", "--alphas 0 0.5", "above 0 and at most 1"),
    ("study --preset tiny --temperatures", "--temperatures (none)", "there must be one"),
    ("study --preset tiny --seeds 0", "--seeds 0 must be at least 1"),
    ("study --preset tiny --alpha 0.3", "--alpha is one value", "--alphas"),
    ("study --preset tiny --temperature 3", "--temperature is one value", "--temperatures"),
    ("bench nope", "'nope'", "'loss'", "distill_nb bench --help"),
    ("bench data --dataset wikimedia/wikipedia",
     "wikimedia/wikipedia is no file or folder here", "give a .txt"),
    ("bench data --dataset {bad}/missing.txt", "{bad}/missing.txt does not exist"),
    ("bench data --tokenizer {bad}/nope", "'{bad}/nope'", "no such folder"),
    ("bench generate --preset tiny --out {bad}/nowhere/bench.json",
     "there is no folder {bad}/nowhere"),
    ("generate --checkpoint {bad}", "no checkpoint in {bad}", "distill_nb train"),
    ("generate --checkpoint {run} --strategy beam", "'beam'", "'greedy', 'top_k', 'top_p'"),
    ("generate --checkpoint {run} --top-p 0 中", "top_p=0.0 must be above 0 and at most 1"),
    ("generate --checkpoint {run} --top-k 0 中", "top_k=0 must be >= 1"),
    ("generate --checkpoint {run} --strategy top_k --temperature 0 中",
     "temperature=0.0 must be > 0"),
    ("generate --checkpoint {run} --max-new-tokens -1 中", "max_new_tokens=-1 must be >= 0"),
    ("generate --checkpoint {run} --device tpu 中", "device='tpu'"),
    ("generate --checkpoint {run} " + "啊" * 100, "max_seq_len=32", "shorten it"),
    ("evaluate --checkpoint {bad}", "no checkpoint in {bad}"),
    ("evaluate --checkpoint {run} --teacher {bad}/no-weights",
     "'{bad}/no-weights'", "model.safetensors", "a model folder with its weights"),
    ("evaluate --checkpoint {run} --eval-batches 0", "eval-batches 0", "must be > 0"),
    ("export --checkpoint {bad} --out {new}", "no checkpoint in {bad}"),
    ("export --checkpoint {run} --out {run}", "output folder {run} is in use", "name another"),
]

BAD_RUNS = [  # flags after those of a good run
    ("--dataset {bad}/missing.txt",
     "{bad}/missing.txt does not exist", "give a .txt, .jsonl, .json, .csv"),
    ("--dataset {bad}/empty.txt", "{bad}/empty.txt gave 0 article(s)", "at least 2 are needed"),
    ("--dataset {bad}/gbk.txt", "{bad}/gbk.txt is not UTF-8", "convert it"),
    ("--dataset {bad}/wiki_00", "{bad}/wiki_00 has no ending", ".txt, .jsonl, .json"),
    ("--dataset {bad}/data.doc", "{bad}/data.doc has the ending '.doc'", ".txt, .jsonl, .json"),
    ("--dataset {bad}/column.jsonl", "{bad}/column.jsonl line 1", "'text'"),
    ("--dataset {bad}/broken.jsonl", "{bad}/broken.jsonl line 1", "JSON"),
    ("--dataset {bad}/column.parquet", "{bad}/column.parquet has no column 'text'", "body"),
    ("--dataset {bad}/broken.parquet", "{bad}/broken.parquet is not a"),
    ("--dataset {bad}/nothing", "{bad}/nothing holds no .txt, .jsonl, .json, .csv"),
    ("--dataset {bad}/short.txt",
     "{bad}/short.txt has 2 tokens, fewer than one block", "give more text"),
    ("--batch-size 9999", "batch_size=9999", "give a batch of 1 to"),
    ("--vocab-size 100", "vocab_size=100 is less than the 4096 tokens", "raise it"),
    ("--teacher {bad}/nope", "'{bad}/nope'", "there is no such folder"),
    ("--teacher {bad}/no-weights/config.json", "it is a file, and not the folder that it is in"),
    ("--teacher {bad}/no-weights",
     "'{bad}/no-weights'", "model.safetensors", "a model folder with its weights"),
    ("--teacher {bad}/damaged", "'{bad}/damaged'", "a model folder with its weights"),
    ("--teacher {bad}/narrow", "{bad}/narrow has 100 rows in its head, fewer than the 4096 tokens"),
    ("--resume {bad}/nope", "{bad}/nope does not exist"),
    ("--resume {bad}", "{bad} holds no whole checkpoint"),
    ("--resume {run} --num-layers 3 --num-kv-heads 1",
     "num_layers=2 (not 3)", "num_kv_heads=2 (not 1)", "give those settings"),
]


@pytest.mark.parametrize("command, wanted", [(c, w) for c, *w in BAD_COMMANDS],
                         ids=[c[:60] for c, *_ in BAD_COMMANDS])
def test_bad_command(command, wanted, bad, run_folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    places, before = dict(bad=bad, run=run_folder, new=tmp_path / "new"), snapshot(run_folder)
    refused(command.format(**places).split(), capfd, *(w.format(**places) for w in wanted))
    assert not list(tmp_path.iterdir()), "nothing is written"
    assert snapshot(run_folder) == before, "nothing is lost"


@pytest.mark.parametrize("flags, wanted", [(f, w) for f, *w in BAD_RUNS],
                         ids=[f[:60] for f, *_ in BAD_RUNS])
def test_bad_run(flags, wanted, bad, run_folder, train_flags, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    places, before = dict(bad=bad, run=run_folder), snapshot(run_folder)
    refused([*train_flags, "--checkpoint-dir", "new", *flags.format(**places).split()], capfd,
            *(w.format(**places) for w in wanted))
    assert not list(tmp_path.iterdir()), "nothing is written"
    assert snapshot(run_folder) == before, "nothing is lost"


def test_bad_data_leaves_the_cache_as_it_is(bad, train_flags, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DISTILL_NB_CACHE", str(tmp_path / "cache"))
    refused([*train_flags, "--checkpoint-dir", str(tmp_path / "run"),
             "--dataset", str(bad / "gbk.txt")], capfd)
    assert not [name for name in snapshot(tmp_path) if not str(name).endswith(".lock")], (
        "but for the lock, which is empty")


def test_new_run_in_the_folder_of_another_is_refused(run_folder, train_flags, capfd):
    before = snapshot(run_folder)
    refused([*train_flags, "--checkpoint-dir", str(run_folder)], capfd,
            f"checkpoint_dir={run_folder} already holds a run", "--resume")
    assert snapshot(run_folder) == before


def test_folder_of_a_running_run_is_refused(run_folder, train_flags, tmp_path, capfd):
    from filelock import FileLock
    shutil.copytree(run_folder, tmp_path / "run")
    with FileLock(tmp_path / "run" / ".lock"):
        before = snapshot(tmp_path / "run")
        assert main([*train_flags, "--checkpoint-dir", str(tmp_path / "run"),
                     "--resume", "--max-steps", "12", "--batch-size", "4"]) == 2
        assert snapshot(tmp_path / "run") == before
    line = capfd.readouterr().err.splitlines()[-1]
    assert f"checkpoint_dir={tmp_path / 'run'} is in use by another run" in line


def test_checkpoint_with_damaged_weights(run_folder, tmp_path, capfd):
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run/step-00000010/model.safetensors").write_bytes(b"\xff" * 1000)
    for command in ("generate", "evaluate"):
        refused([command, "--checkpoint", str(tmp_path / "run")], capfd, "model.safetensors",
                "give another checkpoint")
    refused(["export", "--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "hf")],
            capfd, "model.safetensors", "give another checkpoint")
    assert not (tmp_path / "hf").exists()


def test_evaluate_without_the_note_of_its_run(run_folder, tmp_path, capfd):
    shutil.copytree(run_folder / "step-00000010", tmp_path / "step-00000010")
    refused(["evaluate", "--checkpoint", str(tmp_path)], capfd,
            f"{tmp_path / 'run.json'} is missing")


def test_doctor_says_what_is_here_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["doctor", "--checkpoint-dir", "runs/full"]) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "HF_HUB_OFFLINE" in told["teacher"] and str(tmp_path) in told["disk"]
    assert set(told) >= {"software", "processor", "memory", "this"} and not list(tmp_path.iterdir())


def test_full_run_without_a_gpu(tmp_path, monkeypatch, capfd):
    "One line with an estimate and what to try; nothing is loaded or written."
    import torch
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    refused(["train"], capfd, "no CUDA GPU", " at the least", "--preset tiny", "--device cpu")
    assert float(re.search(r"takes about ([\d.]+) (days|hours)",
                           without_gpu(parse("train", []).run))[1]) > 1
    assert not list(tmp_path.iterdir())


def python(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          encoding="utf-8", timeout=120, **kwargs)


@pytest.mark.parametrize("argv", [["--help"], [], *[[c, "--help"] for c in COMMANDS]])
def test_help_does_not_wait_for_torch(argv):
    done = python(f"""
import sys
from distill_nb.cli import main
try: status = main({argv!r})
except SystemExit as e: status = e.code or 0
heavy = {{"torch", "transformers", "datasets", "accelerate", "matplotlib"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else status)""")
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout and not done.stderr
    if len(argv) < 2: assert [c for c in COMMANDS if c not in done.stdout] == []


def help_of(command, columns, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as e: main([command, "--help"])
    assert not e.value.code
    return capfd.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_its_meaning_and_default(command, capfd, monkeypatch):
    help_of_flag = {}
    for line in help_of(command, 200, capfd, monkeypatch).splitlines():
        line = line.strip()
        if line.startswith("--"):
            flag = line.split()[0][2:]
            help_of_flag[flag] = line
        elif help_of_flag: help_of_flag[flag] += f" {line}"
    kind = COMMANDS[command][0]
    names = {f.name for f in dataclasses.fields(kind)}
    if "run" in names: names |= RunConfig().flat().keys()
    names -= {"run", getattr(kind, "positional", None), *getattr(kind, "without", ())}
    for flag in (name.replace("_", "-") for name in names):
        assert re.match(rf"--{flag} (\S+)? +\w.*\(default: [^)]+\)", help_of_flag[flag]), \
            f"--{flag} has no meaning or no default: {help_of_flag[flag]}"


@pytest.mark.parametrize("columns", [60, 80, 100])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_the_terminal(command, columns, capfd, monkeypatch):
    told = help_of(command, columns, capfd, monkeypatch)
    assert [line for line in told.splitlines() if len(line) > columns
            and "distill_nb train" not in line] == []
    assert columns < 80 or max(map(len, told.splitlines())) <= columns, "the examples too"


def test_list_of_commands_fits_the_terminal(capsys, monkeypatch):
    for columns in (50, 80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main([]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines()[:-1])) <= columns


def test_help_of_train_begins_with_two_examples(capfd, monkeypatch):
    first, *examples, empty, _ = help_of("train", 80, capfd, monkeypatch).splitlines()[:5]
    assert first == "examples:" and empty == "" and len(examples) == 2
    for line in examples:
        assert line.startswith("  distill_nb train ")
        parse("train", line.split()[2:])


def test_flags_are_whole_words():
    for line in ("--batch 4", "--teach x", "--grad", "--temp 2"):
        with pytest.raises(BadInput, match=f"there is no {line.split()[0]}"):
            parse("train", line.split())


def test_version(capsys):
    from distill_nb import __version__
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"distill_nb {__version__}\n"


def test_an_exported_folder_is_no_checkpoint(run_folder, tmp_path, capfd):
    assert main(["export", "--checkpoint", str(run_folder), "--out", str(tmp_path / "hf")]) == 0
    capfd.readouterr()
    refused(["generate", "--checkpoint", str(tmp_path / "hf")], capfd,
            f"{tmp_path / 'hf'} is an exported folder", "the checkpoint")
    refused(["evaluate", "--checkpoint", str(tmp_path / "hf")], capfd,
            f"{tmp_path / 'hf'} is no run", "give --dataset")


def test_every_config_field_is_a_flag():
    assert RunConfig().flat().keys() <= flags_of(COMMANDS["train"][0]).keys()
    for config, part in ((ModelConfig(), "model"), (TrainingConfig(), "training")):
        for f in dataclasses.fields(config):
            flag, value = "--" + f.name.replace("_", "-"), dict(alpha=0.25, dropout=0.25,
                hidden_size=1024, num_heads=16, num_kv_heads=4, checkpoint_dir="x").get(f.name, 7)
            assert getattr(getattr(parse("train", [flag, str(value)]).run, part), f.name) == value


def test_defaults_of_the_presets():
    full, tiny = parse("train", []), parse("train", ["--preset", "tiny"])
    assert (full.preset, full.resume, tiny.preset) == ("qwen", None, "tiny")
    assert full.run == RunConfig(ModelConfig(), TrainingConfig(), "Qwen/Qwen2.5-0.5B",
                                 "wikimedia/wikipedia")
    assert (full.run.dataset_name, full.run.sample_mb, full.run.seed,
            full.run.max_steps) == ("20231101.zh", 50, 42, None)
    found = dict(alpha=1.0, temperature=1.0, optimizer="muon", init="teacher")
    rates = dict(learning_rate=0.008, warmup_steps=10)
    assert tiny.run == RunConfig(ModelConfig.tiny(), TrainingConfig.tiny(), "tiny",
                                 "tiny").changed(**found, **rates, eval_batches=None)
    larger = parse("train", ["--preset=tiny", "--batch-size", "16"])
    assert larger.run == tiny.run.changed(batch_size=16)
    recommended = parse("train", ["--preset", "recommended"])
    same = {name: getattr(full.run.training, name) for name in rates} # the two are its own
    assert recommended.run.changed(**same) == full.run.changed(**found), "the same models and text"
    assert parse("train", ["--resume"]).resume
    assert parse("train", ["--resume", "here"]).resume == "here"
    assert (parse("verify-resume", []).run.max_steps,
            parse("verify-resume", ["--preset", "tiny"]).run.eval_batches) == (12, 2)


def test_values_in_every_form():
    run = parse("train", ["--seed=7", "--sample-mb", "1",
                          "--teacher-cache", "--max-seq-len", "64", "--log-with", "trackio"]).run
    assert (run.seed, run.data_seed, run.sample_mb, run.teacher_cache, run.seq_len,
            run.log_with) == (7, 7, 1, True, 64, "trackio")
    assert parse("study", ["--alphas", "0.5", "0.9"]).alphas == (0.5, 0.9)
    assert parse("generate", ["--seed", "1", "中国"]).prompt == parse("generate",
        ["中国", "--seed", "1"]).prompt == "中国"


def test_train_says_what_it_saved(run_folder):
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, 11))
    assert set(rows[-1]["valid"]) >= {"student_ce", "teacher_ce", "kl", "top1_agreement"}
    assert (run_folder / "run.json").is_file() and (run_folder / "step-00000010").is_dir()


def test_resume_goes_on_from_the_newest(run_folder, train_flags, tmp_path, capfd):
    shutil.copytree(run_folder, tmp_path / "run")
    assert main([*train_flags, "--checkpoint-dir", str(tmp_path / "run"),
                 "--resume", "--max-steps", "12"]) == 0
    assert "going on from" in capfd.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, 13))
    assert (tmp_path / "run/step-00000010").is_dir() and (tmp_path / "run/step-00000012").is_dir()


def resumed(folder, steps, *flags, capfd):
    "The folder's run.json after `train --resume` with nothing but these flags, and what was said."
    assert main(["train", *flags, "--resume"]) == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == list(range(1, steps + 1))
    return RunConfig.load(folder), capfd.readouterr().err


def test_resume_needs_no_other_flag(run_folder, tmp_path, capfd):
    "From another folder too; a flag that is given is another setting, and named."
    folder = shutil.copytree(run_folder, tmp_path / "run")
    before = RunConfig.load(folder)
    flags = "--checkpoint-dir", str(folder), "--max-steps", "12", "--learning-rate", "0.001"
    run, err = resumed(folder, 12, *flags, capfd=capfd)
    assert run == before.changed(max_steps=12, learning_rate=0.001)
    assert "max_steps 10 → 12" in err and "learning_rate 0.0003 → 0.001" in err
    assert resumed(folder, 12, "--checkpoint-dir", str(folder), capfd=capfd)[0] == run


def test_optimizer_and_start_are_noted_and_followed(train_flags, tmp_path, capfd):
    "What a run began with stands in run.json, and to go on takes no flag."
    flags = [*train_flags, "--optimizer", "muon", "--init", "teacher", "--save-interval", "5"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert main([*flags, "--checkpoint-dir", str(once)]) == 0
    assert main([*flags, "--max-steps", "5", "--checkpoint-dir", str(twice)]) == 0
    run, _ = resumed(twice, 10, "--checkpoint-dir", str(twice), "--max-steps", "10", capfd=capfd)
    assert (run.optimizer, run.init) == ("muon", "teacher")
    plain = tmp_path / "plain"
    assert main([*train_flags, "--optimizer", "muon", "--checkpoint-dir", str(plain)]) == 0
    first = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]
             for folder in (once, twice, plain)]
    assert first[0] == first[1] != first[2]
    assert main(["train", "--optimizer", "adamw", "--checkpoint-dir", str(twice), "--resume"]) == 2
    assert "state of another optimizer" in capfd.readouterr().err


def test_resume_of_a_path_needs_no_other_flag(run_folder, tmp_path, capfd):
    "In its own folder, and as a branch in another one."
    folder = shutil.copytree(run_folder, tmp_path / "run")
    flags = "--max-steps", "11", "--checkpoint-dir", str(tmp_path / "branch")
    assert main(["train", *flags, "--resume", str(folder / "step-00000010")]) == 0
    assert RunConfig.load(tmp_path / "branch").teacher == RunConfig.load(folder).teacher
    assert main(["train", "--max-steps", "12", "--resume", str(folder / "step-00000010")]) == 0
    assert (folder / "step-00000012").is_dir() and (tmp_path / "branch/step-00000011").is_dir()


@pytest.mark.parametrize("flags, wanted",
                         [("--num-layers 3", "num_layers=2 (not 3)"),
                          ("--seed 7", "data_seed 42 → 7"),
                          ("--batch-size 9999", "batch_size=9999"),
                          ("--alpha 2", "alpha=2.0 must be between 0 and 1"),
                          ("--seq-len 64", "seq_len=64 must be at most max_seq_len=32")])
def test_what_may_not_change_is_refused(flags, wanted, run_folder, tmp_path, capfd):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    before = snapshot(folder)
    refused(["train", "--checkpoint-dir", str(folder), "--resume", *flags.split()], capfd, wanted)
    assert snapshot(folder) == before


def test_a_killed_start_goes_on_from_its_note(run_folder, tmp_path, capfd):
    "No checkpoint yet: from the beginning, with the settings of run.json."
    RunConfig.load(run_folder).save(tmp_path / "run")
    run, err = resumed(tmp_path / "run", 2, "--checkpoint-dir", str(tmp_path / "run"),
                       "--max-steps", "2", capfd=capfd)
    assert "starting from the beginning" in err
    assert run.teacher == RunConfig.load(run_folder).teacher


def test_damaged_note_of_a_run_that_is_to_go_on(run_folder, tmp_path, capfd):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    (folder / "run.json").write_text("{")
    refused(["train", "--checkpoint-dir", str(folder), "--resume"], capfd,
            f"{folder / 'run.json'} is damaged")


@pytest.fixture
def first_edition(run_folder, tmp_path):
    "A run as the first edition left it: seven values in run.json."
    folder = shutil.copytree(run_folder, tmp_path / "first")
    run = RunConfig.load(folder)
    noted = dict(teacher=run.teacher, dataset=run.dataset, dataset_name=run.dataset_name,
                 sample_mb=50, seq_len=run.seq_len, seed=run.data_seed,
                 batch_size=run.training.batch_size)
    (folder / "run.json").write_text(json.dumps(noted, indent=2))
    return folder


def test_a_run_of_the_first_edition_goes_on(first_edition, run_folder, capfd):
    ours, theirs = RunConfig.load(first_edition), RunConfig.load(run_folder)
    assert ours == theirs.changed(checkpoint_dir=str(first_edition), eval_batches=None, device=None)
    flags = "--checkpoint-dir", str(first_edition), "--max-steps", "12", "--eval-batches", "1"
    run, err = resumed(first_edition, 12, *flags, capfd=capfd)
    assert run == ours.changed(max_steps=12, eval_batches=1) and "going on from" in err
    assert "max_steps 10 → 12" in err


def test_a_run_of_the_first_edition_is_evaluated(first_edition, run_folder, capfd):
    def evaluated(folder):  # without the last line, which is the speed
        flags = ["--checkpoint", str(folder), "--eval-batches", "1", "--device", "cpu"]
        assert main(["evaluate", *flags]) == 0
        return capfd.readouterr().out.splitlines()[:-1]
    assert evaluated(first_edition) == evaluated(run_folder)


def test_resume_passes_over_a_half_written_row(run_folder, train_flags, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    with (tmp_path / "run/metrics.jsonl").open("a") as f: f.write('{"step": 10, "lo')
    assert main([*train_flags, "--checkpoint-dir", str(tmp_path / "run"),
                 "--resume", "--max-steps", "11"]) == 0
    assert [json.loads(line)["step"]
            for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()][-1] == 11


def test_resume_with_nothing_there_starts_from_the_beginning_and_says_so(train_flags, tmp_path,
        capfd):
    assert main([*train_flags, "--checkpoint-dir", str(tmp_path / "run"),
                 "--resume", "--max-steps", "2"]) == 0
    assert "starting from the beginning" in capfd.readouterr().err
    assert (tmp_path / "run/step-00000002").is_dir()


def test_generate_writes_the_prompt_and_what_follows(run_folder, capfd):
    from distill_nb.generator import TextGenerator
    settings = dict(strategy="top_k", max_new_tokens=9, top_k=20, temperature=0.8, seed=3)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    assert main(["generate", "中国的", "--checkpoint", str(run_folder), *flags]) == 0
    text = TextGenerator.from_checkpoint(run_folder / "step-00000010").generate("中国的", **settings)
    assert capfd.readouterr().out == f"中国的{text}\n"


def test_generate_takes_what_the_generator_takes(run_folder, capfd, monkeypatch):
    "Each flag of its own changes the text as the setting of its name does."
    from distill_nb import decode
    from distill_nb.generator import TextGenerator
    writer = TextGenerator.from_checkpoint(run_folder / "step-00000010")
    usual = dict(strategy="top_k", max_new_tokens=30, seed=3)
    plain = writer.generate("中国的", **usual)
    for flags, changed in ((["--min-p", "1"], writer.generate("中国的", **usual, min_p=1.0)),
            (["--repetition-penalty", "0.2"],
             writer.generate("中国的", **usual, repetition_penalty=0.2)),
            (["--stop", plain[9:11], plain[5:7]], plain[:5])):
        assert main(["generate", "中国的", "--checkpoint", str(run_folder), "--strategy", "top_k",
                     "--max-new-tokens", "30", "--seed", "3", *flags]) == 0
        assert capfd.readouterr().out == f"中国的{changed}\n" and changed != plain
    rounded = []
    monkeypatch.setattr(decode, "_int8", lambda *w: rounded.append(w) or decode._as_is(*w))
    for flags in [], ["--quantize", "int8"]:
        assert not rounded
        assert main(["generate", "中国的", "--checkpoint", str(run_folder), *flags]) == 0
    assert rounded
    refused(["generate", "中国的", "--checkpoint", str(run_folder), "--quantize", "int4"], capfd,
            "quantize='int4' is not known; give 'int8', or nothing")


def test_evaluate_agrees_with_the_trainer(run_folder, capfd):
    assert main(["evaluate", "--checkpoint", str(run_folder), "--eval-batches", "1",
                 "--device", "cpu"]) == 0  # as the run
    lines = capfd.readouterr().out.splitlines()
    rows = {line[:27].strip(): line[27:].split() for line in lines if " ± " in line}
    valid = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])["valid"]
    student, _, _, teacher, *_ = rows["loss, nats per token"]
    shown = student, teacher, rows["KL from the teacher, nats"][0]
    kept = [valid[name] for name in ("student_ce", "teacher_ce", "kl")]
    assert [float(n) for n in shown] == pytest.approx(kept, abs=1e-3)
    agree = float(rows["teacher's first choice, %"][0])
    assert agree == pytest.approx(100 * valid["top1_agreement"], abs=0.06)


def test_export_loads_in_transformers_with_the_same_logits(run_folder, tmp_path, capfd):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from distill_nb.student import StudentModel
    assert main(["export", "--checkpoint", str(run_folder), "--out", str(tmp_path / "hf")]) == 0
    assert str(tmp_path / "hf") in capfd.readouterr().out
    ids = AutoTokenizer.from_pretrained(tmp_path / "hf")("北京是", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        ours = StudentModel.load(run_folder / "step-00000010")(ids)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_plan(capfd):
    assert main(["plan", "--preset", "tiny"]) == 0
    out = capfd.readouterr().out
    assert [w for w in ("memory at the peak", "student", "optimizer", "teacher", "steps",
                        "FLOPs per step", "hours") if w not in out] == []


@pytest.mark.slow
def test_plan_of_the_full_run_takes_seconds(capfd):
    start = time.monotonic()
    assert main(["plan"]) == 0
    assert "0.99 GB" in capfd.readouterr().out, "a teacher of 494,032,768 parameters in FP16"
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_hub_that_is_not_reached(train_flags, tmp_path):
    "One line that names the offline default, at once, for the data as for the teacher."
    env = os.environ | dict(HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hf"))
    env.pop("HF_HUB_OFFLINE", None)
    for flags in (["--dataset", "wikimedia/wikipedia"], ["--teacher", "Qwen/Qwen2.5-0.5B"]):
        start = time.monotonic()
        argv = [*train_flags, "--checkpoint-dir", str(tmp_path / "run"), *flags]
        done = python(f"import sys; from distill_nb.cli import main; sys.exit(main({argv!r}))",
                      env=env)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        (line,) = [s for s in done.stderr.splitlines() if not s.startswith("teacher ")]
        assert repr(flags[1]) in line and "--preset tiny" in line
        assert time.monotonic() - start < 30 and not (tmp_path / "run").exists()


def logged_by_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    found = EventAccumulator(str(folder / "run/distill_nb"))
    found.Reload()
    return {name: [row.step for row in found.Scalars(name)] for name in found.Tags()["scalars"]}


def logged_by_trackio(folder):
    import sqlite3
    found = {}
    with sqlite3.connect(folder / "trackio/distill_nb.db") as db:
        for step, row in db.execute("select step, metrics from metrics order by id"):
            for name in json.loads(row): found.setdefault(name, []).append(step)
    return found


@pytest.mark.parametrize("tracker, logged", [("tensorboard", logged_by_tensorboard),
                                             ("trackio", logged_by_trackio)])
def test_metrics_go_to_a_tracker_too(tracker, logged, train_flags, tmp_path):
    "Where it is not asked for, nothing but metrics.jsonl is written."
    flags = [*train_flags, "--max-steps", "3", "--checkpoint-dir", str(tmp_path / "run"),
             "--log-with", tracker]
    done = python(f"import sys; from distill_nb.cli import main; sys.exit(main({flags!r}))",
                  env=os.environ | dict(TRACKIO_DIR=str(tmp_path / "trackio")))
    assert done.returncode == 0, done.stderr
    steps = logged(tmp_path)
    assert steps["loss"] == steps["lr"] == [1, 2, 3] and steps["valid/student_ce"] == [3]
    assert RunConfig.load(tmp_path / "run").log_with == tracker


def test_a_tracker_that_is_not_installed(train_flags, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("distill_nb.device.get_available_trackers", lambda: [])
    flags = [*train_flags, "--checkpoint-dir", str(tmp_path / "run"), "--log-with", "trackio"]
    refused(flags, capfd, "log_with='trackio'", "pip install trackio")
    assert not list(tmp_path.iterdir())


def test_home_is_found_in_a_name(run_folder, tmp_path, monkeypatch):
    "Also where the shell does not look: --out=~/x."
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--checkpoint", str(run_folder), "--out=~/x"]) == 0
    assert (tmp_path / "x/config.json").is_file() and not (tmp_path / "~").exists()
    run = parse("train", ["--checkpoint-dir=~/run", "--resume=~/old"])
    assert (run.run.training.checkpoint_dir, run.resume) == (f"{tmp_path}/run", f"{tmp_path}/old")


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_loaded(capfd):
    for flags in (["train", "--preset", "tiny", "--checkpoint-dir", "\udcff"],
                  ["export", "--out", "\udcff"], ["study", "--preset", "tiny", "--out", "\udcff"]):
        refused(flags, capfd, r"'\udcff' is not UTF-8", "PYTHONUTF8=1")


def test_what_stands_in_a_vocabulary_is_not_obeyed(run_folder, monkeypatch, capfd):
    from distill_nb.generator import TextGenerator
    def stream(self, prompt, **settings): yield from ("a\x1b[2J", "\n\t", "👨\u200d👩", "\u202e\r中")
    monkeypatch.setattr(TextGenerator, "stream", stream)
    assert main(["generate", "--checkpoint", str(run_folder), "铁\x07"]) == 0
    assert capfd.readouterr().out == "铁\\x07a\\x1b[2J\n\t👨\u200d👩\\u202e\\r中\n"


@pytest.mark.parametrize("flags", ["--preset tiny", "--preset tiny --device cpu"])
def test_plan_of_a_cpu_measures_it(flags, monkeypatch, capfd):
    import torch
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert main(["plan", *flags.split()]) == 0
    out = capfd.readouterr().out
    speed, = re.findall(r"time +\S.* at (\S+) TFLOP/s", out)
    assert 0 < float(speed) < 10 and "this CPU" in out and "0.00 hours" not in out
    assert main(["plan", *flags.split(), "--tflops", "20"]) == 0
    out = capfd.readouterr().out
    assert "at 20 TFLOP/s" in out and "this CPU" not in out


def test_plan_says_when_the_warm_up_is_too_long(capfd):
    assert main(["plan", "--sample-mb", "0.5", "--device", "cpu", "--tflops", "1",
                 "--num-layers", "1", "--hidden-size", "64", "--vocab-size", "1000"]) == 0
    told = re.search(r"warm-up .*warmup_steps=500 would last longer than the run of (\d+) steps; "
                     r"it warms up over a tenth, (\d+)", capfd.readouterr().out)
    assert int(told[2]) == int(told[1]) // 10


def test_the_bar_and_the_validation_fit_a_terminal_of_80_columns(tmp_path):
    "The bar is a bar, its speed is there, and the validation is one line in words."
    from types import SimpleNamespace
    from unittest import mock
    import io, torch, tqdm
    from distill_nb.meter import Meter
    shown, place = io.StringIO(), SimpleNamespace(step=1234, epoch=1, total_steps=12345)
    def bar(*args, **kwargs): return tqdm.tqdm(*args, file=shown, ncols=80, mininterval=0, **kwargs)
    with mock.patch("distill_nb.meter.tqdm", bar):
        meter, said = Meter(tmp_path, tokens_per_step=4096), []
        meter.say = said.append
        with meter.opened(place, {}):
            numbers = dict.fromkeys(("loss", "kl", "ce", "grad_norm"), torch.tensor(11.234))
            meter.add(place, 0.1, **numbers)
            meter.flush()
            meter.validated(1234, dict(student_ce=7.7, teacher_ce=0.9, kl=6.89,
                                       top1_agreement=0.1))
    line = [part.strip("\n") for part in shown.getvalue().split("\r") if "tokens/s" in part][-1]
    assert len(line) <= 80 and line.endswith("tokens/s]") and "loss 11.234" in line
    assert len(re.search(r"\|(.*)\|", line)[1]) >= 10
    assert said == ["step 1234 validation: student 7.700, teacher 0.900 nats per token on the "
                    "labels; KL 6.890, agreement 10.0%"]
