"What lesson 01 says of RMSNorm and need not show."
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from distill_nb.rmsnorm import RMSNorm


def test_gradients_agree_with_finite_differences():
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RMSNorm(6).double(), x)


def test_the_square_overflows_in_fp16_and_the_mean_does_not():
    below, at = torch.tensor([255.875, 256.0], dtype=torch.float16)
    assert below.nextafter(at) == at and (below**2).isfinite() and (at**2).isinf()
    full = torch.full((512,), 200.0, dtype=torch.float16)
    assert (full**2).sum().isinf() and (full**2).mean() == 40_000


def test_of_two_features_rmsnorm_leaves_a_circle_and_layernorm_two_points():
    points = 1.5 * torch.randn(300, 2, generator=torch.Generator().manual_seed(1)) + 0.5
    torch.testing.assert_close(RMSNorm(2)(points).norm(dim=-1), torch.full((300,), 2**0.5),
                               atol=1e-3, rtol=0)  # length √2 is RMS 1
    torch.testing.assert_close(F.layer_norm(points, (2,), eps=1e-12).abs(), torch.ones(300, 2),
                               atol=1e-3, rtol=0)


def test_it_takes_4_operations_per_feature_and_2_per_token():
    def one_each(shape, *_, out_shape, **__):
        return max(shape.numel(), torch.Size(out_shape).numel())

    aten, tokens, hidden = torch.ops.aten, 100, 512
    costs = {op: one_each for op in (aten.pow, aten.mean, aten.add, aten.rsqrt, aten.mul)}
    with FlopCounterMode(display=False, custom_mapping=costs) as counter:
        RMSNorm(hidden)(torch.randn(tokens, hidden))
    assert counter.get_total_flops() == tokens * (4 * hidden + 2) == tokens * 2050
