"""The trainer's step on a card that is not there: `traced.py 7.5` is a T4, `traced.py 8.0` an A100.
Fake tensors have shapes, dtypes and a device, and no numbers; they refuse to mix devices. Writes
what was seen as a line of JSON."""
import collections, ctypes, json, subprocess, sys, tempfile, traceback
from importlib.util import find_spec
from pathlib import Path


def pretend(capability):
    "A card of this compute capability, for this process; before anything asks for one."
    torch_home, so = Path(find_spec("torch").origin).parent, Path(tempfile.mkdtemp()) / "card.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-std=c++20", f"-I{torch_home}/include",
                    Path(__file__).with_name("pretend_cuda.cpp"), "-o", so,
                    f"-L{torch_home}/lib", "-lc10", "-ltorch_cpu"], check=True)
    for name in "libgomp.so.1", "libc10.so", "libtorch_cpu.so":
        path = torch_home / "lib" / name
        if path.exists(): ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(so), ctypes.RTLD_GLOBAL)
    from torch import cuda
    for name in "_lazy_init set_device manual_seed manual_seed_all synchronize empty_cache".split():
        setattr(cuda, name, lambda *a: None)  # each its own: Dynamo wants them to differ
    cuda.is_available, cuda.current_device, cuda.device_count = lambda: True, lambda: 0, lambda: 1
    cuda.get_device_capability = lambda *a: capability
    cuda.is_bf16_supported = lambda including_emulation=True: capability >= (8, 0)
    cuda.max_memory_allocated = lambda *a: 0


CAPABILITY = tuple(map(int, sys.argv[1].split(".")))
pretend(CAPABILITY)
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM
from distill_nb import chunks, trainer
from distill_nb.config import ModelConfig, TrainingConfig
from distill_nb.data import WikiDataset
from distill_nb.device import _copy_heads
from distill_nb.gqa import _can_share
from distill_nb.meter import teacher_gap_sums
from distill_nb.student import StudentModel
from distill_nb.teacher import TeacherModel
from distill_nb.trainer import DistillationTrainer, StudentWithLoss

VOCAB, TOKENS = 20_032, 20_001  # wide enough for the loss's kernel; an odd number of tokens
WAITS = "_local_scalar_dense nonzero masked_select equal is_nonzero item _unique2".split()


class Watch(TorchDispatchMode):
    "Counts the operations on the card, and where the host waits for one."
    def __init__(self):
        super().__init__()
        self.ops, self.waits = collections.Counter(), collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if any(t.device.type == "cuda" for t in tensors) and name != "device":
            self.ops[name] += 1
            if self.waits_for(name, args, kwargs):
                frames = [f for f in traceback.extract_stack()
                          if "/distill_nb/" in f.filename or "transformers" in f.filename]
                self.waits[f"{name} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"] += 1
            if name == "_local_scalar_dense": return args[0].dtype == torch.bool or 0.
        return func(*args, **kwargs)

    def waits_for(self, name, args, kwargs):
        to_host = name == "_to_copy" and torch.device(kwargs.get("device") or "cuda").type == "cpu"
        to_host |= name == "copy_" and args[0].device.type == "cpu"
        by_mask = name.startswith("index") and any(
            t.dtype == torch.bool for t in tree_leaves(args[1:2]) if isinstance(t, torch.Tensor))
        return name in WAITS or to_host or by_mask


def on_card(module, dtype=torch.float32):
    "Its weights lie there without numbers; those that are one still are one."
    there = {}
    def moved(t):
        kind = dtype if t.is_floating_point() else t.dtype
        new = torch.empty(t.shape, dtype=kind, device="cuda")
        if isinstance(t, torch.nn.Parameter): new = torch.nn.Parameter(new, t.requires_grad)
        return there.setdefault(id(t), new)
    for m in module.modules():
        for held in m._parameters, m._buffers:
            held.update({name: moved(t) for name, t in held.items() if t is not None})
    return module


def make_trainer(teacher, data):
    heads = dict(num_attention_heads=4, num_key_value_heads=2)
    with torch.device("meta"):
        student = StudentModel(ModelConfig.tiny(vocab_size=VOCAB))
        config = Qwen2Config(vocab_size=VOCAB, hidden_size=64, intermediate_size=128,
                             num_hidden_layers=2, tie_word_embeddings=True, **heads)
        teacher.model = Qwen2ForCausalLM(config).requires_grad_(False).eval()
    on_card(student), on_card(teacher, torch.float16)
    if not _can_share(teacher.head_weight): _copy_heads(teacher.model)
    TeacherModel.to = StudentWithLoss.to = lambda self, *a: self  # they are there
    config = TrainingConfig.tiny(checkpoint_dir=tempfile.mkdtemp())
    trainer.check_fit, trainer._num_ids = (lambda *a: None), (lambda tokenizer: TOKENS)
    return DistillationTrainer(student, teacher, data, config, max_steps=10, progress=False)


