"The page on which three models write: it computes what Python computes, and needs nobody."
import random, re
from pathlib import Path

import pytest

from distill_nb.browser import _as_student
from distill_nb.demo import tiny_students
from distill_nb.facts import facts, phrasings, recall_prompts
from distill_nb.generator import TextGenerator, keep_top_k, keep_top_p
from distill_nb.teacher import TeacherModel
from distill_nb.tour import tiny_text

pytestmark = pytest.mark.slow

PROMPTS = """铁的元素符号是 铜的元素符号是 金的 氢 木星 地球是 离太阳最近的行星 长江 黄河流经 四川的省会是
北京 唐朝 秦始皇 宋朝的 三角形的面积 圆周率 老虎 熊猫吃 下面是一组关于名胜的问答。 今天 1949年 Hydrogen 😀""".split()
PROMPTS += ["", " ", "铁\n\n铜 it's  12", "é e\u0301 ½", "铁<|endoftext|>", "唐" * 100]
READY = "!document.querySelector('#generate').disabled"
GREEDY = "([prompt, length]) => window.student.generate(prompt, {strategy: 'greedy', length})"


@pytest.fixture(scope="module")
def writer():
    return TextGenerator(tiny_students()["distilled"], TeacherModel("tiny", "cpu").tokenizer)


@pytest.fixture(scope="module")
def teacher(): return _as_student(TeacherModel("tiny", "cpu"))


@pytest.fixture
def open_page(site, page):
    "The page, when the student has written once; a request to anywhere else is refused and noted."
    page.outside = []
    def refuse(route):
        page.outside.append(route.request.url)
        route.abort()
    page.route(lambda url: not url.startswith((site, "data:")), refuse)
    page.goto(f"{site}/try/index.html")
    page.wait_for_function(READY, timeout=60_000)
    page.locator("#settings details").evaluate("d => d.open = true")
    return page


def bars(page):
    "What is said of the candidates: (token, how likely, whether it is cut)."
    row = "[r.cells[0].textContent, r.cells[2].textContent, r.classList.contains('cut')]"
    return page.locator("#bars tr").evaluate_all(f"all => all.map(r => {row})")


def wait_until_written(page, start):
    page.wait_for_function("""start => !document.querySelector('#generate').disabled
        && document.querySelector('#text').textContent.startsWith(start)""", arg=start)


def slide(page, name, value):
    page.locator(f"#{name}").fill(str(value))


def test_greedy_is_pythons_token_for_token(open_page, writer):
    for prompt in PROMPTS:
        there = open_page.evaluate(GREEDY, [prompt, 60])
        assert there["ids"] == list(writer.token_ids(prompt, max_new_tokens=60)), prompt
        assert there["text"] == writer.generate(prompt, max_new_tokens=60), prompt
    assert len(PROMPTS) >= 20


def test_the_two_others_write_what_they_write_in_python(open_page, teacher, writer, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / ".ci"))
    from try_page import greedy
    write = """async ([name, prompt]) => {
        const model = (await window.student.models())[name]
        return (await model.generate(prompt, {strategy: 'greedy', length: 40})).ids
    }"""
    others = {"teacher": teacher, "labels only": tiny_students()["labels only"]}
    for name, model in others.items():
        for prompt in PROMPTS[:6]:
            ours = greedy(model, writer.tokenizer, prompt, 40)
            assert open_page.evaluate(write, [name, prompt]) == ours, (name, prompt)


def test_text_runs_to_the_models_last_place(open_page, writer):
    prompt = "铁的元素符号是"
    ids = open_page.evaluate(GREEDY, [prompt, 256])["ids"]
    assert ids == list(writer.token_ids(prompt)) and len(ids) > 100


def test_tokenizer_is_pythons_on_the_whole_text(open_page, writer):
    rng = random.Random(0)
    few = " \n\t\r  　\u0085\ufeff\u2028'sStTſdmlverea1²½五٣Ⅳ中国。，😀ée\u0301ñß<|>_-.\x00\u200b"
    def anything():  # but half a surrogate pair
        return chr(rng.choice([rng.randrange(0xd800), rng.randrange(0xe000, 0x20000)]))
    texts = tiny_text().split("\n\n")
    texts += ["".join(rng.choices(few, k=20)) for _ in range(2000)]
    texts += ["".join(anything() for _ in range(20)) for _ in range(500)]
    texts += ["铁<|endoftext|>铜", "<|endoftext|>"]  # names of special tokens are text
    encode = """async texts => {
        const out = []
        for (const t of texts) out.push(await window.student.encode(t))
        return out
    }"""
    there = open_page.evaluate(encode, texts)
    ours = writer.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    wrong = [text for text, a, b in zip(texts, there, ours, strict=True) if a != b]
    assert wrong == [], f"{len(wrong)} texts of {len(texts)}"


