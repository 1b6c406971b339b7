"What `distill_nb plan` counts is what a step takes, and what it advises fits."
import dataclasses, json

import pytest

from distill_nb.cli import main
from distill_nb.config import ModelConfig, TrainingConfig
from distill_nb.plan import CARDS, PARTS, TeacherShape, all_peaks, counted_step, fits, largest_batches, measured_step, peak_memory, step_flops, way_out

TINY, FULL = ModelConfig.tiny(), ModelConfig()
TINY_TEACHER = TeacherShape(3_805_440, 4096, 256, 4, True, 640)


def batch(size, config=TrainingConfig()): return dataclasses.replace(config, batch_size=size)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, dict(gradient_checkpointing=True), dict(accumulate=2)], ids=str)
def test_a_real_tiny_step_takes_what_is_counted(settings):
    counted, measured = (f(TINY, batch(256, TrainingConfig.tiny()), TINY_TEACHER, **settings) for f in (counted_step, measured_step))
    print(counted, measured)
    assert max(counted.values()) > 400e6, "so large that what the libraries take does not matter"
    assert max(measured, key=measured.get) == max(counted, key=counted.get)
    assert max(measured.values()) == pytest.approx(max(counted.values()), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("size, settings", [(1, {}), (2, {}), (2, dict(gradient_checkpointing=True)), (1, dict(accumulate=2))], ids=str)
def test_a_real_full_size_step_takes_what_is_counted(size, settings):
    "The student of the defaults, a random teacher of Qwen2.5-0.5B's shapes, sequences of 512 tokens, in FP32 on this CPU."
    counted, measured = (f(FULL, batch(size), TeacherShape(), **settings) for f in (counted_step, measured_step))
    print(counted, measured)
    assert max(measured, key=measured.get) == max(counted, key=counted.get)
    assert max(measured.values()) == pytest.approx(max(counted.values()), rel=0.1)


def test_the_defaults_fit_six_gigabytes():
    peak = peak_memory(FULL, TrainingConfig(), TeacherShape())
    assert peak.total < 5.3e9 and fits(6, peak) and peak.when == "loss"
    assert sum(peak.parts.values()) == peak.total and set(peak.parts) <= set(PARTS)
    again = peak_memory(FULL, TrainingConfig(), TeacherShape(), gradient_checkpointing=True)
    assert again.parts["student's activations"] < peak.parts["student's activations"] / 6


def test_gradients_of_the_batches_before_are_counted():
    one, two = (all_peaks(FULL, batch(2), TeacherShape(), accumulate=n) for n in (1, 2))
    gradients = 4 * FULL.num_params
    for when in ("teacher's forward pass", "student's forward pass", "loss"):
        assert two[when].total - one[when].total == pytest.approx(gradients, rel=0.01), when
    assert two["backward pass"].parts["gradients"] >= gradients


@pytest.mark.slow
@pytest.mark.parametrize("config, teacher", [(FULL, TeacherShape()), (TINY, TINY_TEACHER)], ids=["full", "tiny"])
@pytest.mark.parametrize("again", [False, True])
def test_the_largest_batch_fits_and_a_larger_one_does_not(config, teacher, again):
    "Straight lines say what a count says, within one sequence in a hundred: at full size, up to 99 sequences exactly."
    for gb, size in largest_batches(config, TrainingConfig(), teacher, gradient_checkpointing=again).items():
        off = 1 + size // 100
        assert fits(gb, peak_memory(config, batch(max(1, size - off + 1)), teacher, again)), (gb, size)
        assert not fits(gb, peak_memory(config, batch(size + off), teacher, again)), (gb, size)


@pytest.mark.slow
def test_the_way_out_keeps_the_sequences_of_a_step_and_fits():
    way = way_out(6, FULL, batch(96), TeacherShape(), accumulate=2)
    flags = way.split()
    assert flags[0] == "--gradient-checkpointing" and flags[1] == "--batch-size" and flags[3] == "--accumulate"
    size, accumulate = int(flags[2]), int(flags[4])
    assert size * accumulate == 2 * 96
    assert fits(6, peak_memory(FULL, batch(size), TeacherShape(), True, accumulate))
    assert way_out(6, FULL, batch(8), TeacherShape(num_params=7_000_000_000)) is None
    assert way_out(8, FULL, batch(32), TeacherShape(), gradient_checkpointing=True) == ""


def test_flops_of_checkpointing_cache_and_accumulation():
    one = step_flops(FULL, TrainingConfig(), TeacherShape())
    assert step_flops(FULL, TrainingConfig(), TeacherShape(), accumulate=3) == 3 * one
    assert 1.02 < step_flops(FULL, TrainingConfig(), TeacherShape(), gradient_checkpointing=True) / one < 1.06
    assert 0.5 < step_flops(FULL, TrainingConfig(), TeacherShape(), teacher_cache=True) / one < 0.65


def test_plan_of_the_command(capsys):
    assert main("plan --preset tiny --batch-size 8 --accumulate 2 --gradient-checkpointing --teacher-cache".split()) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    peak = float(lines[0].removeprefix("memory at the peak").split()[0])
    parts = [float(line.split()[-2]) for line in lines[1:] if line.startswith("  ")]
    assert sum(parts) == pytest.approx(peak, abs=0.04)
    assert "2,048 a step" in out and "512 bytes a token" in out and "--gradient-checkpointing" in out
    assert [line.split()[0] for line in lines if line.startswith((" 6 GB", " 8 GB", "12 GB", "16 GB", "24 GB"))] == [str(gb) for gb in CARDS]


def test_training_with_checkpointing_is_the_same_training(train_flags, tmp_path, run_folder, monkeypatch):
    "Bit for bit, through the command; and every block runs twice a batch."
    from distill_nb.student import TransformerBlock
    runs, forward = [], TransformerBlock.forward
    monkeypatch.setattr(TransformerBlock, "forward", lambda self, *args: runs.append(self.training) or forward(self, *args))
    assert main([*train_flags, "--checkpoint-dir", str(tmp_path / "run"), "--gradient-checkpointing"]) == 0
    assert sum(runs) == 10 * 2 * 2, "steps × blocks × twice"
    ours, theirs = ([(r["loss"], r["grad_norm"]) for r in map(json.loads, open(f / "metrics.jsonl")) if "loss" in r] for f in (tmp_path / "run", run_folder))
    assert ours == theirs
