"""Teachers of other families: their tokenizers are read and written as they say themselves, and
what is no teacher is refused before it is built."""
import json, logging, shutil, time
from functools import partial

import numpy as np, pytest, torch
from tokenizers import Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, GPT2Config,
    GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config,
    Qwen2ForCausalLM, Qwen2ForSequenceClassification, Qwen2Model)
from transformers.utils import logging as hf_logging
from distill_nb.cache import cache_teacher
from distill_nb.cli import main
from distill_nb.config import BadInput, ModelConfig, TrainingConfig
from distill_nb.data import WikiDataset
from distill_nb.export import save_hf
from distill_nb.files import ASSETS
from distill_nb.generator import TextGenerator
from distill_nb.hub import load_pretrained
from distill_nb.student import StudentModel
from distill_nb.teacher import TeacherModel
from distill_nb.tokenizer import _read_prompt, _save_tokenizer
from distill_nb.trainer import DistillationTrainer

TEXT = "In 1949 it began, it's 3.14; in the Near East they played. 北京是中国的首都。"
ARTICLES = [f"{TEXT}\nStory {i} of 𠮷." for i in range(60)]
SMALL = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=64)


def trained(model, trainer, special, size, **parts):
    made = Tokenizer(model)
    for name, part in parts.items(): setattr(made, name, part)
    made.train_from_iterator(ARTICLES, trainer(vocab_size=size, special_tokens=special,
                                               show_progress=False))
    return made


def llama_kind():
    "SentencePiece's way: ▁ for a space, bytes for what is unknown, BOS before every text."
    as_bytes = [f"<0x{b:02X}>" for b in range(256)]
    parts = dict(
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoder=decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                   decoders.Fuse(), decoders.Strip(" ", 1, 0)]))
    made = trained(models.BPE(unk_token="<unk>", byte_fallback=True), trainers.BpeTrainer,
                   ["<unk>", "<s>", "</s>", *as_bytes], 300, **parts)
    held = json.loads(made.to_str())
    held["added_tokens"] = held["added_tokens"][:3]  # the bytes are tokens like all others
    made = Tokenizer.from_str(json.dumps(held))
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>",
                                   unk_token="<unk>", chat_template="{{ messages }}")


def bert_kind():
    made = trained(models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer,
                   ["[PAD]", "[UNK]", "[SEP]"], 120, normalizer=normalizers.BertNormalizer(),
                   pre_tokenizer=pre_tokenizers.BertPreTokenizer(), decoder=decoders.WordPiece())
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="[SEP]", unk_token="[UNK]")


def gpt2_kind():
    "Byte-level, and numbers in one piece: not Qwen2's way."
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = partial(trainers.BpeTrainer, initial_alphabet=byte_level.alphabet())
    made = trained(models.BPE(), trainer, ["<|endoftext|>"], 500,
                   pre_tokenizer=byte_level, decoder=decoders.ByteLevel())
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>")


def with_holes():
    "Numbers are left out below its special token, as in vocabularies made for tiktoken."
    made = json.loads(gpt2_kind().backend_tokenizer.to_str())
    end = made["added_tokens"].pop(0)
    made["added_tokens"] = [end | dict(id=600)]
    del made["model"]["vocab"]["<|endoftext|>"]
    made["model"]["vocab"]["<|endoftext|>"] = 600
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(made)),
                                   eos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    "A function that saves a teacher with its tokenizer, and returns the folder."
    hf_logging.disable_progress_bar()
    def save(model, tokenizer):
        folder = tmp_path_factory.mktemp("teacher")
        for saved in (model, tokenizer): saved.save_pretrained(folder)
        return str(folder)
    return save


def llama_model(vocab_size):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **SMALL))


@pytest.fixture(scope="module")
def llama(make): return make(llama_model(320), llama_kind())


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    lines = [json.dumps(dict(text=text), ensure_ascii=False) for text in ARTICLES]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def read(text, tmp_path):
    def read(tokenizer, seq_len=16):
        return WikiDataset(text, seq_len=seq_len, tokenizer=tokenizer, cache_dir=tmp_path / "cache")
    return read


