"""Every lesson of the course by itself: it takes no more memory than its header says."""
import os, re, subprocess, sys, time
from pathlib import Path

import pytest
from shell import WITH_PEAK

pytestmark = pytest.mark.slow

COURSE = sorted((Path(__file__).parents[2] / "nbs").glob("*.ipynb"))
# Its last cell exports, and the other worker may be reading the package just then.
LESSON = """
import nbdev, sys; from pathlib import Path; from nbdev.test import test_nb
nbdev.nbdev_export = lambda: None
sys.exit(not test_nb(Path(sys.argv[1]))[0])
"""


@pytest.mark.parametrize("path", COURSE, ids=lambda p: p.stem)
def test_lesson_takes_what_its_header_says(path):
    text = path.read_text(encoding="utf-8")
    said = re.search(r"about (\d+) s on two cores, ([\d.]+) GB of memory", text)
    begin = time.monotonic()
    command = [*WITH_PEAK, sys.executable, "-c", LESSON, path]
    lesson = subprocess.run(command, cwd=path.parent, env=os.environ | dict(IN_TEST="1"),
                            stdout=subprocess.PIPE, text=True)
    seconds, memory = time.monotonic() - begin, float(lesson.stdout.splitlines()[-1])
    print(f"{path.stem}: {seconds:.1f} s of {said[1]}, {memory:.2f} GB of {said[2]}")
    assert lesson.returncode == 0, lesson.stdout
    assert memory < 1.2 * float(said[2]) + 0.05