def test_the_strategies_cut_what_pythons_cut(open_page):
    import torch
    rng = torch.Generator().manual_seed(0)
    logits = (torch.randn(4096, generator=rng) * 3).round(decimals=1)  # with ties
    cut = """async ([logits, settings]) => {
        const m = await import('./student.js')
        return Array.from(m.cut(Float32Array.from(logits), settings), x => x > -Infinity)
    }"""
    def kept_there(**settings): return open_page.evaluate(cut, [logits.tolist(), settings])
    for temperature in (0.3, 1.0, 1.7):
        scaled = (logits.double() - logits.max()) / temperature
        for k in (1, 7, 50, 5000):
            kept = kept_there(strategy="top_k", topK=k, temperature=temperature)
            assert kept == keep_top_k(scaled, k).isfinite().tolist()
        for p in (0.05, 0.5, 0.9, 1.0):  # which of equals stays is not said: compare by value
            kept = torch.tensor(kept_there(strategy="top_p", topP=p, temperature=temperature))
            ours = keep_top_p(scaled, p).isfinite()
            assert sorted(scaled[kept].tolist()) == sorted(scaled[ours].tolist())


def test_a_seed_gives_one_text_and_another_seed_another(open_page):
    settings = dict(strategy="top_p", topP=0.9, temperature=1, length=40)
    def text(seed):
        write = "settings => window.student.generate('唐朝', settings)"
        return open_page.evaluate(write, settings | dict(seed=seed))["text"]
    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) == 4


def test_sliders_move_the_bars(open_page):
    page = open_page
    page.select_option("#strategy", "top_p")
    slide(page, "top_p", 1)
    everything = bars(page)
    assert len(everything) == 12 and not any(cut for *_, cut in everything)
    slide(page, "top_p", 0.05)
    assert [cut for *_, cut in bars(page)] == [False] + [True] * 11
    page.select_option("#strategy", "top_k")
    slide(page, "top_k", 3)
    assert [cut for *_, cut in bars(page)] == [False] * 3 + [True] * 9
    assert "keeps 3 of 4,096" in page.text_content("#kept")
    first = float(bars(page)[0][1].removesuffix(" %"))
    slide(page, "temperature", 0.1)
    assert float(bars(page)[0][1].removesuffix(" %")) > first + 10
    page.select_option("#strategy", "greedy")
    assert page.locator("#temperature").is_disabled()
    assert [cut for *_, cut in bars(page)] == [False] + [True] * 11
    assert page.wrong == []


def test_any_token_can_be_chosen_by_click_and_by_key(open_page, writer):
    page = open_page
    token = page.locator("#text .token")
    fe = page.locator("#text .token", has_text="Fe").first
    fe.click()
    assert fe.get_attribute("aria-pressed") == "true" and "铁的元素符号是" in page.text_content("#place")
    assert bars(page)[0][0] == "Fe" and page.locator("#bars .chosen").count() == 1
    shown = [name for name, *_ in bars(page)]
    page.keyboard.press("ArrowLeft")
    assert [name for name, *_ in bars(page)] != shown
    page.keyboard.press("Home")
    assert token.first.get_attribute("aria-pressed") == "true" and bars(page) == []
    assert "nothing before it" in page.text_content("#place")
    page.keyboard.press("End")
    assert token.last.get_attribute("aria-pressed") == "true" and len(bars(page)) == 12
    page.keyboard.press("ArrowRight")
    assert token.last.get_attribute("aria-pressed") == "true"
    stops = page.locator("#text .token[tabindex='0']").count()
    assert stops == 1, "one stop of the Tab key, and arrows from there"


def test_the_bars_are_pythons(open_page, writer):
    import torch
    page = open_page
    page.select_option("#strategy", "top_p")
    slide(page, "temperature", 1.5)
    page.locator("#text .token", has_text="Fe").first.click()
    ids = writer.tokenizer("铁的元素符号是", return_tensors="pt")["input_ids"]
    with torch.no_grad(): logits = writer.model(ids)[0, -1].double()
    probs, tokens = (logits / 1.5).softmax(-1).topk(4)
    for (name, said, _), p, token in zip(bars(page), probs.tolist(), tokens.tolist()):
        if p < 1e-3: continue
        assert name == writer.tokenizer.decode([token])
        percent = float(said.removesuffix(" %"))  # two digits, of sums in another order
        assert percent == pytest.approx(100 * p, abs=0.01)


