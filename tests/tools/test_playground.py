"The playground and the live view as a reader uses them: JupyterLab and Voilà in a real browser."
import json, re, shutil, time

import pytest
from browsing import ROOT, free_port, run_all, serve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def writers():
    from distill_nb.writers import load_models
    return load_models(dict.fromkeys(("teacher", "labels only", "distilled"), "tiny"))


BACKGROUND = "e => getComputedStyle(e).backgroundImage"


class Played:
    "The playground on a page."
    def __init__(self, page):
        self.page, self.app = page, page.locator(".playground")
        self.stop, self.go = self.button("Stop"), self.button("Generate")

    def button(self, name): return self.app.get_by_role("button", name=name)  # or with an icon
    def slider(self, name):
        return self.app.locator(".widget-hslider", has=self.page.get_by_text(name, exact=True))
    def is_off(self, name):
        return self.slider(name).locator(".noUi-target").get_attribute("disabled") is not None
    def texts(self):  # without line ends
        return self.app.locator(".written").evaluate_all("all => all.map(e => e.textContent)")
    def bars(self): return self.app.locator(".bars").inner_html()
    def prompt(self, text): self.app.locator("input[type=text]").first.fill(text)

    def press(self, name, *keys):
        self.slider(name).locator(".noUi-handle").focus()
        for key in keys: self.page.keyboard.press(key)

    def until(self, test, seconds=30):
        end = time.monotonic() + seconds
        while not test():
            assert time.monotonic() < end, "it does not happen"
            self.page.wait_for_timeout(10)

    def seen_while_writing(self):
        "How the last column grew, as the eye saw it, until the writing was over."
        seen = []
        def over():
            text = self.texts()[-1]
            if text not in seen: seen.append(text)
            return len(seen) > 1 and self.go.is_enabled()
        self.until(over)
        return seen


def written(writer, prompt):
    return prompt + writer.generate(prompt, max_new_tokens=60).replace("\n", "")


@pytest.fixture(scope="module")
def played(lab, browser):
    "The lesson's own notebook, run in JupyterLab; the tests below use one after the other."
    page = browser.new_page(viewport=dict(width=1400, height=1200))
    page.wrong = []
    page.on("console", lambda m: page.wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.wrong.append(str(e)))
    address, folder = lab
    shutil.copy(ROOT / "nbs/tools/playground.ipynb", folder / "nbs/tools")  # whatever ran before
    run_all(page, address, "nbs/tools/playground.ipynb")
    page.locator(".playground .strip button").nth(2).wait_for(state="attached")
    played = Played(page)
    played.app.scroll_into_view_if_needed()
    yield played
    page.close()


def test_it_streams_and_writes_what_the_generator_writes(played, writers):
    played.prompt("铜的元素符号是")
    start = time.perf_counter()
    played.go.click()
    played.until(lambda: re.fullmatch("铜的元素符号是.+", played.texts()[-1]))
    print(f"first text after {time.perf_counter() - start:.2f} s")
    seen = played.seen_while_writing()
    lengths = [len(text) for text in seen]
    assert len(seen) >= 4 and lengths == sorted(set(lengths)), "it grows before the reader's eyes"
    for text, writer in zip(played.texts(), writers.values()):
        assert text == written(writer, "铜的元素符号是")
    speeds = played.app.locator(".speed").all_inner_texts()
    assert len(speeds) == 3 and all("tokens/s" in s for s in speeds)
    print(speeds)
    assert played.page.wrong == [], played.page.wrong


def test_sliders_move_the_bars_and_not_the_text(played):
    assert [played.is_off(n) for n in ("temperature", "top-k", "top-p")] == [True, True, True]
    played.button("top_k").click()
    played.until(lambda: not played.is_off("top-k"))
    assert [played.is_off(n) for n in ("temperature", "top-k", "top-p")] == [False, False, True]
    texts, before = played.texts(), played.bars()
    start = time.perf_counter()
    played.press("top-k", "Home")
    played.until(lambda: played.bars() != before, 5)
    print(f"bars after {time.perf_counter() - start:.2f} s")
    played.until(lambda: played.app.locator(".bars .kept").count() == 3, 5)  # k = 1
    played.press("temperature", "End")
    played.until(lambda: "keeps 1" in played.app.locator(".bars").inner_text(), 5)
    assert played.texts() == texts
    cut, hatch = played.app.locator(".bars .cut").first, "repeating-linear-gradient"
    # bars that are just being replaced have no style
    played.until(lambda: cut.evaluate(BACKGROUND).startswith(hatch), 5)
    assert played.page.wrong == [], played.page.wrong


def test_a_long_text_can_be_stopped(played, writers):
    played.button("top_p").click()
    played.press("length", "End")
    played.prompt("水")
    played.go.click()
    played.until(lambda: len(played.texts()[-1]) > 20 and played.texts()[-1].startswith("水"))
    played.stop.click()
    played.until(played.go.is_enabled)
    shown = [int(s.split()[0]) for s in played.app.locator(".speed").all_inner_texts()]
    settings = dict(strategy="top_p", max_new_tokens=127, top_p=0.9, temperature=2.0, seed=0)
    whole = [len(list(w.token_ids("水", **settings))) for w in writers.values()]
    for a, b in zip(shown, whole): assert 0 < a <= b and (a < b or b <= 100), (shown, whole)
    assert played.page.wrong == [], played.page.wrong


