"Training on several processes: the same as on one, whatever happens to it."
import contextlib, json, os, re, shutil, signal, socket, sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from shell import finish, metrics, run, start, steps, wait_until, weights
from filelock import FileLock

from distill_nb.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "howto" / "accelerate"
# Two epochs of 14 steps of 8 blocks; with batches of 4 an epoch has 29 of them, and 5 blocks
# fill no step.
BLOCKS, STEPS, LAST = 117, 28, "step-00000028"


def launch(*flags, config="one_machine.yaml", program=("--no_python", "distill_nb")):
    """The launcher with a configuration of the how-to page: command, to be followed by what
    `distill_nb` takes."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    return [*accelerate, "--config_file", str(CONFIGS / config), *map(str, flags),
            *map(str, program)]


def watched(diary, *flags, **kwargs):
    diary.mkdir(exist_ok=True)
    return launch("--main_process_port", 0, *flags,
                  program=(ROOT / "tests/support/watched.py", diary), **kwargs)


def read(diary, kind, rank): # a row a line
    path = diary / f"{kind}.{rank}"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def flags(train_flags):
    return [*train_flags, "--num-epochs", "2", "--max-steps", "1000", "--save-interval", "5",
            "--eval-interval", "7", "--eval-batches", "1000", "--keep", "100"]


@pytest.fixture(scope="module")
def one(tmp_path_factory, flags):
    "The folder of a run of one process, with all eight blocks of a step in one batch."
    folder = tmp_path_factory.mktemp("one") / "run"
    assert main([*flags, "--batch-size", "8", "--checkpoint-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory, flags):
    "The folder of a run of two processes, with four blocks each, and beside it their diary."
    folder = tmp_path_factory.mktemp("two") / "run"
    status, _, err = run(*flags, "--batch-size", 4, "--checkpoint-dir", folder,
                         command=watched(folder.with_name("diary")))
    assert status == 0, err
    return folder


RTOL, ATOL = 5e-5, 5e-5 # measured: 2e-6 and 1e-5


def assert_same(folder, one):
    """Every step once, with the losses, the gradient and the weights of one process, but for
    the order of sums."""
    ours, theirs = metrics(folder), metrics(one)
    ours_at, theirs_at = ([(r["step"], r.get("epoch")) for r in rows] for rows in (ours, theirs))
    assert ours_at == theirs_at
    assert steps(folder) == list(range(1, STEPS + 1))
    for a, b in zip(ours, theirs):
        for name in ("loss", "kl", "ce", "grad_norm", "kl_grad_norm", "ce_grad_norm", "lr"):
            if name in b: assert a[name] == pytest.approx(b[name], rel=RTOL), (name, b["step"])
        if "valid" in b: assert a["valid"] == pytest.approx(b["valid"], rel=RTOL)
    ours, theirs = weights(folder / LAST), weights(one / LAST)
    assert ours.keys() == theirs.keys()
    for name in theirs: torch.testing.assert_close(ours[name], theirs[name], atol=ATOL, rtol=0)


def test_two_processes_are_the_training_of_one(one, two): assert_same(two, one)


def test_every_block_is_seen_once_an_epoch(two):
    "Whatever number of batches an epoch has: of those that fill no step, none is half used."
    diary = [[Counter(), Counter()] for _ in range(2)]
    per_step = {}
    for rank in (0, 1):
        for row in read(two.with_name("diary"), "blocks", rank):
            diary[row["epoch"]][rank].update(row["blocks"])
            per_step[row["step"]] = per_step.get(row["step"], 0) + len(row["blocks"])
    assert per_step == dict.fromkeys(range(STEPS), 8)
    for ranks in diary:
        seen = ranks[0] + ranks[1]
        assert set(seen.values()) == {1} and len(seen) == BLOCKS // 8 * 8
        assert ranks[0].keys().isdisjoint(ranks[1])
    assert diary[0] != diary[1], "each epoch has an order of its own"


def test_one_process_writes(two):
    paths = read(two.with_name("diary"), "written", 0)
    written = {Path(p).relative_to(two).as_posix() for p in paths}
    assert {"metrics.jsonl", "run.json"} <= written
    assert any(p.endswith("model.safetensors") for p in written)
    assert any(p.endswith("trainer.pt") for p in written)
    assert read(two.with_name("diary"), "written", 1) == []


HOSTILE = dict(ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4", ACCELERATE_GRADIENT_CLIPPING="0.001",
               ACCELERATE_DOWNCAST_BF16="true", ACCELERATE_MIXED_PRECISION="bf16")


def test_accumulated_over_two_processes_whatever_the_launcher_says(one, tmp_path, flags):
    """Two batches of two in each process; what a file for the launcher may say besides does not
    change the gradient."""
    status, _, err = run(*flags, "--batch-size", 2, "--accumulate", 2,
                         "--checkpoint-dir", tmp_path / "run",
                         command=watched(tmp_path / "diary", "--mixed_precision", "bf16"),
                         **HOSTILE)
    assert status == 0, err
    assert_same(tmp_path / "run", one)
    rows = [row for rank in (0, 1) for row in read(tmp_path / "diary", "blocks", rank)
            if row["epoch"] == 1]
    assert set(Counter(b for row in rows for b in row["blocks"]).values()) == {1}
    assert sum(len(row["blocks"]) for row in rows) == BLOCKS // 8 * 8


def stopped_at(whole, step, folder):
    "A copy of a run as it was when `step` was saved, and killed right after it."
    folder.mkdir(parents=True)
    for file in ("run.json", f"step-{step:08d}"):
        copy = shutil.copytree if (whole / file).is_dir() else shutil.copy
        copy(whole / file, folder / file)
    rows = [json.dumps(row) + "\n" for row in metrics(whole) if row["step"] <= step]
    (folder / "metrics.jsonl").write_text("".join(rows))
    return folder


def test_one_process_goes_on_with_the_run_of_two(one, two, tmp_path, flags):
    folder = stopped_at(two, 20, tmp_path / "run") # in the second epoch
    assert main([*flags, "--batch-size", "8", "--checkpoint-dir", str(folder), "--resume"]) == 0
    assert_same(folder, one)


def test_two_processes_go_on_with_the_run_of_one(one, tmp_path, flags):
    folder = stopped_at(one, 10, tmp_path / "run") # in the first
    status, _, err = run(*flags, "--batch-size", 4, "--checkpoint-dir", folder,
                         "--resume", command=launch("--main_process_port", 0,
                                                    program=("-m", "distill_nb.cli")))
    assert status == 0 and "step-00000010" in err, err
    assert_same(folder, one)


LEFT_ALONE = ("distill_nb: process 1 ends too, since another process has gone: "
              "look for what that one said")


def complaints(err):
    "What the program itself says, once a process; the rest is of the launcher."
    return [line for line in err.splitlines() if line.startswith("distill_nb: ")]


def test_a_step_of_another_size_is_refused_where_it_does_not_divide_the_place(one, tmp_path, flags):
    # 80 blocks in; two processes with batches of 3 take 6 a step
    folder = stopped_at(one, 10, tmp_path / "run")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    status, _, err = run(*flags, "--batch-size", 3, "--checkpoint-dir", folder,
                         "--resume", command=launch("--main_process_port", 0))
    (line,) = set(complaints(err))
    assert status == 1 and "80" in line and "6" in line, err
    assert "[rank" not in err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()
            and p.name != ".lock"} == before


@pytest.mark.parametrize("whom", ["a process", "the launcher"])
def test_stopped_they_stop_after_the_same_step(whom, one, tmp_path, flags):
    folder, diary = tmp_path / "run", tmp_path / "diary"
    process = start(*flags, "--batch-size", 4, "--checkpoint-dir", folder,
                    command=watched(diary), SECONDS_A_STEP="0.1")
    wait_until(lambda: len(steps(folder)) >= 7, process)
    pids = [read(diary, "pid", rank)[0] for rank in (0, 1)]
    if whom == "the launcher": process.send_signal(signal.SIGTERM) # as a scheduler does
    else: os.kill(pids[1], signal.SIGTERM)
    try: status, _, err = finish(process, timeout=60)
    finally:
        for pid in pids:
            # where they wait for each other for ever
            with contextlib.suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)
    assert status == 1 and "[rank" not in err, err
    (line,) = set(complaints(err))
    last = int(re.match(r"distill_nb: stopped after step (\d+), saved in", line)[1])
    assert [len(read(diary, "blocks", rank)) for rank in (0, 1)] == [last, last]
    assert 7 <= last < STEPS
    assert steps(folder) == list(range(1, last + 1)) and (folder / f"step-{last:08d}").is_dir()
    assert not list(folder.glob(".making-*"))
    if whom == "a process":
        # the launcher ends whoever is still there when the first has left: -15
        codes = set(re.findall(r"exitcode *: (-?\d+)", err))
        assert "143" in codes and codes <= {"143", "-15"}, err
        status, _, err = run(*flags, "--batch-size", 4, "--checkpoint-dir", folder,
                             "--resume", command=launch("--main_process_port", 0))
        assert status == 0, err
        assert_same(folder, one)


def test_what_stops_one_process_is_told_by_it_alone(tmp_path, flags):
    """The first process finds its folder in use; the other one says that it was left alone, and
    neither has a traceback."""
    with FileLock(tmp_path / ".lock"):
        status, out, err = run(*flags, "--batch-size", 4, "--checkpoint-dir", tmp_path,
                               command=launch("--main_process_port", 0))
    said = sorted(complaints(err))
    assert status == 1 and f"checkpoint_dir={tmp_path} is in use by another run" in said[0], err
    # it may be ended before it can say so
    assert said[1:] in ([], [LEFT_ALONE])
    assert "[rank" not in err and not (tmp_path / "metrics.jsonl").exists()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def two_machines(folder, *flags_of_each):
    """Status and stderr of two launchers that meet on a port, each with a cache of its own; the
    folder of the run is on a disk that both have."""
    port = free_port()
    def machine(i, *flags):
        there = ["--num_processes", 2, "--machine_rank", i, "--main_process_ip", "127.0.0.1",
                 "--main_process_port", port]
        return start(*flags, "--batch-size", 4, "--checkpoint-dir", folder,
                     command=launch(*there, config="two_machines.yaml"),
                     DISTILL_NB_CACHE=str(folder.with_name(f"cache{i}")))
    machines = [machine(i, *flags) for i, flags in enumerate(flags_of_each)]
    return [(status, err) for status, _, err in map(finish, machines)]


def test_two_machines(one, tmp_path, flags):
    for status, err in two_machines(tmp_path / "run", flags, flags): assert status == 0, err
    assert_same(tmp_path / "run", one)
    assert all(any((tmp_path / f"cache{i}").iterdir()) for i in (0, 1))


def test_two_machines_with_different_texts_are_refused(text_file, tmp_path, flags):
    other = tmp_path / "articles.txt"
    articles = text_file.read_text(encoding="utf-8").split("\n\n")
    other.write_text("\n\n".join(articles[::-1]), encoding="utf-8")
    for status, err in two_machines(tmp_path / "run", flags, [*flags, "--dataset", str(other)]):
        assert status == 1 and "[rank" not in err, err
        assert "distill_nb: process 1 has " in err and " tokens=" in err
    assert not list((tmp_path / "run").glob("step-*"))


@pytest.fixture(scope="module")
def sharded(one, tmp_path_factory, flags):
    """The folder of a run that two processes, each of which keeps a half of the weights, went
    on with; and beside it their diary."""
    folder = stopped_at(one, 10, tmp_path_factory.mktemp("sharded") / "run")
    command = watched(folder.with_name("diary"), config="fsdp.yaml")
    status, _, err = run(*flags, "--batch-size", 2, "--accumulate", 2,
                         "--checkpoint-dir", folder, "--resume", command=command, FSDP_ON_CPU="1")
    assert status == 0 and "step-00000010" in err, err
    return folder


def test_weights_spread_over_two_processes_are_trained_as_those_of_one(one, sharded):
    assert_same(sharded, one)
    total = sum(w.numel() for w in weights(one / LAST).values())
    kept = [read(sharded.with_name("diary"), "kept", rank)[0] for rank in (0, 1)]
    assert sum(kept) == total and max(kept) < 0.6 * total
    assert read(sharded.with_name("diary"), "written", 0)
    assert read(sharded.with_name("diary"), "written", 1) == []


def test_one_process_goes_on_with_spread_weights(one, sharded, tmp_path, flags):
    folder = stopped_at(sharded, 20, tmp_path / "run")
    in_one_batch = ["--batch-size", "8", "--accumulate", "1"]
    assert main([*flags, *in_one_batch, "--checkpoint-dir", str(folder), "--resume"]) == 0
    assert_same(folder, one)


def test_fsdp_where_it_would_be_passed_over_is_refused(tmp_path, flags):
    status, _, err = run(*flags, "--checkpoint-dir", tmp_path / "run",
                         command=launch("--main_process_port", 0, config="fsdp.yaml"))
    (line,) = set(complaints(err))
    assert status == 1 and "asks for FSDP" in line, err
    assert "[rank" not in err and not (tmp_path / "run").exists()


def test_muon_is_refused_where_matrices_are_spread(tmp_path, flags):
    diary = tmp_path / "diary"
    status, _, err = run(*flags, "--optimizer", "muon", "--checkpoint-dir", tmp_path / "run",
                         command=watched(diary, config="fsdp.yaml"), FSDP_ON_CPU="1")
    assert status == 1 and "optimizer='muon' needs whole matrices" in err, err
    assert "[rank" not in err and not list((tmp_path / "run").glob("step-*"))


def test_two_processes_train_with_muon_as_one_does(tmp_path, flags):
    few = [*flags, "--optimizer", "muon", "--max-steps", "6"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*few, "--batch-size", "8", "--checkpoint-dir", str(one)]) == 0
    status, _, err = run(*few, "--batch-size", 4, "--checkpoint-dir", two,
                         command=watched(tmp_path / "diary"))
    assert status == 0, err
    ours, theirs = (weights(folder / "step-00000006") for folder in (two, one))
    for name in theirs: torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=0)
