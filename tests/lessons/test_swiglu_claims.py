"What lesson 04 says of SwiGLU and need not show."
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from distill_nb.swiglu import SwiGLUFFN


def test_a_relu_is_the_and_of_features_that_are_0_or_1():
    bits = torch.tensor([[0., 0.], [0., 1.], [1., 0.], [1., 1.]])
    assert F.relu(bits.sum(-1) - 1).tolist() == bits.prod(-1).tolist()


def test_silu_dips_below_zero_and_has_a_slope_of_a_half_at_the_origin():
    z = torch.linspace(-6, 6, 1201, requires_grad=True)
    slope, = torch.autograd.grad(F.silu(z).sum(), z)
    lowest = F.silu(z).argmin()
    assert_close(F.silu(z), z * torch.sigmoid(z), atol=2e-6, rtol=0)
    found = torch.stack([z[lowest], F.silu(z)[lowest], slope[600]])
    assert_close(found, torch.tensor([-1.28, -0.278, 0.5]), atol=1e-3, rtol=0)


def test_gradients_agree_with_finite_differences():
    x = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(SwiGLUFFN(3, 5).double(), x)


def test_a_relu_layer_without_biases_doubles_with_its_input():
    layer = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 8, bias=False))
    x = torch.randn(4, 8)
    assert_close(layer(2 * x), 2 * layer(x))


def test_exchanged_with_its_weights_exchanged_it_is_the_same_layer():
    ffn, renamed, x = SwiGLUFFN(64, 176), SwiGLUFFN(64, 176), torch.randn(2, 10, 64)
    names = {"gate_proj": ffn.up_proj, "up_proj": ffn.gate_proj, "down_proj": ffn.down_proj}
    renamed.load_state_dict({f"{name}.weight": layer.weight for name, layer in names.items()})
    inner = renamed.gate_proj(x) * F.silu(renamed.up_proj(x))
    assert torch.equal(renamed.down_proj(inner), ffn(x))


def measure(layer, x):
    "Parameters, FLOPs per token and bytes per token that autograd keeps, the weights aside."
    weights, kept = {p.untyped_storage().data_ptr() for p in layer.parameters()}, {}
    def keep(s):
        kept[s.untyped_storage().data_ptr()] = s.untyped_storage().nbytes()
        return s
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda s: s)
    with FlopCounterMode(display=False) as counter, hooks: y = layer(x)
    nbytes, tokens = sum(n for p, n in kept.items() if p not in weights), y[..., 0].numel()
    parameters = sum(p.numel() for p in layer.parameters())
    return parameters, counter.get_total_flops() // tokens, nbytes // tokens


def test_the_costs_that_are_counted_are_those_that_are_measured():
    D, x = 512, torch.randn(2, 8, 512, requires_grad=True)
    for wide in 2048, 3072:
        plain = nn.Sequential(nn.Linear(D, wide, bias=False), nn.ReLU(),
                              nn.Linear(wide, D, bias=False))
        assert measure(plain, x) == (2 * D * wide, 4 * D * wide, 4 * (D + wide))
    expected = 3 * D * 2048, 6 * D * 2048, 4 * (D + 4 * 2048)
    assert measure(SwiGLUFFN(D, 2048), x) == expected
    assert round(expected[2] / (4 * (D + 3072)), 1) == 2.4


@pytest.fixture
def inner():
    "What the hidden units of the distilled student's block 0 hold at the sentence's tokens."
    from distill_nb.demo import tiny_students
    from distill_nb.teacher import TeacherModel
    from distill_nb.tour import SENTENCE
    student, kept = tiny_students()["distilled"], []
    student.layers[0].ffn.down_proj.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad(): student(torch.tensor([TeacherModel("tiny").tokenizer.encode(SENTENCE)]))
    return kept[0][0]  # [seq, intermediate]


def test_unit_258_is_an_and_and_unit_230_holds_elements(inner):
    assert {230, 258} < set(inner[5].abs().topk(5).indices.tolist())
    assert inner[5, 258] > 10 and inner[[0, 2, 3, 4, 6, 7], 258].abs().max() < 1
    assert inner[[0, 1, 4], 230].min() > 35


def test_deepseek_v3_and_gemma_2_are_as_the_lesson_says():
    from transformers import DeepseekV3Config, Gemma2Config
    v3 = DeepseekV3Config()
    assert (v3.n_routed_experts, v3.n_shared_experts, v3.num_experts_per_tok) == (256, 1, 8)
    assert v3.first_k_dense_replace == 3
    assert Gemma2Config().hidden_activation == "gelu_pytorch_tanh"
