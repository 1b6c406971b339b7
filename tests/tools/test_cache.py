"""The teacher's answers on disk, and that training is the same with them.

Killed while it writes, written by two at once, stale, damaged, on a disk that is full."""
import errno, json, re, shutil, signal, sys
from collections import namedtuple

import pytest
import torch
from shell import finish, metrics, run, start, wait_until, weights

from distill_nb import cache
from distill_nb.cache import cache_teacher
from distill_nb.cli import main
from distill_nb.config import BadInput
from distill_nb.data import WikiDataset
from distill_nb.teacher import TeacherModel


HIDDEN, STAMP = "hidden.bin", "stamp.json"  # the files of a cache


def new_data(text_file, teacher, tmp_path):
    return WikiDataset(text_file, seq_len=32, tokenizer=teacher.tokenizer, sample_mb=0.01,
                       cache_dir=tmp_path)


def ask(teacher, data):
    "The data that bring the teacher's answers with them, and the folder of these."
    taught = cache_teacher(teacher, data, 4, progress=False)
    return taught, taught.train.folder


@pytest.fixture
def teacher(teacher_folder): return TeacherModel(str(teacher_folder), "cpu")


@pytest.fixture
def data(text_file, teacher, tmp_path): return new_data(text_file, teacher, tmp_path)


@pytest.fixture
def asked(monkeypatch):
    "How many blocks the teacher was asked about, call by call."
    calls, hidden = [], TeacherModel.hidden
    def counted(self, ids):
        if ids.shape[1] == 32: calls.append(len(ids))
        return hidden(self, ids)
    monkeypatch.setattr(TeacherModel, "hidden", counted)
    return calls


def assert_right(data, teacher):
    "Every block has what the teacher says about it."
    for i in range(len(data.train)):
        item = data.train[i]
        now = teacher.hidden(item["input_ids"].repeat(4, 1))[0]  # in a batch of the same shape
        assert torch.equal(item["teacher_hidden"], now), f"block {i}"


def done(folder): return json.loads((folder / STAMP).read_text())["done"]


def test_it_is_filled_once(data, teacher, asked, text_file, tmp_path):
    taught, folder = ask(teacher, data)
    n = len(data.train)
    assert sum(asked) >= n > 20 and set(asked) == {4}
    assert (folder / HIDDEN).stat().st_size == n * 32 * 24 * 4
    assert "teacher_hidden" not in data.train[0], "the data that were given are left as they are"
    asked.clear()
    for again in (data, taught, new_data(text_file, teacher, tmp_path)):
        assert ask(teacher, again)[1] == folder and not asked
    assert_right(taught, teacher)


def one_weight(teacher, data): teacher.model.model.layers[0].mlp.up_proj.weight[0, 0] += 0.5
def one_setting(teacher, data): teacher.model.config.rms_norm_eps *= 2
def one_token(teacher, data):
    data.train.tokens = data.train.tokens.copy()
    data.train.tokens[40] += 1
def another_dtype(teacher, data): teacher.bfloat16()
def another_tokenizer(teacher, data): data.tokenizer.add_tokens(["蒸馏"])


CHANGES = [(one_weight, "teacher"), (one_setting, "teacher"), (one_token, "tokens"),
           (another_dtype, "dtype float32 (not bfloat16)"), (another_tokenizer, "tokenizer")]


@pytest.mark.parametrize("change, what", CHANGES)
def test_what_is_stale_is_never_used(change, what, data, teacher, asked):
    _, old = ask(teacher, data)
    before = (old / HIDDEN).read_bytes()
    asked.clear()
    change(teacher, data)
    taught, new = ask(teacher, data)
    assert new != old and sum(asked) >= len(data.train)  # both lie side by side
    assert_right(taught, teacher)
    assert (old / HIDDEN).read_bytes() == before
    for f in (HIDDEN, STAMP): (old / f).replace(new / f)  # somebody mixes them up
    with pytest.raises(BadInput) as e: ask(teacher, data)
    said = str(e.value)
    assert f"{new} is stale" in said and what in said and "remove that folder" in said
    assert "\n" not in said


