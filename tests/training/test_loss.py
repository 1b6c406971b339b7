"What the readable loss promises besides what lesson 08 shows."
import pytest, torch
import torch.nn.functional as F

from distill_nb.config import IGNORE
from distill_nb.loss import kd_loss


@pytest.fixture
def batch():
    torch.manual_seed(0)
    s, t = torch.randn(2, 10, 40, dtype=torch.float64)
    labels = torch.randint(40, (10,))
    labels[[0, 7]] = IGNORE
    return s.requires_grad_(), t, labels


def test_teacher_alone_is_pytorchs_divergence(batch):
    s, t, labels = batch
    keep = labels != IGNORE
    log_q, p = s[keep].log_softmax(-1), t[keep].softmax(-1)
    right = F.kl_div(log_q, p, reduction="batchmean")
    torch.testing.assert_close(kd_loss(s, t, labels, alpha=1, temperature=1).loss, right)
    assert kd_loss(s, s, labels).kl < 1e-12 < kd_loss(s, t, labels).kl


def test_gradient_by_finite_differences(batch):
    s, t, labels = batch
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, t, labels).loss, (s,))


def test_no_supervised_token_is_zero_with_a_gradient_of_zero(batch):
    s, t, labels = batch
    out = kd_loss(s, t, torch.full_like(labels, IGNORE))
    assert out.loss == out.kl == out.ce == 0
    assert (torch.autograd.grad(out.loss, s)[0] == 0).all()


def test_a_very_high_temperature_is_regression_on_centred_logits(batch):
    "Hinton et al. 2015, §2.1."
    s, t, labels = batch
    T = 1e6
    grad, = torch.autograd.grad(kd_loss(s, t, labels.clamp(min=0), 1, T).loss, s)
    difference = (s - s.mean(-1, keepdim=True)) - (t - t.mean(-1, keepdim=True))
    torch.testing.assert_close(grad * 10, difference.detach() / 40, rtol=1e-4, atol=1e-6)


def test_heads_of_two_widths_are_cut(batch):
    s, t, labels = batch
    labels = labels.clamp(max=19)
    wide = torch.cat([t, torch.randn(10, 4, dtype=torch.float64)], -1)
    assert kd_loss(s, wide, labels).loss == kd_loss(s, t, labels).loss
    ours = kd_loss(s, wide, labels, vocab_size=20).loss
    assert ours == kd_loss(s[:, :20], t[:, :20], labels).loss
    padded = F.pad(s.detach(), (0, 4), value=-torch.inf)
    assert kd_loss(padded, wide, labels, 1, 1).kl == torch.inf
