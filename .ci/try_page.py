"""What the page in try/ needs beside its own files: the student as a graph, its tokenizer,
an answer made beforehand, and the program that runs the graph."""
import gzip, json
from pathlib import Path

import vendor
from distill_nb.browser import save_onnx
from distill_nb.demo import tiny_students
from distill_nb.generator import TextGenerator
from distill_nb.teacher import TeacherModel

RUNTIME = ("onnxruntime-web", "1.30.0", "sha512-"
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==")
# without a graphics card, in one thread: no special headers needed
WASM, SCRIPT = "ort-wasm-simd-threaded.wasm", "ort.wasm.bundle.min.mjs"
PROMPT = "铁的元素符号是" # "the symbol of the element iron is", as try/index.qmd has it


def fill(folder):
    "Put it all into the built page's folder."
    student, tokenizer = tiny_students()["distilled"], TeacherModel("tiny", "cpu").tokenizer
    save_onnx(student, folder/"student.onnx")
    # as Python uses it: transformers changes what it reads
    tokenizer.backend_tokenizer.save(str(folder/"tokenizer.json"))
    (folder/"config.json").write_text(student.config.to_json(), encoding="utf-8")
    text = TextGenerator(student, tokenizer).generate(PROMPT, max_new_tokens=60)
    example = json.dumps(dict(prompt=PROMPT, text=text), ensure_ascii=False)
    (folder/"example.json").write_text(example, encoding="utf-8")
    for path in vendor.fetch(*RUNTIME, [f"dist/{WASM}", f"dist/{SCRIPT}"], folder):
        if path.name == WASM: # a quarter of the bytes; not every server packs, so the page unpacks
            (folder/f"{WASM}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
            path.unlink()
        else: path.rename(folder/path.name)
    (folder/"dist").rmdir()
    loaded = ["student.onnx", "tokenizer.json", "config.json", f"{WASM}.gz"]
    total = sum((folder/name).stat().st_size for name in loaded)
    (folder/"sizes.json").write_text(json.dumps(dict(total=total)), encoding="utf-8")
