"What a lesson's header says that it costs is what it costs: each is run in a process of its own, one after the other."
import os, re, subprocess, sys, time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LESSONS = sorted((Path(__file__).parents[2] / "nbs").rglob("*.ipynb"))
RUN = "import sys; from pathlib import Path; from nbdev.test import test_nb; sys.exit(not test_nb(Path(sys.argv[1]))[0])"


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_costs(path):
    said = re.search(r"about (\d+) s on two cores, ([\d.]+) GB of memory", path.read_text(encoding="utf-8"))
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", RUN, path], cwd=path.parent, env=os.environ | dict(IN_TEST="1"))
    _, status, usage = os.wait4(process.pid, 0)
    seconds, memory = time.monotonic() - begin, usage.ru_maxrss / 1e6
    print(f"{path.stem}: {seconds:.1f} s of {said[1]}, {memory:.2f} GB of {said[2]}")
    assert status == 0
    assert memory < 1.2 * float(said[2]) + 0.05
