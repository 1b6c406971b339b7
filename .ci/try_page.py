"""What the page in try/ needs beside its own files: the three models as graphs, their tokenizer,
the table of facts, an answer made beforehand, and the program that runs the graphs."""
import gzip, json, re
from pathlib import Path

import torch

import vendor
from distill_nb.browser import _as_student, save_onnx
from distill_nb.demo import tiny_students
from distill_nb.facts import _GENERIC, _RELATIONS, facts, recall_prompts
from distill_nb.teacher import TeacherModel
from distill_nb.tiny import complete

RUNTIME = ("onnxruntime-web", "1.30.0", "sha512-"
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==")
# without a graphics card, in one thread: no special headers needed
WASM, SCRIPT = "ort-wasm-simd-threaded.wasm", "ort.wasm.bundle.min.mjs"
PROMPT = "铁的元素符号是" # "the symbol of the element iron is", as try/index.qmd has it
GRAPHS = {"teacher": "teacher.onnx", "labels only": "labels-only.onnx", "distilled": "student.onnx"}
GLOSSES = Path(__file__).parents[1]/"try"/"glosses.txt"


def models(): # name → `StudentModel`, and their tokenizer
    teacher = TeacherModel("tiny", "cpu")
    return {"teacher": _as_student(teacher), **tiny_students()}, teacher.tokenizer


def greedy(model, tokenizer, prompt, length): # new tokens
    "`TextGenerator` is for students without biases, and the teacher has some."
    ids = torch.tensor([tokenizer.encode(prompt)])
    new = complete(model, ids, length)[0, ids.shape[1]:].tolist()
    eos = tokenizer.eos_token_id
    return new[:new.index(eos)] if eos in new else new


def glosses(): # Chinese → English
    entries = re.split("[；\n]", GLOSSES.read_text(encoding="utf-8").strip())
    return dict(entry.split(" ", 1) for entry in entries)


def fact_table():
    "Facts, the statements of each relation, and what the words mean, as try/facts.js reads them."
    relations = {"/".join(key): dict(noun=noun, forms=[
        form.replace("~", noun) for form in forms + _GENERIC.split("|") if "#" in form])
        for key, (noun, forms) in _RELATIONS.items()}
    asked = [(f.subject, f"{f.topic}/{f.relation}", f.answer, goes_on.removeprefix(f.answer))
             for f, (_, goes_on) in zip(facts(), recall_prompts())]
    return dict(facts=asked, relations=relations, glosses=glosses())


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def fill(folder):
    "Put it all into the built page's folder."
    students, tokenizer = models()
    for name, student in students.items(): save_onnx(student, folder/GRAPHS[name])
    # as Python uses it: transformers changes what it reads
    tokenizer.backend_tokenizer.save(str(folder/"tokenizer.json"))
    configs = {name: s.config.to_dict() | dict(parameters=sum(p.numel() for p in s.parameters()))
               for name, s in students.items()} # that of the teacher has biases beside
    write_json(folder/"config.json", configs)
    write_json(folder/"facts.json", fact_table())
    texts = {name: tokenizer.decode(greedy(student, tokenizer, PROMPT, 40))
             for name, student in students.items()}
    write_json(folder/"example.json", dict(prompt=PROMPT, texts=texts))
    for path in vendor.fetch(*RUNTIME, [f"dist/{WASM}", f"dist/{SCRIPT}"], folder):
        if path.name == WASM: # a quarter of the bytes; not every server packs, so the page unpacks
            (folder/f"{WASM}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
            path.unlink()
        else: path.rename(folder/path.name)
    (folder/"dist").rmdir()
    loaded = [*GRAPHS.values(), "tokenizer.json", "config.json", f"{WASM}.gz"]
    total = sum((folder/name).stat().st_size for name in loaded)
    write_json(folder/"sizes.json", dict(total=total))
