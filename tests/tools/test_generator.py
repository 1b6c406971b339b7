"""The generator against transformers' own: what is cut, what is penalized, what is chosen; and its
edges, where a text ends and what is refused."""
from collections import Counter

import pytest, torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from distill_nb.config import BadInput, ModelConfig
from distill_nb.demo import tiny_students
from distill_nb.export import to_llama
from distill_nb.generator import TextGenerator, _penalize, keep_top_k, keep_top_p, token_bytes
from distill_nb.student import StudentModel
from distill_nb.teacher import TeacherModel

IRON, TODAY, YANGTZE = "铁的元素符号是", "今天和", "长江"  # iron's symbol is; today, with; –
SEVERAL = [IRON, TODAY, "", YANGTZE]


@pytest.fixture(scope="module")
def writer():
    tokenizer = TeacherModel("tiny", "cpu").tokenizer
    return TextGenerator(tiny_students()["distilled"], tokenizer)


@pytest.fixture(scope="module")
def wild(writer):
    "Untrained, with weights five times too large: what it writes depends on every token before."
    torch.manual_seed(1)
    model = StudentModel(ModelConfig.tiny()).eval()
    with torch.no_grad():
        for w in model.parameters(): w.mul_(5 if w.dim() > 1 else 1)
    return TextGenerator(model, writer.tokenizer)


def some_logits(): return torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 3


def kept(logits): return logits.isfinite().nonzero().flatten().tolist()


def test_the_cuts_are_those_of_transformers(writer):
    prompt = torch.tensor([writer.tokenizer.encode(IRON)])
    for z in some_logits(), writer.model(prompt)[0, -1].detach():
        for k in 1, 5, 50: assert keep_top_k(z, k).equal(TopKLogitsWarper(k)(None, z[None])[0])
        for p in 0.1, 0.5, 0.9, 0.99:
            assert keep_top_p(z, p).equal(TopPLogitsWarper(p)(None, z[None])[0])
    assert kept(keep_top_k(torch.tensor([2., 1., 1., 0.]), 2)) == [0, 1, 2]  # ties stay
    assert len(kept(keep_top_k(some_logits(), 9999))) == 4096


def test_a_nucleus_of_one_cuts_nothing():
    "Though the sum before every other token rounds to 1."
    sure = torch.tensor([20., 0., 0.])
    probs = sure.softmax(-1)
    assert probs[1] > 0 and probs[0] == 1
    assert kept(keep_top_p(sure, 1.)) == [0, 1, 2]


def test_the_penalty_is_that_of_transformers(writer):
    assert _penalize(torch.tensor([2., -1., 0.5, 3.]), [3, 1, 3], 2.).tolist() == [2, -2, 0.5, 1.5]
    used, z = writer.tokenizer.encode("今天和哥哥在图书馆") * 2, some_logits()  # today with a brother
    oracle = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([used]), z[None].clone())[0]
    torch.testing.assert_close(_penalize(z, used, 1.3), oracle)
    penalty, ids = RepetitionPenaltyLogitsProcessor(1.2), writer.tokenizer.encode(YANGTZE)
    for token in writer.token_ids(YANGTZE, max_new_tokens=60, repetition_penalty=1.2):
        z = writer.model(torch.tensor([ids]))[0, -1:].detach().double()
        assert penalty(torch.tensor([ids]), z).argmax().item() == token
        ids.append(token)


def test_greedy_writes_what_transformers_writes(writer, wild):
    tokenizer = writer.tokenizer
    for each in writer, wild:
        llama = to_llama(each.model)
        for prompt in TODAY, IRON:
            ids = torch.tensor([tokenizer.encode(prompt)])
            out = llama.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                 max_new_tokens=40, eos_token_id=tokenizer.eos_token_id,
                                 pad_token_id=tokenizer.pad_token_id)[0, ids.shape[1]:]
            theirs = [i for i in out.tolist() if i != tokenizer.eos_token_id]
            assert list(each.token_ids(prompt, max_new_tokens=40)) == theirs


def test_a_stream_is_the_text_in_whole_characters(writer):
    "An incomplete character at the very end is not shown."
    for seed in range(5):
        settings = dict(strategy="top_p", max_new_tokens=40, temperature=1.2, seed=seed)
        pieces = list(writer.stream(TODAY, **settings))
        ids = writer.token_ids(TODAY, **settings)
        raw = b"".join(token_bytes(writer.tokenizer, i) for i in ids).decode(errors="replace")
        assert all(pieces) and raw in ("".join(pieces), "".join(pieces) + "�")
        assert "".join(pieces) == writer.generate(TODAY, **settings)


def test_a_seed_decides_the_text_and_touches_nothing_else(writer):
    before = torch.get_rng_state()
    a, b, c = (writer.generate(TODAY, "top_p", max_new_tokens=30, seed=s) for s in (1, 1, 2))
    assert a == b != c and torch.equal(before, torch.get_rng_state())


def test_the_dice_are_fair(writer):
    "After the cut; a temperature of 0.5 squares the probabilities."
    five = torch.tensor([0.1, 0.5, 0.05, 0.2, 0.15]).log()
    z = torch.full((len(writer.tokenizer),), -20.).index_copy(0, torch.arange(5), five)
    rng = torch.Generator().manual_seed(0)
    throws = Counter(writer.next_token(z, "top_k", 3, None, 0.5, rng) for _ in range(2000))
    expected = torch.tensor([0.5, 0.2, 0.15]).square()
    measured = torch.tensor([throws[1], throws[3], throws[4]]) / 2000
    assert (measured - expected / expected.sum()).abs().max() < 0.03
    assert set(throws) == {1, 3, 4}


