"What export writes, in the programs that people load it with: their greedy text is ours."
import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from distill_nb.cli import main
from distill_nb.generator import TextGenerator
from distill_nb.tour import tiny_text
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

pytestmark = pytest.mark.slow

LENGTH = 64
ARTICLES = [text for text in tiny_text().split("\n\n") if len(text) > 20]
PROMPTS = [text[:12] for text in ARTICLES[::len(ARTICLES) // 20]][:20]


@pytest.fixture(scope="module")
def writer(checkpoint): return TextGenerator.from_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def answers(writer):
    found = [list(writer.token_ids(prompt, max_new_tokens=LENGTH)) for prompt in PROMPTS]
    assert len(found) == 20 and sum(map(len, found)) > 800
    return found


@pytest.fixture(scope="module")
def export(checkpoint, tmp_path_factory):
    def run(to, *flags):
        out = tmp_path_factory.mktemp(to) / "out"
        argv = ["export", "--checkpoint", str(checkpoint), "--to", to, "--out", str(out), *flags]
        assert main(argv) == 0
        return out
    return run


def until_eos(ids, eos): return ids[:ids.index(eos)] if eos in ids else ids


def test_transformers_writes_our_text(export, writer, answers, capfd):
    out = export("hf")
    assert "proved with transformers: largest difference" in capfd.readouterr().out
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 128
    assert tokenizer.chat_template is None
    for prompt, ours in zip(PROMPTS, answers):
        given = tokenizer(prompt, return_tensors="pt")
        new = model.generate(**given, max_new_tokens=LENGTH, do_sample=False)
        new = new[0, given["input_ids"].shape[1]:].tolist()
        assert until_eos(new, tokenizer.eos_token_id) == ours
    write = pipeline("text-generation", str(out))
    for prompt in PROMPTS[:5]:
        found = write(prompt, max_new_tokens=LENGTH, do_sample=False, return_full_text=False)
        assert found[0]["generated_text"] == writer.generate(prompt, max_new_tokens=LENGTH)


def test_the_card_has_the_figures_of_the_run(run_folder, tmp_path):
    import json
    assert main(["export", "--checkpoint", str(run_folder), "--out", str(tmp_path / "hf")]) == 0
    card = (tmp_path / "hf/README.md").read_text()
    valid = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[-1])["valid"]
    for name in ("student_ce", "teacher_ce", "kl"): assert f"| {valid[name]:.4f} |" in card
    assert "| 10 steps of" in card and str(run_folder) not in card
    loads = re.search(r"```python\n(.*?)```", card, re.S)[1]
    space = {}
    exec(loads.replace('"."', repr(str(tmp_path / "hf"))), space)


if find_spec("llama_cpp"): # it has no wheel: where it is compiled, it is asked
    @pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
    def test_llama_cpp_writes_our_text(export, writer, answers, dtype, capfd):
        import llama_cpp
        out = export("gguf", "--dtype", dtype)
        assert "proved with llama.cpp: largest difference" in capfd.readouterr().out
        llama = llama_cpp.Llama(str(out / "student.gguf"), n_ctx=0, verbose=False,
                                type_k=0, type_v=0)
        eos = writer.tokenizer.eos_token_id
        def tokens(text): return llama.tokenize(text.encode(), add_bos=True, special=False)
        for text in ARTICLES[::10]: assert tokens(text) == writer.tokenizer.encode(text)
        same = 0
        for prompt, ours in zip(PROMPTS, answers):
            ids, new = tokens(prompt), []
            for token in llama.generate(ids, temp=0.0):
                if token == eos or len(new) == LENGTH: break
                new.append(token)
            if new == ours: same += 1
            else: assert dtype == "q8_0" and is_close(writer, ids, ours, new)
        assert same >= (10 if dtype == "q8_0" else 20)


def is_close(writer, ids, ours, theirs):
    "Whether they part where the two likeliest tokens are nearer than q8_0 rounds: 0.2 of a logit."
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b)
    with torch.no_grad(): logits = writer.model(torch.tensor([ids + ours[:at]]))[0, -1]
    first, second = logits.topk(2).values
    return first - second < 0.2


def test_onnx_runtime_writes_our_text(export, answers, capfd):
    ort = pytest.importorskip("onnxruntime")
    out = export("onnx")
    assert "proved with ONNX Runtime, with its cache" in capfd.readouterr().out
    session = ort.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(out)
    eos, places = tokenizer.eos_token_id, np.arange(128)
    for prompt, ours in zip(PROMPTS, answers):
        past = {i.name: np.zeros([1, i.shape[1], 0, i.shape[3]], np.float32)
                for i in session.get_inputs()[3:]}
        new, written, at = tokenizer.encode(prompt), [], 0
        while len(written) < LENGTH:
            at += len(new)
            logits, *present = session.run(None, past | {
                "input_ids": np.array([new]), "attention_mask": np.ones([1, at], np.int64),
                "position_ids": places[None, at - len(new):at]})
            past = dict(zip(past, present))
            new = [int(logits[0, -1].argmax())]
            if new == [eos]: break
            written += new
        assert written == ours


@pytest.mark.parametrize("flags, words", [
    (["--to", "ggml"], ["--to 'ggml' must be one of 'hf', 'gguf', 'onnx'"]),
    (["--to", "onnx", "--dtype", "f16"], ["--dtype f16 is for --to gguf"])])
def test_a_target_that_is_not_there_is_one_line(checkpoint, tmp_path, flags, words, capfd):
    out = tmp_path / "out"
    assert main(["export", "--checkpoint", str(checkpoint), "--out", str(out), *flags]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and not out.exists()
    for word in words: assert word in said
