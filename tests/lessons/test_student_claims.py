"What lesson 05 says of the student and does not show: claims of a model that is wired correctly."
import math

import pytest, torch, torch.nn.functional as F

from distill_nb.config import BadInput, ModelConfig
from distill_nb.export import _hf_name, to_llama
from distill_nb.student import StudentModel, TransformerBlock

SMALL = ModelConfig.tiny(hidden_size=128, num_layers=4, num_heads=4, intermediate_size=352)
IDS = torch.randint(4096, (2, 128), generator=torch.Generator().manual_seed(0))  # [batch, seq]


@pytest.fixture
def student():
    "All of its weights are large enough for every part to matter."
    torch.manual_seed(0)
    model = StudentModel(SMALL).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.dim() > 1 else 1).add_(0.1 * torch.randn_like(p))
    return model


def test_gradients_are_a_llamas(student):
    "For every parameter, the shared table with its two sources included."
    llama = to_llama(student)
    for logits in student(IDS), llama(IDS).logits:
        F.cross_entropy(logits.flatten(0, 1), IDS.flatten()).backward()
    theirs = {name: p.grad for name, p in llama.named_parameters()}
    for name, p in student.named_parameters():
        g = theirs[_hf_name(name)]
        assert (p.grad - g).norm() < 1e-4 * g.norm(), name


@torch.no_grad()
def test_no_token_sees_the_future(student):
    other = IDS.clone()
    other[:, 64] = (other[:, 64] + 1) % 4096
    differs = (student(IDS) != student(other)).any(-1).any(0)  # [seq]
    assert differs.nonzero()[0].item() == 64


@torch.no_grad()
def test_pieces_over_a_cache_give_what_one_pass_gives(student):
    cache = student.new_cache()
    steps = [student(piece, cache) for piece in IDS.split([50, 1, 1, 76], dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), student(IDS), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_road_is_only_ever_added_to(student):
    "The vector before the last norm is the embedding plus the 2 × 4 writes, nothing else."
    writes, stream = [student.embedding(IDS)], []
    for layer in student.layers:
        for part in layer.attention, layer.ffn:
            part.register_forward_hook(lambda module, args, out: writes.append(out))
    student.norm.register_forward_pre_hook(lambda module, args: stream.append(args[0]))
    student(IDS)
    assert len(writes) == 1 + 2 * 4
    torch.testing.assert_close(sum(writes), stream[0], atol=1e-4, rtol=0)


def test_one_table_also_after_saving_and_loading(student, tmp_path):
    student.save(tmp_path)
    loaded = StudentModel.load(tmp_path)
    for model in student, loaded: assert model.lm_head.weight is model.embedding.weight
    assert torch.equal(loaded(IDS), student(IDS)) and not loaded.training


def test_a_block_whose_writers_are_zero_lets_the_stream_pass():
    block, x = TransformerBlock(SMALL), torch.randn(2, 10, 128)
    assert not torch.equal(block(x), x)
    for writer in block.attention.o_proj, block.ffn.down_proj:
        torch.nn.init.zeros_(writer.weight)
    assert torch.equal(block(x), x)


def test_the_loss_of_an_untrained_model_is_the_logarithm_of_the_vocabulary():
    torch.manual_seed(0)
    logits = StudentModel(SMALL)(IDS)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    assert abs(loss - math.log(4096)) < 0.1


@torch.no_grad()
def test_loud_weights_are_certain_and_wrong():
    from distill_nb.teacher import TeacherModel
    from distill_nb.tour import SENTENCE
    ids = torch.tensor(TeacherModel("tiny", "cpu").tokenizer.encode(SENTENCE))
    torch.manual_seed(0)
    loud = StudentModel(SMALL)
    for p in loud.parameters():
        if p.dim() > 1: torch.nn.init.normal_(p, std=1)
    assert round(F.cross_entropy(loud(ids[None, :-1])[0], ids[1:]).item()) == 38


def test_a_copy_of_the_table_goes_its_own_way_from_the_first_step(student):
    honest = student(IDS)
    student.lm_head.weight = torch.nn.Parameter(student.embedding.weight.clone())
    assert torch.equal(student(IDS), honest)
    assert sum(p.numel() for p in student.parameters()) == SMALL.num_params + 4096 * 128
    F.cross_entropy(student(IDS).flatten(0, 1), IDS.flatten()).backward()
    torch.optim.SGD(student.parameters()).step()
    assert not torch.equal(student.lm_head.weight, student.embedding.weight)


def test_dropout_acts_on_what_is_written_and_only_in_training():
    noisy, x = TransformerBlock(ModelConfig.tiny(dropout=0.5)), torch.randn(2, 10, 192)
    assert not torch.equal(noisy(x), noisy(x))
    noisy.eval()
    assert torch.equal(noisy(x), noisy(x))


def test_a_sequence_that_is_too_long_is_refused(student):
    with pytest.raises(BadInput, match="max_seq_len=128"): student(IDS.new_zeros(1, 129))


def test_the_sizes_of_big_models_in_the_lesson():
    "Qwen2.5-0.5B also has biases of query, key and value, which our student has not."
    qwen = ModelConfig(hidden_size=896, num_layers=24, num_heads=14, intermediate_size=4864)
    assert qwen.num_params + 24 * (896 + 2 * 128) == 494_032_768
    llama = ModelConfig(hidden_size=4096, num_layers=32, num_heads=32, num_kv_heads=8,
                        intermediate_size=14336, vocab_size=128_256)
    assert llama.num_params + 128_256 * 4096 == 8_030_261_248 # two tables
    def percent(vocab, width, total): return round(100 * vocab * width / total)
    assert percent(151_936, 512, ModelConfig().num_params) == 63
    assert percent(151_936, 896, 494_032_768) == 28
    assert percent(128_256, 2 * 4096, 8_030_261_248) == 13
