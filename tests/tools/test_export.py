"""The folder for transformers: what it keeps out of a text, what it leaves open, and why the
student is a Llama and not one of its relatives."""
import copy, json
from collections import Counter

import pytest, torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM, AutoTokenizer, DeepseekV3Config, Gemma2Config, LlamaConfig, Qwen2Config,
    Qwen3Config)

from distill_nb.config import ModelConfig
from distill_nb.export import save_hf
from distill_nb.generator import TextGenerator
from distill_nb.student import StudentModel
from distill_nb.teacher import TeacherModel

YANGTZE = "长江"


@pytest.fixture(scope="module")
def tokenizer(): return TeacherModel("tiny", "cpu").tokenizer


@pytest.fixture(scope="module")
def loud(tokenizer):
    "A student that gives a row without a token the largest logit after our prompt."
    torch.manual_seed(0)
    student = StudentModel(ModelConfig.tiny(vocab_size=len(tokenizer) + 32)).eval()
    ids = torch.tensor([tokenizer.encode(YANGTZE)])
    with torch.no_grad():
        student.embedding.weight[len(tokenizer) + 7] = 50 * student.hidden(ids)[0, -1]
    return student


def test_rows_without_a_token_are_suppressed(loud, tokenizer, tmp_path):
    save_hf(loud, tokenizer, tmp_path)
    there = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([tokenizer.encode(YANGTZE)])

    def first_token(**options):
        mask = torch.ones_like(ids)
        greedy = dict(max_new_tokens=1, do_sample=False)
        return there.generate(ids, attention_mask=mask, **greedy, **options)[0, -1].item()

    assert first_token() == next(TextGenerator(loud, tokenizer).token_ids(YANGTZE))
    assert first_token(suppress_tokens=None) == len(tokenizer) + 7
    own = AutoTokenizer.from_pretrained(tmp_path)
    assert own.model_max_length == loud.config.max_seq_len


def test_four_bytes_per_parameter_and_the_tied_table_once(loud, tokenizer, tmp_path):
    save_hf(loud, tokenizer, tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert 0 < size - 4 * loud.config.num_params < 10_000
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_without_a_tokenizer_nothing_is_said_about_tokens(loud, tmp_path):
    save_hf(loud, None, tmp_path)
    bare = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad(): torch.testing.assert_close(bare(ids).logits, loud(ids))
    settings = bare.generation_config
    assert (settings.eos_token_id, settings.suppress_tokens) == (None, None)
    assert not list(tmp_path.glob("tokenizer*"))


def test_what_the_relatives_of_llama_add():
    "As lesson 11 says of the big models."
    one_layer = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                     num_key_value_heads=1, intermediate_size=8, vocab_size=8, pad_token_id=None)
    models = {c: AutoModelForCausalLM.from_config(c(**one_layer))
              for c in (LlamaConfig, Qwen2Config, Qwen3Config, Gemma2Config)}
    names = {c: model.state_dict().keys() for c, model in models.items()}
    more = {c: {n.split(".0.")[1] for n in names[c] - names[LlamaConfig]} for c in models}
    assert more[Qwen2Config] == {f"self_attn.{x}_proj.bias" for x in "qkv"}
    assert more[Qwen3Config] == {f"self_attn.{x}_norm.weight" for x in "qk"}
    assert more[Gemma2Config] == {f"{x}_feedforward_layernorm.weight" for x in ("pre", "post")}
    new = {c: model.model.norm.weight.mean().item() for c, model in models.items()}
    assert new[LlamaConfig] == 1 and new[Gemma2Config] == 0  # which multiplies by 1 + weight
    assert not DeepseekV3Config().tie_word_embeddings
    assert ModelConfig().vocab_size > 151_643 + 22  # Qwen2.5 has rows without a token


def test_programs_that_know_transformers_4_read_it(loud, tokenizer, tmp_path):
    "They look elsewhere for the base of RoPE, take 10,000 if it is not there, and say nothing."
    save_hf(loud, tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10_000
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    more = copy.deepcopy(tokenizer)
    more.add_special_tokens({"extra_special_tokens": ["<one more>"]})
    save_hf(loud, more, tmp_path / "more")
    settings = json.loads((tmp_path / "more" / "tokenizer_config.json").read_text())
    assert settings["additional_special_tokens"] == ["<one more>"]
    assert "extra_special_tokens" not in settings
    again = AutoTokenizer.from_pretrained(tmp_path / "more")
    assert again.all_special_tokens == more.all_special_tokens


def test_the_loader_of_vllm_finds_every_weight_once(loud, tokenizer, tmp_path):
    "It joins queries, keys and values, and gate and up; the sizes follow from config.json."
    save_hf(loud, tokenizer, tmp_path)
    c = json.loads((tmp_path / "config.json").read_text())
    assert c["architectures"] == ["LlamaForCausalLM"] and c["tie_word_embeddings"]
    joined = dict(q_proj="qkv_proj", k_proj="qkv_proj", v_proj="qkv_proj",
                  gate_proj="gate_up_proj", up_proj="gate_up_proj")
    found = Counter() # rows of each weight
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        for name in file.keys():
            *front, part, kind = name.split(".")
            whole = ".".join([*front, joined.get(part, part), kind])
            found[whole] += file.get_tensor(name).shape[0]
    hidden, inner, head_dim = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    heads = c["num_attention_heads"] + 2 * c["num_key_value_heads"]
    rows = {"self_attn.qkv_proj": heads * head_dim, "self_attn.o_proj": hidden,
            "mlp.gate_up_proj": 2 * inner, "mlp.down_proj": hidden,
            "input_layernorm": hidden, "post_attention_layernorm": hidden}
    expected = {f"model.layers.{i}.{name}.weight": n for name, n in rows.items()
                for i in range(c["num_hidden_layers"])}
    expected |= {"model.embed_tokens.weight": c["vocab_size"], "model.norm.weight": hidden}
    assert found == expected