@pytest.mark.parametrize("size", [0, 1, 5000, 10**6])
def test_truncated_or_grown_it_is_finished(size, data, teacher, asked):
    _, folder = ask(teacher, data)
    n, whole = len(data.train), (folder / HIDDEN).stat().st_size
    with (folder / HIDDEN).open("r+b") as f: f.truncate(size)
    asked.clear()
    taught, _ = ask(teacher, data)
    lacking = n - min(n, size // (whole // n))
    assert sum(asked) == -(-lacking // 4) * 4  # in whole batches
    assert (folder / HIDDEN).stat().st_size == whole and done(folder) == n
    assert_right(taught, teacher)


@pytest.mark.parametrize("file", [STAMP, HIDDEN])
@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"stamp": 1, "done": 2}'])
def test_without_a_readable_stamp_or_file_it_is_made_anew(file, content, data, teacher, caplog):
    "A note that is damaged is told, once; one that is not there is no damage."
    _, folder = ask(teacher, data)
    (folder / file).unlink()
    if content is not None: (folder / file).write_bytes(content)
    assert_right(ask(teacher, data)[0], teacher)
    told = caplog.text.count(f"{folder / STAMP} is damaged")
    assert told == (file == STAMP and content is not None)


def test_too_small_a_disk_is_told_first(data, teacher, asked, monkeypatch, tmp_path):
    "Nothing is asked and nothing is written."
    needed = len(data.train) * 32 * 24 * 4
    def leave(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(free))
    leave(needed - 1)
    with pytest.raises(BadInput) as e: ask(teacher, data)
    line = (r"the teacher cache takes .* GB, and the disk of .* has .* GB free; make room, "
            ".*DISTILL_NB_CACHE")
    assert re.search(line, str(e.value)) and str(tmp_path) in str(e.value)
    assert "\n" not in str(e.value)
    assert not asked and not list(tmp_path.glob(f"*/{HIDDEN}"))
    leave(needed)
    ask(teacher, data)


def test_a_disk_that_fills_up(data, teacher, asked, monkeypatch):
    "One line, and what is done is used."
    raw = cache._raw
    def full(x):
        if x.dim() == 3 and len(asked) > 3: raise OSError(errno.ENOSPC, "No space left on device")
        return raw(x)
    monkeypatch.setattr(cache, "_raw", full)
    with pytest.raises(BadInput, match="No space left on device; make room.*is used"):
        ask(teacher, data)
    monkeypatch.setattr(cache, "_raw", raw)
    asked.clear()
    taught, _ = ask(teacher, data)
    assert sum(asked) < len(data.train) - 8
    assert_right(taught, teacher)


# Fills in small steps, each noted, and waits in the middle until the file `go` is there.
SLOWLY = """
import logging, sys, time
from pathlib import Path
import torch
from distill_nb import cache
from distill_nb.data import WikiDataset
from distill_nb.teacher import TeacherModel
logging.basicConfig(level=logging.INFO)
teacher_folder, text_file, folder = sys.argv[1:]
cache._SECONDS, hidden, asked = 0, TeacherModel.hidden, []
def slowly(self, ids):
    if ids.shape[1] == 32:
        asked.append(len(ids))
        while len(asked) == 4 and not Path(folder, "go").exists(): time.sleep(0.01)
    return hidden(self, ids)
TeacherModel.hidden = slowly
teacher = TeacherModel(teacher_folder, "cpu")
data = WikiDataset(text_file, seq_len=32, tokenizer=teacher.tokenizer, sample_mb=0.01,
                   cache_dir=folder)
cache.cache_teacher(teacher, data, 4, progress=False)
print(len(asked))
"""


@pytest.fixture
def slowly(teacher_folder, text_file, tmp_path):
    command = [sys.executable, "-c", SLOWLY]
    return lambda: start(teacher_folder, text_file, tmp_path, command=command)


def stamp_of(tmp_path): return next(iter(tmp_path.glob(f"*/{STAMP}")), None)


@pytest.mark.slow
def test_killed_it_goes_on_where_it_was(slowly, data, teacher, asked, tmp_path):
    process = slowly()
    wait_until(lambda: stamp_of(tmp_path) and done(stamp_of(tmp_path).parent) == 12, process)
    with (stamp_of(tmp_path).parent / HIDDEN).open("ab") as f:
        f.write(b"half a block")  # as a kill in the middle of a write would leave it
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL
    taught, _ = ask(teacher, data)
    assert len(data.train) - 12 <= sum(asked) < len(data.train) - 8
    assert_right(taught, teacher)


@pytest.mark.slow
def test_of_two_processes_one_fills_and_the_other_waits(slowly, data, teacher, asked, tmp_path):
    first = slowly()
    wait_until(lambda: stamp_of(tmp_path) and done(stamp_of(tmp_path).parent) == 12, first)
    second = slowly()
    said = next(line for line in second.stderr if "teacher cache" in line)  # it waits, or fills too
    (tmp_path / "go").touch()
    (status, out, err), (status2, out2, err2) = finish(first), finish(second)
    assert (status, status2) == (0, 0), err + err2
    assert "another process fills" in said
    assert int(out) == -(-len(data.train) // 4) and int(out2) == 0
    taught, _ = ask(teacher, data)
    assert not asked
    assert_right(taught, teacher)


# The command line

EPOCHS = "--sample-mb 0.01 --num-epochs 3 --max-steps 50".split()


def rows(folder):
    return [{k: v for k, v in r.items() if k != "tokens_per_s"} for r in metrics(folder)]


@pytest.fixture
def online(train_flags, tmp_path):
    assert main([*train_flags, *EPOCHS, "--checkpoint-dir", str(tmp_path / "online")]) == 0
    return tmp_path / "online"


def test_training_is_the_same_with_and_without(online, train_flags, tmp_path, asked, capfd):
    flags = [*train_flags, *EPOCHS, "--teacher-cache", "--checkpoint-dir", str(tmp_path / "cached")]
    assert main(flags) == 0
    said = capfd.readouterr().err
    assert rows(tmp_path / "cached") == rows(online)
    assert max(r.get("epoch", 0) for r in rows(online)) == 2
    assert "asking the teacher about" in said and "GB in" in said
    n = len(asked)
    assert main([*flags[:-1], str(tmp_path / "again")]) == 0
    assert len(asked) - n == 1  # only the validation, of one batch, still asks the teacher
    assert rows(tmp_path / "again") == rows(online)


@pytest.mark.slow
def test_resume_with_and_without_is_the_same(online, train_flags, tmp_path):
    intervals = "--warmup-steps 2 --save-interval 13 --eval-interval 13".split()
    flags = [*train_flags, *EPOCHS, *intervals]
    def run_of(name): return ["--checkpoint-dir", str(tmp_path / name)]
    assert main([*flags, *run_of("whole")]) == 0
    for name, first, then in (("a", [], ["--teacher-cache"]), ("b", ["--teacher-cache"], [])):
        assert main([*flags, *run_of(name), *first]) == 0
        for path in (tmp_path / name).glob("step-*"):
            if path.name != "step-00000013": path.rename(tmp_path / f"{name}-{path.name}")
        assert main([*flags, *run_of(name), *then, "--resume"]) == 0
        ours, theirs = (weights(tmp_path / x / "step-00000050") for x in (name, "whole"))
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
        assert rows(tmp_path / name) == rows(tmp_path / "whole")


def test_with_alpha_0_it_is_passed_over(train_flags, tmp_path, asked, capfd, monkeypatch):
    monkeypatch.setenv("DISTILL_NB_CACHE", str(tmp_path / "cache"))
    flags = "--alpha 0 --max-steps 2 --teacher-cache --checkpoint-dir".split()
    assert main([*train_flags, *flags, str(tmp_path / "run")]) == 0
    assert "--teacher-cache is passed over" in capfd.readouterr().err
    assert not list((tmp_path / "cache").glob("teacher-*"))


def test_stale_on_the_command_line(train_flags, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("DISTILL_NB_CACHE", str(tmp_path / "cache"))
    settings = "--max-steps 2 --sample-mb 0.01 --teacher-cache --checkpoint-dir".split()
    flags = [*train_flags, *settings]
    assert main([*flags, str(tmp_path / "one")]) == 0
    (folder,) = (tmp_path / "cache").glob("teacher-*")
    stamp = (folder / STAMP).read_text()
    (folder / STAMP).write_text(stamp.replace('"seq_len": 32', '"seq_len": 16'))
    capfd.readouterr()
    assert main([*flags, str(tmp_path / "two")]) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("distill_nb: the teacher cache") and "seq_len 16 (not 32)" in line
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
def test_two_processes_that_train_together(train_flags, tmp_path):
    "The same bits with the cache, which one of them fills, and with activations computed again."
    script = tmp_path / "distill.py"
    script.write_text("import sys\nfrom distill_nb.cli import main\nsys.exit(main())\n")
    launch = [sys.executable, *"-m torch.distributed.run --standalone --nproc_per_node 2".split(),
              str(script)]
    flags, cache_dir = [*train_flags, *EPOCHS, "--max-steps", 12], str(tmp_path / "cache")
    for name, more in (("plain", []), ("both", ["--teacher-cache", "--gradient-checkpointing"])):
        status, _, err = run(*flags, "--checkpoint-dir", tmp_path / name, *more,
                             command=launch, DISTILL_NB_CACHE=cache_dir)
        assert status == 0, err
    assert err.count("asking the teacher about") <= 1
    assert rows(tmp_path / "both") == rows(tmp_path / "plain")
    ours, theirs = (weights(tmp_path / name / "step-00000012") for name in ("both", "plain"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)
