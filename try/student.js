// The three models on this machine: files, one step of the network, the choice of the next token, and the loop around them.

import { Tokenizer } from "./tokenizer.js";

export async function file(name, whenBytes = () => {}) {
  const response = await fetch(new URL(name, import.meta.url)).catch(error => ({ status: error.message }));
  if (!response.ok) throw new Error(`${name} did not load (${response.status}); reload the page to try again`);
  const chunks = [];
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return new Blob(chunks);
    chunks.push(value);
    whenBytes(value.length);
  }
}

// Unpacked here, as not every server packs; one that does so by itself has unpacked it on the way.
async function unpacked(blob) {
  const [a, b] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (a !== 0x1f || b !== 0x8b) return blob.arrayBuffer();
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// The files of the models, by their names.
export const GRAPHS = { teacher: "teacher.onnx", "labels only": "labels-only.onnx", distilled: "student.onnx" };

// Load everything: name -> `Student`. `whenBytes(n)` is called for each n bytes that have come.
export async function load(whenBytes) {
  for (const part of ["WebAssembly", "DecompressionStream"])
    if (!(part in globalThis)) throw new Error(`this browser has no ${part}, or it is switched off; any browser of the last years has it`);
  const names = Object.keys(GRAPHS);
  const [ort, wasm, words, configs, ...graphs] = await Promise.all([import("./ort.wasm.bundle.min.mjs"), file("ort-wasm-simd-threaded.wasm.gz", whenBytes),
    file("tokenizer.json", whenBytes), file("config.json", whenBytes), ...names.map(name => file(GRAPHS[name], whenBytes))]);
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: await unpacked(wasm) });
  ort.env.logLevel = "error";
  const tokenizer = new Tokenizer(JSON.parse(await words.text())), config = JSON.parse(await configs.text()), models = {};
  for (const [i, name] of names.entries()) {
    const session = await ort.InferenceSession.create(await graphs[i].arrayBuffer(), { executionProviders: ["wasm"] });
    models[name] = new Student(ort, session, tokenizer, { ...config[name], modelBytes: graphs[i].size });
  }
  return models;
}

// Logits, softened by the temperature, and those that the strategy cuts at -Infinity; as `TextGenerator.next_token`, in FP64.
export function cut(logits, { strategy, topK, topP, temperature }) {
  let max = -Infinity;
  for (const x of logits) if (x > max) max = x;
  if (strategy === "greedy") {
    const best = logits.indexOf(max);
    return Float64Array.from(logits, (_, i) => i === best ? 0 : -Infinity);
  }
  const scaled = Float64Array.from(logits, x => (x - max) / temperature);
  if (strategy === "top_k") {
    const lowest = Float64Array.from(scaled).sort()[Math.max(scaled.length - topK, 0)];
    return scaled.map(x => x >= lowest ? x : -Infinity); // ties with the last one stay
  }
  if (topP === 1) return scaled;
  const probs = softmax(scaled), kept = new Float64Array(scaled.length).fill(-Infinity);
  let sum = 0;
  for (const id of Array.from(probs.keys()).sort((a, b) => probs[b] - probs[a])) {
    if (sum >= topP) break; // what is more likely already holds p
    kept[id] = scaled[id];
    sum += probs[id];
  }
  return kept;
}

export function softmax(logits) {
  const max = logits.reduce((a, b) => Math.max(a, b), -Infinity), exp = Float64Array.from(logits, x => Math.exp(x - max));
  const sum = exp.reduce((a, b) => a + b);
  return exp.map(x => x / sum);
}

// Random numbers in [0, 1) that a seed decides (mulberry32).
export function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function draw(probs, random) {
  let left = random(), last = 0;
  for (let id = 0; id < probs.length; id++) {
    if (probs[id] === 0) continue;
    last = id;
    if ((left -= probs[id]) < 0) return id;
  }
  return last;
}

class Student {
  constructor(ort, session, tokenizer, config) { Object.assign(this, { ort, session, tokenizer, config }); }

  empty() { // keys and values of no tokens: [2 * layers, kv_heads, 0, head_dim]
    const { num_layers, num_kv_heads, hidden_size, num_heads } = this.config;
    return new this.ort.Tensor("float32", new Float32Array(), [2 * num_layers, num_kv_heads, 0, hidden_size / num_heads]);
  }

  // A row of logits for each new token, over the tokens that the tokenizer has, and the keys and values of all so far.
  async step(ids, past) {
    const input = new this.ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
    const { logits, present } = await this.session.run({ ids: input, past });
    const width = logits.dims[2];
    return { rows: ids.map((_, i) => logits.data.slice(i * width, i * width + this.tokenizer.size)), past: present };
  }

  // For each token of a text the logits from which it was chosen, null for the first; and those after the last.
  async read(ids) {
    const { rows } = await this.step(ids, this.empty());
    return [null, ...rows];
  }

  // Yield {ids, rows}: first of the prompt, then of each new token, until the end, `length` or the model's longest sequence.
  async *write(prompt, { length = 256, seed = 1, ...settings }) {
    const { eos } = this.tokenizer, limit = this.config.max_seq_len, dice = random(seed);
    let ids = this.tokenizer.encode(prompt);
    if (!ids.length) ids = [eos];
    if (ids.length >= limit) throw new Error(`the prompt has ${ids.length} tokens and leaves no room in the model's ${limit}: shorten it`);
    let { rows, past } = await this.step(ids, this.empty());
    yield { ids, rows };
    for (let left = Math.min(length, limit - ids.length); left > 0; left--) {
      const next = draw(softmax(cut(rows.at(-1), settings)), dice);
      if (next === eos) return;
      ({ rows, past } = await this.step([next], past));
      yield { ids: [next], rows };
    }
  }

  // The ids and the text of the new tokens at once.
  async generate(prompt, settings = { strategy: "greedy" }) {
    const ids = [];
    let first = true;
    for await (const part of this.write(prompt, settings)) {
      if (!first) ids.push(...part.ids);
      first = false;
    }
    return { ids, text: this.tokenizer.decode(ids) };
  }
}
