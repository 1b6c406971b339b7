"""`distill_nb verify-resume` says yes to the trainer as it is, no to one that forgets
something, and leaves nothing behind."""
import os, signal
from types import SimpleNamespace

import pytest

from shell import finish, run, start, wait_until
from distill_nb.cli import _parse as parse
from distill_nb.config import BadInput, ModelConfig, RunConfig
from distill_nb.verify import Command, NotTheSame, room_for, verify_resume
from zygote import Zygote

slow = pytest.mark.slow
EVERY = 6  # steps between checkpoints, of 24


def test_the_first_start_writes_down_its_settings(tmp_path, monkeypatch):
    "Every start is the same command, which finds them there."
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda argv, **kwargs: started.append(argv))
    changes = dict(dropout=0.1, alpha=1e-7, seed=0, max_steps=3, device="cpu")
    settings = RunConfig.preset("tiny").changed(**changes)
    start = Command(settings)
    for _ in range(2): start(tmp_path / "run")
    flags, folder = started[0][-3:], str(tmp_path / "run")
    assert started[0] == started[1] and flags == ["--checkpoint-dir", folder, "--resume"]
    assert parse("train", flags).run == settings.changed(checkpoint_dir=folder)


def test_room_is_asked_for_where_the_run_will_be(tmp_path, monkeypatch):
    assert room_for(tmp_path / "not" / "yet" / "there", ModelConfig.tiny()) == tmp_path
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    with pytest.raises(BadInput, match=r"takes 0\.13 GB, and .* has 0\.01 GB free; make room"):
        room_for(tmp_path / "run", ModelConfig.tiny())


# A trainer that forgets what the variable FORGET names, as soon as it goes on from a checkpoint.
FORGETFUL = """
import os
from distill_nb.trainer import DistillationTrainer

def forget(self):
    what = os.environ.get("FORGET")
    if what == "optimizer": self.step.optimizer.state.clear()
    if what == "place": self.place.epoch_step = 0
    if what == "best": self.meter.best_val_loss = float("inf")
    if what == "best, which is 0": self.meter.best_val_loss = 0.0
    if what == "schedule": self.step.scheduler.last_epoch = 0
    if what == "metrics": self.meter.history = self.meter.history[:-1]
    if what == "seed": object.__setattr__(self.run, "seed", self.run.seed + 1)

real = DistillationTrainer.resume
def resume(self, *args, **kwargs):
    real(self, *args, **kwargs)
    if self.place.step: forget(self)
DistillationTrainer.resume = resume
"""


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forgetful")
    (folder / "sitecustomize.py").write_text(FORGETFUL)
    with Zygote(PYTHONPATH=os.pathsep.join(
            filter(None, [str(folder), os.environ.get("PYTHONPATH")]))) as zygote:
        yield zygote


def starter(zygote, train_flags, forget=""):
    flags = [*train_flags, "--max-steps", 4 * EVERY, "--batch-size", 8,
             "--save-interval", EVERY, "--eval-interval", EVERY, "--dropout", 0.1]
    return lambda folder: zygote.start(*flags, "--checkpoint-dir", folder,
                                       *(["--resume"] if folder.exists() else []), FORGET=forget)


@slow
def test_the_trainer_as_it_is(zygote, train_flags, tmp_path):
    said = []
    verify_resume(starter(zygote, train_flags), tmp_path, EVERY, say=said.append)
    print("\n".join(["", *said]))
    assert said[-1] == "the same to the last bit"
    assert [next((word for word in ("SIGKILL", "SIGTERM", "left alone") if word in what), what)
            for what in said[:5]] == ["left alone", "SIGKILL", "SIGKILL", "SIGTERM", "left alone"]


@slow
@pytest.mark.parametrize("forget, first",
                         [("optimizer", r"step \d+\.0\.\w+ differs"),
                          ("place", r"step \d+\.0\.\w+ differs"),
                          ("seed", r"step \d+\.0\.\w+ differs"),
                          ("schedule", r"step \d+\.0\.lr differs"),
                          ("metrics", r"step \d+\.\d\.\w+ is only in the undisturbed run")])
def test_a_trainer_that_forgets(forget, first, zygote, train_flags, tmp_path):
    with pytest.raises(NotTheSame, match=r"metrics\." + first) as told:
        verify_resume(starter(zygote, train_flags, forget), tmp_path, EVERY, say=lambda _: None)
    print(f"\n{forget}: {told.value}")


@slow
def test_a_best_loss_that_is_forgotten_shows_only_where_it_matters(zygote, train_flags, tmp_path):
    """In a short run every validation is the best so far, so infinity in its place changes
    nothing, as the notebook on resuming says; zero does."""
    verify_resume(starter(zygote, train_flags, "best"), tmp_path / "infinity", EVERY,
                  say=lambda _: None)
    with pytest.raises(NotTheSame, match=r"trainer\.best_val_loss differs, 0.0 instead of"):
        verify_resume(starter(zygote, train_flags, "best, which is 0"), tmp_path / "zero",
                      EVERY, say=lambda _: None)


@slow
def test_the_command(train_flags, tmp_path):
    status, out, err = run("verify-resume", *train_flags[1:], "--max-steps", 12,
                           "--checkpoint-dir", tmp_path / "run")
    assert status == 0 and not err, err
    assert out.splitlines()[-1] == "the same to the last bit" and "SIGKILL" in out
    assert "SIGTERM" in out
    assert list(tmp_path.iterdir()) == []


@slow
def test_the_command_says_no(train_flags, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FORGETFUL)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    status, out, err = run("verify-resume", *train_flags[1:], "--max-steps", 12,
                           "--checkpoint-dir", tmp_path / "runs/one", FORGET="optimizer",
                           PYTHONPATH=path)
    assert status == 1 and err.count("\n") == 1 and err.startswith(
        "distill_nb: not the same: metrics.step "), err
    assert [p.name for p in tmp_path.iterdir() if p.name != "__pycache__"] == ["sitecustomize.py"]


@slow
def test_what_is_wrong_with_the_run_is_told_as_by_train(train_flags, tmp_path):
    status, _, err = run("verify-resume", *train_flags[1:], "--vocab-size", 8,
                         "--max-steps", 12, "--checkpoint-dir", tmp_path / "run")
    assert status == 2 and err.count("\n") == 1 and "vocab_size=8 is less than" in err, err
    assert list(tmp_path.iterdir()) == []


@slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_leaves_no_process_and_no_folder(number, status, train_flags, tmp_path):
    def running():
        return [p for p in os.listdir("/proc") if p.isdecimal()
                and str(tmp_path).encode() in read(f"/proc/{p}/cmdline")]
    process = start("verify-resume", *train_flags[1:], "--max-steps", 3000,
                    "--checkpoint-dir", tmp_path / "run")
    wait_until(lambda: list(tmp_path.glob(".verify-resume-*/undisturbed/metrics.jsonl")), process)
    assert len(running()) == 2
    process.send_signal(number)
    ended, _, err = finish(process)
    assert ended == status and "Traceback" not in err and running() == []
    assert list(tmp_path.iterdir()) == []


def read(path):
    try: return open(path, "rb").read()
    except OSError: return b""
