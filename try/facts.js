// What a text says about the shipped facts, and what its Chinese words mean.

const UNTIL = /^[^，。；！？“”\n]{1,14}/u; // what was written where an answer belongs

export class Facts {
  // facts: [subject, relation, answer, what must follow it]; relations: name -> {noun, forms}, statements with @ for the subject and # for the answer
  constructor({ facts, relations, glosses }) {
    this.glosses = glosses;
    this.words = Object.keys(glosses).sort((a, b) => b.length - a.length);
    this.statements = facts.flatMap(([subject, relation, answer, end]) => relations[relation].forms.map(form => {
      const [head, tail] = form.replace("@", subject).split("#");
      return { subject, noun: relations[relation].noun, answer, end, head, tail };
    }));
  }

  gloss(word) { return this.glosses[word] ?? ""; }

  // The facts that a text states, in its order: {subject, noun, answer, wrote, right}. The one that the prompt asks for is judged as the exam does it.
  check(prompt, written) {
    const text = prompt + written, found = new Map();
    const add = (at, { subject, noun, answer }, wrote, right) => {
      const key = [subject, noun, right ? answer : wrote].join();
      if (!found.has(key)) found.set(key, { at, subject, noun, answer, wrote, right });
    };
    for (const statement of this.statements) {
      const { head, tail, answer, end } = statement;
      if (prompt.endsWith(head)) {
        const right = written.startsWith(answer + end), wrote = written.match(UNTIL)?.[0] ?? written.slice(0, 12);
        add(prompt.length, statement, right ? answer : wrote.split(tail)[0], right);
      }
      for (let at = text.indexOf(head); at >= 0; at = text.indexOf(head, at + 1)) {
        const after = at + head.length, rest = text.slice(after), wrote = rest.startsWith(answer + tail) ? answer : rest.match(UNTIL)?.[0].split(tail)[0];
        if (after === prompt.length || !wrote || !rest.startsWith(wrote + tail)) continue; // asked for above, or not ended
        add(at, statement, wrote, wrote === answer);
      }
    }
    return [...found.values()].sort((a, b) => a.at - b.at);
  }

  // The words of a text that have a gloss, each once, in its order: [word, gloss].
  meanings(text) {
    const found = new Map();
    for (let at = 0; at < text.length;) {
      const word = this.words.find(w => text.startsWith(w, at));
      if (word) found.set(word, this.glosses[word]);
      at += word?.length ?? 1;
    }
    return [...found];
  }
}
