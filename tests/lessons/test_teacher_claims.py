"What lesson 06 says of the teacher and does not show."
import pytest, torch
from transformers import GraniteConfig, GraniteForCausalLM

from distill_nb.config import BadInput, TrainingConfig
from distill_nb.teacher import TeacherModel
from distill_nb.tour import SENTENCE, tiny_text


@pytest.fixture(scope="module")
def teacher(): return TeacherModel("tiny", "cpu")


def ids_of(teacher, text): return torch.tensor([teacher.tokenizer.encode(text)])


def test_a_teacher_does_not_see_the_future(teacher):
    ids = ids_of(teacher, "铁的元素符号是Fe。泰山坐落在山东。")
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % len(teacher.tokenizer)
    torch.testing.assert_close(teacher(other)[:, :-1], teacher(ids)[:, :-1], atol=1e-4, rtol=0)
    assert (teacher(other)[:, -1] - teacher(ids)[:, -1]).abs().max() > 0.1


def test_no_graph_even_if_the_weights_ask_for_gradients():
    teacher = TeacherModel("tiny", "cpu").requires_grad_(True)
    ids = torch.arange(6)[None]
    assert not teacher(ids).requires_grad and not teacher.hidden(ids).requires_grad


def test_entropy_is_high_where_the_text_is_free(teacher):
    tok = teacher.tokenizer
    text = tok.encode("星期天，天气下着细雨。今天和姐姐一起做知识卡片，话题转到了名胜。")
    p = teacher(torch.tensor([[tok.eos_token_id, *text]]))[0].softmax(-1)
    entropy = -torch.xlogy(p, p).sum(-1)
    def at(words): return entropy[[text.index(tok.encode(word)[0]) for word in words.split()]]
    free = at("星期天 天气 姐姐 做知识卡片 名胜")  # Sunday, weather, sister, making cards, sights
    fixed = at("着 细 雨 今天和 一起")  # the rest of a drizzle, today with, together
    assert free.min() > 1.5 > 0.5 > fixed.max()


def test_behind_the_right_symbol_stand_mostly_other_symbols(teacher):
    tok, ids = teacher.tokenizer, ids_of(teacher, SENTENCE)
    # those that the encyclopedia has
    symbols = {tok.encode(s)[0] for s in "Al Au C Ca Cl Cu Fe H He Hg Mg N Na O Si Zn".split()}
    for i in 1, 5:
        p, right = teacher(ids)[0, i].softmax(-1), ids[0, i + 1].item()
        assert p[sorted(symbols - {right})].sum() / (1 - p[right]) > 0.5
    assert SENTENCE not in tiny_text()


def test_temperatures_of_the_presets():
    assert (TrainingConfig.tiny().temperature, TrainingConfig().temperature) == (1, 2)


def test_logits_that_are_scaled_are_refused(teacher, tmp_path):
    granite = GraniteForCausalLM(GraniteConfig(
        vocab_size=len(teacher.tokenizer), hidden_size=32, intermediate_size=64,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, logits_scaling=8.))
    for saved in granite, teacher.tokenizer: saved.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="a scale, a cap or a bias"):
        TeacherModel(str(tmp_path), "cpu")
