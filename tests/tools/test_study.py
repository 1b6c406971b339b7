"""The study as one command: every way is trained once, whatever stops it, and bad settings are
refused before anything is."""
import csv
import re
from pathlib import Path

import pytest

from distill_nb.cli import main


@pytest.fixture
def flags(train_flags, tmp_path):
    few = ["--alphas", "0.5", "--temperatures", "1", "2", "--seeds", "2",
           "--out", str(tmp_path / "study")]
    return ["study", *train_flags[1:], "--max-steps", "3", *few]


def rows(tmp_path): return list(csv.DictReader((tmp_path / "study/results.csv").open()))


def test_study(flags, tmp_path, capfd):
    assert main(flags) == 0
    out, _ = capfd.readouterr()
    ways = {(r["alpha"], r["temperature"], r["steps"]) for r in rows(tmp_path)}
    assert len(rows(tmp_path)) == 8 and len(ways) == 4, (
        "labels only for as many steps and for as much work, two taught ways; two seeds of each")
    assert "labels only, 3 steps" in out and "alpha 0.5, T=2, 3 steps" in out
    sure = r" ± \d+\.\d{3} (BETTER|WORSE|NOT SHOWN), over articles [+-]\d+\.\d{3} to "
    assert re.search(sure, out)
    assert (tmp_path / "study/study.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("study/*/step-*")), (
        "a finished training leaves its metrics, not its checkpoints")
    assert all((p / "metrics.jsonl").exists() for p in (tmp_path / "study").iterdir() if p.is_dir())


def test_a_study_of_another_optimizer_and_start(flags, tmp_path, monkeypatch):
    from distill_nb import study
    real, made = study.DistillationTrainer, []
    def trainer(student, *args, **settings):
        made.append((student.init, settings["optimizer"]))
        return real(student, *args, **settings)
    monkeypatch.setattr(study, "DistillationTrainer", trainer)
    assert main([*flags, "--seeds", "1", "--optimizer", "muon", "--init", "teacher"]) == 0
    assert {r["changes"] for r in rows(tmp_path)} == {"optimizer=muon init=teacher"}
    assert made == [("teacher", "muon")] * 4, "labels alone begin and learn in the same way"


def test_study_goes_on_and_its_rows_are_the_same(flags, tmp_path, monkeypatch):
    from distill_nb import study
    assert main(flags) == 0
    whole, real, calls = rows(tmp_path), study._train_recipe, []
    kept = (tmp_path / "study/results.csv").read_text().splitlines(keepends=True)
    (tmp_path / "study/results.csv").write_text("".join(kept[:4]))
    def stopped(way, *args, **settings):
        calls.append(way)
        if len(calls) == 3: raise KeyboardInterrupt
        return real(way, *args, **settings)
    monkeypatch.setattr(study, "_train_recipe", stopped)
    assert main(flags) == 130 and len(rows(tmp_path)) == 5
    assert main(flags) == 0 and rows(tmp_path) == whole
    assert len(calls) == 3 + 3, "what was finished is not trained again"


def test_study_refuses_other_settings(flags, tmp_path, capfd):
    assert main(flags) == 0
    before = (tmp_path / "study/results.csv").read_bytes()
    assert main([*flags, "--learning-rate", "0.01"]) == 2
    told = "holds a study with other settings (training); give another --out"
    assert told in capfd.readouterr().err
    assert (tmp_path / "study/results.csv").read_bytes() == before


def test_a_row_that_a_crash_has_cut_short_is_made_again(flags, tmp_path, monkeypatch):
    from distill_nb import study
    assert main(flags) == 0
    path, whole = tmp_path / "study/results.csv", rows(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    real, calls = study._train_recipe, []
    def counted(*args, **settings): calls.append(args[0]); return real(*args, **settings)
    monkeypatch.setattr(study, "_train_recipe", counted)
    assert main(flags) == 0 and rows(tmp_path) == whole and len(calls) == 1


def test_two_studies_in_one_folder(flags, tmp_path, capfd):
    "The second is refused, and the first has its rows."
    from filelock import FileLock
    (tmp_path / "study").mkdir()
    with FileLock(tmp_path / "study/.lock"):
        assert main(flags) == 2
    told = f"output folder {tmp_path / 'study'} is in use by another study; give another --out"
    assert told in capfd.readouterr().err and not (tmp_path / "study/study.json").exists()


def test_what_was_found_is_what_train_and_the_pages_say():
    from distill_nb.config import TrainingConfig
    from distill_nb.recipe import _PASS, _STEPS, _advice
    said, root = _advice(TrainingConfig()), Path(__file__).parents[2]
    losses = re.findall(r"(\d\.\d\d) nats per token after (\d+) steps", said)
    assert [int(steps) for _, steps in losses] == [_PASS, _PASS, _STEPS]
    assert _advice(TrainingConfig(alpha=0.9)) == ""
    for name in ("README.md", "howto/gpu.md"):
        text = (root / name).read_text(encoding="utf-8")
        for told in (*(loss for loss, _ in losses), f"{_STEPS / _PASS:.0%} of the steps"):
            assert told in text, (name, told)