@pytest.mark.parametrize("settings", [
    {}, dict(strategy="top_p", seed=0), dict(stop=["。", "资料"], seed=3),
    dict(max_new_tokens=200), dict(repetition_penalty=1.2), dict(max_new_tokens=0),
    dict(strategy="top_k", top_k=20, min_p=0.05, temperature=1.3, seed=1)])
def test_together_is_as_alone(settings, writer, wild):
    settings = dict(max_new_tokens=60) | settings
    for each in [writer] if settings.get("strategy") else [writer, wild]:
        together = each.generate(SEVERAL, **settings)
        alone = [each.generate(p, **settings) for p in SEVERAL]
        assert together == alone and each.generate([]) == []
        assert [t.finish_reason for t in together] == [t.finish_reason for t in alone]


def test_ids_without_a_token_are_never_chosen(writer):
    n = len(writer.tokenizer)
    model = StudentModel(ModelConfig.tiny(num_layers=1, vocab_size=n + 32)).eval()
    loud = torch.cat([torch.randn(n), torch.full((32,), 100.)])
    padded, rng = TextGenerator(model, writer.tokenizer), torch.Generator().manual_seed(0)
    for strategy in TextGenerator.STRATEGIES:
        assert padded.next_token(loud, strategy, 50, 0.9, 1., rng) < n


def test_the_edges(writer, wild):
    greedy = writer.generate(TODAY, max_new_tokens=20)
    assert writer.generate("", max_new_tokens=10)
    assert writer.generate(TODAY, max_new_tokens=20, temperature=0) == greedy
    for near in (dict(strategy="top_p", temperature=1e-300), dict(strategy="top_k", top_k=1),
                 dict(strategy="top_p", top_p=1e-9)):
        assert writer.generate(TODAY, max_new_tokens=20, seed=3, **near) == greedy
    endless = list(wild.token_ids(IRON, max_new_tokens=10**9))
    longest = wild.model.config.max_seq_len
    assert len(writer.tokenizer.encode(IRON)) + len(endless) == longest
    assert wild.generate(IRON, max_new_tokens=10**9).finish_reason == "length"
    line = writer.generate(IRON, stop="\n")
    assert (line, line.finish_reason) == ("Fe。", "stop")
    stream = writer.stream(IRON, stop="\n")
    assert ("".join(stream), stream.finish_reason) == (line, "stop")
    assert writer.generate(YANGTZE, "top_p", max_new_tokens=100, seed=0).finish_reason == "eos"


def test_a_stop_string_may_begin_anywhere(writer):
    def cut(text, stops): return text[:min([text.find(s) for s in stops if s in text] or [None])]

    class Parrot(TextGenerator):
        def token_ids(self, prompt, **settings): yield from self.tokenizer.encode(said)

    said = "北京市海淀区的龙井茶🍵"
    parrot = Parrot(writer.model, writer.tokenizer)
    parts = [said[a:b] for a in range(len(said)) for b in range(a + 1, len(said) + 1)]
    for stop in parts + [s + "?" for s in parts[::3]]:
        for stops in [stop], [stop, "区的?", "茶🍵"]:
            shown = list(parrot.stream("", stop=stops))
            assert "".join(shown) == cut(said, stops) and all(shown)
            assert not any(s in "".join(shown) for s in stops)
    settings = dict(strategy="top_p", max_new_tokens=60, seed=0)
    whole = writer.generate(TODAY, **settings)
    for a in range(0, len(whole) - 2, 3):
        stop = whole[a:a + 3]
        assert writer.generate(TODAY, stop=stop, **settings) == cut(whole, [stop])


@pytest.mark.parametrize("wrong, told", [
    (dict(strategy="beam"), "strategy='beam' must be one of greedy, top_k, top_p"),
    (dict(top_k=0), "top_k=0 must be >= 1"),
    (dict(top_p=1.1), "top_p=1.1 must be above 0 and at most 1"),
    (dict(strategy="top_k", temperature=0), "temperature=0 must be > 0"),
    (dict(temperature=float("nan")), "temperature=nan must be > 0"),
    (dict(prompt=(TODAY,)), "is of type tuple; give a text, or a list of texts"),
    (dict(max_new_tokens=-1), "max_new_tokens=-1 must be >= 0"),
    (dict(min_p=1.5), "min_p=1.5 must be from 0 to 1"),
    (dict(repetition_penalty=0), "repetition_penalty=0 must be > 0"),
    (dict(stop=""), "stop='' must be a text or several, none of them empty"),
    (dict(prompt=TODAY * 200), "200 tokens and leaves no room in max_seq_len=128; shorten it")])
def test_what_is_out_of_range_is_one_line(wrong, told, writer):
    with pytest.raises(BadInput) as refused: writer.generate(**{"prompt": TODAY, **wrong})
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_a_checkpoint_is_all_it_needs(writer, tmp_path):
    writer.model.save(tmp_path)
    writer.tokenizer.save_pretrained(tmp_path)
    loaded = TextGenerator.from_checkpoint(tmp_path)  # its weights lie in another order
    assert not loaded.model.training
    assert loaded.generate(SEVERAL) == writer.generate(SEVERAL)
    rounded = TextGenerator.from_checkpoint(tmp_path, quantize="int8").generate(SEVERAL)
    assert [t[:3] for t in rounded] == [t[:3] for t in writer.generate(SEVERAL)]
    with pytest.raises(BadInput, match="is not known; give 'int8'"):
        loaded.from_checkpoint(tmp_path, quantize="int4")
    with pytest.raises(BadInput, match="int8 is for a CPU"):
        loaded.from_checkpoint(tmp_path, "cuda", "int8")
    with pytest.raises(BadInput, match="has no config.json"):
        TextGenerator.from_checkpoint(tmp_path / "..")