def test_stop_stops(open_page):
    page = open_page
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", dict(rate=20))
    page.select_option("#strategy", "top_p")
    slide(page, "length", 127)
    before, speed = page.text_content("#speed"), "document.querySelector('#speed').textContent"
    page.click("#generate")
    page.wait_for_function("document.querySelectorAll('#text .token').length > 5", timeout=60_000)
    page.click("#stop", timeout=10_000)
    page.wait_for_function(f"before => {speed} !== before", arg=before, timeout=60_000)
    assert "stopped" in page.text_content("#speed") and page.locator("#stop").is_disabled()
    assert 5 < page.locator("#text .token").count() < 120
    assert len(bars(page)) == 12, "what was written can be looked into"


def test_it_needs_nobody(open_page, site, writer):
    "Loaded once, it writes without the network; and all of it came from this site."
    page = open_page
    page.context.set_offline(True)
    try:
        page.fill("#prompt", "长江😀")
        page.click("#generate")
        wait_until_written(page, "长江")
        text = "".join(page.locator("#text .token:not(.half)").all_text_contents())
        assert text.rstrip("▏") == "长江😀" + writer.generate("长江😀", max_new_tokens=40)
    finally: page.context.set_offline(False)
    assert page.outside == [] and page.wrong == []


def test_it_answers_before_the_model_has_come(site, page, writer):
    held = []
    page.route("**/student.onnx", lambda route: held.append(route))
    page.goto(f"{site}/try/index.html")
    page.wait_for_selector("#text.beforehand")
    said = writer.generate("铁的元素符号是", max_new_tokens=40)
    assert page.text_content("#text") == "铁的元素符号是" + said
    assert page.locator(".text.beforehand").count() == 3
    assert "Loading" in page.text_content("#status") and page.locator("#generate").is_disabled()
    page.wait_for_function("document.querySelector('#loaded').value > 0.3")
    held[0].continue_()
    page.wait_for_function(READY, timeout=60_000)
    assert page.locator("#text .token").count() > 30
    assert page.locator("#text.beforehand").count() == 0
    assert page.wrong == []


FILES = """student.onnx teacher.onnx labels-only.onnx ort-wasm-simd-threaded.wasm.gz
ort.wasm.bundle.min.mjs tokenizer.json facts.json""".split()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_does_not_come_is_named(name, site, page):
    page.route(f"**/{name}", lambda route: route.abort())
    page.goto(f"{site}/try/index.html")
    page.wait_for_selector("#status.alert-danger")
    assert name in page.text_content("#status") and page.locator("#generate").is_disabled()
    others = [w for w in page.wrong if "net::ERR_FAILED" not in w]  # than the request's own
    assert others == []


def test_a_browser_without_webassembly_is_told(site, page):
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(f"{site}/try/index.html")
    page.wait_for_selector("#status.alert-danger")
    assert "no WebAssembly" in page.text_content("#status")


