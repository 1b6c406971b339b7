"""The contract: every public name imports as written, and every default, rule and signature is
as written."""
import dataclasses, importlib, inspect, re

import pytest
import torch

from distill_nb.config import BadInput, ModelConfig, TrainingConfig

NAMES = {
    "config": ["ModelConfig", "TrainingConfig"],
    "rmsnorm": ["RMSNorm"],
    "rope": ["RotaryEmbedding", "apply_rope"],
    "gqa": ["GQAAttention", "KVCache"],
    "swiglu": ["SwiGLUFFN"],
    "student": ["TransformerBlock", "StudentModel"],
    "teacher": ["TeacherModel"],
    "data": ["WikiDataset"],
    "loss": ["KDLoss", "kd_loss", "fused_kd_loss"],
    "trainer": ["DistillationTrainer", "TrainerState"],
    "generator": ["TextGenerator"],
    "export": ["save_hf"],
    "cli": ["main"],
}

MODEL_DEFAULTS = dict(hidden_size=512, num_layers=12, num_heads=8, num_kv_heads=2,
                      intermediate_size=2048, vocab_size=151936, max_seq_len=512,
                      rope_theta=1000000.0, norm_eps=1e-6, dropout=0.0)
TRAINING_DEFAULTS = dict(batch_size=8, learning_rate=3e-4, weight_decay=0.01, warmup_steps=500,
                         num_epochs=3, gradient_clip=1.0, alpha=0.5, temperature=2.0,
                         checkpoint_dir="checkpoints/", log_interval=50, eval_interval=500,
                         save_interval=1000)

REQUIRED = inspect.Parameter.empty
SIGNATURES = {  # parameters in their order, with their defaults; more may follow
    "rmsnorm.RMSNorm": dict(hidden_size=REQUIRED, eps=1e-6),
    "gqa.GQAAttention": dict(hidden_size=REQUIRED, num_heads=REQUIRED, num_kv_heads=REQUIRED),
    "swiglu.SwiGLUFFN": dict(hidden_size=REQUIRED, intermediate_size=REQUIRED),
    "student.StudentModel": dict(config=REQUIRED),
    "student.StudentModel.hidden": dict(self=REQUIRED, input_ids=REQUIRED),
    "student.StudentModel.forward": dict(self=REQUIRED, input_ids=REQUIRED),
    "teacher.TeacherModel": dict(model_id="Qwen/Qwen2.5-0.5B"),
    "teacher.TeacherModel.hidden": dict(self=REQUIRED, input_ids=REQUIRED),
    "teacher.TeacherModel.forward": dict(self=REQUIRED, input_ids=REQUIRED),
    "data.WikiDataset": dict(
        source="wikimedia/wikipedia", name="20231101.zh", sample_mb=50, seq_len=512,
        tokenizer=None, val_fraction=0.1, seed=42),
    "data.WikiDataset.dataloaders": dict(self=REQUIRED, batch_size=REQUIRED),
    "loss.kd_loss": dict(student_logits=REQUIRED, teacher_logits=REQUIRED, labels=REQUIRED,
                         alpha=0.5, temperature=2.0),
    "loss.fused_kd_loss": dict(student_hidden=REQUIRED, student_weight=REQUIRED,
                               teacher_hidden=REQUIRED, teacher_weight=REQUIRED,
                               labels=REQUIRED, alpha=0.5, temperature=2.0),
    "trainer.DistillationTrainer.fit": dict(self=REQUIRED),
    "trainer.DistillationTrainer.evaluate": dict(self=REQUIRED),
    "trainer.DistillationTrainer.save": dict(self=REQUIRED),
    "trainer.DistillationTrainer.resume": dict(self=REQUIRED, path=None),
    "generator.TextGenerator": dict(model=REQUIRED, tokenizer=REQUIRED),
    "generator.TextGenerator.from_checkpoint": dict(path=REQUIRED),
    "export.save_hf": dict(student=REQUIRED, tokenizer=REQUIRED, path=REQUIRED),
}


def find(name):
    "`module.Name` or `module.Class.method` of the package."
    module, *names = name.split(".")
    found = importlib.import_module(f"distill_nb.{module}")
    for n in names: found = getattr(found, n)
    return found


@pytest.mark.parametrize("module", NAMES)
def test_public_names(module):
    found = importlib.import_module(f"distill_nb.{module}")
    assert [n for n in NAMES[module] if not hasattr(found, n)] == []
    if module != "cli": assert set(NAMES[module]) <= set(found.__all__)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    parameters, wanted = inspect.signature(find(name)).parameters, SIGNATURES[name]
    assert {n: p.default for n, p in list(parameters.items())[:len(wanted)]} == wanted
    assert list(parameters)[:len(wanted)] == list(wanted)
    optional = list(parameters.values())[len(wanted):]
    assert all(p.default is not REQUIRED or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
               for p in optional), "what is added must be optional"


