"""Runs that are damaged, mixed up or cut short, full disks, odd environments: one line, and
nothing that was whole is lost."""
import json, os, pty, random, resource, shutil, subprocess, sys

import pytest
from shell import COMMAND, metrics, refused, run, snapshot, steps

from distill_nb.checkpoint import check_whole, write_manifest
from distill_nb.cli import main
from distill_nb.config import BadInput


@pytest.fixture
def copy(run_folder, tmp_path):
    "A finished run of ten steps that may be spoiled."
    return shutil.copytree(run_folder, tmp_path / "run")


@pytest.fixture(scope="session")
def long_run(tmp_path_factory, train_flags):
    "Checkpoints of steps 4, 8 and 10."
    folder = tmp_path_factory.mktemp("long") / "run"
    assert main([*train_flags, "--checkpoint-dir", str(folder), "--save-interval", "4"]) == 0
    return folder


@pytest.fixture(scope="session")
def other_teacher(tmp_path_factory, teacher_folder):
    "The same teacher under a tokenizer whose tokens mean something else."
    folder = shutil.copytree(teacher_folder, tmp_path_factory.mktemp("other") / "teacher")
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = spec["model"]["vocab"]
    a, b = [t for t in vocab if len(t) == 1][:2]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.mark.parametrize("argv, wanted",
                         [("train --bacth-size 3", "did you mean --batch-size?"),
                          ("train --hidden-size 510", "must be divisible by num_heads=8"),
                          ("generate --strategy beam", "must be one of 'greedy'")])
def test_a_mistake_on_a_terminal(argv, wanted):
    "A terminal brings colours into the parser's complaints, which a pipe does not."
    ours, theirs = pty.openpty()
    done = subprocess.Popen([*COMMAND, *argv.split()], stdin=theirs, stdout=theirs,
                            stderr=theirs, env=os.environ | dict(TERM="xterm"))
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096): shown += part
    except OSError: pass  # the other end is closed
    (line,) = shown.decode().strip().splitlines()
    assert done.wait(60) == 2 and line.startswith("distill_nb: ") and wanted in line


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_damaged_note_of_a_run(text, copy, capfd):
    (copy / "run.json").write_text(text)
    refused(["evaluate", "--checkpoint", str(copy)], capfd, f"{copy / 'run.json'} is damaged")


@pytest.mark.parametrize("name, content",
                         [("trainer.pt", {}), ("trainer.pt", [1]), ("config.json", b"[1]"),
                          ("config.json", b"\xff"), ("model.safetensors", b"")],
                         ids=["trainer empty", "trainer list", "config list", "config bytes",
                              "weights empty"])
def test_damaged_newest_checkpoint_is_passed_over(name, content, long_run, train_flags,
                                                  tmp_path, capfd):
    import torch
    folder = shutil.copytree(long_run, tmp_path / "run")
    path = folder / "step-00000010" / name
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert main([*train_flags, "--checkpoint-dir", str(folder),
                 "--resume", "--max-steps", "9"]) == 0
    err = capfd.readouterr().err
    assert "step-00000010 cannot be read" in err
    assert f"going on from {folder}/step-00000008" in err and "Traceback" not in err


