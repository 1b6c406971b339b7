// The page: fields in, three texts and bars out. What is computed is in student.js, what the facts are in facts.js.

import { Facts } from "./facts.js";
import { cut, file, GRAPHS, load, softmax } from "./student.js";

const $ = id => document.getElementById(id);
const EXAMPLES = [["铁的元素符号是", "the symbol of the element iron is"], ["镁的原子序数是", "the atomic number of magnesium is"], ["海王星的英文名称是", "the English name of Neptune is"],
  ["湖南最重要的行政城市是", "the most important administrative city of Hunan is"], ["吟出《春望》的人是", "the one who wrote the poem “Spring View” is"],
  ["动物学家把松鼠编入", "zoologists put the squirrel into"], ["人们过国际儿童节的日子是", "people celebrate Children's Day on"]];
const BARS = 12, HOTTEST = 3; // nats

const NAMES = Object.keys(GRAPHS), ASKED = "distilled"; // whose answer is looked at first
let models;            // name -> `Student`, once they have loaded
let tokenizer, facts;
let stopped = true;    // whether the writing is to stop, or has
let columns = {};      // name -> {tokens: [{id, isPrompt}], rows: name of a reader -> logits from which each token was chosen, and those after the last; null for the first}
let chosen = null;     // {name, place}: whose candidates are shown; tokens.length is the place after the text

const columnOf = name => document.querySelector(`.column[data-model="${name}"]`);
const textOf = name => columnOf(name).querySelector(".text");

function settings() {
  return { strategy: $("strategy").value, temperature: +$("temperature").value, topK: +$("top_k").value, topP: +$("top_p").value, length: +$("length").value, seed: +$("seed").value };
}

function showFields() {
  const { strategy } = settings(), prompt = $("prompt").value;
  for (const input of $("settings").querySelectorAll("input[type=range]")) $("settings").querySelector(`output[for=${input.id}]`).value = input.value;
  for (const [id, used] of [["temperature", strategy !== "greedy"], ["top_k", strategy === "top_k"], ["top_p", strategy === "top_p"], ["seed", strategy !== "greedy"]])
    $(id).disabled = !used;
  $("note").hidden = !/\p{L}/u.test(prompt) || /\p{Script=Han}/u.test(prompt);
  showBars();
}

// --- the texts

function addToken(name, piece, { isPrompt }, place) {
  const span = document.createElement("span");
  span.className = `token ${isPrompt ? "prompt" : ""} ${piece ? "" : "half"}`;
  span.textContent = piece || "·"; // part of a character that a later token ends
  span.dataset.place = place;
  span.setAttribute("role", "button");
  span.tabIndex = -1;
  textOf(name).append(span);
}

function choose(name, place, focus = false) {
  chosen = { name, place };
  for (const span of document.querySelectorAll(".text .token")) span.setAttribute("aria-pressed", false);
  const spans = Array.from(textOf(name).children), pressed = spans.find(span => +span.dataset.place === place);
  for (const span of spans) span.tabIndex = span === pressed ? 0 : -1; // one stop of the Tab key in each text
  pressed.setAttribute("aria-pressed", true);
  if (focus) pressed.focus();
  showBars();
}

for (const name of NAMES) {
  textOf(name).addEventListener("click", event => {
    const span = event.target.closest(".token");
    if (span && chosen) choose(name, +span.dataset.place);
  });
  textOf(name).addEventListener("keydown", event => {
    const place = +event.target.dataset.place, to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: Infinity }[event.key];
    if (to === undefined || !chosen) return;
    event.preventDefault();
    choose(name, Math.min(Math.max(to, 0), columns[name].tokens.length), true);
  });
}

// How far the student's expectation is from the teacher's at a place, in nats.
function distance(teacher, student) {
  const p = softmax(teacher), q = softmax(student);
  return p.reduce((sum, x, i) => x > 0 ? sum + x * Math.log(x / Math.max(q[i], 1e-300)) : sum, 0);
}

function showHeat(name) {
  const { tokens, rows } = columns[name], student = name === "teacher" ? ASKED : name;
  for (const span of textOf(name).children) {
    const place = +span.dataset.place, teacher = rows.teacher[place];
    if (!teacher || place >= tokens.length) continue;
    const nats = distance(teacher, rows[student][place]);
    span.style.setProperty("--heat", `${Math.round(100 * Math.min(nats / HOTTEST, 1))}%`);
    span.title = `${student} is ${nats.toFixed(2)} nats from the teacher here`;
  }
}

