"The command `distill_nb` as a process of its own, for tests of what happens to processes."
import json, os, subprocess, sys, time
from pathlib import Path

from safetensors.torch import load_file

# `THOROUGH=1 pytest -n 2 -m slow` tries everything, in hours; otherwise, and in CI, a part of what
# is alike, always the same one.
THOROUGH = bool(os.environ.get("THOROUGH"))
installed = Path(sys.executable).with_name("distill_nb")
COMMAND = [sys.executable, "-c", "import sys; from distill_nb.cli import main; sys.exit(main())"]
if installed.exists(): COMMAND = [str(installed)]
# Before a command: its peak of memory, in GB, is the last line of its output. A small process
# starts it, for a child begins with its parent's memory and that counts.
WITH_PEAK = [sys.executable, "-c", """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6)
sys.exit(status)
"""]


def start(*argv, command=COMMAND, **env):
    "The running command; its output can be read when it has ended."
    return subprocess.Popen([*command, *map(str, argv)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, encoding="utf-8",
                            env=os.environ | env)


def finish(process, timeout=600):
    "Status, stdout and stderr of a process that ends."
    try: out, err = process.communicate(timeout=timeout)
    finally: process.kill()
    return process.returncode, out, err


def run(*argv, timeout=600, **kwargs): return finish(start(*argv, **kwargs), timeout)


def wait_until(happened, process, timeout=120):
    "Wait until `happened()`, while `process` runs."
    end = time.monotonic() + timeout
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def metrics(folder):
    "The rows of a run so far, but for a last one that is half written."
    path = Path(folder) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps(folder): return [r["step"] for r in metrics(folder) if "loss" in r]


def weights(folder): return load_file(Path(folder) / "model.safetensors")


def snapshot(folder):
    "Every file below `folder`, with its content."
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file()}


def refused(argv, capfd, *wanted):
    """Run `argv`: status 2, and one line on stderr with all that is wanted; before it only what
    the package tells of a good teacher and good data."""
    from distill_nb.cli import main
    assert main(argv) == 2
    out, err = capfd.readouterr()
    *told, line = err.splitlines()
    assert line.startswith("distill_nb: ")
    assert [w for w in wanted if w not in line] == [], line
    assert "Traceback" not in err and "──" not in err and "---" not in err
    assert all(t.startswith(("teacher ", "data ")) for t in told), told
    return out
