"What lesson 02 says of RoPE and need not show."
import math

import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from distill_nb.rope import RotaryEmbedding, _rotate_half, apply_rope

rope = RotaryEmbedding(64)


@pytest.fixture
def q(): return torch.randn(1, 8, 32, 64, generator=torch.Generator().manual_seed(0))


def test_a_quarter_turn_and_a_head_that_has_no_pairs():
    assert _rotate_half(torch.tensor([1., 2., 3., 4.])).tolist() == [-3., -4., 1., 2.]
    with pytest.raises(ValueError, match="must be even"): RotaryEmbedding(7)


def test_it_is_multiplication_by_complex_numbers(q):
    angles = torch.arange(32)[:, None] * 1e6 ** (-torch.arange(32) / 32)
    z = torch.complex(*q.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    turned = apply_rope(q, q, *rope(torch.arange(32)))[0]
    assert_close(turned, torch.cat([z.real, z.imag], -1), atol=1e-5, rtol=0)


def test_another_order_of_operations_shows_in_the_last_bits_of_far_angles():
    far = torch.arange(32768)
    angles = far[:, None] * 1e6 ** (-torch.arange(32) / 32)
    assert 1e-5 < (angles.cos() - rope(far)[0][:, :32]).abs().max() < 1e-2


def test_the_gradient_is_the_turn_backwards(q):
    cos, sin = rope(torch.arange(32))
    upstream = torch.randn_like(q.requires_grad_())
    gradient, = torch.autograd.grad(apply_rope(q, q, cos, sin)[0], q, upstream)
    assert_close(gradient, apply_rope(upstream, upstream, cos, -sin)[0], atol=1e-5, rtol=0)
    table = RotaryEmbedding(4)(torch.arange(3))
    small = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: apply_rope(x, x, *table), small)


def test_sequences_of_a_batch_may_be_at_different_positions():
    q, k = torch.randn(2, 8, 3, 64), torch.randn(2, 2, 3, 64)
    starts = torch.stack([torch.arange(3), torch.arange(40, 43)])  # [batch, seq]
    together = apply_rope(q, k, *rope(starts))[0]
    alone = apply_rope(q[1:], k[1:], *rope(torch.arange(40, 43)))[0]
    assert_close(together[1], alone[0], atol=1e-6, rtol=0)


def test_angles_are_fp32_and_heads_keep_their_dtype(q):
    positions = torch.arange(600)
    assert torch.equal(rope(positions)[0], RotaryEmbedding(64).bfloat16()(positions)[0])
    assert apply_rope(q.bfloat16(), q, *rope(torch.arange(32)))[0].dtype == torch.bfloat16


def test_what_it_costs_beside_the_product_that_makes_the_queries():
    def one_each(*shapes, out_shape, **_): return math.prod(out_shape)

    table = rope(torch.arange(512))
    assert not rope.state_dict() and sum(t.nbytes for t in table) == 256 * 1024
    costs = {torch.ops.aten.mul: one_each, torch.ops.aten.add: one_each}
    with FlopCounterMode(display=False, custom_mapping=costs) as turning:
        apply_rope(torch.randn(1, 8, 512, 64), torch.randn(1, 2, 512, 64), *table)
    with FlopCounterMode(display=False) as product: torch.randn(512, 512) @ torch.randn(512, 512)
    assert turning.get_total_flops() == 983_040
    assert product.get_total_flops() == 268_435_456


def test_with_a_larger_theta_more_of_the_score_is_left_far_away():
    def left(theta): return (512 * theta ** (-torch.arange(32) / 32)).cos().mean()
    assert left(1e6) > left(1e4) > left(100)
