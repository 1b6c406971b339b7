"The notebooks as a reader runs them: by Run all in JupyterLab; without the package, as on Colab."
import json, os, shutil, subprocess, sys, time, urllib.request
from configparser import ConfigParser
from datetime import datetime
from pathlib import Path

import pytest
from browsing import run_all
from shell import THOROUGH

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
INSTALL = '''#| hide
if not __import__("importlib.util").util.find_spec("distill_nb"): # on Colab
    get_ipython().run_line_magic("pip", "install -q git+{git_url}")'''


def git_url():
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]["git_url"]


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]


def outputs_of(cells): return [o for c in cells for o in c["outputs"]]


def is_failure(output): return output["output_type"] == "error" or output.get("name") == "stderr"


@each_notebook
def test_first_cell_gets_the_package_where_it_is_missing(notebook):
    first = code_cells(notebook)[0]
    assert "".join(first["source"]) == INSTALL.format(git_url=git_url()) and first["outputs"] == []


# Run all

def ask(address, method="GET"):
    request = urllib.request.Request(address, method=method)
    with urllib.request.urlopen(request) as answer: return json.loads(answer.read() or "null")


def has_run(path):
    try: return bool(code_cells(path)[-1]["execution_count"])
    except ValueError: return False # it is being written


def wait_until_idle(page, address):
    """The last cell reads all notebooks, so none may be saved while it runs.
    Between two cells a kernel is idle for a moment."""
    quiet = 0
    while quiet < 4:
        page.wait_for_timeout(250)
        kernels = ask(f"{address}/api/kernels")
        quiet = quiet + 1 if all(k["execution_state"] == "idle" for k in kernels) else 0


# One of the course, the longest, and those with widgets: `nbdev_test` runs them all, and what
# JupyterLab does with one notebook it does with each.
SOME = "03_gqa", "09_trainer", "live", "playground"
IN_LAB = [p for p in NOTEBOOKS if THOROUGH or p.stem in SOME]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", IN_LAB, ids=lambda p: p.stem)
def test_notebook_runs_in_jupyterlab(notebook, lab, page):
    address, folder = lab
    name = notebook.relative_to(ROOT).as_posix()
    path = folder / name
    content = json.loads(path.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code": cell.update(outputs=[], execution_count=None)
    path.write_text(json.dumps(content), encoding="utf-8")
    run_all(page, address, name)
    end = time.monotonic() + 300
    try:
        while not has_run(path):
            assert time.monotonic() < end, f"not run in time: {not_run(path)[0]}"
            wait_until_idle(page, address)
            page.keyboard.press("Control+s")
            page.wait_for_timeout(1000)
    finally:
        for kernel in ask(f"{address}/api/kernels"):
            ask(f"{address}/api/kernels/{kernel['id']}", "DELETE")
    assert not_run(path) == []
    outputs = outputs_of(code_cells(path))
    assert [o for o in outputs if is_failure(o)] == []
    assert count_pictures(outputs) == count_pictures(outputs_of(code_cells(notebook)))


def not_run(path):
    return ["".join(c["source"]) for c in code_cells(path) if not c["execution_count"]]


def count_pictures(outputs): return sum("image/png" in o.get("data", {}) for o in outputs)


# Where the package is missing

SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


def printed_by(python, code, **kwargs):
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, **kwargs)
    return done.stdout.strip() + done.stderr


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    "An environment with everything these tests run with, but not the package."
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    ours, theirs = (Path(printed_by(p, SITE_PACKAGES)) for p in (sys.executable, python))
    (folder / "packages").mkdir()
    for path in ours.iterdir():
        if path.suffix == ".pth" or "distill_nb" in path.name: continue
        (folder / "packages" / path.name).symlink_to(path)
    (theirs / "others.pth").write_text(f"{folder / 'packages'}\n")
    kernel = folder / "jupyter/kernels/bare/kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps(dict(argv=argv, display_name="bare", language="python")))
    return folder


def environment(folder):
    "That of the bare kernel; where git is asked for the repository's address, it takes our clone."
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MPLBACKEND")}
    git = {"safe.directory": "*", f"url.{ROOT.as_uri()}.insteadOf": git_url()}
    env |= dict(JUPYTER_PATH=str(folder / "jupyter"), GIT_CONFIG_COUNT=str(len(git)),
                PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_ROOT_USER_ACTION="ignore")
    for i, (key, value) in enumerate(git.items()):
        env |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    return env


def execute(path, folder, cwd):
    "Run a notebook in the bare environment, in a folder that holds nothing else; its code cells."
    cwd.mkdir()
    shutil.copy(path, cwd)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace",
               "--ExecutePreprocessor.kernel_name=bare",
               "--ExecutePreprocessor.record_timing=True", cwd / path.name]
    done = subprocess.run(command, cwd=cwd, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return code_cells(cwd / path.name)


def seconds(cell):
    times = cell["metadata"]["execution"]
    def at(key): return datetime.fromisoformat(times[key].replace("Z", "+00:00"))
    return (at("iopub.status.idle") - at("iopub.status.busy")).total_seconds()


@pytest.mark.slow
def test_first_cell_installs_the_package_once_and_is_silent_after_that(bare, tmp_path):
    python, lesson = bare / "venv/bin/python", ROOT / "nbs/01_rmsnorm.ipynb"
    def where():
        code, env = "import distill_nb; print(distill_nb.__file__)", dict(PATH=os.environ["PATH"])
        return printed_by(python, code, cwd=bare, env=env)
    assert "No module named 'distill_nb'" in where()
    first = execute(lesson, bare, tmp_path / "first")
    assert where().startswith(str(bare / "venv"))
    assert [o for o in outputs_of(first) if is_failure(o)] == []
    again = execute(lesson, bare, tmp_path / "again")
    assert again[0]["outputs"] == [] and seconds(again[0]) < 2
    assert [o for o in outputs_of(again) if is_failure(o)] == []
