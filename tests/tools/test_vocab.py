"`distill_nb trim`: a teacher with fewer tokens is an ordinary teacher for every other command."
import csv, json
from pathlib import Path

import pytest
from shell import metrics

from distill_nb.cli import main
from distill_nb.config import ModelConfig
from distill_nb.files import ASSETS

TEXT = ["--preset", "tiny", "--sample-mb", "0.2"]


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocab") / "trimmed"
    assert main(["trim", *TEXT, "--out", str(folder)]) == 0
    return folder


def test_it_trains_a_student_that_writes_and_is_exported(trimmed, tmp_path, capfd):
    rows = json.loads((trimmed / "config.json").read_text())["vocab_size"]
    assert 257 < rows < 4096
    run, hf = tmp_path / "run", tmp_path / "hf"
    settings = ["--teacher", str(trimmed), "--vocab-size", str(rows), "--checkpoint-dir", str(run)]
    assert main(["train", *TEXT, *settings, "--max-steps", "2", "--eval-batches", "1"]) == 0
    first, second = (row["loss"] for row in metrics(run) if "loss" in row)
    assert 0 < first < 30 and 0 < second < 30
    capfd.readouterr()
    writes = ["generate", "铁", "--checkpoint", str(run), "--max-new-tokens", "4"]
    assert main(writes) == 0 and capfd.readouterr().out.startswith("铁")
    assert main(["export", "--checkpoint", str(run), "--out", str(hf)]) == 0
    assert json.loads((hf / "config.json").read_text())["vocab_size"] == rows


def test_it_says_what_is_left_and_what_to_do_next(tmp_path, capfd):
    assert main(["trim", *TEXT, "--out", str(tmp_path / "a b")]) == 0
    out = capfd.readouterr().out
    assert "of 4,096 tokens; the teacher has" in out and "validation part's tokens" in out
    assert f"next   distill_nb train --teacher '{tmp_path / 'a b'}' --vocab-size" in out


def test_a_folder_in_use_is_left_as_it_is(trimmed, capfd):
    before = sorted(p.name for p in trimmed.iterdir())
    assert main(["trim", *TEXT, "--out", str(trimmed)]) == 2
    assert "is in use; name another" in capfd.readouterr().err
    assert sorted(p.name for p in trimmed.iterdir()) == before


def test_the_how_to_says_what_was_recorded():
    with open(ASSETS / "vocab_full.csv", encoding="utf-8") as f: rows = list(csv.DictReader(f))
    full, fewer = dict.fromkeys(int(row["vocab_size"]) for row in rows)
    params = [ModelConfig(vocab_size=n).num_params for n in (full, fewer)]
    bits = [float(row["bits_per_char"]) for row in rows if row["step"] == "250" and not row["ce"]]
    told = (Path(__file__).parents[2] / "howto" / "own_text.md").read_text(encoding="utf-8")
    for said in (f"{full:,} tokens", f"{fewer:,} tokens", f"{params[1] / 1e6:.0f} million",
                 f"instead of {params[0] / 1e6:.0f}",
                 f"{params[0] / params[1]:.1f} times less work",
                 f"{bits[1] / bits[0] - 1:.0%} more bits"):
        assert said in told