def test_a_prompt_that_is_too_long_is_told(open_page):
    open_page.fill("#prompt", "唐" * 128)
    open_page.click("#generate")
    open_page.wait_for_selector("#status.alert-danger")
    assert "128 tokens" in open_page.text_content("#status")
    assert open_page.locator("#generate").is_enabled()
    open_page.fill("#prompt", "唐")
    open_page.click("#generate")
    open_page.wait_for_function("document.querySelector('#text').textContent.startsWith('唐')")
    alerts = open_page.locator("#status.alert-danger").count()
    assert alerts == 0, "the next one that works takes the message away"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_telephone(scheme, site, browser):
    size = dict(width=390, height=844)
    context = browser.new_context(viewport=size, has_touch=True, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{site}/try/index.html")
    page.wait_for_function(READY, timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 391, "the page scrolls sideways"
    page.locator("#settings details").evaluate("d => d.open = true")
    page.locator("#examples button").nth(4).tap()
    wait_until_written(page, "吟出《春望》的人是")
    token = page.locator("#text .token").nth(3)
    token.tap()
    assert token.get_attribute("aria-pressed") == "true" and len(bars(page)) == 12
    inputs = ", ".join(f"#settings {kind}" for kind in "button select input textarea".split())
    for part in page.locator(f"{inputs}, .text, .facts li, #bars tr").all():
        box = part.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 391
    context.close()


# What the page says of facts, distances and words

def said_of(page, name): # of the facts in its text
    return page.locator(f".column[data-model='{name}'] .facts li").all_text_contents()


def test_every_example_is_a_fact_that_the_distilled_student_knows(open_page):
    asked = {form.split("#")[0]: fact
             for fact in facts() for form in phrasings(fact) if "#" in form}
    buttons = open_page.locator("#examples button")
    assert buttons.count() >= 6
    for button in buttons.all():
        prompt = button.get_attribute("data-prompt")
        assert button.locator("small").text_content().isascii() or "“" in button.text_content()
        button.click()
        wait_until_written(open_page, prompt)
        text = "".join(open_page.locator("#text .token:not(.half)").all_text_contents())
        assert text.startswith(prompt + asked[prompt].answer), prompt
        first = said_of(open_page, "distilled")[0]
        assert first.startswith(f"✓ {asked[prompt].subject} ") and asked[prompt].answer in first


CHECK = """async pairs => {
    const { Facts } = await import('./facts.js')
    const table = new Facts(await (await fetch('facts.json')).json())
    return pairs.map(([prompt, written]) => table.check(prompt, written))
}"""


def test_what_the_exam_asks_is_marked_as_the_exam_marks_it(open_page):
    asked = recall_prompts()
    right = open_page.evaluate(CHECK, [[prompt, answer] for prompt, answer in asked])
    wrong = open_page.evaluate(CHECK, [[prompt, "不知道。"] for prompt, _ in asked])  # don't know
    for fact, (first, *_), (other, *_) in zip(facts(), right, wrong, strict=True):
        assert first["right"] and (first["subject"], first["answer"]) == (fact.subject, fact.answer)
        assert not other["right"] and other["wrote"].startswith("不知道"), other


def test_in_the_encyclopedia_every_fact_is_right(open_page):
    articles = tiny_text().split("\n\n")
    found = open_page.evaluate(CHECK, [["", text] for text in articles[::8]])
    marked = [m for text in found for m in text]
    assert [m for m in marked if not m["right"]] == [] and len(marked) > 1000
    # iron's symbol is Cu; a fact that is not finished is not judged
    (wrong,), unfinished = open_page.evaluate(CHECK, [["", "铁的元素符号是Cu。"], ["", "铁的元素符号是C"]])
    assert (wrong["right"], wrong["wrote"], wrong["answer"]) == (False, "Cu", "Fe")
    assert unfinished == []


def test_the_heat_is_the_distance_from_the_teacher(open_page, writer, teacher):
    import torch
    fe = open_page.locator("#text .token", has_text="Fe").first
    said = float(re.search(r"is ([\d.]+) nats", fe.get_attribute("title"))[1])
    ids = writer.tokenizer("铁的元素符号是", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        p, q = (m(ids)[0, -1].double().log_softmax(-1) for m in (teacher, writer.model))
    nats = (p.exp() * (p - q)).sum().item()
    assert said == pytest.approx(nats, abs=0.006)
    heat = int(fe.evaluate("s => s.style.getPropertyValue('--heat')").rstrip("%"))
    assert heat == pytest.approx(100 * nats / 3, abs=1)
    others = open_page.locator(".text:not(#text) .token[title*=nats]").count()
    assert others > 40, "under all three texts"


def test_the_bars_show_all_three_models(open_page, teacher, writer):
    import torch
    shown = open_page.text_content("#came")
    ids = writer.tokenizer("铁的元素符号是", return_tensors="pt")["input_ids"]
    fe = writer.tokenizer.encode("Fe")[0]
    models = {"teacher": teacher, **tiny_students()}
    for name, model in models.items():
        with torch.no_grad(): p = model(ids)[0, -1].double().softmax(-1)[fe].item()
        assert float(re.search(rf"{name} ([\d.]+) %", shown)[1]) == pytest.approx(100 * p, abs=0.02)
    assert open_page.locator("#bars .chosen .bar").count() == 3


def test_english_is_met_with_a_word(open_page):
    note = open_page.locator("#note")
    texts = {"The symbol of iron is": True, "铁 iron": False, "": False, "1949": False}
    for text, shown in texts.items():
        open_page.fill("#prompt", text)
        assert note.is_visible() == shown, text
    assert "only Chinese" in note.text_content()


def test_a_token_beyond_the_twelfth_bar_is_shown(open_page):
    page = open_page
    page.select_option("#strategy", "top_p")
    slide(page, "top_p", 1)
    slide(page, "temperature", 2)
    page.click("#generate")
    page.wait_for_function(f"document.querySelectorAll('#text .token').length > 5 && {READY}")
    ranks = []
    for token in page.locator("#text .token:not(.prompt)").all()[:-1]:
        token.click()
        assert page.locator("#bars .chosen").count() == 1
        if len(bars(page)) == 12: continue
        last = page.locator("#bars tr").last
        assert len(bars(page)) == 13 and "chosen" in last.get_attribute("class")
        ranks.append(int(re.search(r"the (\d+)th", last.text_content())[1]))
    assert ranks and min(ranks) > 12