def student(tokenizer, vocab_size):
    torch.manual_seed(1)
    config = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1,
                         intermediate_size=32, vocab_size=vocab_size, max_seq_len=96)
    return TextGenerator(StudentModel(config), tokenizer)


def articles(data):
    tokens = np.asarray(data.train.tokens)
    return np.split(tokens, np.flatnonzero(tokens == data.tokenizer.eos_token_id) + 1)[:-1]


def test_bos_stands_before_articles_and_prompts(llama, read):
    data = read(llama)
    tokenizer = data.tokenizer
    for ids in articles(data):
        assert (ids[0], (ids == 1).sum(), ids[-1]) == (1, 1, 2)
        told = tokenizer.decode(ids, skip_special_tokens=True)
        assert told in ARTICLES
        assert _read_prompt(tokenizer, told) == ids[:-1].tolist() == tokenizer.encode(told)
    key = json.loads((data.path / "about.json").read_text())["key"]
    assert key["start"] == [1]


def test_nothing_is_put_before_the_text_of_qwen(read):
    data = read("tiny")
    key = json.loads((data.path / "about.json").read_text())["key"]
    assert "start" not in key
    assert articles(data)[0].tolist()[:-1] == _read_prompt(
        data.tokenizer, data.tokenizer.decode(articles(data)[0][:-1]))


def test_a_teacher_is_asked_after_its_bos(llama):
    teacher, plain = TeacherModel(llama, "cpu", torch.float32), llama_model(320).eval()
    ids = torch.tensor([[5, 9, 200, 7], [1, 5, 9, 200]])  # one has it already
    with torch.no_grad():
        without = plain(torch.tensor([[1, 5, 9, 200, 7]])).logits[0, 1:]
        there = plain(ids[1:]).logits[0]
    torch.testing.assert_close(teacher(ids), torch.stack([without, there]))
    torch.testing.assert_close(teacher.hidden(ids) @ teacher.head_weight.T, teacher(ids))


