"`distill_nb bench`: what it prints and writes, and that nothing unequal gets a time."
import json, math, sys

import psutil
import pytest
import torch
import torch.nn.functional as F

from distill_nb import bench, measure, peers, races
from distill_nb.cli import main
from distill_nb.races import _race_losses


def test_a_table_is_printed_and_written(tmp_path, capfd):
    "As JSON, with the machine's name, and as a picture; the first row is the limit."
    flags = ["--preset", "tiny", "--out", str(tmp_path / "bench.json")]
    assert main(["bench", "generate", *flags]) == 0
    out, found = capfd.readouterr().out, json.loads((tmp_path / "bench.json").read_text())
    rows = found["results"]["generate"]["rows"]
    limit, cached, eight = "reading the weights", "with the cache", "8 texts at once, for each"
    assert list(rows)[:5] == [limit, cached, eight, "transformers", "anew every token"]
    assert {"in int8", "ONNX Runtime"} <= rows.keys() or torch.cuda.is_available()
    share = rows[limit]["seconds"] / rows[cached]["seconds"]
    assert f"with the cache: {share:.0%} of the speed at which the weights can be read" in out
    assert found["about"]["machine"]
    for name, row in rows.items():
        line = next(line for line in out.splitlines() if name in line)
        assert 0 < row["seconds"] < math.inf
        assert f"{row['seconds'] / rows[limit]['seconds']:.2f}×" in line
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_loss_beside_a_busy_program():
    "It has the lowest priority, and is gone afterwards; its row compares with the same load."
    with races._busy_program():
        child, = psutil.Process().children()
        assert child.nice() == 19
    assert not child.is_running()
    row = _race_losses(64, 500, (16, 24), repeats=1, busy=True)["rows"]["fused_kd_loss"]
    assert row["beside"] != row["seconds"]
    rows = {"a": dict(seconds=1, beside=2), "b": dict(seconds=2, beside=6)}
    assert "2.00×   3.00× busy" in bench._table(dict(loss=dict(rows=rows, notes=[])))


def test_a_peer_that_is_not_there_is_left_out(monkeypatch):
    "With a line that says how to install it; and ours must be right."
    peers_of_ours = "trl", "liger_kernel", "torchtune"
    loaded = [name for name in sys.modules if name.split(".")[0] in peers_of_ours] # by other tests
    for name in {*peers_of_ours, *loaded}: monkeypatch.setitem(sys.modules, name, None)
    found = _race_losses(64, 500, (16, 24), repeats=1)
    limit, *others = found["rows"]
    assert limit == "bare matmuls"
    torchs = ["torch, labels alone"] if hasattr(F, "linear_cross_entropy") else []
    ours = "fused_kd_loss", "fused_kd_loss, KL alone", "fused_kd_loss, labels alone", "plain"
    assert sorted(others) == [*ours, *torchs]
    cure = "pip install distill_nb[bench]"
    assert found["notes"] == [f"not measured, since it is not installed: {cure}"]
    def nearly(*inputs, alpha=0.5): return 1.001 * peers._plain_loss(*inputs, alpha)
    monkeypatch.setattr(peers, "_our_loss", nearly)
    told = "fused_kd_loss: loss and gradients are off by 1.0e-03"
    with pytest.raises(peers.Unequal, match=told): _race_losses(64, 500, (16, 24), repeats=1)


def test_the_labels_alone_race_and_are_checked(monkeypatch):
    "A torch without the function is left out unsaid; one that computes something else is named."
    def off(h, w, labels, options): return 1.001 * F.cross_entropy(h @ w.T, labels)
    monkeypatch.setattr(F, "linear_cross_entropy", off, raising=False)
    monkeypatch.setattr(torch.nn, "LinearCrossEntropyOptions", list, raising=False)
    inputs = peers._loss_inputs(64, 500, (16, 24), low=False)
    names = "torch, labels alone", "fused_kd_loss, labels alone"
    entrants = {name: peers._loss_variants()[name] for name in names}
    right, left_out = peers._usable(entrants, inputs, low=False)
    assert list(right) == [names[1]] and right[names[1]] < 1e-5
    told = "left out: torch, labels alone: loss and gradients are off by 1.0e-03"
    assert len(left_out) == 1 and left_out[0].startswith(told)
    monkeypatch.delattr(torch.nn, "LinearCrossEntropyOptions")
    right, left_out = peers._usable(entrants, inputs, low=False)
    assert list(right) == [names[1]] and left_out == []


def test_a_card_without_bf16_races_in_fp16(monkeypatch):
    "Gradients smaller than FP16 has numbers for are scaled, as a trainer's scaler does it."
    for module in peers, races, measure:
        monkeypatch.setattr(module, "_half", lambda device: torch.float16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert list(races._precisions()) == ["FP32", "FP16"]
    inputs = peers._loss_inputs(64, 100_000, (16, 24), low=True)
    names = "fused_kd_loss, KL alone", "fused_kd_loss", "plain"
    entrants = {name: peers._loss_variants()[name] for name in names}
    with races._in_precision(True):
        assert inputs[0].matmul(inputs[1][:2].T).dtype == torch.float16
        off, left_out = peers._usable(entrants, inputs, low=True)
    assert list(off) == list(names) and max(off.values()) < 0.01 and left_out == []
    race = peers._StepRace(tiny=True)
    peers._check_step("the plain loss", race.plain(True), race.ours(True), race, True)


@pytest.mark.slow
def test_steps_are_equal_before_they_are_timed(capfd):
    assert main(["bench", "step", "--preset", "tiny"]) == 0
    out = capfd.readouterr().out
    rows = ("its matrix products", "ours", "ours, Muon", "ours, teacher cached", "plain loss",
            "AdamW")
    assert [name for name in rows if f"  {name} " not in out] == []


@pytest.mark.slow
def test_invariance(monkeypatch, capfd):
    "Over micro-batches, chunks and two processes; status 1 where the bound is passed."
    few = "micro-batches of 1", "chunks of 100 tokens", "2 processes of 3 + 2 and 1 + 2"
    monkeypatch.setattr(bench, "_SPLITS", {name: bench._SPLITS[name] for name in few})
    assert main(["bench", "invariance"]) == 0
    out = capfd.readouterr().out
    assert [name for name in few if f"  {name} " not in out] == [] and out.count("gradient") == 3
    monkeypatch.setattr(bench, "_SPLITS", {few[0]: bench._SPLITS[few[0]]})
    monkeypatch.setitem(bench._BOUNDS, "gradient", 1e-12)
    with pytest.raises(SystemExit) as e: main(["bench", "invariance"])
    told = f"distill_nb: with {few[0]} the gradient of a step differs by"
    assert str(e.value).startswith(told) and "gradient" in capfd.readouterr().out
