"The page on which the student writes: it computes what Python computes, and needs nobody."
import random

import pytest

from distill_nb.demo import tiny_students
from distill_nb.generator import TextGenerator, keep_top_k, keep_top_p
from distill_nb.teacher import TeacherModel
from distill_nb.tour import tiny_text

pytestmark = pytest.mark.slow

PROMPTS = """铁的元素符号是 铜的元素符号是 金的 氢 木星 地球是 离太阳最近的行星 长江 黄河流经 四川的省会是
北京 唐朝 秦始皇 宋朝的 三角形的面积 圆周率 老虎 熊猫吃 下面是一组关于名胜的问答。 今天 1949年 Hydrogen 😀""".split()
PROMPTS += ["", " ", "铁\n\n铜 it's  12", "é e\u0301 ½", "铁<|endoftext|>", "唐" * 100]
GREEDY = "([prompt, length]) => window.student.generate(prompt, {strategy: 'greedy', length})"


@pytest.fixture(scope="module")
def writer():
    return TextGenerator(tiny_students()["distilled"], TeacherModel("tiny", "cpu").tokenizer)


@pytest.fixture
def open_page(site, page):
    "The page, when the student has written once; a request to anywhere else is refused and noted."
    page.outside = []
    def refuse(route):
        page.outside.append(route.request.url)
        route.abort()
    page.route(lambda url: not url.startswith((site, "data:")), refuse)
    page.goto(f"{site}/try/index.html")
    page.wait_for_function("!document.querySelector('#generate').disabled", timeout=60_000)
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
        assert text.rstrip("▏") == "长江😀" + writer.generate("长江😀", max_new_tokens=60)
    finally: page.context.set_offline(False)
    assert page.outside == [] and page.wrong == []


def test_it_answers_before_the_model_has_come(site, page, writer):
    held = []
    page.route("**/student.onnx", lambda route: held.append(route))
    page.goto(f"{site}/try/index.html")
    page.wait_for_selector("#text.beforehand")
    assert page.text_content("#text") == "铁的元素符号是" + writer.generate("铁的元素符号是", max_new_tokens=60)
    assert "Loading" in page.text_content("#status") and page.locator("#generate").is_disabled()
    page.wait_for_function("document.querySelector('#loaded').value > 0.3")
    held[0].continue_()
    page.wait_for_function("!document.querySelector('#generate').disabled", timeout=60_000)
    assert page.locator("#text .token").count() > 40
    assert page.locator("#text.beforehand").count() == 0
    assert page.wrong == []


FILES = "student.onnx ort-wasm-simd-threaded.wasm.gz ort.wasm.bundle.min.mjs tokenizer.json".split()


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
    page.wait_for_function("!document.querySelector('#generate').disabled", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 391, "the page scrolls sideways"
    page.locator("#examples button").nth(4).tap()
    wait_until_written(page, "唐朝")
    token = page.locator("#text .token").nth(3)
    token.tap()
    assert token.get_attribute("aria-pressed") == "true" and len(bars(page)) == 12
    inputs = ", ".join(f"#settings {kind}" for kind in "button select input textarea".split())
    for part in page.locator(f"{inputs}, #text, #bars tr").all():
        box = part.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 391
    context.close()
