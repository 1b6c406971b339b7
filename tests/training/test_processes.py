"Training as a process: killed, interrupted, started twice, its checkpoints damaged, and on several processes."
import shutil, signal, sys

import pytest
import torch
from shell import finish, metrics, run, start, steps, wait_until, weights

pytestmark = pytest.mark.slow

LAST = "step-00000030"
FLAGS = "train --preset tiny --device cpu --max-steps 30 --batch-size 4 --save-interval 10 --eval-interval 10 --eval-batches 2 --log-interval 1".split()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The folder of a run that nothing happened to."
    folder = tmp_path_factory.mktemp("whole")
    status, _, err = run(*FLAGS, "--checkpoint-dir", folder)
    assert status == 0, err
    return folder


def assert_same_run(folder, whole):
    "Weights equal bit for bit, and every step is there once, with the same loss."
    ours, theirs = weights(folder / LAST), weights(whole / LAST)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert steps(folder) == list(range(1, 31))
    assert [r["loss"] for r in metrics(folder) if "loss" in r] == [r["loss"] for r in metrics(whole) if "loss" in r]


def test_the_run_learns(whole):
    losses = [r["loss"] for r in metrics(whole) if "loss" in r]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


# Stops where the second checkpoint is written but not yet on disk and not yet renamed, and says so.
STOP_WHILE_WRITING = """
import os, sys, time
real, seen = os.fsync, set()
def fsync(fd):
    seen.add(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")) if os.path.isfile(f"/proc/self/fd/{fd}") else None)
    if any(f and f.endswith("making-step-00000020") for f in seen):
        print("writing", flush=True)
        time.sleep(600)
    real(fd)
os.fsync = fsync
from distill_nb.cli import main
sys.exit(main())
"""


def test_killed_at_any_moment_it_goes_on_as_if_nothing_had_happened(whole, tmp_path):
    folder = tmp_path / "run"
    flags = [*FLAGS, "--checkpoint-dir", folder, "--resume"]

    process = start(*flags)  # before the first checkpoint
    wait_until(lambda: len(steps(folder)) >= 4, process)
    process.send_signal(signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL and not list(folder.glob("step-*"))

    process = start(*flags)  # after the first
    wait_until(lambda: len(steps(folder)) >= 14, process)
    process.send_signal(signal.SIGKILL)
    status, _, err = finish(process)
    assert status == -signal.SIGKILL and "starting from the beginning" in err

    process = start(*flags, command=[sys.executable, "-c", STOP_WHILE_WRITING])  # while it writes the second
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    status, _, err = finish(process)
    assert status == -signal.SIGKILL and "going on from" in err and "step-00000010" in err
    assert (folder / ".making-step-00000020").is_dir() and not (folder / "step-00000020").exists()

    status, _, err = run(*flags)
    assert status == 0 and "step-00000010" in err, err
    assert not list(folder.glob(".making-*"))
    assert_same_run(folder, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_saves_and_says_how_to_go_on(number, whole, tmp_path):
    process = start(*FLAGS, "--checkpoint-dir", tmp_path)
    wait_until(lambda: len(steps(tmp_path)) >= 5, process)
    process.send_signal(number)
    status, _, err = finish(process)
    assert status == 128 + number and "Traceback" not in err
    (checkpoint,) = tmp_path.glob("step-*")
    line = err.splitlines()[-1]
    assert line.startswith("distill_nb: stopped after step") and str(checkpoint) in line and "--resume" in line
    status, _, err = run(*FLAGS, "--checkpoint-dir", tmp_path, "--resume")
    assert status == 0, err
    assert_same_run(tmp_path, whole)


def test_second_run_in_one_folder_is_refused(whole, tmp_path):
    first = start(*FLAGS, "--checkpoint-dir", tmp_path)
    wait_until(lambda: steps(tmp_path), first)
    note = (tmp_path / "run.json").read_bytes()
    first.send_signal(signal.SIGSTOP)
    status, _, err = run(*FLAGS, "--checkpoint-dir", tmp_path, "--seed", 1)
    assert status == 2 and f"checkpoint_dir={tmp_path} is in use by another run" in err.splitlines()[-1] and "Traceback" not in err
    assert (tmp_path / "run.json").read_bytes() == note
    first.send_signal(signal.SIGCONT)
    assert finish(first)[0] == 0
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("file", ["trainer.pt", "model.safetensors", "config.json"])
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(file, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    damaged = folder / LAST / file
    damaged.write_bytes(damaged.read_bytes()[:100])
    status, _, err = run(*FLAGS, "--checkpoint-dir", folder, "--resume")
    assert status == 0 and "Traceback" not in err, err
    assert f"{folder / LAST} cannot be read" in err and f"going on from {folder / 'step-00000020'}" in err
    assert_same_run(folder, whole)


def test_no_whole_checkpoint_is_told_and_nothing_is_lost(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for path in folder.glob("step-*/trainer.pt"): path.write_bytes(b"")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    status, _, err = run(*FLAGS, "--checkpoint-dir", folder, "--resume")
    assert status == 2 and "no whole checkpoint" in err.splitlines()[-1] and "Traceback" not in err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_two_processes_do_what_one_does_with_accumulated_batches(tmp_path):
    "Two processes with a batch each, and one with two batches a step, are the same training but for the order of sums."
    script = tmp_path / "distill.py"
    script.write_text("import sys\nfrom distill_nb.cli import main\nsys.exit(main())\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    status, _, err = run(*FLAGS, "--max-steps", 10, "--checkpoint-dir", tmp_path / "two", command=launch)
    assert status == 0, err
    status, _, err = run(*FLAGS, "--max-steps", 10, "--accumulate", 2, "--checkpoint-dir", tmp_path / "one")
    assert status == 0, err
    assert steps(tmp_path / "two") == list(range(1, 11))
    two, one = ([r["loss"] for r in metrics(tmp_path / n) if "loss" in r] for n in ("two", "one"))
    assert two == pytest.approx(one, rel=1e-3)
    two, one = (weights(tmp_path / n / "step-00000010") for n in ("two", "one"))
    for name in one: torch.testing.assert_close(two[name], one[name], atol=1e-3, rtol=0)
    status, _, err = run(*FLAGS, "--max-steps", 12, "--checkpoint-dir", tmp_path / "two", "--resume", command=launch)
    assert status == 0 and steps(tmp_path / "two") == list(range(1, 13)), err
