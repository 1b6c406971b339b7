"JupyterLab and Voilà as processes of their own, and a page of them, for tests in a real browser."
import os, shutil, socket, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ("--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
         "--disable-sync").split()


def copy_project(folder):
    """What the notebooks need: a lesson's last cell exports, and that must not be into this
    checkout."""
    for name in ("nbs", "distill_nb"): shutil.copytree(ROOT / name, folder / name)
    for name in ("settings.ini", "pyproject.toml", "index.ipynb"): shutil.copy(ROOT / name, folder)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def serve(command, folder, port, seconds=120):
    "Run `command` in `folder` and wait until the port is open; its process."
    no = "MPLBACKEND", "IN_TEST"  # plots are shown in the notebook, and widgets too
    env = {k: v for k, v in os.environ.items() if k not in no}
    for what in ("SETTINGS", "WORKSPACES"):
        env[f"JUPYTERLAB_{what}_DIR"] = f"{folder}/.{what.lower()}"
    nowhere = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=env, **nowhere)
    end = time.monotonic() + seconds
    while True:
        try: socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise AssertionError(f"{command[0]} does not start")
            time.sleep(0.3)
        else: return process


def run_all(page, address, notebook):
    "Open a notebook in JupyterLab and run all its cells; returns when they are on their way."
    page.set_default_timeout(20_000)
    page.goto(f"{address}/lab/tree/{notebook}?reset")
    page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for()
    page.get_by_text("| Idle").wait_for()  # in the status bar: the kernel is there
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
