"What `distill_nb plan` counts is what a step takes, and what it advises fits."
import dataclasses, json

import pytest
from shell import THOROUGH

from distill_nb.cli import main
from distill_nb.config import ModelConfig, TrainingConfig
from distill_nb.plan import (
    _CARDS, _PARTS, TeacherShape, _all_peaks, _counted_step, _fits, _largest_batches,
    _measured_step, _validation_flops, _way_out, peak_memory, plan, step_flops)

TINY, FULL = ModelConfig.tiny(), ModelConfig()
TINY_TEACHER = TeacherShape(3_805_440, 4096, 256, 4, True, 640)


def batch(size, config=TrainingConfig()): return dataclasses.replace(config, batch_size=size)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    {}, dict(gradient_checkpointing=True), dict(accumulate=2), dict(optimizer="muon")], ids=str)
def test_a_real_tiny_step_takes_what_is_counted(settings):
    run = TINY, batch(256, TrainingConfig.tiny()), TINY_TEACHER
    counted, measured = _counted_step(*run, **settings), _measured_step(*run, **settings)
    print(counted, measured)
    assert max(counted.values()) > 400e6, "so large that what the libraries take does not matter"
    assert max(measured, key=measured.get) == max(counted, key=counted.get)
    assert max(measured.values()) == pytest.approx(max(counted.values()), rel=0.1)


FULL_STEPS = [(2, dict(gradient_checkpointing=True)), (2, {}), (1, dict(accumulate=2))]


@pytest.mark.slow
@pytest.mark.parametrize("size, settings", FULL_STEPS[:3 if THOROUGH else 1], ids=str)
def test_a_real_full_size_step_takes_what_is_counted(size, settings):
    "The default student, a random teacher of Qwen2.5-0.5B's shapes, 512 tokens, FP32, a CPU."
    run = FULL, batch(size), TeacherShape()
    counted, measured = _counted_step(*run, **settings), _measured_step(*run, **settings)
    print(counted, measured)
    assert max(measured, key=measured.get) == max(counted, key=counted.get)
    assert max(measured.values()) == pytest.approx(max(counted.values()), rel=0.1)


def test_the_defaults_fit_six_gigabytes():
    peak = peak_memory(FULL, TrainingConfig(), TeacherShape())
    assert peak.total < 5.3e9 and _fits(6, peak) and peak.when == "loss"
    assert sum(peak.parts.values()) == peak.total and set(peak.parts) <= set(_PARTS)
    again = peak_memory(FULL, TrainingConfig(), TeacherShape(), gradient_checkpointing=True)
    assert again.parts["student's activations"] < peak.parts["student's activations"] / 6


def test_gradients_of_the_batches_before_are_counted():
    one, two = (_all_peaks(FULL, batch(2), TeacherShape(), accumulate=n) for n in (1, 2))
    gradients = 4 * FULL.num_params
    for when in ("teacher's forward pass", "student's forward pass", "loss"):
        assert two[when].total - one[when].total == pytest.approx(gradients, rel=0.01), when
    assert two["backward pass"].parts["gradients"] >= gradients


@pytest.mark.slow
@pytest.mark.parametrize("config, teacher", [
    (FULL, TeacherShape()), (TINY, TINY_TEACHER)], ids=["full", "tiny"])
@pytest.mark.parametrize("again", [False, True])
def test_the_largest_batch_fits_and_a_larger_one_does_not(config, teacher, again):
    "Straight lines say what a count says, within a hundredth: up to 99 sequences exactly."
    largest = _largest_batches(config, TrainingConfig(), teacher, gradient_checkpointing=again)
    for gb, size in largest.items():
        off = 1 + size // 100
        smaller = batch(max(1, size - off + 1))
        assert _fits(gb, peak_memory(config, smaller, teacher, again)), (gb, size)
        assert not _fits(gb, peak_memory(config, batch(size + off), teacher, again)), (gb, size)


@pytest.mark.slow
def test_the_way_out_keeps_the_sequences_of_a_step_and_fits():
    way = _way_out(6, FULL, batch(96), TeacherShape(), accumulate=2)
    flags = way.split()
    assert flags[0] == "--gradient-checkpointing"
    assert flags[1] == "--batch-size" and flags[3] == "--accumulate"
    size, accumulate = int(flags[2]), int(flags[4])
    assert size * accumulate == 2 * 96
    assert _fits(6, peak_memory(FULL, batch(size), TeacherShape(), True, accumulate))
    assert _way_out(6, FULL, batch(8), TeacherShape(num_params=7_000_000_000)) is None
    assert _way_out(8, FULL, batch(32), TeacherShape(), gradient_checkpointing=True) == ""


def test_flops_of_checkpointing_cache_and_accumulation():
    one = step_flops(FULL, TrainingConfig(), TeacherShape())
    assert step_flops(FULL, TrainingConfig(), TeacherShape(), accumulate=3) == 3 * one
    def ratio(**how): return step_flops(FULL, TrainingConfig(), TeacherShape(), **how) / one
    assert 1.02 < ratio(gradient_checkpointing=True) < 1.06
    assert 0.5 < ratio(teacher_cache=True) < 0.65


def test_plan_of_the_command(capsys):
    flags = "--preset tiny --batch-size 8 --accumulate 2 --gradient-checkpointing --teacher-cache"
    assert main(["plan", *flags.split()]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    peak = float(lines[0].removeprefix("memory at the peak").split()[0])
    parts = [float(line.split()[-2]) for line in lines[1:] if line.startswith("  ")]
    assert sum(parts) == pytest.approx(peak, abs=0.04)
    assert "2,048 per step" in out and "512 bytes per token" in out
    assert "--gradient-checkpointing" in out
    cards = tuple(f"{gb:2} GB  " for gb in _CARDS)
    assert [int(line.split()[0]) for line in lines if line.startswith(cards)] == list(_CARDS)


def test_validation_is_in_the_plan():
    "As often as the trainer's loop does it, and at what a forward pass of both models takes."
    def told(**settings):
        rows = dict(row.split(maxsplit=1) for row in plan(**settings).splitlines() if row)
        return rows["validation"], float(rows["time"].split()[1])
    whole, some = told(eval_batches=None), told()
    assert whole[0].startswith("about 18 × 321 batches (--eval-batches), 48% more")
    assert some[0] == "about 18 × 40 batches (--eval-batches), 6% more"
    assert whole[1] / some[1] == pytest.approx(1.48 / 1.06, rel=0.02)
    own = step_flops(FULL, TrainingConfig(alpha=0), TeacherShape())
    both = step_flops(FULL, TrainingConfig(), TeacherShape())
    assert _validation_flops(FULL, TrainingConfig(alpha=0), TeacherShape()) == pytest.approx(
        own / 3 + (both - own))


def test_training_with_checkpointing_is_the_same_training(
        train_flags, tmp_path, run_folder, monkeypatch):
    "Bit for bit, through the command; and every block runs twice a batch."
    from distill_nb.student import TransformerBlock
    runs, forward = [], TransformerBlock.forward
    def noted(self, *args):
        runs.append(self.training)
        return forward(self, *args)
    monkeypatch.setattr(TransformerBlock, "forward", noted)
    flags = [*train_flags, "--checkpoint-dir", str(tmp_path / "run")]
    assert main([*flags, "--gradient-checkpointing"]) == 0
    assert sum(runs) == 10 * 2 * 2, "steps × blocks × twice"
    def steps(folder):
        rows = map(json.loads, open(folder / "metrics.jsonl"))
        return [(r["loss"], r["grad_norm"]) for r in rows if "loss" in r]
    assert steps(tmp_path / "run") == steps(run_folder)
