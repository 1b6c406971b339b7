"""A disk that fails at a write, a flush or a renaming, whichever it is: the command ends with one
line, nothing that was whole is lost, nothing half done has its final name, and on a disk that
works again it goes on."""
import errno, os, shutil, subprocess, sys
from pathlib import Path

import pytest
import torch
from shell import THOROUGH, metrics, steps, weights
from zygote import Zygote

from distill_nb.checkpoint import check_whole, checkpoints, step_folders, step_of
from distill_nb.config import RunConfig

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[1] / "support/failing_disk.c"
LEAVINGS = ".making", ".new", ".tmp", ".old", ".removed"
REASONS = "No space left on device", "Input/output error", "the disk did not take all"


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    "Starts commands whose disk fails where `DISK_…` say."
    if not (sys.platform == "linux" and shutil.which("cc")):
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("library") / "failing_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SOURCE,
                    "-ldl"], check=True)
    with Zygote(LD_PRELOAD=str(library), HF_HUB_OFFLINE="1") as zygote: yield zygote


class Disk:
    "A folder that fails, the commands that write to it, and how it is before and after each."
    def __init__(self, zygote, root, flags):
        self.zygote, self.root, self.disk, self.log = zygote, root, root / "disk", root / "log"
        self.run, self.cache, self.out = (self.disk / name for name in ("run", "cache", "out"))
        train = [*flags, "--save-interval", 2, "--eval-interval", 2, "--teacher-cache",
                 "--checkpoint-dir", self.run, "--max-steps"]
        self.commands = dict(data=[*train, 2], train=[*train, 2],
                             resume=[*train, 4, "--keep", 1, "--resume"],
                             export=["export", "--checkpoint", self.run, "--out", self.out])
        self.disk.mkdir()
        self.calls = {name: self.calls_of(name) for name in self.commands}

    def calls_of(self, name) -> list:  # (number, call, path)
        "What a command calls on a disk that works; train's text is known already."
        if name == "train": shutil.rmtree(self.run)
        shutil.copytree(self.disk, self.root / f"before-{name}")
        status, calls, err = self.command(name)
        assert status == 0, err
        shutil.copytree(self.disk, self.root / f"after-{name}")
        return calls

    def command(self, name, *more, **settings):  # → status, calls, standard error
        self.log.unlink(missing_ok=True)
        status, _, err = self.zygote.run(
            *self.commands[name], *more, DISK_BELOW=self.disk, DISK_LOG=self.log,
            DISTILL_NB_CACHE=self.cache, **settings)
        calls = [line.split(" ", 2) for line in self.log.read_text().splitlines()]
        return status, [(int(n), call, path) for n, call, path in calls], err

    def chosen(self, name) -> list:  # numbers
        "The first and the last call of each kind to each file; of train what resume has not."
        of_kind = {}
        for n, call, path in self.calls[name]:
            if name == "data" and not path.startswith(str(self.cache)): continue
            if name == "train" and "step-" in path: continue
            of_kind.setdefault((call, path), []).append(n)
        return sorted({n for ns in of_kind.values() for n in (ns[0], ns[-1])})

    def put_back(self, when):
        shutil.rmtree(self.disk)
        shutil.copytree(self.root / when, self.disk)


@pytest.fixture(scope="module")
def disk(zygote, tmp_path_factory, train_flags):
    flags = train_flags[:train_flags.index("--max-steps")]
    flags += ["--batch-size", 2, "--warmup-steps", 1, "--log-interval", 1, "--eval-batches", 1]
    return Disk(zygote, tmp_path_factory.mktemp("disk"), flags)


def shown_path(disk, path):
    "What the line is to name for a file that could not be written."
    for folder in (disk.out, disk.cache):
        if path.startswith(f"{folder}"): return str(folder)
    return str(disk.run)


