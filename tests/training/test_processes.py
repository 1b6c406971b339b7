"""Training as a process: stopped by a signal, and started twice in one folder. (Killed:
test_soak. Several processes: test_distributed.)"""
import signal

import pytest
import torch
from shell import metrics, steps, wait_until, weights
from zygote import Zygote

from distill_nb.checkpoint import check_whole

pytestmark = pytest.mark.slow

STEPS, LAST = 200, "step-00000200"


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as zygote: yield zygote


@pytest.fixture(scope="module")
def flags(train_flags):
    return [*train_flags, "--num-epochs", 9, "--max-steps", STEPS,
            "--save-interval", 100, "--eval-interval", 50]


@pytest.fixture(scope="module")
def whole(zygote, flags, tmp_path_factory):
    "The folder of a run that nothing happened to."
    folder = tmp_path_factory.mktemp("whole")
    status, _, err = zygote.run(*flags, "--checkpoint-dir", folder)
    assert status == 0, err
    return folder


def assert_same_run(folder, whole):
    "Weights equal bit for bit, and every step is there once, with the same loss."
    ours, theirs = weights(folder / LAST), weights(whole / LAST)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert steps(folder) == list(range(1, STEPS + 1))
    ours, theirs = ([r["loss"] for r in metrics(f) if "loss" in r] for f in (folder, whole))
    assert ours == theirs


@pytest.mark.parametrize("name, status", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_and_says_how_to_go_on(name, status, zygote, flags, whole, tmp_path):
    process = zygote.start(*flags, "--checkpoint-dir", tmp_path)
    wait_until(lambda: len(steps(tmp_path)) >= 5, process)
    process.send_signal(getattr(signal, name))
    assert process.wait() == status and "Traceback" not in process.err
    (checkpoint,) = tmp_path.glob("step-*")
    check_whole(checkpoint)
    line = process.err.splitlines()[-1]
    assert line.startswith("distill_nb: stopped after step")
    assert f"saved in {checkpoint}" in line and "--resume" in line
    status, _, err = zygote.run(*flags, "--checkpoint-dir", tmp_path, "--resume")
    assert status == 0, err
    assert_same_run(tmp_path, whole)


def test_second_run_in_one_folder_is_refused(zygote, flags, whole, tmp_path):
    first = zygote.start(*flags, "--checkpoint-dir", tmp_path)
    wait_until(lambda: steps(tmp_path), first)
    first.send_signal(signal.SIGSTOP)
    note = (tmp_path / "run.json").read_bytes()
    status, _, err = zygote.run(*flags, "--checkpoint-dir", tmp_path, "--seed", 1)
    assert status == 2 and "Traceback" not in err
    assert f"checkpoint_dir={tmp_path} is in use by another run" in err.splitlines()[-1]
    assert (tmp_path / "run.json").read_bytes() == note
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0, first.err
    assert_same_run(tmp_path, whole)
