"""What a trainer does when something breaks under it: numbers that are not finite, disks that are
full or lie, checkpoints that are written while it trains. (Signals and kills: test_processes.)"""
import json, math, random, shutil, threading, time
from functools import partial

import pytest
import torch
from shell import metrics
from safetensors.torch import load_file

from distill_nb import checkpoint as ck, files, saver
from distill_nb.config import BadInput, ModelConfig, TrainingConfig
from distill_nb.data import WikiDataset
from distill_nb.start import _new_student
from distill_nb.student import StudentModel
from distill_nb.teacher import TeacherModel
from distill_nb.device import make_accelerator, seed_step
from distill_nb.signals import Stopped
from distill_nb.trainer import DistillationTrainer
from distill_nb.watch import BAD_STEPS, find_broken

MODEL = ModelConfig.tiny(hidden_size=32, num_layers=1, num_heads=4, num_kv_heads=2,
                         intermediate_size=64, max_seq_len=32, dropout=0.1)


@pytest.fixture(scope="module")
def parts(teacher_folder, text_file):
    data = WikiDataset(str(text_file), seq_len=32, tokenizer=str(teacher_folder))
    return TeacherModel(str(teacher_folder), "cpu"), data


@pytest.fixture
def make(parts, tmp_path):
    "A trainer of a few tiny steps in a folder of its own."
    teacher, data = parts
    def make(name="run", max_steps=12, accumulate=1, keep=3, teacher=teacher, hooks=(),
             optimizer="adamw", init="random", **changes):
        usual = dict(batch_size=2, warmup_steps=2, alpha=0.5, log_interval=1, eval_interval=4,
                     save_interval=2)
        config = TrainingConfig.tiny(**usual | changes, checkpoint_dir=str(tmp_path / name))
        student = _new_student(MODEL, 0, teacher, init)
        trainer = DistillationTrainer(student, teacher, data, config, max_steps,
                                      device="cpu", accumulate=accumulate, eval_batches=1,
                                      progress=False, keep=keep, optimizer=optimizer)
        trainer.hooks += hooks
        return trainer
    return make


def kept(trainer): return [ck.step_of(p) for p in ck.checkpoints(trainer.config.checkpoint_dir)]


def same(a, b):
    ours, theirs = a.student.state_dict(), b.student.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def rows(trainer):
    return [{k: v for k, v in r.items() if k != "tokens_per_s"} for r in trainer.meter.history]


# Checkpoints

def test_newest_and_best_are_kept(make):
    """With each of twelve validations worse than the one before, the first checkpoint is the
    best, and stays."""
    trainer = make(eval_interval=2, keep=2)
    real = trainer.meter.validated
    def worse(step, report):
        return real(step, report | dict(student_ce=report["student_ce"] + step))
    trainer.meter.validated = worse
    trainer.fit()
    assert kept(trainer) == [12, 10, 2]
    assert ck.best_of(ck.checkpoints(trainer.config.checkpoint_dir)).name == "step-00000002"


def test_old_ones_go_only_after_the_new_one_is_proved(make, monkeypatch):
    """A disk that turns a bit of what it was given: the run stops, and what was there before is
    there still."""
    real = files.write_whole
    def write_and_spoil(path, write):
        real(path, write)
        if path.name == "step-00000008":
            with open(path / "trainer.pt", "r+b") as f: f.seek(5000); f.write(b"\x00\x01\x02")
    monkeypatch.setattr(saver, "write_whole", write_and_spoil)
    trainer = make(keep=1)
    told = "step-00000008 cannot be read back as it was written .trainer.pt has changed"
    with pytest.raises(BadInput, match=told): trainer.fit()
    assert kept(trainer) == [8, 6]
    again = make(keep=1)
    again.resume()
    assert again.place.step == 6