def wrong_with(disk, name, status, err, path):
    "What is wrong after a command that failed at `path`; nothing, if all is well."
    last = err.splitlines()[-1] if err else ""
    if "Traceback" in err or status != 2 or not last.startswith("distill_nb: "):
        return f"status {status}: {err[-1500:]}"
    if err.count("distill_nb: ") > 1: return f"more than one line: {err}"
    if shown_path(disk, path) not in last: return f"does not name the path: {last}"
    if not any(reason in last for reason in REASONS): return f"does not say why: {last}"
    left = [str(p) for p in disk.disk.rglob("*") if any(w in p.name for w in LEAVINGS)]
    if left: return f"left {left}"
    if disk.out.exists(): return f"left {[p.name for p in disk.out.rglob('*')]}"
    return wrong_with_run(disk, name) or wrong_with_tokens(disk)


def wrong_with_run(disk, name):
    before, run = disk.root / f"before-{name}" / "run", disk.run
    if step_folders(run) != checkpoints(run): return "a half checkpoint has its final name"
    for checkpoint in checkpoints(run): check_whole(checkpoint)
    newest = max(map(step_of, checkpoints(run)), default=0)
    if newest < max(map(step_of, checkpoints(before)), default=0): return "lost a checkpoint"
    if (run / "run.json").exists(): RunConfig.load(run)
    elif newest: return "lost run.json"
    text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
    if text and not text.endswith("\n"): return f"half a row: {text[-80:]!r}"
    if len(metrics(run)) != len(text.splitlines()): return "rows of metrics.jsonl are damaged"
    if steps(run)[:newest] != [*range(1, newest + 1)]: return f"lost rows up to step {newest}"


def wrong_with_tokens(disk):
    whole = disk.root / "after-export" / "cache"
    for folder in disk.cache.glob("[!.]*"):
        there = {p.name for p in folder.iterdir()}
        lacking = {p.name for p in (whole / folder.name).iterdir()} - there
        if folder.is_dir() and lacking and not folder.name.startswith("teacher-"):
            return f"half of the tokens have their final name: {there}"


def goes_on(disk, name):
    "On a disk that works again the same command ends as if nothing had been."
    again = ["--resume"] if name in ("data", "train") else []
    status, _, err = disk.command(name, *again)
    after = disk.root / f"after-{name}"
    if status: return f"does not go on: {err[-1500:]}"
    for theirs in [*after.glob("run/step-*"), *after.glob("out")]:
        ours = weights(disk.disk / theirs.relative_to(after))
        if any(not torch.equal(ours[k], v) for k, v in weights(theirs).items()):
            return "goes on to other weights"
    if steps(disk.run) != steps(after / "run"): return "goes on with other rows"


@pytest.mark.parametrize("name", ["data", "train", "resume", "export"])
def test_a_disk_that_fails(name, disk):
    "At a call of each kind in turn: full from there on, or once with an error."
    wrong, chosen = [], disk.chosen(name)
    assert len(chosen) >= 8
    if not THOROUGH: chosen = chosen[::2]
    for i, n in enumerate(chosen):
        disk.put_back(f"before-{name}")
        full = i % 2 == 0
        status, calls, err = disk.command(
            name, DISK_FAILS=n, DISK_FULL=int(full), DISK_ERRNO=errno.ENOSPC if full else errno.EIO)
        (call, path), = [call[1:] for call in calls if call[0] == n]
        found = wrong_with(disk, name, status, err, path)
        if not found and i % 3 == 0: found = goes_on(disk, name)
        if found: wrong.append(f"{n}: {call} {path}, {'full' if full else 'EIO'}\n  {found}")
    assert not wrong, f"{len(wrong)} of {len(chosen)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("name, kinds", [
    ("data", "train.bin valid.bin about.json sha256.json hidden.bin stamp.json"),
    ("train", "run.json metrics.jsonl"),
    ("resume", "run.json metrics.jsonl config.json trainer.pt tokenizer.json manifest.json"),
    ("export", "config.json tokenizer.json model.safetensors")])
def test_what_is_written_is_seen(name, kinds, disk):
    "The library sees the writes of all the libraries: Python's, PyTorch's and those in Rust."
    paths = {os.path.basename(path) for n, _, path in disk.calls[name] if n in disk.chosen(name)}
    assert [kind for kind in kinds.split() if not any(kind in p for p in paths)] == []
    if name in ("resume", "export"): assert any(p.startswith(".tmp") for p in paths)  # safetensors
