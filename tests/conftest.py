"What holds for every test: few threads, no telemetry, and in CI nothing is skipped."
import functools, os, subprocess, sys, threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Read when torch, tokenizers and matplotlib are first imported, and inherited by the processes that
# tests start. Where workers share the tests (`pytest -n 2`), each has one core.
threads = str(min(2, os.cpu_count() or 1))
environment = dict(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, OMP_WAIT_POLICY="PASSIVE",
                   TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1", MPLBACKEND="Agg")
for name, value in environment.items(): os.environ.setdefault(name, value)
if "PYTEST_XDIST_WORKER" in os.environ: os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

in_ci = os.environ.get("CI", "").lower() in ("1", "true")


def fail_if_skipped(report):
    """A skip in CI is a check that silently did not happen: call it a failure. An expected
    failure is none."""
    if in_ci and report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"in CI nothing may be skipped: {report.nodeid}: {why}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    return report if item.get_closest_marker("gpu") else fail_if_skipped(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return fail_if_skipped((yield))


ALONE = "site", "lab"  # one of each: they build in this checkout, or run notebook after notebook


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    "For `pytest -n 2 --dist loadgroup`: tests that share something costly stay on one worker."
    for item in items:
        shared = [name for name in ALONE if name in item.fixturenames]
        made = item._fixtureinfo.name2fixturedefs.values()
        if any(f[-1].scope == "module" for f in made): shared.append(item.path.stem)
        if shared: item.add_marker(pytest.mark.xdist_group(shared[0]))


# What several test files need, made once: a teacher and a text of seconds, and a run of ten
# steps with them.

@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Tokens of the tests' texts go to a folder of this session, here and in the processes that
    tests start."""
    os.environ["DISTILL_NB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory):
    """A random Qwen2 of 0.1 million parameters with the tiny tokenizer, saved as an ordinary
    model folder."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from distill_nb.files import ASSETS
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("teacher")
    Qwen2ForCausalLM(Qwen2Config(vocab_size=4096, hidden_size=24, intermediate_size=48,
                                 num_hidden_layers=1, num_attention_heads=2,
                                 num_key_value_heads=1, max_position_embeddings=64,
                                 tie_word_embeddings=True)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ASSETS / "teacher").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    "The first forty articles of the tiny text."
    from distill_nb.tour import tiny_text
    path = tmp_path_factory.mktemp("text") / "articles.txt"
    path.write_text("\n\n".join(tiny_text().split("\n\n")[:40]) + "\n", encoding="utf-8")
    return path


MODEL = ("--hidden-size 32 --num-layers 2 --num-heads 4 --num-kv-heads 2 --intermediate-size 64 "
         "--vocab-size 4096 --max-seq-len 32").split()


@pytest.fixture(scope="session")
def train_flags(teacher_folder, text_file):
    "A run of ten steps that takes a second; --checkpoint-dir is left to the test."
    return ["train", *MODEL, "--teacher", str(teacher_folder), "--dataset", str(text_file),
            "--device", "cpu", "--max-steps", "10", "--batch-size", "2", "--warmup-steps", "2",
            "--log-interval", "1", "--eval-batches", "1"]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, train_flags):
    "The folder of a finished run; tests read it and leave it as it is."
    from distill_nb.cli import main
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert main([*train_flags, "--checkpoint-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    "The folder of the distilled student that the package ships, with its tokenizer."
    from transformers import AutoTokenizer
    from distill_nb.demo import tiny_students
    from distill_nb.hub import load_pretrained
    folder = tmp_path_factory.mktemp("student") / "checkpoint"
    tiny_students()["distilled"].save(folder)
    load_pretrained(AutoTokenizer, "tiny").save_pretrained(folder)
    return folder


# The built site in a real browser: nothing outside this machine is reached.

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope="session")
def site():
    """The address of the built site, which is built first (but in `.ci/run`, where that has
    been done)."""
    root = Path(__file__).parents[1]
    if "SITE_IS_BUILT" not in os.environ:
        subprocess.run([sys.executable, ".ci/site.py"], cwd=root, check=True,
                       stdout=subprocess.DEVNULL)
    server = ThreadingHTTPServer(("127.0.0.1", 0),
                                 functools.partial(Quiet, directory=str(root / "_docs")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    from browsing import CHROMIUM, FLAGS
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that keeps what went wrong on it in `page.wrong`; what it asks of other machines
    is not counted."""
    page, ours = browser.new_page(), lambda url: not url.startswith("http") or url.startswith(
        "http://127.0.0.1")
    page.wrong = []
    page.on("console", lambda message: page.wrong.append(message.text)
            if message.type == "error" and ours(message.location["url"]) else None)
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("response", lambda response: page.wrong.append(f"{response.status} {response.url}")
            if response.status >= 400 else None)
    yield page
    page.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    "The address and the folder of a JupyterLab on a copy of the project."
    from browsing import copy_project, free_port, serve
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    copy_project(folder)
    flags = [f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder}",
             "--no-browser", "--IdentityProvider.token=", "--ServerApp.password=",
             "--ServerApp.disable_check_xsrf=True", "--LabApp.news_url=None",
             "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    if os.geteuid() == 0: flags.append("--allow-root")
    process = serve(["jupyterlab", *flags], folder, port)
    yield f"http://127.0.0.1:{port}", folder
    process.terminate()
    process.wait(30)
