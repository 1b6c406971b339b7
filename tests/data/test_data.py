"""The data on its way to the model: tokens on disk that somebody has spoiled, and files that
are named from somewhere else."""
import shutil

import pytest

from distill_nb.cli import main

SPOIL = {
    "empty": lambda f: f.write_bytes(b""),
    "three bytes": lambda f: f.write_bytes(b"abc"),
    "missing": lambda f: f.unlink(),
}


@pytest.mark.parametrize("how", SPOIL)
def test_damaged_tokens_are_made_anew(how, run_folder, text_file, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DISTILL_NB_CACHE", str(tmp_path))
    evaluate = ["evaluate", "--checkpoint", str(run_folder), "--eval-batches", "1"]
    assert main(evaluate) == 0
    *first, _ = capfd.readouterr().out.splitlines() # the last line is the speed
    (valid,) = tmp_path.glob("*/valid.bin")
    SPOIL[how](valid)
    assert main(evaluate) == 0
    assert capfd.readouterr().out.splitlines()[:-1] == first


def test_data_named_from_another_folder(train_flags, text_file, tmp_path, monkeypatch, capfd):
    "A run remembers where its data were, not how they were named."
    (tmp_path / "a").mkdir()
    shutil.copy(text_file, tmp_path / "a/my.txt")
    monkeypatch.chdir(tmp_path / "a")
    flags = [*train_flags, "--dataset", "my.txt", "--checkpoint-dir", "run", "--max-steps", "2"]
    assert main(flags) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--checkpoint", "a/run", "--eval-batches", "1"]) == 0
    assert main(["train", "--checkpoint-dir", "a/run", "--resume", "--max-steps", "3"]) == 0
    told, = (line for line in capfd.readouterr().err.splitlines() if "going on from" in line)
    assert "total_steps 2 → 3" in told and "source" not in told