@pytest.mark.parametrize("kind", [llama_kind, bert_kind, gpt2_kind])
def test_what_is_written_is_what_its_decoder_says(kind):
    tokenizer = kind()
    ids, decode = tokenizer.encode(f"{TEXT} 鸿😀蒙 it"), partial(
        tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    class Parrot(TextGenerator):
        def token_ids(self, prompt, **settings): yield from ids[len(prompt):]
        def _prompt_ids(self, prompt): return ids[:len(prompt)]
    parrot = Parrot(student(tokenizer, 512).model, tokenizer)
    for cut in 0, 1, 2, 7:
        pieces = list(parrot.stream("x" * cut))  # a prompt of so many tokens
        assert decode(ids[:cut]) + "".join(pieces) == decode(ids)
        assert len(pieces) > 15 and not any("\ufffd" in piece for piece in pieces)


def test_an_export_reads_and_writes_what_the_product_does(llama, tmp_path):
    writer = student(load_pretrained(AutoTokenizer, llama), 320)
    save_hf(writer.model, writer.tokenizer, tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    for prompt in "in the Near", "北京":
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        assert ids[0].tolist() == _read_prompt(writer.tokenizer, prompt)
        new = model.generate(ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1]:]
        assert new.tolist() == list(writer.token_ids(prompt, max_new_tokens=9))
    alone = model.generate(max_new_tokens=9, do_sample=False)[0].tolist()
    assert alone == [1, *writer.token_ids("", max_new_tokens=9)]
    assert tokenizer.chat_template is None and writer.tokenizer.chat_template


def test_an_empty_prompt_of_an_export_without_bos(tmp_path):
    tokenizer = gpt2_kind()
    writer = student(tokenizer, 500)
    save_hf(writer.model, tokenizer, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    alone = model.generate(max_new_tokens=9, do_sample=False)[0].tolist()
    ours = [tokenizer.eos_token_id, *writer.token_ids("", max_new_tokens=9)]
    assert alone in (ours, ours + [tokenizer.eos_token_id])


def test_a_special_token_in_a_prompt_is_the_text_that_it_is_in_an_article(llama):
    tokenizer = load_pretrained(AutoTokenizer, llama)
    ids = _read_prompt(tokenizer, "A </s> <s> B")
    assert ids.count(1) == 1 and 2 not in ids and tokenizer.decode(ids[1:]) == "A </s> <s> B"


@pytest.mark.parametrize("said", ["Qwen2Tokenizer", "PreTrainedTokenizerFast", None])
def test_the_tokenizer_is_what_its_file_says(make, read, said, tmp_path):
    "transformers takes the rules of a Qwen2's tokenizer from a class of its own."
    folder = make(Qwen2ForCausalLM(Qwen2Config(vocab_size=500, **SMALL)), gpt2_kind())
    path = f"{folder}/tokenizer_config.json"
    held = json.loads(open(path).read()) | dict(tokenizer_class=said)
    with open(path, "w") as f: json.dump({k: v for k, v in held.items() if v}, f)
    filed = Tokenizer.from_file(f"{folder}/tokenizer.json")
    wrong = AutoTokenizer.from_pretrained(folder)
    assert wrong.tokenize(TEXT) != filed.encode(TEXT).tokens, "nothing to mend"
    data = read(folder)
    assert data.tokenizer.tokenize(TEXT) == filed.encode(TEXT).tokens
    assert data.tokenizer.eos_token == "<|endoftext|>"
    save_hf(student(data.tokenizer, 500).model, data.tokenizer, tmp_path / "hf")
    there = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert there.tokenize(TEXT) == filed.encode(TEXT).tokens


def test_a_text_that_the_tokenizer_cannot_spell(text, read, tmp_path, caplog):
    folder = tmp_path / "bert"
    bert_kind().save_pretrained(folder)
    with caplog.at_level(logging.WARNING, "distill_nb"): read(str(folder))
    assert "changes 60 of 60 articles" in caplog.text and "becomes" in caplog.text
    with caplog.at_level(logging.WARNING, "distill_nb"):
        caplog.clear()
        read("tiny")
    assert not caplog.records
    strange = [json.dumps(dict(text=f"鸿蒙罕见字 {i} 鑫淼森焱 in")) for i in range(9)]
    text.write_text("\n".join(strange))
    with pytest.raises(BadInput, match=r"unknown to the tokenizer .* \(as ") as refused:
        read(str(folder))
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_leaves_numbers_out(make, read, tmp_path):
    folder = make(llama_model(608), with_holes())
    teacher = TeacherModel(folder, "cpu")
    data = read(teacher.tokenizer)
    assert len(teacher.tokenizer) < 600 and data.train.tokens.max() == 600
    small = dict(batch_size=2, checkpoint_dir=str(tmp_path / "run"), warmup_steps=1)
    ours = student(teacher.tokenizer, 608)
    trainer = DistillationTrainer(ours.model, teacher, data, TrainingConfig(**small), max_steps=2,
                                  device="cpu", progress=False)
    assert np.isfinite(trainer.fit()["student_ce"])
    writer = TextGenerator.from_checkpoint(tmp_path / "run/step-00000002")
    loud = torch.zeros(608)
    loud[[550, 599, 605]] = 99.  # none of them is a token
    tokens = {writer.next_token(loud, "top_p", None, 1., 1., None) for _ in range(50)}
    assert tokens <= set(teacher.tokenizer.get_vocab().values())
    save_hf(ours.model, teacher.tokenizer, tmp_path / "hf")
    held = json.loads((tmp_path / "hf/generation_config.json").read_text())
    assert {550, 599, 605} <= set(held["suppress_tokens"])
    with pytest.raises(BadInput, match="fewer than the 601"): student(teacher.tokenizer, 600)


def test_a_teacher_with_fewer_positions_than_a_block(make, read, capfd):
    config = GPT2Config(vocab_size=500, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    folder = make(GPT2LMHeadModel(config), gpt2_kind())
    teacher = TeacherModel(folder, "cpu")
    short, long = read(teacher.tokenizer, 32), read(teacher.tokenizer, 33)
    ours = student(teacher.tokenizer, 500).model
    DistillationTrainer(ours, teacher, short, device="cpu", progress=False)
    for use in (lambda: DistillationTrainer(ours, teacher, long, device="cpu", progress=False),
                lambda: cache_teacher(teacher, long)):
        with pytest.raises(BadInput, match="has 32 positions, and seq_len=33"): use()
    plan = ["plan", "--preset", "tiny", "--teacher", folder, "--vocab-size", "500",
            "--dataset", "org/text", "--tflops", "1", "--max-seq-len"]
    assert main([*plan, "33"]) == 2 and "has 32 positions" in capfd.readouterr().err
    assert main([*plan, "32"]) == 0


@pytest.mark.parametrize("cap", [30.0, None])
def test_a_cap_on_the_logits_is_seen_where_none_reaches_it(cap, make):
    config = Gemma2Config(vocab_size=500, head_dim=8, final_logit_softcapping=cap, **SMALL)
    folder = make(Gemma2ForCausalLM(config), gpt2_kind())
    if cap is None: assert TeacherModel(folder, "cpu").model.config.model_type == "gemma2"
    else:
        with pytest.raises(BadInput, match="a scale, a cap or a bias"): TeacherModel(folder, "cpu")


def test_a_checkpoint_with_a_large_vocabulary_raises_no_alarm(tmp_path):
    "transformers warns of Mistral's fault where settings are not its own: a checkpoint's are not."
    vocab = {f"t{i}": i for i in range(100_001)} | {"<|endoftext|>": 100_001}
    made = Tokenizer(models.WordLevel(vocab, unk_token="<|endoftext|>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>")
    heard = []
    class Ear(logging.Handler):
        def emit(self, record): heard.append(record.getMessage())
    ear = Ear()
    hf_logging.add_handler(ear)
    try:
        for save in (lambda folder: tokenizer.save_pretrained(folder),
                     lambda folder: _save_tokenizer(tokenizer, folder)):
            folder = tmp_path / str(len(heard))
            student(tokenizer, 100_002).model.save(folder)
            save(folder)
            AutoTokenizer.from_pretrained(folder)
            if not heard: pytest.skip("this transformers does not warn")
    finally: hf_logging.remove_handler(ear)
    assert len(heard) == 1 and "regex" in heard[0]


@pytest.mark.parametrize("kind", [Qwen2ForSequenceClassification, Qwen2Model])
def test_a_model_of_another_kind_is_no_teacher(make, kind):
    folder = make(kind(Qwen2Config(vocab_size=500, pad_token_id=0, **SMALL)), gpt2_kind())
    with pytest.raises(BadInput, match=f"it is a {kind.__name__}, and no language model"):
        TeacherModel(folder, "cpu")
    with pytest.raises(BadInput, match="no language model"): load_pretrained(AutoConfig, folder)
    load_pretrained(AutoTokenizer, folder)  # which it has


@pytest.mark.parametrize("with_base", [True, False])
def test_an_adapter_is_named(tmp_path, with_base):
    folder = tmp_path / "lora"
    shutil.copytree(ASSETS / "teacher", folder)
    if not with_base:
        for name in "model.safetensors", "config.json": (folder / name).unlink()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    kind = "IA3" if with_base else "LORA"  # a LoRA beside its model is merged
    about = dict(peft_type=kind, base_model_name_or_path="Qwen/Qwen2.5-0.5B")
    (folder / "adapter_config.json").write_text(json.dumps(about))
    with pytest.raises(BadInput, match="adapter.* Qwen/Qwen2.5-0.5B.*merge") as refused:
        TeacherModel(str(folder), "cpu")
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def with_lora(tmp_path_factory):
    "A teacher's folder with a LoRA beside the weights; and what both say together."
    from peft import LoraConfig, get_peft_model
    folder = tmp_path_factory.mktemp("lora") / "both"
    shutil.copytree(ASSETS / "teacher", folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    changed = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(0)
    for name, p in changed.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(p, std=0.05)
    changed.save_pretrained(folder)
    with torch.no_grad(): return folder, changed(torch.arange(16)[None]).logits


def test_a_lora_beside_its_model_is_merged(with_lora):
    folder, right = with_lora
    ids = torch.arange(16)[None]
    found, plain = TeacherModel(str(folder), "cpu")(ids), TeacherModel("tiny", "cpu")(ids)
    off = (found - right).abs().max()  # the weights are FP16
    assert off < 0.02 * (plain - right).abs().max()


@pytest.mark.parametrize("change", [
    dict(peft_type="IA3"), dict(modules_to_save=["lm_head"]), dict(megatron_config=dict(a=1)),
    dict(init_lora_weights="pissa"), None])
def test_other_adapters_are_named(with_lora, tmp_path, monkeypatch, change):
    "And a plain one, where peft is missing."
    folder = tmp_path / "lora"
    shutil.copytree(with_lora[0], folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (change or {})))
    if change is None: monkeypatch.setattr("distill_nb.hub.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="it is an adapter"): TeacherModel(str(folder), "cpu")


@pytest.mark.parametrize("name, value", [
    ("num_attention_heads", 10**6), ("num_labels", 10**7), ("vocab_size", 1.5), ("n_layer", True),
    ("hidden_size", -1), ("num_hidden_layers", "x"), ("return_dict", 0), ("rope_theta", np.inf),
    ("output_hidden_states", 1e308), ("attn_implementation", "org/kernel"), ("architectures", "x"),
    ("text_config", dict(_attn_implementation="flash_attention_2"))])
@pytest.mark.parametrize("kind", [AutoTokenizer, AutoConfig, AutoModelForCausalLM])
def test_a_setting_that_cannot_be_is_refused_before_anything_is_built(tmp_path, name, value, kind):
    folder = tmp_path / "teacher"
    shutil.copytree(ASSETS / "teacher", folder)
    held = json.loads((folder / "config.json").read_text()) | {name: value}
    (folder / "config.json").write_text(json.dumps(held))
    begin = time.monotonic()
    with pytest.raises(BadInput, match="which must be"): load_pretrained(kind, str(folder))
    assert time.monotonic() - begin < 1


def test_a_teacher_answers_in_our_way_whatever_its_settings_say(tmp_path):
    folder, ids = tmp_path / "teacher", torch.arange(8)[None]
    shutil.copytree(ASSETS / "teacher", folder)
    held = json.loads((folder / "config.json").read_text())
    held |= dict(return_dict=False, output_hidden_states=True, output_attentions=False)
    (folder / "config.json").write_text(json.dumps(held))
    assert torch.equal(TeacherModel(str(folder), "cpu")(ids), TeacherModel("tiny", "cpu")(ids))


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"): file.unlink()


def left_by_git_lfs(folder):
    address = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 400000\n"
    (folder / "model.safetensors").write_text(address)


def damaged(folder):
    model = Qwen2ForCausalLM.from_pretrained(folder)
    with torch.no_grad(): model.model.embed_tokens.weight[3, 0] = torch.nan
    model.save_pretrained(folder)


@pytest.mark.parametrize("harm, wanted", [
    (without_tokenizer, "it has no tokenizer files"), (left_by_git_lfs, "git lfs pull"),
    (damaged, "not finite in torch.float32")], ids=lambda x: getattr(x, "__name__", ""))
def test_a_copy_that_is_not_whole_is_named_as_what_it_is(harm, wanted, teacher_folder, tmp_path):
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    harm(folder)
    with pytest.raises(BadInput, match=wanted): TeacherModel(str(folder), "cpu")