def test_a_token_is_chosen_by_click_and_by_key(played):
    for name in ("labels only", "distilled"):
        before = played.bars()
        played.button(name).click()
        played.until(lambda: played.bars() != before, 5)
    strip = played.app.locator(".strip").last.locator("button")
    readout = played.slider("token").locator(".widget-readout")
    before = played.bars()
    strip.nth(3).click()
    played.until(lambda: played.bars() != before and readout.inner_text() == "3", 5)
    line = played.app.get_by_text("what each expected")
    played.until(lambda: strip.nth(3).inner_text().strip() in line.inner_text(), 5)
    before = played.bars()
    played.press("token", "ArrowRight")
    played.until(lambda: played.bars() != before and readout.inner_text() == "4", 5)
    outline = "e => getComputedStyle(e).outlineStyle"
    played.until(lambda: strip.nth(4).evaluate(outline) == "solid", 5)
    colours = "all => all.map(e => getComputedStyle(e).backgroundColor)"
    played.until(lambda: len(set(strip.evaluate_all(colours))) > 5, 5)
    assert "KL" in strip.nth(3).get_attribute("title")
    assert played.page.wrong == [], played.page.wrong


def test_a_missing_checkpoint_says_what_to_do(played):
    played.app.get_by_text("Other models").click()
    field = played.app.locator("input[type=text]").last
    field.fill("runs/nothing/here")
    played.button("Load").click()
    played.app.get_by_text("there is no folder runs/nothing/here; give tiny").wait_for()
    assert len(played.texts()) == 3
    assert played.page.wrong == [], played.page.wrong


def test_the_same_notebook_is_an_app(writers, tmp_path, page):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    port = free_port()
    flags = f"--port={port}", "--no-browser", "--Voila.ip=127.0.0.1"
    process = serve(["voila", "nbs/tools/playground.ipynb", *flags], tmp_path, port)
    try:
        page.set_default_timeout(120_000)
        page.goto(f"http://127.0.0.1:{port}")
        played = Played(page)
        played.go.wait_for()
        assert page.locator(".jp-Cell:visible").count() == 1, "the app alone"
        assert page.locator(".jp-InputArea:visible, .highlight:visible").count() == 0
        played.go.click()
        assert len(played.seen_while_writing()) >= 4
        for text, writer in zip(played.texts(), writers.values()):
            assert text == written(writer, "铁的元素符号是")
        played.until(lambda: played.app.locator(".bars .kept").count() == 3, 5)
        page.set_viewport_size(dict(width=600, height=900))
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 1, "the app scrolls sideways"
        assert page.wrong == [], page.wrong
    finally:
        process.terminate()
        process.wait(30)


TRAINING = ["""import torch
from distill_nb.config import ModelConfig, TrainingConfig
from distill_nb.data import WikiDataset
from distill_nb.live import LiveView
from distill_nb.student import StudentModel
from distill_nb.teacher import TeacherModel
from distill_nb.trainer import DistillationTrainer
config = TrainingConfig.tiny(
    batch_size=4, warmup_steps=5, log_interval=1, eval_interval=20, checkpoint_dir="run")
student = StudentModel(ModelConfig.tiny(hidden_size=32, num_heads=4, intermediate_size=64))
teacher, data = TeacherModel("tiny", "cpu"), WikiDataset("tiny", seq_len=32)
trainer = DistillationTrainer(
    student, teacher, data, config, 2000, device="cpu", eval_batches=1)
view = LiveView(trainer)
view.fit()""", "await view"]


def test_a_training_is_held_saved_and_stopped_by_its_buttons(lab, page):
    address, folder = lab
    empty = dict(cell_type="code", metadata={}, outputs=[], execution_count=None)
    cells = [empty | dict(id=f"cell-{i}", source=source) for i, source in enumerate(TRAINING)]
    spec = dict(kernelspec=dict(display_name="python3", language="python", name="python3"))
    notebook = dict(cells=cells, metadata=spec, nbformat=4, nbformat_minor=5)
    (folder / "live").mkdir()
    (folder / "live/live.ipynb").write_text(json.dumps(notebook))
    run_all(page, address, "live/live.ipynb")
    view = page.locator(".live-view")
    line, run = view.locator("b", has_text="step"), folder / "live/run"
    def step(): return int(line.inner_text().split()[1])
    def button(name): return view.get_by_role("button", name=name)
    line.wait_for()
    Played(page).until(lambda: step() > 3)
    button("Pause").click()
    button("Go on").wait_for()  # answered although the next cell is already waiting for the end
    view.get_by_text("paused").wait_for()
    page.wait_for_timeout(300)
    held = step()
    page.wait_for_timeout(1000)
    assert step() == held < 2000
    button("Save").click()
    view.get_by_text("saved in").wait_for()
    assert [p.name for p in run.glob("step-*")] == [f"step-{held:08d}"]
    button("Go on").click()
    Played(page).until(lambda: step() > held)
    assert view.locator("img").evaluate("i => i.naturalWidth") > 500
    assert "铁的元素符号是" in view.locator(".samples").inner_text()
    button("Stop").click()
    view.get_by_text("stopped after step").wait_for()
    stopped = step()
    assert held < stopped < 2000 and (run / f"step-{stopped:08d}" / "trainer.pt").is_file()
    raised = page.locator(".jp-RenderedText", has_text=f"stopped after step {stopped}")
    raised.first.wait_for()  # by `await view`
    assert button("Pause").is_disabled() and button("Stop").is_disabled()
    assert page.wrong == [], page.wrong