def test_trainer_signature():
    parameters = list(inspect.signature(find("trainer.DistillationTrainer")).parameters.values())
    assert [p.name for p in parameters[:4]] == ["student", "teacher", "data", "config"]
    assert all(p.default is not REQUIRED for p in parameters[4:])


@pytest.mark.parametrize("name, wanted",
                         [("generate", dict(strategy="greedy", max_new_tokens=256)),
                          ("generate", dict(top_k=50, top_p=0.9, temperature=1.0, seed=None))])
def test_generator_takes_every_setting_by_name(name, wanted):
    parameters = inspect.signature(find(f"generator.TextGenerator.{name}")).parameters
    assert {n: parameters[n].default for n in wanted} == wanted
    assert list(parameters)[:2] == ["self", "prompt"]


@pytest.mark.parametrize("config, defaults",
                         [(ModelConfig, MODEL_DEFAULTS), (TrainingConfig, TRAINING_DEFAULTS)])
def test_config_fields(config, defaults):
    fields = {f.name: f.default for f in dataclasses.fields(config)}
    assert fields == defaults and list(fields) == list(defaults)
    types = {f.name: f.type for f in dataclasses.fields(config)}
    assert types == {name: type(value) for name, value in defaults.items()}
    assert dataclasses.asdict(config()) == defaults


@pytest.mark.parametrize("config", [ModelConfig(), TrainingConfig()])
def test_config_is_immutable(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, 1)


@pytest.mark.parametrize("given, rule", [
    (dict(hidden_size=510), "must be divisible by num_heads=8"),
    (dict(num_heads=9, hidden_size=576), "must be divisible by num_kv_heads=2"),
    (dict(vocab_size=0), "must be > 0"),
    (dict(vocab_size=-5), "must be > 0"),
    (dict(max_seq_len=0), "must be > 0"),
    (dict(max_seq_len=-1), "must be > 0"),
])
def test_model_rules(given, rule):
    "The message names the field, its value and the rule."
    field, value = next(iter(given.items()))
    with pytest.raises(BadInput) as e: ModelConfig(**given)
    assert f"{field}={value}" in str(e.value) and rule in str(e.value)


@pytest.mark.parametrize("field, value",
                         [("alpha", -0.1), ("alpha", 1.1), ("temperature", 0.0),
                          ("batch_size", 0), ("learning_rate", 0.0), ("num_epochs", 0),
                          ("log_interval", 0), ("eval_interval", -1), ("save_interval", 0),
                          ("gradient_clip", 0.0), ("warmup_steps", -1), ("weight_decay", -0.1),
                          ("learning_rate", float("nan")), ("batch_size", "8"),
                          ("batch_size", True)])
def test_training_rules(field, value):
    with pytest.raises(BadInput, match=f"{field}={value!r}"): TrainingConfig(**{field: value})


def test_config_goes_to_json_and_back():
    for config in (ModelConfig(num_layers=3), TrainingConfig(alpha=1.0)):
        assert type(config).from_json(config.to_json()) == config
    with pytest.raises(BadInput, match="unknown layers, heads"):
        ModelConfig.from_dict(dict(layers=1, heads=2))


def test_default_student():
    from distill_nb.student import StudentModel
    assert ModelConfig().num_params == 123_417_088
    with torch.device("meta"): student = StudentModel(ModelConfig())
    assert sum(p.numel() for p in student.parameters()) == 123_417_088


def test_student_parts():
    from distill_nb.gqa import GQAAttention
    from distill_nb.rmsnorm import RMSNorm
    from distill_nb.student import StudentModel, TransformerBlock
    from distill_nb.swiglu import SwiGLUFFN
    config = ModelConfig(hidden_size=32, num_layers=3, num_heads=4, num_kv_heads=2,
                         intermediate_size=48, vocab_size=100, max_seq_len=16)
    student = StudentModel(config)
    assert type(student.embedding) is torch.nn.Embedding
    assert student.embedding.weight.shape == (100, 32)
    assert type(student.layers) is torch.nn.ModuleList
    assert [type(b) for b in student.layers] == [TransformerBlock] * 3
    for block in student.layers:
        parts = block.attention_norm, block.attention, block.ffn_norm, block.ffn
        assert [type(p) for p in parts] == [RMSNorm, GQAAttention, RMSNorm, SwiGLUFFN]
    assert type(student.norm) is RMSNorm
    assert type(student.lm_head) is torch.nn.Linear
    assert student.lm_head.weight is student.embedding.weight
    assert not [n for n, _ in student.named_parameters() if n.endswith("bias")]
    ids = torch.arange(10).view(2, 5)
    assert student(ids).shape == (2, 5, 100) and student.hidden(ids).shape == (2, 5, 32)
    torch.testing.assert_close(student.lm_head(student.hidden(ids)), student(ids))


