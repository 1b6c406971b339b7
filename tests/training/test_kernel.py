"""The loss's kernel without a card: its numbers in Triton's interpreter, and its code as compiled
for cards from 2018 to 2025. Triton comes with PyTorch for CUDA; elsewhere `pip install triton`."""
import itertools, json, re, subprocess, sys
from importlib.util import find_spec
from pathlib import Path

import pytest, torch
from distill_nb.chunks import _chunk_loss

INTERPRETED = Path(__file__).parents[1] / "support/interpreted.py"
needs_triton = pytest.mark.skipif(not find_spec("triton"), reason="pip install triton")

V, COLUMNS = 9479, 9536  # odd, filled up to a multiple of 64, and no multiple of the tile
DTYPES = "float32", "bfloat16", "float16"
ROWS = [*(("normal", d, a, t) for d, a, t in itertools.product(DTYPES, (0., 0.5, 1.), (0.5, 2.))),
        *((kind, "float32", 0.5, T) for T in (0.5, 1., 20.)
          for kind in ("huge", "apart", "rising", "sure")),
        ("normal", "bfloat16", 0.9, 20.), ("huge", "bfloat16", 0.5, 2.)]
WHOLE = [(d, a, t) for d, a, t in itertools.product(DTYPES, (0., 0.5, 1.), (1., 20.))]


@pytest.fixture(scope="module")
def interpreted():
    "Asks the interpreter, in a process of its own: a case, and how far it is from FP64."
    process = subprocess.Popen([sys.executable, INTERPRETED], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    def ask(*case):
        print(json.dumps(case), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())
    yield ask
    process.stdin.close()
    assert process.wait(30) == 0


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("kind, dtype, alpha, T", ROWS)
def test_rows_are_those_of_fp64(interpreted, kind, dtype, alpha, T):
    off = interpreted("rows", kind, dtype, alpha, T, V, COLUMNS)
    eps = torch.finfo(getattr(torch, dtype)).eps
    assert off["kl"] < 2e-6 and off["ce"] < 1e-6, off
    assert off["gradient"] < max(2e-6, eps / 2) and off["padding"] == 0, off


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("V, columns", [(100, 128), (4095, 4096), (4096, 4096), (4097, 4160)])
def test_any_width(interpreted, V, columns):
    off = interpreted("rows", "normal", "float32", 0.5, 2., V, columns)
    assert max(off["kl"], off["ce"], off["gradient"]) < 2e-6 and off["padding"] == 0, off


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype, alpha, T", WHOLE)
def test_fused_loss_with_the_kernel(interpreted, dtype, alpha, T):
    "Tokens that are not supervised, wider heads, chunks that do not come out even, autocast."
    off = interpreted("whole", dtype, alpha, T)
    most = dict(float32=1e-5, bfloat16=2e-2, float16=3e-3)[dtype]  # of products in this dtype
    assert max(off["losses"]) < most and max(off["gradients"]) < most, off


@pytest.mark.parametrize("wrong, why", [
    (lambda s, *_: torch.zeros(2, len(s)), "numbers are off by 1"),
    (lambda *_: torch.full((2, 4), torch.nan), "numbers are off by nan"),
    (lambda s, *a: _chunk_loss(s, *a).add(0.01 * s.sub_(s).sum() + 0.01), "numbers are off"),
    (lambda *_: 1 / 0, "division by zero")])
def test_a_kernel_that_is_wrong_is_not_used(wrong, why, monkeypatch, caplog):
    "On a card that we have never seen: torch.compile takes its place, and one line says so."
    from distill_nb import kernel
    monkeypatch.setattr(kernel, "_kd_rows", wrong)
    monkeypatch.setattr(torch, "compile", lambda f: f)
    monkeypatch.setattr(kernel, "_warn_once", kernel.logging.getLogger("distill_nb").warning)
    tried = torch.device("cpu"), 128, torch.float32, torch.float32, 0.5, 2., 100
    assert kernel._fast_chunk_loss.__wrapped__(_chunk_loss, *tried) is _chunk_loss
    assert len(caplog.messages) == 1 and why in caplog.text, caplog.text
    assert "torch.compile does" in caplog.text


def test_a_kernel_that_is_right_is_used(monkeypatch, caplog):
    from distill_nb import kernel
    monkeypatch.setattr(kernel, "_kd_rows", lambda *a: _chunk_loss(*a))
    for teacher in torch.float16, None:
        tried = torch.device("cpu"), 128, torch.bfloat16, teacher, 0.5 * bool(teacher), 2., 100
        assert kernel._fast_chunk_loss.__wrapped__(_chunk_loss, *tried) is kernel._kd_rows
    assert caplog.messages == []


POINTERS = dict(TEACHER="*fp16", LABELS="*i64", STATS="*fp32", LOSSES="*fp64", SCALE="*fp32")
TILES = 4096 // (8 * 32) // 8  # a thread's share of a tile, eight numbers at a time


def ptx(kernel, architecture, student="bf16"):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    kinds = POINTERS | dict(S=f"*{student}", alpha="fp32", T="fp32", V="i32", columns="i32")
    signature = {name: kinds[name] for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names)
               if name == "columns" or signature[name].startswith("*")}
    source = ASTSource(kernel, signature, {}, aligned)
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options=dict(num_warps=8)).asm["ptx"]


def vectors(code, instruction):
    "How many instructions of this kind move eight numbers of 16 bits at once."
    return len(re.findall(rf"\b{instruction}\.global\S*\.v4\.b32\b", code))


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("architecture", [75, 80, 86, 89, 90, 120])
def test_compiled_for_a_card(architecture, tmp_path, monkeypatch):
    "Two readings, one writing, and of FP64 only the two losses of a row."
    from distill_nb.kernel import _kernels
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # nothing from an earlier run
    student = "fp16" if architecture == 75 else "bf16"
    sums, grad = (ptx(kernel, architecture, student) for kernel in _kernels())
    for code in sums, grad:
        assert vectors(code, "ld") == 2 * TILES, "student's and teacher's logits"
        assert set(re.findall(r"\S+\.f64\S*", code)) == {"cvt.f64.f32"}
        assert code.count("cvt.f64.f32") == 1 and f".target sm_{architecture}" in code
        assert code.count("div.") <= 2, "a division for each logit"
    assert (vectors(sums, "st"), vectors(grad, "st")) == (0, TILES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("alpha, T", [(0., 2.), (0.5, 2.), (0.9, 1.), (1., 20.)])
def test_on_a_card(alpha, T):
    from distill_nb.kernel import _fast_chunk_loss, _kd_rows
    low = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.half
    tried = torch.device("cuda", 0), 151_680, low, torch.half if alpha else None
    assert _fast_chunk_loss(_chunk_loss, *tried, alpha, T, 151_665) is _kd_rows
    torch.manual_seed(0)
    s, t = (3 * torch.randn(2, 64, 151_680, device="cuda")).unbind()
    s, t = s.to(low), t.half() if alpha else None
    y, one = torch.randint(151_665, (64,), device="cuda"), torch.ones((), device="cuda")
    right, teacher = s.double(), t.double() if alpha else None
    expected = _chunk_loss(right, teacher, y, alpha, T, 151_665, one.double())
    losses = _kd_rows(s, t, y, alpha, T, 151_665, one)
    assert ((losses - expected).abs() < 2e-6 * (expected + 1)).all()
    assert (s.double() - right).norm() < torch.finfo(low).eps * right.norm()
