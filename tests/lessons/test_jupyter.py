"""The notebooks as a reader runs them: every lesson by Run all in a JupyterLab, and where the
package is missing, as on Colab."""
import json, os, shutil, subprocess, sys, time, urllib.request
from configparser import ConfigParser
from pathlib import Path

import pytest
from browsing import run_all

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "nbs").glob("*.ipynb"))
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda p: p.stem)
INSTALL = '''#| hide
if not __import__("importlib.util").util.find_spec("distill_nb"): # on Colab, for one
    get_ipython().run_line_magic("pip", "install -q git+{git_url}")'''


def git_url():
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]["git_url"]


def code_cells(path):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if c["cell_type"] == "code" and "".join(c["source"]).strip()]


@each_lesson
def test_first_cell_gets_the_package_where_it_is_missing(lesson):
    first = code_cells(lesson)[0]
    assert "".join(first["source"]) == INSTALL.format(git_url=git_url()) and first["outputs"] == []


# Run all

def ask(address, method="GET"):
    with urllib.request.urlopen(urllib.request.Request(address, method=method)) as answer:
        return json.loads(answer.read() or "null")


def has_run(path):
    try: return bool(code_cells(path)[-1]["execution_count"])
    except ValueError: return False # it is being written


def wait_until_idle(page, address):
    """A lesson's last cell reads all notebooks, so none may be saved while it runs. Between two
    cells a kernel is idle for a moment."""
    quiet = 0
    while quiet < 4:
        page.wait_for_timeout(250)
        states = {kernel["execution_state"] for kernel in ask(f"{address}/api/kernels")}
        quiet = quiet + 1 if states <= {"idle"} else 0


@pytest.mark.slow
@each_lesson
def test_lesson_runs_in_jupyterlab(lesson, lab, page):
    address, folder = lab
    path = folder / "nbs" / lesson.name
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code": cell.update(outputs=[], execution_count=None)
    path.write_text(json.dumps(notebook), encoding="utf-8")
    run_all(page, address, f"nbs/{lesson.name}")
    end = time.monotonic() + 300
    try:
        while not has_run(path):
            if time.monotonic() > end:
                waiting = [c["source"] for c in code_cells(path) if not c["execution_count"]]
                pytest.fail(f"the last cell has not run; the first that has not: {waiting[:1]}")
            wait_until_idle(page, address)
            page.keyboard.press("Control+s")
            page.wait_for_timeout(1000)
    finally:
        for kernel in ask(f"{address}/api/kernels"):
            ask(f"{address}/api/kernels/{kernel['id']}", "DELETE")
    cells = code_cells(path)
    assert ["".join(c["source"]) for c in cells if not c["execution_count"]] == []
    outputs = [o for c in cells for o in c["outputs"]]
    assert [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"] == []
    saved = [o for c in code_cells(lesson) for o in c["outputs"]]
    assert count_pictures(outputs) == count_pictures(saved)


def count_pictures(outputs): return sum("image/png" in o.get("data", {}) for o in outputs)


# Where the package is missing

@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The Python of an environment that has everything these tests run with, but not the
    package; what is installed there stays there."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    ask_where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ours, theirs = (subprocess.check_output([p, "-c", ask_where], text=True).strip()
                    for p in (sys.executable, python))
    (folder / "packages").mkdir()
    for path in Path(ours).iterdir():
        if path.suffix != ".pth" and "distill_nb" not in path.name:
            (folder / "packages" / path.name).symlink_to(path)
    (Path(theirs) / "others.pth").write_text(f"{folder / 'packages'}\n")
    kernel = folder / "jupyter/kernels/bare/kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps(dict(argv=argv, display_name="bare", language="python")))
    return folder


def execute(path, folder, cwd):
    """Run a notebook from top to bottom in the bare environment, in a folder that holds nothing
    else. git gets the repository's address, and takes our clone."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MPLBACKEND")}
    git = {"safe.directory": "*", f"url.{ROOT.as_uri()}.insteadOf": git_url()}
    env |= dict(JUPYTER_PATH=str(folder / "jupyter"), GIT_CONFIG_COUNT=str(len(git)),
                PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_ROOT_USER_ACTION="ignore")
    for i, (key, value) in enumerate(git.items()):
        env |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    cwd.mkdir()
    shutil.copy(path, cwd)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace",
               "--ExecutePreprocessor.kernel_name=bare",
               "--ExecutePreprocessor.record_timing=True", cwd / path.name]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return code_cells(cwd / path.name)


def seconds(cell):
    from datetime import datetime
    a, b = (datetime.fromisoformat(cell["metadata"]["execution"][k].replace("Z", "+00:00"))
            for k in ("iopub.status.busy", "iopub.status.idle"))
    return (b - a).total_seconds()


@pytest.mark.slow
def test_first_cell_installs_the_package_once_and_is_silent_after_that(bare, tmp_path):
    python, lesson = bare / "venv/bin/python", ROOT / "nbs/01_rmsnorm.ipynb"
    def where():
        return subprocess.run([python, "-c", "import distill_nb; print(distill_nb.__file__)"],
                              cwd=bare, env=dict(PATH=os.environ["PATH"]), capture_output=True,
                              text=True)
    assert "No module named 'distill_nb'" in where().stderr
    first = execute(lesson, bare, tmp_path / "first")
    assert where().stdout.startswith(str(bare / "venv"))
    assert [o for c in first for o in c["outputs"] if o["output_type"] == "error"
            or o.get("name") == "stderr"] == []
    again = execute(lesson, bare, tmp_path / "again")
    assert again[0]["outputs"] == [] and seconds(again[0]) < 2
    assert [o for c in again for o in c["outputs"] if o.get("name") == "stderr"] == []
