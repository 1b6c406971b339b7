"`distill_nb doctor --gpu`: its parts run on a CPU here, and without a card it says so."
import json, re, sys

import pytest
import torch

from distill_nb.cli import main
from distill_nb.config import RunConfig
from distill_nb.validate import _PARTS, _validate

TINY = RunConfig.preset("tiny")


def test_without_a_card_one_line_and_status_2(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", "--gpu", str(tmp_path / "report.json")]) == 2
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "none can be used here" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_part_runs_and_is_in_the_report(tmp_path, monkeypatch):
    for name in "trl", "liger_kernel", "torchtune":  # the peers race elsewhere
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(  # which is for a card
        "distill_nb.validate._compile_hidden",
        lambda student, teacher, device: (student.hidden, teacher.hidden))
    path = tmp_path / "report.json"
    *lines, last = _validate(TINY, path, "cpu")
    report = json.loads(path.read_text())
    assert list(report) == list(_PARTS) == [line.split()[0] for line in lines]
    assert {name: part for name, part in report.items() if "failed" in part} == {}
    assert str(path) in last and "github.com" in last
    assert all(part["seconds"] > 0 for part in report.values())
    loss, training = report["loss"]["off"], report["training"]
    assert loss["tiles"].keys() >= {"alpha 0.5, T 2.0", "alpha 1.0, T 1.0", "alpha 0.0, T 1.0"}
    assert training["losses"][-1] < training["losses"][0] - 1 and not training["skipped"]
    assert training["valid"]["kl"] > 0 and training["tokens_per_s"]
    assert 0 < report["compiled"]["loss"] < report["steps"]["loss"]  # two steps later
    assert report["steps"]["planned_gb"] > 0 and report["steps"]["tokens_per_s"] > 0
    assert re.search(r"every (single )?bit|the same", report["resuming"]["told"])
    assert "bare matmuls" in report["speed"]["race"]["rows"] and len(report["chunks"]["ms"]) == 5


def test_a_part_that_fails_is_noted_and_the_next_runs(tmp_path):
    def breaks(run, device): raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried …")
    seen, path = [], tmp_path / "report.json"
    def looks(run, device):
        seen.append(json.loads(path.read_text()))  # whole while the next part is at work
        return dict(told="well")
    lines = list(_validate(TINY, path, "cpu", dict(breaks=breaks, looks=looks)))
    assert lines[0].split(maxsplit=1)[1] == "FAILED, OutOfMemoryError: CUDA out of memory."
    assert lines[1].split() == ["looks", "well"] and list(seen[0]) == ["breaks"]
    report = json.loads(path.read_text())
    assert report["breaks"]["failed"] in lines[0] and str(tmp_path.parent) not in str(report)
    assert report["breaks"]["lines"][-1].startswith("test_validate.py:")
