// The page: fields in, text and bars out. What is computed is in student.js.

import { cut, file, load, softmax } from "./student.js";

const $ = id => document.getElementById(id);
const EXAMPLES = [["铁的元素符号是", "the symbol of the element iron is"], ["离太阳最近的行星", "the planet nearest to the sun"], ["四川的省会是", "the capital of Sichuan is"],
  ["长江", "the Yangtze"], ["唐朝", "the Tang dynasty"], ["下面是一组关于名胜的问答。", "questions and answers about sights"], ["", "nothing: an article of its own"]];
const BARS = 12;

let student;           // once it has loaded
let stopped = true;    // whether the writing is to stop, or has
let tokens = [];       // [{id, row, isPrompt}]: row has the logits from which this token was chosen; null for the first
let rest = null;       // the logits after the last token
let chosen = null;     // the place whose candidates are shown; tokens.length is the place after the text

function settings() {
  return { strategy: $("strategy").value, temperature: +$("temperature").value, topK: +$("top_k").value, topP: +$("top_p").value, length: +$("length").value, seed: +$("seed").value };
}

function showFields() {
  const { strategy } = settings();
  for (const input of $("settings").querySelectorAll("input[type=range]")) $("settings").querySelector(`output[for=${input.id}]`).value = input.value;
  for (const [id, used] of [["temperature", strategy !== "greedy"], ["top_k", strategy === "top_k"], ["top_p", strategy === "top_p"], ["seed", strategy !== "greedy"]])
    $(id).disabled = !used;
  showBars();
}

// --- the text

function addToken(piece, { isPrompt }, place) {
  const span = document.createElement("span");
  span.className = `token ${isPrompt ? "prompt" : ""} ${piece ? "" : "half"}`;
  span.textContent = piece || "·"; // part of a character that a later token ends
  span.dataset.place = place;
  span.setAttribute("role", "button");
  span.tabIndex = -1;
  $("text").append(span);
}

function choose(place, focus = false) {
  chosen = place;
  for (const span of $("text").children) {
    const is = +span.dataset.place === place;
    span.setAttribute("aria-pressed", is);
    span.tabIndex = is ? 0 : -1;
    if (is && focus) span.focus();
  }
  showBars();
}

$("text").addEventListener("click", event => {
  const span = event.target.closest(".token");
  if (span && student) choose(+span.dataset.place);
});

$("text").addEventListener("keydown", event => {
  const to = { ArrowLeft: chosen - 1, ArrowRight: chosen + 1, Home: 0, End: tokens.length }[event.key];
  if (to === undefined || chosen === null) return;
  event.preventDefault();
  choose(Math.min(Math.max(to, 0), $("text").children.length - 1), true);
});

// --- the bars

function showBars() {
  const row = chosen === null ? null : chosen < tokens.length ? tokens[chosen].row : rest;
  if (chosen === null) return; // while it writes, the bars stay as they were
  $("candidates").hidden = false;
  const before = student.tokenizer.decode(tokens.slice(Math.max(0, chosen - 8), chosen).map(t => t.id)).replace(/\n/g, "↵");
  $("place").textContent = row ? `What could follow “${chosen > 8 ? "…" : ""}${before}”:` : "The first token has nothing before it, so nobody asked what comes here.";
  $("bars").replaceChildren();
  $("kept").textContent = "";
  if (!row) return;
  const now = settings(), kept = cut(row, now), max = row.reduce((a, b) => Math.max(a, b));
  const probs = softmax(Float64Array.from(row, x => now.strategy === "greedy" ? x : (x - max) / now.temperature));
  const order = Array.from(probs.keys()).sort((a, b) => probs[b] - probs[a]);
  const percent = p => p < 5e-5 ? "< 0.01 %" : `${(100 * p).toFixed(2)} %`;
  for (const id of order.slice(0, BARS)) {
    const tr = $("bars").insertRow(), th = document.createElement("th"), bar = document.createElement("span"), isCut = kept[id] === -Infinity;
    tr.className = `${isCut ? "cut" : ""} ${tokens[chosen]?.id === id ? "chosen" : ""}`;
    th.scope = "row";
    th.lang = "zh";
    th.textContent = student.tokenizer.label(id);
    bar.className = "bar";
    bar.style.width = `${100 * probs[id] / probs[order[0]]}%`;
    tr.append(th);
    tr.insertCell().append(bar, isCut ? "cut" : "");
    tr.insertCell().textContent = percent(probs[id]);
  }
  const count = kept.filter(x => x > -Infinity).length, mass = probs.reduce((sum, p, id) => kept[id] > -Infinity ? sum + p : sum, 0);
  $("kept").textContent = `${now.strategy.replace("_", "-")} keeps ${count.toLocaleString("en")} of ${row.length.toLocaleString("en")} tokens, which hold ${percent(mass)} of the probability.`;
}

