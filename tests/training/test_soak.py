"""One training run, killed again and again at moments that nobody chose, ends as if nothing had
happened."""
import collections, contextlib, random, signal, time

import pytest

from distill_nb.checkpoint import checkpoints
from distill_nb.verify import _differing as differing, _read_result as read_result
from zygote import Zygote

pytestmark = pytest.mark.slow

KILLS, STEPS, EVERY, MOST = 100, 240, 3, 60  # MOST: seconds for any one process
SETTINGS = (f"--max-steps {STEPS} --save-interval {EVERY} --eval-interval 7 --log-interval 2 "
            "--accumulate 2 --dropout 0.1 --warmup-steps 20 --num-epochs 9").split()


def started(process):
    try: return "going on from" in process.err or "from the beginning" in process.err
    except FileNotFoundError: return False  # it has not even opened its output


def soon(happened, process):
    "Wait until `happened()` or the process has ended; one that hangs is told."
    end = time.monotonic() + MOST
    while process.poll() is None and not happened():
        assert time.monotonic() < end, f"it did not happen in {MOST} s: {process.err}"
        time.sleep(0.001)


def being_written(folder, since):
    "The checkpoint that is being written, or None."
    with contextlib.suppress(FileNotFoundError):  # renamed while we look
        for path in folder.glob(".making-step-*"):
            if path.stat().st_mtime > since: return path


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as zygote: yield zygote


@pytest.fixture(scope="module")
def flags(train_flags): return [*train_flags, *SETTINGS]


@pytest.fixture(scope="module")
def undisturbed(zygote, flags, tmp_path_factory):
    """The folder of the run that nothing happens to, and the seconds that it took for loading
    and for a step."""
    folder, begun = tmp_path_factory.mktemp("soak") / "undisturbed", time.monotonic()
    process = zygote.start(*flags, "--checkpoint-dir", folder)
    soon(lambda: (folder / "metrics.jsonl").exists(), process)
    loaded = time.monotonic()
    assert process.wait(MOST) == 0, process.err
    return folder, loaded - begun, (time.monotonic() - loaded) / STEPS


def among_its_files(folder, born, files):
    "Is a checkpoint being written, with so many files in it already?"
    making = being_written(folder, born)
    with contextlib.suppress(FileNotFoundError):
        return making is not None and len(list(making.iterdir())) >= files


def wait_for_a_moment(rng, process, folder, born, loading, step):
    "While it loads, between two steps, or in the middle of saving: each as often."
    kind = rng.choice(["loading", "training", "saving"])
    if kind == "loading": time.sleep(rng.uniform(0, loading))
    if kind == "training":
        soon(lambda: started(process), process)
        time.sleep(rng.uniform(0, 2 * EVERY * step))
    if kind == "saving":
        # the first save after the start, or one that comes after progress
        before, files, later = checkpoints(folder)[:1], rng.randint(0, 4), rng.random() < 0.5
        if later: soon(lambda: checkpoints(folder)[:1] != before, process)
        soon(lambda: among_its_files(folder, born, files), process)


def test_killed_a_hundred_times_it_ends_the_same_to_the_bit(zygote, flags, undisturbed, tmp_path):
    folder, rng = tmp_path / "run", random.Random(6)
    counts, since = collections.Counter(), collections.Counter()
    whole, loading, step = undisturbed
    for i in range(KILLS):
        before, born = checkpoints(folder)[:1], time.time()
        process = zygote.start(*flags, "--checkpoint-dir", folder, "--resume")
        wait_for_a_moment(rng, process, folder, born, loading, step)
        process.kill()
        status = process.wait(MOST)
        assert status == -signal.SIGKILL, f"it ended by itself after {i} kills: {process.err}"
        where = "while training" if started(process) else "while loading"
        counts["while saving" if being_written(folder, born) else where] += 1
        since[before[0].name if before else "the beginning"] += 1
        if checkpoints(folder): read_result(folder)  # what has its name is whole, at every moment
    print(f"\n{sum(counts.values())} kills: {dict(counts)}")
    print(f"resumed from {len(since)} places: {dict(since)}")

    assert sum(counts.values()) == KILLS and counts["while saving"] >= 20
    assert 8 <= len(since), "it went on between the kills"
    process = zygote.start(*flags, "--checkpoint-dir", folder, "--resume")
    assert process.wait(MOST) == 0, process.err
    assert differing(read_result(folder), read_result(whole)) == []
    assert not list(folder.glob(".making-*")) and not list(folder.glob(".old-*"))
