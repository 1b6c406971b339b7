"""The loss's kernel in Triton's interpreter, which has to be asked for before anything imports
Triton: a process of its own. Writes how far it is from FP64 as a line of JSON for each case."""
import json, os, sys, warnings

os.environ["TRITON_INTERPRET"] = "1"
warnings.simplefilter("ignore")  # NumPy's, of what the masks leave out
import torch
from distill_nb import chunks
from distill_nb.chunks import _chunk_loss
from distill_nb.config import IGNORE
from distill_nb.kernel import _kd_rows
from distill_nb.loss import fused_kd_loss, kd_loss


def off(x, right): return ((x.double() - right).norm() / right.norm()).item()


def logits(kind, rows, columns):
    s, t = 3 * torch.randn(2, rows, columns)
    if kind in ("huge", "apart"): s, t = 2e4 * torch.rand(2, rows, columns) - 1e4
    if kind == "apart": s, t = s.sort(descending=True).values, t.sort().values
    if kind == "rising": s, t = s.sort().values, t.sort().values  # the largest comes last
    if kind == "sure": t[:, 7], s[:, -columns // 3] = 60., 40.
    return s, t


def rows(kind, dtype, alpha, T, V, columns):
    "A chunk: what fills up is NaN in the one and huge in the other."
    s, t = (x.to(getattr(torch, dtype)) for x in logits(kind, 3, columns))
    s[:, V:], t[:, V:] = 1e4, torch.nan
    if not alpha: t = None
    y, scale = torch.tensor([0, V // 2, V - 1]), torch.tensor(0.25)
    right, teacher = s.double(), None if t is None else t.double()
    expected = _chunk_loss(right, teacher, y, alpha, T, V, scale.double())
    losses = _kd_rows(s, t, y, alpha, T, V, scale)
    assert losses.isfinite().all() and losses.dtype == torch.float64
    kl, ce = (losses - expected).abs()
    return dict(kl=(kl / (expected[0] + T**2 / 1000)).max().item(),  # a KL of 0.001 is small
                ce=(ce / (expected[1] + 1)).max().item(),
                gradient=off(s, right), padding=s[:, V:].abs().sum().item())


def whole(dtype, alpha, T):
    "The fused loss with the kernel in place of the tiles; ignored tokens have NaN inside."
    chunks._tiled_chunk_loss = _kd_rows
    V, y = 5003, torch.randint(5003, (2, 5))
    h, w, th, tw = (torch.randn(*size) for size in ((2, 5, 8), (5010, 8), (2, 5, 6), (5100, 6)))
    y[0, 0] = y[1, 3] = IGNORE
    h[0, 0], th[1, 3] = torch.nan, torch.nan
    if dtype != "float32": h, w = (x.to(getattr(torch, dtype)).float() for x in (h, w))
    leaves, exact = ([x.to(d).requires_grad_() for x in (h, w)]
                     for d in (torch.float32, torch.float64))
    with torch.autocast("cpu", getattr(torch, dtype), enabled=dtype != "float32"):
        ours = fused_kd_loss(*leaves, th, tw, y, alpha, T, V, chunk_size=3)
    read = exact[0].where(y[..., None] != IGNORE, 0)
    right = kd_loss(read @ exact[1].T, th.double() @ tw.double().T, y, alpha, T, V)
    grads = (torch.autograd.grad(x.loss, of) for x, of in ((ours, leaves), (right, exact)))
    return dict(losses=[abs(x - y).item() for x, y in zip(ours, right)],
                gradients=[off(x, y) for x, y in zip(*grads)])


for line in sys.stdin:
    name, *settings = json.loads(line)
    torch.manual_seed(0)
    print(json.dumps(dict(rows=rows, whole=whole)[name](*settings)), flush=True)