// The new token about which the student was least sure, by the entropy of its probabilities.
function leastSure() {
  const entropies = tokens.map(t => t.isPrompt ? -1 : softmax(t.row).reduce((sum, p) => p > 0 ? sum - p * Math.log(p) : sum, 0));
  const place = entropies.indexOf(Math.max(...entropies));
  return tokens[place].isPrompt ? tokens.length : place;
}

// --- writing

const pause = () => new Promise(resolve => setTimeout(resolve)); // let the page draw, and hear a click

async function write() {
  stopped = false;
  if ($("status").className) say(""); // what was wrong the last time
  $("generate").disabled = true;
  $("stop").disabled = false;
  $("text").className = "";
  $("text").replaceChildren();
  tokens = [];
  rest = chosen = null;
  const decoder = new TextDecoder(), start = performance.now();
  let drawn = start, made = 0;
  try {
    for await (const { ids, rows } of student.write($("prompt").value, settings())) {
      const isPrompt = !tokens.length;
      ids.forEach((id, i) => {
        tokens.push({ id, isPrompt, row: i ? rows[i - 1] : rest });
        addToken(id === student.tokenizer.eos ? "␄" : decoder.decode(student.tokenizer.tokens[id], { stream: true }), tokens.at(-1), tokens.length - 1);
      });
      rest = rows.at(-1);
      if (!isPrompt) made++;
      if (performance.now() - drawn > 16) {
        await pause();
        drawn = performance.now();
      }
      if (stopped) break;
    }
    const seconds = (performance.now() - start) / 1000;
    $("speed").textContent = `${made} tokens in ${seconds.toFixed(2)} s, ${Math.round(made / seconds)} tokens/s${stopped ? ", stopped" : ""}`;
    addToken("▏", {}, tokens.length);
    choose(leastSure());
  } catch (error) { say(error.message, true); }
  stopped = true;
  $("generate").disabled = false;
  $("stop").disabled = true;
}

$("settings").addEventListener("submit", event => { event.preventDefault(); if (student && stopped) write(); });
$("settings").addEventListener("input", showFields);
$("stop").addEventListener("click", () => { stopped = true; });

// --- the start

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "alert alert-danger" : "";
}

for (const [prompt, gloss] of EXAMPLES) {
  const button = document.createElement("button"), small = document.createElement("small");
  button.type = "button";
  button.className = "btn btn-sm btn-outline-secondary";
  button.textContent = prompt || "∅";
  small.textContent = gloss;
  button.append(small);
  button.addEventListener("click", () => {
    $("prompt").value = prompt;
    if (student && stopped) write();
  });
  $("examples").append(button);
}

// What the student answered when the site was built, until it can answer itself.
async function showExample() {
  const { prompt, text } = JSON.parse(await (await file("example.json")).text());
  if (student) return;
  $("text").className = "beforehand";
  addToken(prompt, { isPrompt: true }, 0);
  addToken(text, {}, 1);
}

async function start() {
  const began = performance.now(), sizes = JSON.parse(await (await file("sizes.json")).text());
  let got = 0;
  student = await load(bytes => { $("loaded").value = (got += bytes) / sizes.total; });
  $("loaded").hidden = true;
  const mb = bytes => (bytes / 1e6).toFixed(1);
  say(`Ready after ${((performance.now() - began) / 1000).toFixed(1)} s. Everything runs on your machine: a model of ${mb(student.config.modelBytes)} MB, and ${mb(sizes.total - student.config.modelBytes)} MB of program and tokenizer.`);
  await write();
  return student;
}

showFields();
showExample().catch(() => {}); // the page does without
window.student = { ready: start(), generate: async (...args) => (await window.student.ready).generate(...args), encode: async text => (await window.student.ready).tokenizer.encode(text) };
window.student.ready.catch(error => {
  $("loaded").hidden = true;
  say(`The model cannot run here: ${error.message}.`, true);
});