function showFacts(name) {
  const prompt = columns[name].prompt, written = columns[name].written, list = columnOf(name).querySelector(".facts");
  const meant = word => [word, facts.gloss(word)].filter(Boolean).join(" ");
  list.replaceChildren(...facts.check(prompt, written).map(({ subject, noun, answer, wrote, right }) => {
    const li = document.createElement("li");
    li.className = right ? "right" : "wrong";
    li.textContent = `${right ? "✓" : "✗"} ${meant(subject)}, ${facts.gloss(noun)}: ${right ? meant(answer) : `“${meant(wrote)}”, but it is ${meant(answer)}`}`;
    return li;
  }));
  const words = facts.meanings(prompt + written).map(pair => pair.join(" "));
  columnOf(name).querySelector(".words").textContent = words.length ? `Words: ${words.join(" · ")}` : "";
}

// --- the bars

const percent = p => p < 5e-5 ? "< 0.01 %" : `${(100 * p).toFixed(2)} %`;

function expected(row) {
  const { strategy, temperature } = settings(), max = row.reduce((a, b) => Math.max(a, b));
  return softmax(Float64Array.from(row, x => strategy === "greedy" ? x : (x - max) / temperature));
}

function addBar(id, rank, probs, widest, isCut) {
  const tr = $("bars").insertRow(), th = document.createElement("th"), cell = tr.insertCell(), label = tokenizer.label(id), own = probs[chosen.name][id];
  const came = columns[chosen.name].tokens[chosen.place]?.id === id, gloss = facts.gloss(label);
  tr.className = `${isCut ? "cut" : ""} ${came ? "chosen" : ""}`;
  th.scope = "row";
  th.lang = "zh";
  th.textContent = label;
  tr.prepend(th);
  for (const name of NAMES) {
    const bar = document.createElement("span");
    bar.className = `bar ${name === chosen.name ? "own" : ""}`;
    bar.dataset.model = name;
    bar.style.width = `${100 * probs[name][id] / widest}%`;
    bar.title = `${name}: ${percent(probs[name][id])}`;
    cell.append(bar);
  }
  const small = document.createElement("small");
  small.textContent = [gloss, isCut ? "cut" : "", rank > BARS ? `the ${rank}th` : ""].filter(Boolean).join(" · ");
  cell.append(small);
  tr.insertCell().textContent = percent(own);
}

function showBars() {
  if (!chosen) return; // while they write, the bars stay as they were
  const { name, place } = chosen, { tokens, rows } = columns[name], row = rows[name][place];
  $("candidates").hidden = false;
  const before = tokenizer.decode(tokens.slice(Math.max(0, place - 8), place).map(t => t.id)).replace(/\n/g, "↵");
  $("place").textContent = row ? `What could follow “${place > 8 ? "…" : ""}${before}” in the text of ${name}:` : "The first token has nothing before it, so nobody asked what comes here.";
  $("bars").replaceChildren();
  $("kept").textContent = $("came").textContent = "";
  $("key").hidden = !row;
  if (!row) return;
  const now = settings(), kept = cut(row, now), probs = Object.fromEntries(NAMES.map(n => [n, expected(rows[n][place])]));
  const order = Array.from(probs[name].keys()).sort((a, b) => probs[name][b] - probs[name][a]), shown = order.slice(0, BARS), came = tokens[place]?.id;
  if (came !== undefined && !shown.includes(came)) shown.push(came);
  const widest = Math.max(...shown.flatMap(id => NAMES.map(n => probs[n][id])));
  for (const id of shown) addBar(id, order.indexOf(id) + 1, probs, widest, kept[id] === -Infinity);
  const asked = came ?? order[0];
  $("came").textContent = `${came === undefined ? "likeliest" : "written"} “${tokenizer.label(asked)}”: ${NAMES.map(n => `${n} ${percent(probs[n][asked])}`).join(", ")}`;
  const count = kept.filter(x => x > -Infinity).length, mass = probs[name].reduce((sum, p, id) => kept[id] > -Infinity ? sum + p : sum, 0);
  $("kept").textContent = `${now.strategy.replace("_", "-")} keeps ${count.toLocaleString("en")} of ${row.length.toLocaleString("en")} tokens, which hold ${percent(mass)} of the probability.`;
}

// --- writing

const pause = () => new Promise(resolve => setTimeout(resolve)); // let the page draw, and hear a click

function clear() {
  chosen = null;
  for (const name of NAMES) {
    textOf(name).className = "text";
    for (const part of [".text", ".facts", ".words"]) columnOf(name).querySelector(part).replaceChildren();
  }
}