def trace_step():
    seen = []
    def noted(s, t, labels, *settings):
        seen.append([str(s.dtype), str(t.dtype), *s.shape])
        return chunks._chunk_loss(s, t, labels, *settings)
    chunks._fast_chunk_loss = lambda *a: noted
    teacher = TeacherModel("tiny", "cpu")
    data = WikiDataset("tiny", seq_len=128, tokenizer=teacher.tokenizer)
    attended, attend = set(), torch.nn.functional.scaled_dot_product_attention
    def noted_attention(q, k, v, enable_gqa=False, attn_mask=None, **kwargs):
        attended.add((q.shape[1], k.shape[1], enable_gqa, attn_mask is not None))
        return attend(q, k, v, enable_gqa=enable_gqa, attn_mask=attn_mask, **kwargs)
    torch.nn.functional.scaled_dot_product_attention = noted_attention
    with FakeTensorMode(allow_non_fake_inputs=True):
        trainer = make_trainer(teacher, data)
        batch = torch.zeros(4, 128, dtype=torch.long, device="cuda")
        for _ in range(2):  # the first makes the optimizer's state
            with Watch() as watch:
                losses = trainer.gradients([dict(input_ids=batch, labels=batch)])
                norm = trainer.step.clip()
                grads = {str(p.grad.dtype) for p in trainer.student.parameters()}
                trainer.step.update(skip=norm.isnan())
        validation = trace_validation(trainer)
    return dict(validation=validation, precision=trainer.accelerator.mixed_precision, logits=seen,
                scaler=trainer.accelerator.scaler is not None, gradients=sorted(grads),
                device=str(losses.loss.device), waits=watch.waits, attention=sorted(attended),
                operations=sum(watch.ops.values()), by_name=watch.ops.most_common(100))


def trace_validation(trainer):
    "How often the host has waited for the card before each of three batches. All are tokens."
    batch, seen, nonzero = torch.zeros(4, 128, dtype=torch.long), [], torch.Tensor.nonzero
    def all_of(x): return torch.arange(x.numel())[:, None] if x.device.type == "cpu" else nonzero(x)
    def batches():
        for _ in range(3):
            seen.append(sum(watch.waits.values()))
            yield dict(input_ids=batch, labels=batch)
    torch.Tensor.nonzero, trainer.data.tokenizer.decode = all_of, lambda *a, **kw: ""
    with Watch() as watch, trainer.accelerator.autocast():
        teacher_gap_sums(trainer.student, trainer.teacher, batches(), trainer.data.tokenizer)
    torch.Tensor.nonzero = nonzero
    return seen


KEPT = "sum amax gather scatter_add_ scatter_add".split()  # Inductor stores these, once for a row


def wide_in_fp64():
    """The FP64 numbers that an operation as wide as the logits computes again for each of them:
    Inductor inlines what is small, and a consumer's card has one FP64 unit for 64 of FP32."""
    low = torch.bfloat16 if CAPABILITY >= (8, 0) else torch.float16
    with FakeTensorMode():
        args = (torch.empty(8, VOCAB, dtype=low), torch.empty(8, VOCAB, dtype=torch.half),
                torch.zeros(8, dtype=torch.long), torch.ones(()))
        graph = make_fx(lambda s, t, labels, scale: chunks._chunk_loss(
            s, t, labels, .5, 2., TOKENS, scale))(*args).graph
    def name(node): return getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
    def value(node):
        x = node.meta.get("val")
        return x if isinstance(x, torch.Tensor) else None
    def inlined(node):
        for x in node.all_input_nodes:
            if value(x) is not None and x.op == "call_function" and name(x) not in KEPT:
                yield x
                yield from inlined(x)
    wide = [n for n in graph.nodes if value(n) is not None and value(n).numel() >= 8 * TOKENS]
    return sorted({x.name for n in wide for x in inlined(n) if value(x).dtype == torch.float64})


print(json.dumps(trace_step() | dict(wide_in_fp64=wide_in_fp64())))
