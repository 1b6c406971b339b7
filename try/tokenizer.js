// Byte-level BPE from a tokenizer.json, with the same ids as the `tokenizers` library gives in Python.

// The pattern in JavaScript's words: its \s means other characters, and not every browser has (?i:…) yet.
function pattern(regex) {
  const ignoringCase = regex.replace(/\(\?i:([^)]*)\)/g, (_, inside) => `(?:${inside.replace(/[a-z]/g, c => `[${c}${c.toUpperCase()}]`)})`);
  return new RegExp(ignoringCase.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");
}

// Byte-level BPE writes every byte as a character that can be seen: printable ones as themselves, the others from U+0100 on.
const CHARS = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable = (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
  CHARS.push(String.fromCharCode(printable ? byte : next++));
}
const BYTES = new Map(CHARS.map((char, byte) => [char, byte]));
const utf8 = new TextEncoder();

// The text cut where the pattern matches: matches and what is between them are pieces.
function isolate(text, pattern) {
  const pieces = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    pieces.push(text.slice(end, match.index), match[0]);
    end = match.index + match[0].length;
  }
  return [...pieces, text.slice(end)].filter(piece => piece);
}

// What ByteLevel cuts at where its file says use_regex: GPT-2's words.
const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

export class Tokenizer {
  constructor({ model, added_tokens, pre_tokenizer, normalizer }) {
    const steps = pre_tokenizer.pretokenizers;
    const known = steps?.every(s => s.type === "ByteLevel" ? !s.add_prefix_space : s.type === "Split" && s.behavior === "Isolated" && !s.invert);
    if (model.type !== "BPE" || ![undefined, "NFC"].includes(normalizer?.type) || !known) throw new Error("this tokenizer.json is of a kind that the page does not know");
    this.normal = text => normalizer ? text.normalize("NFC") : text;
    this.patterns = steps.filter(s => s.type === "Split" || s.use_regex).map(s => pattern(s.pattern?.Regex ?? GPT2));
    this.vocab = new Map(Object.entries(model.vocab));
    this.ranks = new Map(model.merges.map((pair, rank) => [pair.join(" "), rank]));
    this.special = new Map(added_tokens.map(t => [t.content, t.id]));
    this.eos = this.special.get("<|endoftext|>");
    this.tokens = [];
    for (const [chars, id] of this.vocab) this.tokens[id] = this.special.has(chars) ? new Uint8Array() : Uint8Array.from(chars, c => BYTES.get(c));
    this.words = new Map(); // word -> ids, as the same words come again
  }

  get size() { return this.tokens.length; }

  // The ids of a text; the name of a special token is text like any other.
  encode(text) {
    const words = this.patterns.reduce((pieces, cuts) => pieces.flatMap(piece => isolate(piece, cuts)), [this.normal(text)]);
    return words.flatMap(word => this.wordIds(word));
  }

  // Merge the pair of neighbours that was learned first, again and again.
  wordIds(word) {
    if (this.words.has(word)) return this.words.get(word);
    const parts = Array.from(utf8.encode(word), byte => CHARS[byte]);
    while (parts.length > 1) {
      const ranks = parts.slice(1).map((part, i) => this.ranks.get(`${parts[i]} ${part}`) ?? Infinity);
      const first = Math.min(...ranks);
      if (first === Infinity) break;
      const i = ranks.indexOf(first);
      parts.splice(i, 2, parts[i] + parts[i + 1]);
    }
    const ids = parts.map(part => this.vocab.get(part));
    this.words.set(word, ids);
    return ids;
  }

  // One text for each token. A character whose bytes are spread over tokens stands with the last of them.
  pieces(ids) {
    const decoder = new TextDecoder();
    return ids.map(id => decoder.decode(this.tokens[id], { stream: true }));
  }

  decode(ids) { return this.pieces(ids).join(""); }

  // A token alone, for a label: its text, or its bytes where they are no whole characters.
  label(id) {
    if (id === this.eos) return "⟨end⟩";
    try { return new TextDecoder("utf-8", { fatal: true }).decode(this.tokens[id]).replace(/\n/g, "↵").replace(/^ | $/g, "␣"); }
    catch { return Array.from(this.tokens[id], byte => byte.toString(16).padStart(2, "0")).join(" "); }
  }
}