def test_teacher_is_frozen(teacher_folder):
    from distill_nb.teacher import TeacherModel
    teacher = TeacherModel(str(teacher_folder), "cpu")
    teacher.train()
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    logits = teacher(ids := torch.arange(6)[None])
    assert logits.shape == (1, 6, len(teacher.head_weight)) and not logits.requires_grad
    torch.testing.assert_close(teacher.hidden(ids) @ teacher.head_weight.T, logits)


def test_teacher_is_fp16_on_a_gpu():
    from distill_nb.teacher import teacher_dtype
    assert teacher_dtype("cuda", 494_032_768) is torch.float16
    assert teacher_dtype("cpu", 1000) is torch.float32


def test_dataset(text_file, teacher_folder):
    from distill_nb.data import WikiDataset
    data = WikiDataset(str(text_file), seq_len=32, tokenizer=str(teacher_folder))
    for part in (data.train, data.valid):
        row = part[0]
        assert set(row) == {"input_ids", "labels"}
        assert row["input_ids"].shape == row["labels"].shape == (32,)
        assert torch.equal(row["input_ids"][1:], row["labels"][:-1])
    train, valid = data.dataloaders(4)
    assert next(iter(train))["input_ids"].shape == (4, 32)
    assert next(iter(valid))["labels"].shape[1] == 32


def test_loss_is_the_formula():
    """alpha · T² · KL(teacher_T ‖ student_T) + (1 − alpha) · CE, both a mean over supervised
    tokens, from PyTorch's own distributions."""
    from distill_nb.loss import KDLoss, fused_kd_loss, kd_loss
    torch.manual_seed(0)
    s, t = torch.randn(2, 5, 30, requires_grad=True), torch.randn(2, 5, 30)
    labels = torch.randint(30, (2, 5))
    labels[0, :3] = -100
    keep, T, alpha = labels != -100, 3.0, 0.7
    categorical = torch.distributions.Categorical
    p, q = categorical(logits=t[keep] / T), categorical(logits=s[keep] / T)
    kl = T**2 * torch.distributions.kl_divergence(p, q).mean()
    ce = -categorical(logits=s[keep]).log_prob(labels[keep]).mean()
    ours = kd_loss(s, t, labels, alpha, T)
    torch.testing.assert_close(ours, KDLoss(alpha * kl + (1 - alpha) * ce, kl, ce))
    assert ours.loss.requires_grad and not ours.kl.requires_grad and not ours.ce.requires_grad
    eye = torch.eye(30)
    torch.testing.assert_close(fused_kd_loss(s, eye, t, eye, labels, alpha, T), ours)
    assert [x.item() for x in kd_loss(s, t, torch.full_like(labels, -100))] == [0, 0, 0]
    of_none = fused_kd_loss(s, eye, t, eye, torch.full_like(labels, -100))
    assert [x.item() for x in of_none] == [0, 0, 0]


def test_trainer_states():
    from distill_nb.trainer import TrainerState
    assert [s.value for s in TrainerState] == ["initialized", "training", "evaluating",
                                               "checkpointing", "completed"]


def test_checkpoint_holds_what_the_specification_names(run_folder):
    folder = run_folder / "step-00000010"
    saved = torch.load(folder / "trainer.pt", weights_only=True)
    assert {"optimizer", "scheduler", "current_epoch", "current_step", "best_val_loss",
            "training_config"} <= set(saved)
    assert saved["current_step"] == 10
    assert TrainingConfig.from_dict(saved["training_config"]).checkpoint_dir == str(run_folder)
    assert (folder / "model.safetensors").is_file()


def test_generator_from_a_checkpoint(run_folder):
    from distill_nb.generator import TextGenerator
    generator = TextGenerator.from_checkpoint(run_folder / "step-00000010")
    assert not generator.model.training
    for strategy in ("greedy", "top_k", "top_p"):
        settings = dict(strategy=strategy, max_new_tokens=8, seed=1)
        assert "".join(generator.stream("中国", **settings)) == generator.generate("中国", **settings)
    with pytest.raises(BadInput, match="strategy='beam' must be one of greedy, top_k, top_p"):
        generator.generate("中国", strategy="beam")


def test_nothing_loaded_can_run_code():
    "Every torch.load is weights_only, and no model is loaded with trust_remote_code."
    from pathlib import Path
    import distill_nb
    text = "\n".join(p.read_text(encoding="utf-8")
                     for p in Path(distill_nb.__file__).parent.glob("*.py"))
    loads = [line for line in text.splitlines() if "torch.load(" in line]
    assert loads and all("weights_only=True" in line for line in loads)
    assert "trust_remote_code=True" not in text
    assert not re.search(r"import pickle|pickle\.|from pickle", text)