def test_saving_goes_on_while_the_next_step_is_computed(make, monkeypatch):
    """The step after a save is forwards and backwards before the file is done, and its update
    is not made until the tensors have been read."""
    started, computed, seen = threading.Event(), threading.Event(), []
    slow = make("slow", eval_interval=100)
    gradients = slow.step.gradients
    def slow_gradients(*args):
        if slow.saver.writing is not None: started.wait(60)  # a busy machine starts threads late
        losses = gradients(*args)
        if started.is_set() and not computed.is_set():
            seen.append(slow.saver.writing is not None and not slow.saver.tensors_read.is_set())
            computed.set()
        return losses
    slow.step.gradients = slow_gradients
    real = torch.save
    def save(*args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            started.set()
            assert computed.wait(60), "training stood still"
            time.sleep(0.2)  # an update that did not wait would be made now
        real(*args, **kwargs)
    monkeypatch.setattr(torch, "save", save)
    slow.fit()
    monkeypatch.undo()
    plain = make("plain", eval_interval=100)
    plain.fit()
    assert seen == [True] and same(slow, plain)
    for a, b in zip(ck.checkpoints(slow.config.checkpoint_dir),
                    ck.checkpoints(plain.config.checkpoint_dir), strict=True):
        states = (ck.read_state(path / "trainer.pt") for path in (a, b))
        ours, theirs = (state["optimizer"]["state"] for state in states)
        assert all(torch.equal(ours[i][k], theirs[i][k]) for i in theirs for k in theirs[i])
        assert files.sha256(a / "model.safetensors") == files.sha256(b / "model.safetensors")


def test_a_checkpoint_that_cannot_be_written_stops_the_run_at_the_next_step(make, monkeypatch):
    def full(*args): raise OSError(28, "No space left on device")
    trainer = make(save_interval=4, max_steps=40)
    def fill_disk(trainer):
        if trainer.place.step == 3: monkeypatch.setattr(files, "_flush", full)
    trainer.hooks.append(fill_disk)
    trainer.evaluate()
    with pytest.raises(BadInput, match="No space left on device.*make room"):
        trainer.fit()
    assert 4 <= trainer.place.step <= 6
    assert not list((ck.Path(trainer.config.checkpoint_dir)).glob(".making-*"))


def test_too_small_a_disk_is_told_before_the_first_step_and_before_each_save(make, monkeypatch):
    usage = shutil.disk_usage("/")
    trainer = make()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(BadInput, match="a checkpoint takes 0.0. GB.*0.00 GB free; make room"):
        trainer.fit()
    assert trainer.place.step == 0
    def filling(path): return usage._replace(free=1000 if trainer.place.step > 5 else 10**12)
    monkeypatch.setattr(shutil, "disk_usage", filling)
    with pytest.raises(BadInput, match="a checkpoint takes"): trainer.fit()
    assert kept(trainer) == [4, 2] and trainer.place.step == 6


# Settings

def test_what_may_change_is_named_and_what_may_not_is_refused(make, parts, text_file, tmp_path,
        caplog):
    caplog.set_level("INFO")
    make(max_steps=6).fit()
    again = make(max_steps=8, learning_rate=1e-4, batch_size=4)
    with pytest.raises(BadInput, match="12 blocks into its epoch, and steps of 8 blocks"):
        make(max_steps=8, batch_size=8).resume()
    again.resume()
    assert "learning_rate 0.003 → 0.0001" in caplog.text
    assert "batch_size 2 → 4" in caplog.text and again.place.epoch_step == 3
    teacher, data = parts
    shorter = WikiDataset(str(text_file), seq_len=16, tokenizer=data.tokenizer)
    other = DistillationTrainer(StudentModel(MODEL), teacher, shorter, again.config, 8,
                                device="cpu", progress=False)
    told = (r"on other data: blocks \d+ → \d+, seq_len 32 → 16, which may not change "
            ".*learning_rate 0.003 → 0.0001.* may change")
    with pytest.raises(BadInput, match=told): other.resume()
    text = text_file.read_text(encoding="utf-8")
    (tmp_path / "changed.txt").write_text(text[:300] + "铜" + text[301:], encoding="utf-8")
    changed = WikiDataset(str(tmp_path / "changed.txt"), seq_len=32, tokenizer=data.tokenizer)
    with pytest.raises(BadInput, match="tokens [0-9a-f]{16} → [0-9a-f]{16}"):
        DistillationTrainer(StudentModel(MODEL), teacher, changed, again.config, 8,
                            device="cpu", progress=False).resume()
    shutil.copy(text_file, tmp_path / "copy.txt")
    moved = WikiDataset(str(tmp_path / "copy.txt"), seq_len=32, tokenizer=data.tokenizer)
    DistillationTrainer(StudentModel(MODEL), teacher, moved, again.config, 8, device="cpu",
                        progress=False).resume()  # the same text in another place


@pytest.mark.parametrize("changes, accumulate",
                         [({}, 3), (dict(alpha=0.0), 1), (dict(alpha=1.0), 2),
                          (dict(optimizer="muon"), 2)])
def test_stopped_after_every_single_step_it_is_the_run_that_was_not(changes, accumulate, make):
    """Every step in a trainer of its own, over two epochs and a half: weights, optimizer and
    metrics to the bit, and the loss that was best."""
    never = make("never", max_steps=9, accumulate=accumulate, num_epochs=9, **changes)
    never.place.steps_per_epoch = 4
    never.fit()
    for step in range(1, 10):
        again = make("again", max_steps=9, accumulate=accumulate, num_epochs=9, **changes)
        again.place.steps_per_epoch = 4
        again.resume()
        assert again.place.step == step - 1
        if step < 9:
            again.hooks.append(lambda trainer: trainer.signals.interrupt())
            with pytest.raises(Stopped): again.fit()
        else: again.fit()
        random.random(); torch.rand(3)  # what others do with the dice is no part of a run
    assert same(again, never) and rows(again) == rows(never)
    assert again.meter.best_val_loss == never.meter.best_val_loss
    ours, theirs = (t.step.optimizer.state_dict()["state"] for t in (again, never))
    assert all(torch.equal(ours[i][k], theirs[i][k]) for i in theirs for k in theirs[i])
    assert metrics(again.config.checkpoint_dir) == again.meter.history


def test_a_run_that_is_complete_validates_once(make):
    trainer = make()
    trainer.fit()
    before = metrics(trainer.config.checkpoint_dir)
    again = make()
    again.resume()
    again.fit()
    assert metrics(again.config.checkpoint_dir) == before


def test_a_trainer_stays_on_its_device_when_another_is_used(make, monkeypatch):
    "One process, as in a notebook: the first trains on, in its own precision, to the same end."
    whole = make("whole")
    whole.fit()
    def look_away(trainer):
        if trainer.place.step == 5:
            with monkeypatch.context() as patch:
                patch.setattr("torch.cuda.is_available", lambda: False)
                patch.setenv("ACCELERATE_TORCH_DEVICE", "meta")  # which stands for a card
                assert make_accelerator().device.type == "meta"
    first = make("first", hooks=[look_away])
    first.fit()
    assert first.accelerator.device.type == "cpu"
    for name, weight in whole.student.state_dict().items():
        assert torch.equal(weight, first.student.state_dict()[name])
    second = make("second", max_steps=2)
    assert second.accelerator.device.type == "cpu" and second.fit()["student_ce"] > 0


def test_a_run_comes_through_all_five_states(make, monkeypatch):
    trace = []
    def note(self, name, value):
        if name == "state": trace.append(value.value)
        object.__setattr__(self, name, value)
    monkeypatch.setattr(DistillationTrainer, "__setattr__", note, raising=False)
    trainer = make(eval_interval=8, save_interval=8)
    trainer.evaluate()
    trainer.fit()
    training, evaluating, saving = "training", "evaluating", "checkpointing"
    assert trace == ["initialized", evaluating, "initialized", training,
                     evaluating, training, saving, training, # step 8
                     evaluating, training, saving, training, "initialized", "completed"]
    for row in trainer.meter.history:
        if "loss" in row: assert row["loss"] == pytest.approx((row["kl"] + row["ce"]) / 2)


# Numbers that are not finite

class Poisoned(TeacherModel):
    "A teacher whose answers are NaN in certain steps of a training."
    poisoned = False
    def hidden(self, input_ids):
        return super().hidden(input_ids) * (math.nan if self.poisoned else 1)


@pytest.fixture
def poisoned(teacher_folder, make):
    def poisoned(bad, name="run", **changes):
        teacher = Poisoned(str(teacher_folder), "cpu")
        def poison(trainer): teacher.poisoned = trainer.place.step + 1 in bad
        return make(name, teacher=teacher, hooks=[poison], **changes)
    return poisoned


def test_a_bad_batch_changes_nothing_and_is_logged(poisoned, caplog):
    caplog.set_level("INFO")
    trainer = poisoned((3, 4), eval_interval=100, save_interval=1, keep=20)
    trainer.fit()
    assert [r["step"] for r in trainer.meter.history if "skipped" in r] == [3, 4]
    assert "not finite, and skipped: step 3" in caplog.text
    # no checkpoint of a step in doubt
    assert 2 in kept(trainer) and 3 not in kept(trainer) and 4 not in kept(trainer)
    assert all(torch.isfinite(p).all() for p in trainer.student.parameters())
    # AdamW has not counted them either
    assert all(s["step"] == 10 for s in trainer.step.optimizer.state_dict()["state"].values())
    assert next(r for r in metrics(trainer.config.checkpoint_dir) if r["step"] == 3)["loss"] is None


def test_a_bad_batch_leaves_muons_averages_alone(poisoned):
    seen = {}
    def look(trainer):
        state = trainer.step.optimizer.state_dict()["state"]
        assert {"momentum_buffer"} in [state[i].keys() for i in state]
        seen[trainer.place.step] = [t.clone() for of_p in state.values() for t in of_p.values()]
    trainer = poisoned((3,), optimizer="muon", max_steps=4)
    trainer.hooks.append(look)
    trainer.fit()
    assert all(torch.equal(a, b) for a, b in zip(seen[2], seen[3]))
    assert not any(torch.equal(a, b) for a, b in zip(seen[3], seen[4]))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_start_from_the_teacher_goes_on_exactly_with_both_learning_rates(make, optimizer):
    whole = make("whole", init="teacher", optimizer=optimizer, keep=20)
    whole.fit()
    again = make("again", init="teacher", optimizer=optimizer)
    again.resume(ck.Path(whole.config.checkpoint_dir) / "step-00000006")
    fast, slow = (group["lr"] for group in again.step.optimizer.param_groups)
    assert slow == pytest.approx(fast / 10)
    again.fit()
    assert same(whole, again) and rows(again) == rows(whole)[-len(rows(again)):]


def test_muon_is_refused_where_matrices_are_cut(make, monkeypatch):
    trainer = make(optimizer="muon")
    monkeypatch.setattr(type(trainer.accelerator), "is_fsdp2", property(lambda _: True))
    with pytest.raises(BadInput, match="optimizer='muon' needs whole matrices.*adamw"):
        trainer.fit()


def test_another_optimizer_cannot_go_on(make):
    make("run", max_steps=4).fit()
    with pytest.raises(BadInput, match="momentum_buffer.*give another checkpoint"):
        make("run", max_steps=6, optimizer="muon").resume()


def test_many_in_a_row_stop_the_run_at_the_last_good_checkpoint(make, poisoned):
    trainer = poisoned(range(8, 99), max_steps=60, eval_interval=100, save_interval=1, keep=2)
    with pytest.raises(BadInput) as stopped: trainer.fit()
    folder = ck.Path(trainer.config.checkpoint_dir)
    look = folder / f"not-finite-{7 + BAD_STEPS:08d}"
    for told in (f"{BAD_STEPS} steps in a row", "the teacher's hidden states", str(look),
                 "--resume", str(folder / "step-00000006")):
        assert told in str(stopped.value)
    kept_for_a_look = load_file(look / "step.safetensors")
    about = json.loads((look / "step.json").read_text())
    assert about["part"] == "the teacher's hidden states"
    assert about["step"] == 7 + BAD_STEPS and "seed" in about
    assert torch.equal(kept_for_a_look["batch0.input_ids"], trainer.watch.batches[0]["input_ids"])
    seed_step(about["seed"], about["step"] - 1, 0)
    assert torch.equal(kept_for_a_look["random_state"], torch.get_rng_state())
    assert StudentModel.load(look).config == MODEL
    good = make()
    good.resume(folder / "step-00000006")
    assert good.place.step == 6


def huge_weights(student): student.layers[0].attention.q_proj.weight.data[0].fill_(3e38)
def lost_table(student): student.embedding.weight.data[:].fill_(math.nan)
def huge_gradient(student):
    def hook(module, given, grads): return tuple(g * math.inf for g in given)
    student.layers[0].ffn.down_proj.register_full_backward_hook(hook)


@pytest.mark.parametrize("spoil, named", [
    (huge_weights, "the output of the student's layers.0.attention.q_proj"),
    (lost_table, "the student's embedding.weight itself"),
    (huge_gradient, "the gradient of the student's layers.0.ffn.")])
def test_the_part_that_broke_is_named(spoil, named, make, parts):
    trainer = make()
    spoil(trainer.student)
    losses = partial(trainer.step.losses, trainer.step.model)
    assert named in find_broken(trainer.student, [next(iter(trainer.train_loader))],
                                trainer.teach, losses)


def test_a_scaler_backs_off(make, poisoned):
    """The scaler of FP16, with which a GPU without BF16 trains: a loss that is not finite
    halves its scale, and the update is skipped."""
    from accelerate.optimizer import AcceleratedOptimizer
    def scaled(trainer, scale):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        optimizer = AcceleratedOptimizer(trainer.step.optimizer.optimizer, scaler=scaler)
        trainer.accelerator.scaler, trainer.step.optimizer = scaler, optimizer
        return trainer
    trainer, again = poisoned((3, 4), save_interval=6, eval_interval=5), make(eval_interval=5)
    try:
        scaled(trainer, 1024.0).fit()
        assert trainer.accelerator.scaler.get_scale() == 256
        assert [r["step"] for r in trainer.meter.history if "skipped" in r] == [3, 4]
        assert all(torch.isfinite(p).all() for p in trainer.student.parameters())
        scaled(again, 4.0).resume()
        assert again.accelerator.scaler.get_scale() == 256
    finally: trainer.accelerator.scaler = again.accelerator.scaler = None
    plain = make("plain", eval_interval=5)
    plain.fit()
    norms = [[r["kl_grad_norm"] for r in t.meter.history if "kl_grad_norm" in r][0]
             for t in (trainer, plain)]
    assert norms[0] == pytest.approx(norms[1], rel=0.5)  # in units of the loss, whatever its scale


def test_gradients_of_both_parts_are_logged_apart_and_change_nothing(make, monkeypatch):
    trainer = make()
    trainer.fit()
    apart = [r for r in trainer.meter.history if "kl_grad_norm" in r]
    assert [r["step"] for r in apart] == [4, 8]
    assert all(r["kl_grad_norm"] > 0 and r["ce_grad_norm"] > 0 for r in apart)
    monkeypatch.setattr("distill_nb.trainer.measure_pull", lambda trainer, batches: None)
    without = make("without")
    without.fit()
    assert same(trainer, without)
    alone = make("alone", alpha=1.0)
    alone.fit()
    assert not [r for r in alone.meter.history if "kl_grad_norm" in r]


# The length of a run

def rates(trainer): return [r["lr"] for r in trainer.meter.history if "lr" in r]


def test_a_run_shorter_than_its_warm_up_warms_up_over_a_tenth(make, caplog):
    "It reaches its learning rate and comes down again; a longer run is as asked."
    caplog.set_level("INFO")
    short = make(max_steps=20, warmup_steps=500, eval_interval=99, save_interval=10)
    short.fit()
    assert max(rates(short)) == rates(short)[1] == pytest.approx(0.003) and rates(short)[-1] < 1e-4
    assert ("warmup_steps=500 would last longer than the run of 20 steps; it warms up over a "
            "tenth, 2") in caplog.text
    again = make("again", max_steps=20, warmup_steps=500, eval_interval=99, save_interval=10)
    again.resume(ck.step_folder(short.config.checkpoint_dir, 10))
    again.fit()
    assert same(again, short) and rates(again) == rates(short)
    assert make("longer", max_steps=20, warmup_steps=19).place.warmup_steps == 19


def test_a_checkpoint_from_before_that_goes_on_as_it_began(make):
    "Its warm-up was as long as asked, and stays so to the bit."
    def run(name, **settings): return make(name, max_steps=12, warmup_steps=50, **settings)
    whole = run("whole")
    whole.place.warmup_steps = 50
    from distill_nb.trainer import make_schedule
    whole.step.scheduler = make_schedule(whole.step.optimizer.optimizer, whole.config, 12, 0, 50)
    whole.fit()
    path = ck.step_folder(whole.config.checkpoint_dir, 8)
    state = torch.load(path / "trainer.pt", weights_only=True)
    del state["warmup_steps"]
    torch.save(state, path / "trainer.pt")
    ck.write_manifest(path)
    for name in ("again", "and again"):
        again = run(name)
        again.resume(path)
        again.fit()
        assert rates(again) == rates(whole) and same(again, whole)
        path = ck.step_folder(again.config.checkpoint_dir, 10)


def test_after_a_finished_epoch_the_batch_may_be_another(make, parts, caplog):
    """However many blocks an epoch has: the next one begins with the new size, and all epochs
    are made, as many steps as it says."""
    caplog.set_level("INFO")
    blocks = len(parts[1].train)
    first = make(max_steps=None, num_epochs=1, save_interval=1000, eval_interval=1000)
    first.fit()
    again = make(max_steps=None, num_epochs=2, batch_size=5, save_interval=1000,
                 eval_interval=1000)
    assert (blocks // 2 * 2) % 5
    again.resume()
    assert (again.place.epoch, again.place.epoch_step) == (1, 0)
    again.fit()
    assert again.place.step == again.place.total_steps == blocks // 2 + blocks // 5
    assert f"total_steps {blocks // 2} → {again.place.total_steps}" in caplog.text
    with pytest.raises(BadInput, match="blocks into its epoch"):
        middle = make("middle", max_steps=6, num_epochs=1)
        middle.fit()
        make("middle", max_steps=9, num_epochs=1, batch_size=5).resume()
