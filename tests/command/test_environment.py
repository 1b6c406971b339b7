"""Where a command is started: no standard error, a locale without Chinese, variables with wrong
values. Each in a process of its own; what cannot work is named in one line."""
import os, subprocess

import pytest
from shell import COMMAND, steps

pytestmark = pytest.mark.slow


def run_in(argv, cwd, shell_tail="", **env):
    "Status and standard error of a command that a shell starts."
    line = f'exec "$@" {shell_tail}'
    done = subprocess.run(["sh", "-c", line, "sh", *COMMAND, *map(str, argv)], cwd=cwd,
                          env=os.environ | env, capture_output=True, timeout=300)
    return done.returncode, done.stderr.decode("utf-8", "backslashreplace")


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "2>&- >&- <&-"])
def test_closed_streams(closed, train_flags, tmp_path):
    "No word of a run gets into a file that was opened in the place of a closed stream."
    status, err = run_in([*train_flags, "--checkpoint-dir", "run"], tmp_path, closed)
    assert status == 0 and "Traceback" not in err and len(steps(tmp_path / "run")) == 10
    assert run_in(["train", "--alpha", "2"], tmp_path, closed)[0] == 2


NO_UTF8 = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


def test_a_locale_without_chinese(train_flags, tmp_path):
    "A folder whose name the libraries could not write is refused before anything is loaded."
    status, err = run_in([*train_flags, "--checkpoint-dir", "北京"], tmp_path, **NO_UTF8)
    assert status == 2 and "PYTHONUTF8=1" in err.splitlines()[-1] and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    (tmp_path / "中国").mkdir()
    status, err = run_in([*train_flags, "--checkpoint-dir", "run"], tmp_path / "中国", **NO_UTF8)
    assert status == 0, err


@pytest.mark.parametrize("name, value", [
    ("ACCELERATE_DYNAMO_BACKEND", "foo"), ("ACCELERATE_USE_CPU", "maybe"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "abc"), ("TORCH_LOGS", "foo")])
def test_variables_with_wrong_values(name, value, train_flags, tmp_path):
    "A library that does not start with it is told in one line that names the variable."
    argv = [*train_flags, "--checkpoint-dir", "run"]
    status, err = run_in(argv, tmp_path, **{name: value})
    assert status == 2 and "Traceback" not in err and "another device" not in err, err
    line = err.splitlines()[-1]
    assert line.startswith("distill_nb: ") and "does not start" in line and name in line
    assert not (tmp_path / "run").exists()


def test_a_variable_that_is_not_asked(train_flags, tmp_path):
    "The precision of a run is decided by its device."
    argv = [*train_flags, "--checkpoint-dir", "run"]
    status, err = run_in(argv, tmp_path, ACCELERATE_MIXED_PRECISION="foo")
    assert status == 0 and len(steps(tmp_path / "run")) == 10, err


def test_a_picture_is_never_worth_a_run(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe")
    status, err = run_in(["demo", "--max-steps", "2", "--out", "out"], tmp_path, MPLBACKEND="foo")
    assert status == 0 and "curves.png cannot be drawn" in err and "Traceback" not in err
    assert (tmp_path / "out/results.json").is_file() and (tmp_path / "out/student-hf").is_dir()


@pytest.mark.parametrize("argv", [["train", "--help"], ["--help"], ["demo", "--help"]])
def test_a_terminal_of_one_column(argv, tmp_path):
    assert run_in(argv, tmp_path, COLUMNS="1") == (0, "")