def test_a_single_bit_is_noticed(copy):
    folder, rng = copy / "step-00000010", random.Random(0)
    for name in ("model.safetensors", "trainer.pt", "config.json", "tokenizer.json"):
        good = (folder / name).read_bytes()
        for place in rng.sample(range(8 * len(good)), 5):
            spoilt = bytearray(good)
            spoilt[place // 8] ^= 1 << place % 8
            (folder / name).write_bytes(spoilt)
            with pytest.raises(BadInput, match=f"{name} has changed"): check_whole(folder)
        (folder / name).write_bytes(good)
        check_whole(folder)


def spoil_optimizer(checkpoint, spoil):
    "Change what the file holds of the optimizer, under a manifest that says so."
    import torch
    state = torch.load(checkpoint / "trainer.pt", weights_only=True)
    spoil(state["optimizer"])
    torch.save(state, checkpoint / "trainer.pt")
    write_manifest(checkpoint)


def test_averages_that_are_smaller_than_they_say(copy, train_flags):
    "Four bytes that call themselves a matrix: AdamW would write over what lies behind them."
    import torch
    from distill_nb.checkpoint import read_state
    def shrink(optimizer):
        for averages in optimizer["state"].values():
            for name in ("exp_avg", "exp_avg_sq"):
                averages[name] = torch.full((1,), 1e-4).expand(averages[name].shape)
    spoil_optimizer(copy / "step-00000010", shrink)
    assert main([*train_flags, "--checkpoint-dir", str(copy), "--resume", "--max-steps", "12"]) == 0
    kept = read_state(copy / "step-00000012/trainer.pt")["optimizer"]["state"]
    assert all(len(t.unique()) > 1 for averages in kept.values()
               for name, t in averages.items() if t.numel() > 1000)


@pytest.mark.parametrize("name, value",
                         [("lr", "x"), ("betas", (5.0, -1.0)), ("betas", None), ("eps", [1]),
                          ("weight_decay", 1e30), ("fused", False), ("amsgrad", True),
                          ("foreach", True), ("capturable", True), ("initial_lr", None)])
def test_settings_of_the_optimizer_are_those_of_today(name, value, copy, run_folder, train_flags,
                                                      tmp_path):
    def spoil(optimizer):
        for group in optimizer["param_groups"]: group[name] = value
    spoil_optimizer(copy / "step-00000010", spoil)
    good = shutil.copytree(run_folder, tmp_path / "good")
    for folder in (copy, good):
        assert main([*train_flags, "--checkpoint-dir", str(folder), "--resume",
                     "--max-steps", "12"]) == 0
    ours, theirs = ([r.get("loss") for r in metrics(f)] for f in (copy, good))
    assert ours == theirs and len(ours) > 12


def test_weights_of_another_model_under_the_same_settings(copy, train_flags, capfd):
    import torch
    from safetensors.torch import save_file
    save_file({"something": torch.zeros(2)}, copy / "step-00000010/model.safetensors")
    write_manifest(copy / "step-00000010")
    refused([*train_flags, "--checkpoint-dir", str(copy), "--resume", "--max-steps", "12"],
            capfd, "damaged or of another model")


@pytest.mark.parametrize("line", [b"5", b'{"x": 1}', b"\xff"])
def test_foreign_line_in_the_metrics(line, copy, train_flags):
    rows = (copy / "metrics.jsonl").read_bytes().splitlines()
    (copy / "metrics.jsonl").write_bytes(b"\n".join([*rows, line]) + b"\n")
    assert main([*train_flags, "--checkpoint-dir", str(copy), "--resume", "--max-steps", "11"]) == 0
    assert (copy / "metrics.jsonl").read_bytes().splitlines()[:len(rows)] == rows


def test_going_on_from_an_older_checkpoint_moves_the_newer_ones_aside(long_run, train_flags,
        tmp_path, capfd):
    folder = shutil.copytree(long_run, tmp_path / "run")
    before = snapshot(folder)
    assert main([*train_flags, "--checkpoint-dir", str(folder),
                 "--resume", str(folder / "step-00000004"), "--max-steps", "6"]) == 0
    assert "moved step-00000008, step-00000010 to" in capfd.readouterr().err
    (aside,) = folder.glob("newer-than-step-00000004-*")
    kept = snapshot(aside)
    assert len(kept) > 10 and all(before[name] == content for name, content in kept.items())
    assert steps(folder) == [1, 2, 3, 4, 5, 6]
    assert main([*train_flags, "--checkpoint-dir", str(folder),
                 "--resume", "--max-steps", "7"]) == 0
    assert f"going on from {folder}/step-00000006" in capfd.readouterr().err


def test_going_on_elsewhere_leaves_the_run_as_it_is(long_run, train_flags, tmp_path):
    before = snapshot(long_run)
    assert main([*train_flags, "--checkpoint-dir", str(tmp_path / "branch"),
                 "--resume", str(long_run / "step-00000004"), "--max-steps", "6"]) == 0
    assert steps(tmp_path / "branch") == [1, 2, 3, 4, 5, 6] and snapshot(long_run) == before


def test_going_on_from_another_run_does_not_write_over_this_one(long_run, copy, train_flags, capfd):
    before = snapshot(copy)
    refused([*train_flags, "--checkpoint-dir", str(copy),
             "--resume", str(long_run / "step-00000004"), "--max-steps", "12"], capfd,
            "already holds step-00000010")
    assert snapshot(copy) == before


def test_a_checkpoint_named_by_a_dot(copy, train_flags, monkeypatch):
    monkeypatch.chdir(copy / "step-00000010")
    assert main(["evaluate", "--checkpoint", ".", "--eval-batches", "1"]) == 0
    assert main([*train_flags, "--checkpoint-dir", "..", "--resume", ".", "--max-steps", "11"]) == 0
    assert steps(copy) == list(range(1, 12))


def test_a_copy_under_another_name_is_not_the_newest(long_run, train_flags, tmp_path, capfd):
    folder = shutil.copytree(long_run, tmp_path / "run")
    shutil.copytree(folder / "step-00000004", folder / "step-best")
    assert main([*train_flags, "--checkpoint-dir", str(folder),
                 "--resume", "--max-steps", "11"]) == 0
    assert f"going on from {folder}/step-00000010" in capfd.readouterr().err


def test_killed_between_two_renames(copy, train_flags, capfd):
    "The folder that made room for a new one has its name back."
    (copy / "step-00000010").rename(copy / ".old-step-00000010")
    assert main([*train_flags, "--checkpoint-dir", str(copy), "--resume", "--max-steps", "11"]) == 0
    assert "step-00000010" in capfd.readouterr().err and (copy / "step-00000010").is_dir()


def test_another_tokenizer_is_refused(copy, train_flags, other_teacher, capfd):
    before = snapshot(copy)
    refused(["evaluate", "--checkpoint", str(copy), "--teacher", str(other_teacher)], capfd,
            "has other tokens than the tokenizer", str(other_teacher))
    refused([*train_flags, "--checkpoint-dir", str(copy), "--resume", "--max-steps", "12",
             "--teacher", str(other_teacher)], capfd, "has other tokens")
    assert snapshot(copy) == before


def test_the_environment_does_not_change_the_gradient(run_folder, train_flags, tmp_path):
    "Accelerate divides by what this variable says; the trainer accumulates by itself."
    status, _, err = run(*train_flags, "--checkpoint-dir", tmp_path / "run",
                         ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4")
    assert status == 0, err
    folders = tmp_path / "run", run_folder
    ours, theirs = ([r.get("grad_norm") for r in metrics(f)] for f in folders)
    assert ours[:10] == pytest.approx(theirs[:10], rel=1e-5)


def test_full_disk(train_flags, tmp_path):
    "No file may grow beyond 100 kB: the checkpoint cannot be written, and no half of it stays."
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    done = subprocess.run([*COMMAND, *train_flags, "--checkpoint-dir", tmp_path / "run"],
                          preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert "make room" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "run").glob("*step*"))


@pytest.mark.parametrize("broken", ["tokenizers", "metrics", "run.json", "the pruning"])
def test_a_disk_that_fails_anywhere_is_told_in_one_line(broken, train_flags, tmp_path, monkeypatch,
                                                        capfd):
    """Each library says it in its own way, and tokenizers with a bare `Exception`; the older
    checkpoint stays."""
    from pathlib import Path
    from transformers import PreTrainedTokenizerFast
    folder, real = tmp_path / "run", Path.open
    assert main([*train_flags, "--checkpoint-dir", str(folder)]) == 0
    before = {n: b for n, b in snapshot(folder).items() if n.startswith("step-")}
    def no_space(*args): raise Exception("No space left on device (os error 28)")
    def no_disk(*args): raise OSError(5, "Input/output error")
    def no_append(path, mode="r", *args, **kwargs):
        if mode.startswith("a"): no_disk()
        return real(path, mode, *args, **kwargs)
    place = {"tokenizers": (PreTrainedTokenizerFast, "save_pretrained", no_space),
             "metrics": (Path, "open", no_append),
             "run.json": ("distill_nb.config.RunConfig.save", no_disk),
             "the pruning": ("distill_nb.saver.prune", no_disk)}[broken]
    monkeypatch.setattr(*place)
    capfd.readouterr()
    assert main([*train_flags, "--checkpoint-dir", str(folder), "--resume",
                 "--max-steps", "12"]) == 2
    err = capfd.readouterr().err
    assert "Traceback" not in err and err.splitlines()[-1].startswith("distill_nb: cannot write ")
    assert "make room" in err.splitlines()[-1]
    after = snapshot(folder)
    assert {n: after.get(n) for n in before} == before
    assert json.loads((folder / "run.json").read_text())
    assert not list(folder.glob(".making-*"))


@pytest.mark.parametrize("kind", ["a folder", "a mount", "a link", "a dot", "not there"])
def test_export_writes_inside_the_folder_that_was_given(kind, run_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    if kind != "not there": out.mkdir()
    inode, given = out.stat().st_ino if out.exists() else None, str(out)
    if kind == "a link":
        (tmp_path / "link").symlink_to("out")
        given = str(tmp_path / "link")
    if kind == "a dot":
        monkeypatch.chdir(out)
        given = "."
    if kind == "a mount":  # whose parent cannot be written to
        real = os.rename
        def rename(a, b, **kwargs):
            if os.path.dirname(str(b)) == str(tmp_path): raise PermissionError(13, "no")
            return real(a, b, **kwargs)
        monkeypatch.setattr(os, "rename", rename)
    assert main(["export", "--checkpoint", str(run_folder), "--out", given]) == 0
    assert inode in (None, out.stat().st_ino)
    names = {p.name for p in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [n for n in names if n.startswith(".")] and (tmp_path / "link").is_symlink() == (
        kind == "a link")


def test_of_many_exports_into_one_folder_one_wins_and_is_whole(run_folder, tmp_path):
    from distill_nb.files import write_into
    import threading
    told, begin = [], threading.Barrier(4)
    def export(i):
        def fill(folder):
            for name in ("config.json", "weights"): (folder / name).write_text(str(i))
        begin.wait()
        try: told.append(write_into(tmp_path / "out", fill))
        except BadInput as e: told.append(str(e))
    threads = [threading.Thread(target=export, args=[i]) for i in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert told.count(None) == 1 and sum("in use" in str(t) for t in told) == 3, told
    a, b = (p.read_text() for p in sorted((tmp_path / "out").iterdir()))
    assert a == b


def test_the_mode_of_what_is_written_follows_the_umask(train_flags, tmp_path):
    before = os.umask(0o027)
    try: assert main([*train_flags, "--checkpoint-dir", str(tmp_path / "run")]) == 0
    finally: os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in tmp_path.glob("run/step-*/*")}
    assert set(modes.values()) == {"0o640"}, modes


def test_run_json_as_a_link_is_replaced_and_not_written_through(train_flags, tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "precious"
    elsewhere.write_text("mine")
    folder.mkdir()
    for name in ("run.json", ".making-run.json", "metrics.jsonl", "metrics.jsonl.new"):
        (folder / name).symlink_to(elsewhere)
    assert main([*train_flags, "--checkpoint-dir", str(folder)]) == 0
    assert elsewhere.read_text() == "mine" and json.loads((folder / "run.json").read_text())


def test_measurements_are_on_the_disk_before_a_checkpoint_has_its_name(train_flags, tmp_path,
                                                                       monkeypatch):
    import distill_nb.files as files
    from pathlib import Path
    synced, real_sync, real_rename = {}, files._flush, Path.rename
    def sync(path):
        synced[str(path)] = Path(path).read_bytes() if Path(path).is_file() else b""
        return real_sync(path)
    def rename(path, to):
        if Path(to).name.startswith("step-"):
            rows = synced.get(str(folder / "metrics.jsonl"), b"").decode()
            named[Path(to).name] = f'"step": {int(Path(to).name[5:])}' in rows
        return real_rename(path, to)
    named, folder = {}, tmp_path / "run"
    monkeypatch.setattr(files, "_flush", sync)
    monkeypatch.setattr("distill_nb.saver._flush", sync)
    monkeypatch.setattr(Path, "rename", rename)
    assert main([*train_flags, "--checkpoint-dir", str(folder), "--save-interval", "4"]) == 0
    assert named == {"step-00000004": True, "step-00000008": True, "step-00000010": True}


def test_a_gap_in_the_measurements_is_told(copy, train_flags, capfd):
    rows = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(rows[:3]))
    assert main([*train_flags, "--checkpoint-dir", str(copy), "--resume", "--max-steps", "11"]) == 0
    assert f"{copy / 'metrics.jsonl'} lacks 7 of 10 steps" in capfd.readouterr().err
    assert steps(copy) == [1, 2, 3, 11]


@pytest.mark.parametrize("command", ["generate", "export", "evaluate"])
def test_a_tokenizer_that_has_changed_is_noticed(command, copy, tmp_path, capfd):
    path = copy / "step-00000010/tokenizer.json"
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    path.write_bytes(spoilt)
    out = ["--out", str(tmp_path / "hf")] if command == "export" else []
    refused([command, "--checkpoint", str(copy), *out], capfd, "tokenizer.json has changed")
    assert not (tmp_path / "hf").exists()


def test_tokens_that_have_changed_are_made_again(text_file, teacher_folder, tmp_path):
    "A text of equal size and time is another text, and a cache of equal size another cache."
    from distill_nb.data import WikiDataset
    text, path = text_file.read_text(encoding="utf-8"), tmp_path / "a.txt"
    def tokens(content):
        before = path.stat() if path.exists() else None
        path.write_text(content, encoding="utf-8")
        if before: os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        data = WikiDataset(path, seq_len=32, tokenizer=str(teacher_folder),
                           cache_dir=tmp_path / "cache")
        return data.path, data.train.tokens.tolist()
    folder, first = tokens(text)
    assert tokens(text.translate(str.maketrans("铁铜的", "银金之")))[1] != first
    folder, first = tokens(text)
    spoilt = bytearray((folder / "train.bin").read_bytes())
    spoilt[100:104] = b"\xff\xff\xff\xff"
    (folder / "train.bin").write_bytes(spoilt)
    again = WikiDataset(path, seq_len=32, tokenizer=str(teacher_folder),
                        cache_dir=tmp_path / "cache")
    assert again.train.tokens.tolist() == first
    for content in (b"", b"[1]", b"[" * 100_000, b"\xff", b"{\"tokens\": {\"train\": 1e999}}"):
        (again.path / "about.json").write_bytes(content)
        assert WikiDataset(path, seq_len=32, tokenizer=str(teacher_folder),
                           cache_dir=tmp_path / "cache").train.tokens.tolist() == first


def test_a_student_without_its_optimizer_still_writes(copy, capfd):
    (copy / "step-00000010/trainer.pt").unlink()
    assert main(["generate", "--checkpoint", str(copy), "--max-new-tokens", "1", "中"]) == 0


def test_out_of_memory(train_flags, tmp_path, capfd):
    refused([*train_flags, "--checkpoint-dir", str(tmp_path / "run"),
             "--vocab-size", str(2 * 10**12)], capfd, "out of memory",
            "--batch-size", "distill_nb plan")


def test_folder_that_cannot_be_made(train_flags, run_folder, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    refused([*train_flags, "--checkpoint-dir", str(tmp_path / "file")], capfd,
            "cannot be written to", "another --checkpoint-dir")
    refused(["export", "--checkpoint", str(run_folder), "--out", str(tmp_path / "file/hf")],
            capfd, "cannot be made", "name another")


def test_a_terminal_without_chinese(run_folder):
    status, out, err = run("generate", "中国", "--checkpoint", run_folder, "--max-new-tokens", 2,
                           PYTHONIOENCODING="ascii")
    assert status == 0 and out.startswith("??"), err


def test_validating_before_training_leaves_the_folder_alone(copy, text_file, teacher_folder):
    "A new trainer on the folder of another run may be asked how good its student is."
    from distill_nb.config import ModelConfig, TrainingConfig
    from distill_nb.data import WikiDataset
    from distill_nb.student import StudentModel
    from distill_nb.trainer import DistillationTrainer
    before, data = snapshot(copy), WikiDataset(text_file, seq_len=32, tokenizer=str(teacher_folder))
    student = StudentModel(ModelConfig.tiny(hidden_size=32, num_heads=2, num_kv_heads=1,
                                            num_layers=1))
    trainer = DistillationTrainer(student, None, data,
                                  TrainingConfig(alpha=0.0, checkpoint_dir=str(copy)),
                                  device="cpu", eval_batches=1, progress=False)
    assert trainer.evaluate()["student_ce"] > 5 and snapshot(copy) == before


def test_what_is_shown_where_nobody_set_up_a_log(run_folder, train_flags, tmp_path):
    "In Python, too, a run says that it starts from the beginning."
    code = """
from distill_nb.config import ModelConfig, TrainingConfig
from distill_nb.data import WikiDataset
from distill_nb.student import StudentModel
from distill_nb.trainer import DistillationTrainer
import sys
config = TrainingConfig.tiny(alpha=0.0, checkpoint_dir=sys.argv[1])
student = StudentModel(ModelConfig.tiny(hidden_size=32, num_heads=2, num_kv_heads=1, num_layers=1))
DistillationTrainer(student, None, WikiDataset("tiny", seq_len=32), config, device="cpu").resume()
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "nothing"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "starting from the beginning" in done.stdout, done.stderr