// The three models in turns, a token each; returns how many tokens were new.
async function writeAll(prompt) {
  const going = new Map(NAMES.map(name => [name, models[name].write(prompt, settings())]));
  columns = Object.fromEntries(NAMES.map(name => [name, { prompt, written: "", tokens: [], rows: { [name]: [null] }, decoder: new TextDecoder() }]));
  let drawn = performance.now(), made = 0;
  while (going.size && !stopped) for (const [name, stream] of going) {
    const { value, done } = await stream.next(), column = columns[name], isPrompt = !column.tokens.length;
    if (done) { going.delete(name); continue; }
    column.rows[name].push(...value.rows);
    for (const id of value.ids) {
      const piece = id === tokenizer.eos ? "␄" : column.decoder.decode(tokenizer.tokens[id], { stream: true });
      column.tokens.push({ id, isPrompt });
      if (!isPrompt) column.written += piece;
      addToken(name, piece, { isPrompt }, column.tokens.length - 1);
    }
    if (!isPrompt) made++;
    if (performance.now() - drawn > 16) {
      await pause();
      drawn = performance.now();
    }
  }
  return made;
}

// What each of them expected in each text.
async function readAll() {
  for (const name of NAMES) {
    const { tokens, rows } = columns[name];
    for (const reader of NAMES) if (reader !== name) {
      rows[reader] = await models[reader].read(tokens.map(t => t.id));
      await pause();
    }
    addToken(name, "▏", {}, tokens.length);
    textOf(name).lastChild.tabIndex = 0;
    showHeat(name);
    showFacts(name);
  }
}

async function write() {
  stopped = false;
  if ($("status").className) say(""); // what was wrong the last time
  $("generate").disabled = true;
  $("stop").disabled = false;
  clear();
  try {
    const start = performance.now(), made = await writeAll($("prompt").value), seconds = (performance.now() - start) / 1000;
    await readAll();
    $("speed").textContent = `${made} tokens in ${seconds.toFixed(2)} s, ${Math.round(made / seconds)} tokens/s${stopped ? ", stopped" : ""}`;
    choose(ASKED, columns[ASKED].tokens.filter(t => t.isPrompt).length);
  } catch (error) { say(error.message, true); }
  stopped = true;
  $("generate").disabled = false;
  $("stop").disabled = true;
}

$("settings").addEventListener("submit", event => { event.preventDefault(); if (models && stopped) write(); });
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
  button.textContent = button.dataset.prompt = prompt;
  small.textContent = gloss;
  button.append(small);
  button.addEventListener("click", () => {
    $("prompt").value = prompt;
    showFields();
    if (models && stopped) write();
  });
  $("examples").append(button);
}

// What they answered when the site was built, until they can answer themselves.
async function showExample() {
  const { prompt, texts } = JSON.parse(await (await file("example.json")).text());
  if (models) return;
  for (const name of NAMES) {
    textOf(name).className = "text beforehand";
    addToken(name, prompt, { isPrompt: true }, 0);
    addToken(name, texts[name], {}, 1);
  }
}

async function start() {
  const began = performance.now(), sizes = JSON.parse(await (await file("sizes.json")).text());
  let got = 0;
  const [loaded, table] = await Promise.all([load(bytes => { $("loaded").value = (got += bytes) / sizes.total; }), file("facts.json")]);
  facts = new Facts(JSON.parse(await table.text()));
  models = loaded;
  tokenizer = models[ASKED].tokenizer;
  $("loaded").hidden = true;
  const mb = bytes => (bytes / 1e6).toFixed(1), weights = NAMES.reduce((sum, name) => sum + models[name].config.modelBytes, 0);
  for (const name of NAMES) columnOf(name).querySelector("h2").append(` ${mb(models[name].config.parameters)} M`);
  say(`Ready after ${((performance.now() - began) / 1000).toFixed(1)} s. Everything runs on your machine: three models of ${mb(weights)} MB together, and ${mb(sizes.total - weights)} MB of program and tokenizer.`);
  await write();
  return models[ASKED];
}

showFields();
showExample().catch(() => {}); // the page does without
window.student = { ready: start(), generate: async (...args) => (await window.student.ready).generate(...args), encode: async text => (await window.student.ready).tokenizer.encode(text) };
window.student.models = async () => { await window.student.ready; return models; };
window.student.ready.catch(error => {
  $("loaded").hidden = true;
  say(`The models cannot run here: ${error.message}.`, true);
});
