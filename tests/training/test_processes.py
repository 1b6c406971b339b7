"""Training as a process: stopped by a signal, and started twice in one folder. (Killed:
test_soak. Several processes: test_distributed.)"""
import os, signal, subprocess, sys, time

import pytest
import torch
from shell import WITH_PEAK, COMMAND, finish, metrics, run, start, steps, wait_until, weights
from zygote import Zygote

from distill_nb.checkpoint import check_whole, checkpoints

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
    status, _, err = zygote.run(*flags, "--checkpoint-dir", folder, timeout=300)
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
    assert process.wait(300) == status and "Traceback" not in process.err
    (checkpoint,) = tmp_path.glob("step-*")
    check_whole(checkpoint)
    line = process.err.splitlines()[-1]
    assert line.startswith("distill_nb: stopped after step")
    assert f"saved in {checkpoint}" in line and "--resume" in line
    status, _, err = zygote.run(*flags, "--checkpoint-dir", tmp_path, "--resume", timeout=300)
    assert status == 0, err
    assert_same_run(tmp_path, whole)


def test_second_run_in_one_folder_is_refused(zygote, flags, whole, tmp_path):
    first = zygote.start(*flags, "--checkpoint-dir", tmp_path)
    wait_until(lambda: steps(tmp_path), first)
    first.send_signal(signal.SIGSTOP)
    note = (tmp_path / "run.json").read_bytes()
    status, _, err = zygote.run(*flags, "--checkpoint-dir", tmp_path, "--seed", 1,
                                timeout=300)
    assert status == 2 and "Traceback" not in err
    assert f"checkpoint_dir={tmp_path} is in use by another run" in err.splitlines()[-1]
    assert (tmp_path / "run.json").read_bytes() == note
    first.send_signal(signal.SIGCONT)
    assert first.wait(300) == 0, first.err
    assert_same_run(tmp_path, whole)


SLOW_SAVE = """
import sys, time
import distill_nb.saver as saver
def slow(*args, **kwargs):
    print("saving", flush=True)
    time.sleep(600)
saver.write_manifest = slow
from distill_nb.cli import main
sys.exit(main())
"""


def test_a_second_signal_stops_at_once(flags, tmp_path):
    "Even where a disk takes minutes over a checkpoint."
    process = start(*flags, "--save-interval", 3, "--checkpoint-dir", tmp_path,
                    command=[sys.executable, "-c", SLOW_SAVE])
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert process.poll() is None
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process, 60)
    assert status == 143 and time.monotonic() - begin < 10
    assert "stopped at once" in err.splitlines()[-1] and "Traceback" not in err
    assert not checkpoints(tmp_path)


def test_when_nobody_reads_its_errors_a_run_saves_and_stops(flags, tmp_path):
    "`train 2>&1 | head`: the reader goes, and the run would die of its next word."
    read, write = os.pipe()
    argv = map(str, [*COMMAND, *flags, "--checkpoint-dir", tmp_path])
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=write)
    os.close(write)
    wait_until(lambda: len(steps(tmp_path)) >= 3, process)
    os.close(read)
    assert process.wait(60) == 129
    (whole,) = checkpoints(tmp_path)
    check_whole(whole)


def test_under_nohup_a_closed_terminal_is_not_heard(flags, tmp_path):
    process = start(*flags, "--checkpoint-dir", tmp_path, command=["nohup", *COMMAND])
    wait_until(lambda: len(steps(tmp_path)) >= 3, process)
    process.send_signal(signal.SIGHUP)
    assert finish(process, 120)[0] == 0 and len(steps(tmp_path)) == STEPS


NO_SAVING = """
from distill_nb.saver import Saver
Saver.write = lambda self, *args: self.tensors_read.set()
"""
MAIN = "from distill_nb.cli import main\nmain()"
LARGE = ("train --preset tiny --optimizer adamw --device cpu --max-steps 3 --eval-interval 1000 "
         "--eval-batches 1 --log-interval 1 --batch-size 1 --hidden-size 512 --num-layers 5 "
         "--num-heads 8 --intermediate-size 2048 --save-interval 1 --keep 1").split()


def test_saving_takes_no_second_copy_of_the_weights(tmp_path):
    """20 million parameters: weights and AdamW's averages are 0.25 GB. A run that saves after
    every step takes little more memory than one that never does."""
    def peak(name, before):
        command = [*WITH_PEAK, sys.executable, "-c", before + MAIN]
        _, out, _ = run(*LARGE, "--checkpoint-dir", tmp_path / name, command=command)
        return float(out.splitlines()[-1])
    # the first ends in an error, since it has nothing to show
    never, always = peak("never", NO_SAVING), peak("always", "")
    assert checkpoints(tmp_path / "always")[0].name == "step-00000003"
    assert not checkpoints(tmp_path / "never")
    print(f"peak {never:.2f} GB without saving, {always:.2f} GB saving after every step")
    assert always < never + 0.04  # a copy of the averages alone makes it 0.08
