"""Inputs that are wrong in hundreds of ways: for each group a generator of cases, the same ones
every time.

A case is a command line, what its one line of complaint must name, and files that were spoiled
for it in a folder of its own. What our rules allow is not among them: a prompt of strange but
valid text, a field that is left out of a JSON file, metrics cut short by a kill.
"""
import hashlib, io, itertools, json, os, pickle, random, re, shutil, struct, zipfile
from pathlib import Path
from typing import NamedTuple

MODEL = dict(hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, intermediate_size=32,
             vocab_size=4096, max_seq_len=32)
WHOLE = [n for n in MODEL]  # fields of the model that are whole numbers
NUMBERS = [*WHOLE, "rope_theta", "norm_eps", "dropout"]
TRAINING = dict(batch_size=int, learning_rate=float, weight_decay=float, warmup_steps=int,
                num_epochs=int, gradient_clip=float, alpha=float, temperature=float,
                log_interval=int, eval_interval=int, save_interval=int)
BIG = 10**30
# clears a terminal, names its window, turns the line around, breaks it
CONTROL = "\x1b[2J\x1b]0;owned\x07\x08\n\r\x7f\u202e\u2028"


class Case(NamedTuple):
    group: str
    name: str  # what is wrong, for who reads a failure
    folder: Path  # of this case alone: what was spoiled for it, and `cwd`, where the command runs
    argv: list
    wanted: tuple  # parts of the one line; "a|b": one of them


class World:
    """Good things to spoil: a run, a text, a teacher. They are the same before and after; a
    case works on copies."""
    def __init__(self, root, run, teacher, text, seed=0):
        self.root, self.run, self.teacher, self.text = Path(root), run, teacher, text
        self.random, self.count = random.Random(seed), itertools.count()

    def folder(self):
        folder = self.root / f"{next(self.count):04d}"
        (folder / "cwd").mkdir(parents=True)
        return folder

    def copy(self, what, folder, name):
        "Hard links: cheap, and what writes into a copy writes into the good one, which is noticed."
        return shutil.copytree(what, folder / name, copy_function=os.link)

    def train(self, checkpoint_dir, **changed):
        flags = dict(**MODEL, teacher=self.teacher, dataset=self.text, device="cpu",
                     max_steps=2, batch_size=2, warmup_steps=1, log_interval=1,
                     eval_batches=1) | changed | dict(checkpoint_dir=checkpoint_dir)
        return ["train", *(str(word) for name, value in flags.items()
                           for word in (f"--{name.replace('_', '-')}", value))]

    def resume(self, run): return [*self.train(run, max_steps=4), "--resume"]


def put(path, content):
    "In place of what is there, never into it: it may be a link to the good one."
    path = Path(path)
    if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
    else: path.unlink(missing_ok=True)
    if callable(content): content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes)
                         else content.encode("utf-8", "surrogatepass"))
    return path


# Command lines

def bad_flags(world):
    def case(name, *argv, wanted=()): return Case("flags", name, world.folder(), [*argv], wanted)
    for command in ("nope", "", " ", "train ", "-x", "--", "--train", "TRAIN", "训练", "a" * 1000,
                    CONTROL, b"tr\xff\xfein"):
        yield case(f"command {command!r:.30}", command)
    for command in "demo train evaluate generate export plan bench study".split():
        yield case(f"{command}: unknown flag", command, "--bogus", "1", wanted=("--bogus",))
        yield case(f"{command}: unknown short flag", command, "-z", wanted=("-z",))
        yield case(f"{command}: flag of control characters", command, f"--a{CONTROL}b", "1",
                   wanted=(r"\x1b[2J",))
        yield case(f"{command}: flag of no UTF-8", command, b"--\xff\xfe", "1",
                   wanted=(r"\udcff\udcfe|there is no 1",))
        yield case(f"{command}: very long flag", command, "--" + "b" * 50_000, wanted=("--bbbbb",))
    for flag in ("batch-size", "alpha", "checkpoint-dir", "teacher", "dataset", "preset",
                 "max-steps", "seed", "device"):
        yield case(f"--{flag} without a value", "train", f"--{flag}", wanted=(flag,))
    for flag in ("max-steps", "accumulate", "eval-batches", "sample-mb", "seed"):
        for value in ("-1", "nan", "inf", "many", "", "1e", "1,5", "0x10", "--1", "9" * 5000,
                      "-" + "9" * 5000, "-" + "9" * 400, CONTROL, b"\xff", "1 2"):
            yield case(f"--{flag} {value!r:.20}", "train", "--preset", "tiny",
                       f"--{flag}={value}" if isinstance(value, str)
                       else b"--" + flag.encode() + b"=" + value, wanted=(flag,))
    for flag in ("eval-batches", "seed"):
        yield case(f"--{flag} of 31 digits", "train", "--preset", "tiny", f"--{flag}", BIG,
                   wanted=(flag,))
    for preset in ("big", "", "Tiny", "tiny ", CONTROL, b"\xff"):
        yield case(f"--preset {preset!r:.20}", "train", "--preset", preset, wanted=("preset",))
    for device in ("tpu", "", "cpu ", "CPU", "cuda:x", "meta", CONTROL, b"\xff", "a" * 10_000):
        yield case(f"--device {device!r:.20}", "train", "--preset", "tiny", "--device", device,
                   wanted=("device",))
    yield case("a switch with a value", "train", "--gradient-checkpointing", "yes", wanted=("yes",))
    yield case("a switch turned off by a word that is no flag", "train",
               "--no-teacher-cache", wanted=("--no-teacher-cache",))
    yield case("a word too many", "train", "--preset", "tiny", "more", wanted=("more",))
    for value in ("0", "-1", "nan", "inf", "x", "1e999"):
        yield case(f"--tflops {value}", "plan", "--tflops", value, wanted=("tflops",))
    for value in ("0", "1.5", "nan", "-1", "inf", "x", ""):
        yield case(f"--alphas {value}", "study", "--preset", "tiny", "--alphas", value,
                   wanted=("alphas",))
    for value in ("0", "nan", "-1", "inf", "x", ""):
        yield case(f"--temperatures {value}", "study", "--preset", "tiny",
                   "--temperatures", value, wanted=("temperatures",))
    for value in ("0", "-1", "x", "1.5", BIG):
        yield case(f"--seeds {value}", "study", "--preset", "tiny", "--seeds", value,
                   wanted=("seeds",))
    for value in ("0", "-1", "x", "nan"):
        yield case(f"demo --max-steps {value}", "demo", "--max-steps", value, wanted=("max-steps",))
    for value in ("everything", "", "LOSS"): yield case(f"bench {value!r}", "bench", value)


def bad_fields(world):
    def case(name, value): # NAME=VALUE, so that a value may begin with a dash
        flag = name.replace("_", "-")
        return Case("fields", f"--{flag}={value!r:.20}", world.folder(),
                    ["train", "--preset", "tiny", f"--{flag}={value}"], (f"{name}|{flag}",))
    for name, kind in (*((n, int if n in MODEL else float) for n in NUMBERS), *TRAINING.items()):
        for value in ("-1", "many", "",
                      world.random.choice(["1e", "[1]", "None", "True", "0x10", "1,5"])):
            yield case(name, value)
        for value in ((BIG, "1.0") if kind is int else ("nan", "1e999")): yield case(name, value)
        if name not in ("dropout", "alpha", "weight_decay", "warmup_steps"): yield case(name, "0")
    for name, value in (("dropout", "1"), ("dropout", "1.5"), ("alpha", "1.5"),
                        ("alpha", "-0.5"), ("hidden_size", "190"), ("num_heads", "5"),
                        ("num_kv_heads", "4")):
        yield case(name, value)
    for value in ("", " ", "\t"):
        yield Case("fields", f"--checkpoint-dir {value!r}", world.folder(),
                   ["train", "--preset", "tiny", "--checkpoint-dir", value], ("checkpoint_dir",))


def bad_prompts(world):
    def case(name, prompt, *flags, wanted=("prompt",)):
        return Case("prompts", name, world.folder(),
                    ["generate", "--checkpoint", world.run, *flags, prompt], wanted)
    for name, prompt in (("not UTF-8", b"\xff\xfe"), ("GBK", "中国".encode("gbk")),
                         ("a cut character", "中国".encode()[:-1]),
                         ("a surrogate in UTF-8", b"\xed\xa0\x80"),
                         ("UTF-8 of five bytes", b"\xf8\x88\x80\x80\x80"),
                         ("an overlong slash", b"\xc0\xaf")):
        yield case(name, prompt)
    for name, prompt in (("too long", "啊" * 40_000), ("too long by little", "啊" * 100),
                         ("long, control characters", CONTROL * 2000),
                         ("long, blank", " " * 100_000 + "a" * 1000)):
        yield case(name, prompt, wanted=("prompt", "max_seq_len=32"))
    yield case("begins with a dash", "-中国", wanted=("-中国",))
    for flag, value in (("strategy", "beam"), ("strategy", ""), ("max-new-tokens", "-1"),
                        ("max-new-tokens", "1.5"), ("top-k", "0"), ("top-k", "-" + "9" * 400),
                        ("top-k", "x"), ("top-p", "0"), ("top-p", "nan"), ("top-p", "1.01"),
                        ("temperature", "-1"), ("temperature", "nan"), ("temperature", "-inf"),
                        ("seed", "-1"), ("seed", BIG), ("seed", "1.5"), ("device", "tpu")):
        yield case(f"--{flag} {value:.20}" if isinstance(value, str)
                   else f"--{flag} of 31 digits", "中", f"--{flag}={value}",
                   wanted=(f"{flag}|{flag.replace('-', '_')}",))


# Files of a checkpoint

NO_JSON = {"empty": b"", "a brace": b"{", "cut": b'{"hidden_size": 16, "num', "list": b"[]",
           "null": b"null", "number": b"5", "string": b'"x"', "true": b"true",
           "BOM": b'\xef\xbb\xbf{"hidden_size": 16}',
           "UTF-16": '{"hidden_size": 16}'.encode("utf-16"), "Latin-1": b'{"a": "\xe9"}',
           "NULs": b"\0" * 100, "binary": bytes(range(256)), "deep lists": b"[" * 100_000,
           "deep objects": b'{"a":' * 100_000, "deep and whole": b'{"a": ' + b"[" * 100_000
           + b"]" * 100_000 + b"}", "two objects": b"{}{}",
           "a number of 5,000 digits": b'{"hidden_size": ' + b"9" * 5000 + b"}",
           "a long line": b'{"hidden_size": "' + b"x" * 1_000_000,
           "pickle": pickle.dumps({"hidden_size": 16}),
           "comment": b'// {}\n{"hidden_size": 16}', "single quotes": b"{'hidden_size': 16}"}


def readers(world, run, folder):
    "The commands that read a checkpoint, in turn."
    yield ["generate", "--checkpoint", run, "中"], run
    yield ["evaluate", "--checkpoint", checkpoint_of(run)], run
    yield ["export", "--checkpoint", run, "--out", folder / "cwd/out"], run


def checkpoint_of(run): return max(Path(run).glob("step-*"))


def seal(checkpoint):
    """Let the manifest say what is there now: damage is found by its hashes, but whoever means
    harm writes them anew, and all checks behind them must hold too."""
    noted = json.loads((checkpoint / "manifest.json").read_text())
    for name in noted["files"]:
        content = (checkpoint / name).read_bytes()
        noted["files"][name] = dict(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    put(checkpoint / "manifest.json", json.dumps(noted))


def spoiled(world, group, name, file, content, reader=0, wanted=None, sealed=True):
    """A copy of the run in which one file of its only checkpoint is another; read by one of the
    commands."""
    folder = world.folder()
    run = world.copy(world.run, folder, "run")
    put(checkpoint_of(run) / file, content)
    if sealed and content not in OBJECTS.values() and file != "manifest.json":
        seal(checkpoint_of(run))
    reads = [argv for argv, _ in readers(world, run, folder)]
    argv = world.resume(run) if reader == "resume" else reads[reader % 3]
    return Case(group, f"{file}: {name}, {argv[0]}", folder, argv, wanted or (str(run),))


def bad_model_configs(world):
    good = json.loads((checkpoint_of(world.run) / "config.json").read_text())
    turn = itertools.count()
    def case(name, content, wanted=("config.json",)):
        return spoiled(world, "config.json", name, "config.json", content, next(turn), wanted)
    for name, content in NO_JSON.items(): yield case(name, content)
    for name in good:
        for value in ("16", None, [16], True, -1, float("nan"), float("inf"), 10**400,
                      0.5 if name in MODEL else {}):
            yield case(f"{name} {value!r:.12}", json.dumps(good | {name: value}))
    for name in WHOLE:
        if name not in ("max_seq_len", "num_heads", "num_kv_heads"):
            yield case(f"{name} × 4", json.dumps(good | {name: 4 * good[name]}),
                       ("model.safetensors",))
    for key in ("hidden", "Hidden_Size", "", "\u0000", "__class__", "auto_map", CONTROL,
                "\ud800", "k" * 100_000):
        yield case(f"key {key!r:.15}", json.dumps(good | {key: 1}))
    yield spoiled(world, "config.json", "of another model", "config.json",
                  json.dumps(good | dict(num_kv_heads=2)), "resume")
    for name in ("empty", "list", "deep lists", "BOM", "UTF-16", "a number of 5,000 digits"):
        yield spoiled(world, "config.json", name, "config.json", NO_JSON[name], "resume")


def bad_manifests(world):
    "What an accident leaves: the manifest says something else than the files, or nothing."
    good = json.loads((checkpoint_of(world.run) / "manifest.json").read_text())
    turn = itertools.cycle((0, 1, 2, "resume"))
    def case(name, file, content, reader=None, wanted=None):
        return spoiled(world, "manifest", name, file, content,
                       next(turn) if reader is None else reader, wanted, sealed=False)
    def listing(**changed): return json.dumps(good | dict(files=good["files"] | changed))
    for name, content in (NO_JSON | OBJECTS).items():
        # that is a student alone, carried elsewhere
        if name != "a link to nothing": yield case(name, "manifest.json", content)
    for name, files in {"no files": {}, "null": None, "list": ["config.json"],
                        "text": "config.json", "number": 5}.items():
        yield case(f"files are {name}", "manifest.json", json.dumps(good | dict(files=files)),
                   "resume")
    yield case("without files", "manifest.json",
               json.dumps({k: v for k, v in good.items() if k != "files"}), "resume")
    one = good["files"]["config.json"]
    for key in ("size", "sha256"):
        for value in (None, "", "x", [1], {}, True, -1, 0.5, float("nan"), float("inf"), BIG,
                      10**400, CONTROL, str(one[key])[:-1]):
            yield case(f"{key} {value!r:.12}", "manifest.json",
                       listing(**{"config.json": one | {key: value}}), 0)
    for value in (None, 5, "x", [1], {}):
        yield case(f"about a file: {value!r}", "manifest.json", listing(**{"config.json": value}))
    for name in ("../run.json", "/etc/passwd", "..", ".", "", "a/../../x", "a\0b", "n" * 300,
                 CONTROL, "missing.bin", "\ud800"):
        yield case(f"lists {name!r:.15}", "manifest.json", listing(**{name: one}), "resume")
    for file in ("config.json", "model.safetensors", "trainer.pt"):
        content = (checkpoint_of(world.run) / file).read_bytes()
        flipped = bytearray(content); flipped[len(flipped) // 2] ^= 1
        for name, spoilt in {"emptied": b"", "cut by a byte": content[:-1],
                             "a byte longer": content + b"\0", "one bit turned": bytes(flipped),
                             "zeros": b"\0" * len(content)}.items():
            for reader in ("resume",) if file == "trainer.pt" else (next(turn), "resume"):
                yield case(name, file, spoilt, reader)
        for name, content in OBJECTS.items(): yield case(name, file, content, "resume")
    for file in good["files"]: yield case("emptied", file, b"", "resume")


def tensor_file(tensors, data=b"", length=None):
    "A safetensors file with any header: `tensors` is its JSON, or what is there instead."
    header = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def bad_weights(world):
    good = (checkpoint_of(world.run) / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", good[:8])[0]
    header, data = json.loads(good[8:8 + length]), good[8 + length:]
    names = [n for n in header if n != "__metadata__"]
    turn = itertools.count()
    def case(name, content):
        reader = next(turn) % 4
        return spoiled(world, "weights", name, "model.safetensors", content,
                       "resume" if reader == 3 else reader)
    def changed(name, **settings):
        return tensor_file(header | {name: header[name] | settings}, data)
    first, last = names[0], names[-1]
    for n in (0, 1, 7, 8, 9, 100, 7 + length, 8 + length, 9 + length, len(good) // 2,
              len(good) - 1):
        yield case(f"cut to {n} bytes", good[:n])
    for n in sorted(world.random.sample(range(10, len(good)), 10)):
        yield case(f"cut to {n} bytes", good[:n])
    yield case("a byte more", good + b"\0")
    for n in (0, 1, length - 1, length + 1, 2 * length, 10**8, 10**8 + 1, 2**31, 2**32,
              2**63 - 1, 2**63, 2**64 - 1):
        yield case(f"header said to have {n} bytes", tensor_file(good[8:8 + length], data, n))
    begin = 8 + good[8:].index(f'"{first}"'.encode()) if first in header else 8
    # what stands in the metadata is nobody's business
    begin = max(begin, 8 + good[8:].index(b"}") + 1 if "__metadata__" in header else 8)
    for n in sorted(world.random.sample(range(begin, 8 + len(good[8:8 + length].rstrip())), 30)):
        bit = world.random.randrange(7)
        flipped = bytearray(good); flipped[n] ^= 1 << bit
        yield case(f"bit {bit} of byte {n} of the header flipped", bytes(flipped))
    b, e = header[first]["data_offsets"]
    for name, offsets in {"backwards": [e, b], "beyond the end": [b, e + 10**9],
                          "of another": header[last]["data_offsets"], "empty": [b, b],
                          "negative": [-1, e], "one": [b], "three": [b, e, e],
                          "words": ["a", "b"], "none": None, "huge": [2**63, 2**64 - 1],
                          "beyond 64 bits": [b, BIG], "fractions": [0.5, 1.5]}.items():
        yield case(f"offsets {name}", changed(first, data_offsets=offsets))
    for dtype in ("I32", "U32", "F64", "F16", "BOOL", "F8_E4M3", "nope", "", None, 5, CONTROL):
        yield case(f"dtype {dtype!r:.12}", changed(first, dtype=dtype))
    shape = header[first]["shape"]
    for name, s in {"turned": [*shape[::-1]] if len(shape) > 1 and shape[0] != shape[1]
                    else [1, *shape],
                    "flat": [shape[0] * (shape[1] if len(shape) > 1 else 1), 1, 1], "empty": [],
                    "negative": [-1, *shape[1:]], "words": ["4"], "huge": [2**40, 2**40],
                    "beyond 64 bits": [BIG], "zero": [0], "none": None,
                    "of a thousand": [1] * 1000}.items():
        yield case(f"shape {name}", changed(first, shape=s))
    for name, text in {"empty": b"", "no JSON": b"x" * 100, "list": b"[]", "null": b"null",
                       "deep": b"[" * 100_000, "deep objects": b'{"a":' * 100_000,
                       "not UTF-8": b'{"\xff": 1}', "no tensors": b"{}",
                       "a tensor is a number": b'{"a": 5}',
                       "metadata is a number": b'{"__metadata__": 5}',
                       "metadata of numbers": b'{"__metadata__": {"a": 5}}'}.items():
        yield case(f"header {name}", tensor_file(text, data))
    more = dict(dtype="F32", shape=[1], data_offsets=[len(data), len(data) + 4])
    yield case("a name too many", tensor_file(header | {"more": more}, data + b"\0" * 4))
    yield case("a name too few", tensor_file({k: v for k, v in header.items() if k != last}, data))
    yield case("another name",
               tensor_file({k + "x" * (k == last): v for k, v in header.items()}, data))
    yield case("a name of control characters",
               tensor_file({(CONTROL if k == last else k): v for k, v in header.items()}, data))
    yield case("a header of 20 MB", tensor_file(b" " * 20_000_000, data))
    yield case("a pickle", evil_pickle(world))
    yield case("zeros", b"\0" * 1000)
    yield case("random bytes", world.random.randbytes(1000))
    for reader, name in itertools.product((0, 2), OBJECTS):
        yield spoiled(world, "weights", name, "model.safetensors", OBJECTS[name], reader)
    nan = struct.pack("<f", float("nan"))
    found = spoiled(world, "weights", "not finite", "model.safetensors",
                    tensor_file(header, nan * (len(data) // 4)), 0, ("finite",))
    yield found._replace(argv=[*found.argv[:-1], "--strategy", "top_k", "中"])


def fifo(path): os.mkfifo(path)
def folder_instead(path): path.mkdir()
def dangling(path): path.symlink_to("nowhere")
def loop(path): path.symlink_to(path.name)
def device(path): path.symlink_to("/dev/zero")


OBJECTS = {"a folder": folder_instead, "a link to nothing": dangling, "a link to itself": loop,
           "a pipe that nobody writes to": fifo, "a device": device}


# Pickles

class Evil:
    "Unpickled, it makes a file."
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f"touch {self.path}",)


def pwned(world): return world.root / "pwned"


def evil_pickle(world, wrap=lambda x: x): return pickle.dumps(wrap(Evil(pwned(world))), protocol=2)


def zipped(**files):
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w") as z:
        for name, content in files.items():
            z.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return box.getvalue()


def saved_bytes(content):
    import torch
    box = io.BytesIO()
    torch.save(content, box)
    return box.getvalue()


def bad_trainer_files(world):
    import torch
    path = checkpoint_of(world.run) / "trainer.pt"
    good, saved = path.read_bytes(), torch.load(path, weights_only=True)
    def case(name, content):
        return spoiled(world, "trainer.pt", name, "trainer.pt", content, "resume")
    for n in (0, 1, 4, 30, 100, len(good) // 2, len(good) - 100, len(good) - 22, len(good) - 1):
        yield case(f"cut to {n} bytes", good[:n])
    for n in sorted(world.random.sample(range(100, len(good)), 10)):
        yield case(f"cut to {n} bytes", good[:n])
    for n in (100, 2000): yield case(f"{n} random bytes", world.random.randbytes(n))
    entries = [m.start() for m in re.finditer(b"PK\1\2", good)]  # of the zip's list
    for n in range(5):
        spoilt, at = bytearray(good), entries[-1]
        if n: at = world.random.choice(entries) - world.random.randrange(30)
        spoilt[at:at + 40] = world.random.randbytes(len(spoilt[at:at + 40]))
        yield case(f"the zip's list spoilt at {at}", bytes(spoilt))
    yield case("a pickle that runs", evil_pickle(world))
    yield case("a pickle that runs, in a dict",
               evil_pickle(world, lambda evil: {"current_step": evil}))
    for protocol in (0, 1, 4, 5):
        yield case(f"a pickle of protocol {protocol} that runs",
                   pickle.dumps(Evil(pwned(world)), protocol=protocol))
    yield case("a zip with a pickle that runs",
               zipped(archive__data_dot_pkl=evil_pickle(world), archive__version="3\n",
                      archive__byteorder="little"))
    yield case("a pickle that asks for eval",
               b"cbuiltins\neval\n(S'open(\"%s\", \"w\")'\ntR." % str(pwned(world)).encode())
    yield case("a pickle that asks for runpy", b"crunpy\nrun_path\n(S'/etc/passwd'\ntR.")
    yield case("a script of TorchScript",
               zipped(archive__constants_dot_pkl=b"\x80\x02).",
                      archive__code__x_dot_py="import os"))
    yield case("an empty zip", zipped())
    yield case("a zip without a pickle", zipped(archive__version="3\n"))
    yield case("a zip that would leave its folder",
               zipped(**{"______etc__x": "1", "archive__data_dot_pkl": pickle.dumps({})}))
    yield case("a zip with a bomb",
               zipped(archive__data_dot_pkl=pickle.dumps({"a": b"\0" * 1_000_000})))
    for name, content in {"nothing": {}, "a list": [1], "a number": 5, "text": "x",
                          "None": None, "a tensor": torch.zeros(3),
                          "a deep list": deep_list(100)}.items():
        yield case(f"holds {name}", saved_bytes(content))
    for key in saved.keys() - {"warmup_steps"}: # which older ones lack
        yield case(f"lacks {key}", saved_bytes({k: v for k, v in saved.items() if k != key}))
    # without a path this would be a run without a whole checkpoint, which starts from the beginning
    for name, content in OBJECTS.items():
        found = case(name, content)
        yield found._replace(argv=[*found.argv, found.folder / "run"])


def bad_states(world):
    "Whole files of the right kind, with values that no training has written."
    import torch
    saved = torch.load(checkpoint_of(world.run) / "trainer.pt", weights_only=True)
    def case(name, content): return spoiled(world, "state", name, "trainer.pt", content, "resume")
    for key in ("current_step", "current_epoch", "epoch_step", "blocks_per_step"):
        for value in ("5", None, -1, float("nan"), 0.5, [1], BIG, torch.zeros(2),
                      *([0] if key == "blocks_per_step" else [])):
            yield case(f"{key} {value!r:.12}", saved_bytes(saved | {key: value}))
    for value in ("5", None, [1], {}):
        yield case(f"best_val_loss {value!r}", saved_bytes(saved | dict(best_val_loss=value)))
    for key in ("training_config", "data"):
        for value in (None, 5, [1], "x"):
            yield case(f"{key} {value!r}", saved_bytes(saved | {key: value}))
    optimizer = saved["optimizer"]
    state = optimizer["state"]
    one = dict(state[0], exp_avg=torch.zeros(3))
    half = {k: v for k, v in state.items() if k}
    longer = [dict(g, params=[*g["params"], 99]) for g in optimizer["param_groups"]]
    for name, value in {"None": None, "empty": {}, "a list": [1], "text": "x",
                        "without groups": dict(optimizer, param_groups=[]),
                        "without state": dict(param_groups=optimizer["param_groups"]),
                        "with a state that is a list": dict(optimizer, state=[1]),
                        "with groups that are text": dict(optimizer, param_groups="ab"),
                        "of other shapes": dict(optimizer, state=state | {0: one}),
                        "with half its state": dict(optimizer, state=half),
                        "with more parameters": dict(optimizer, param_groups=longer)}.items():
        yield case(f"optimizer {name}", saved_bytes(saved | dict(optimizer=value)))


def deep_list(n):
    found = []
    for _ in range(n): found = [found]
    return found


# What lies beside the checkpoints

def bad_notes(world):
    whole = json.loads((world.run / "run.json").read_text())
    noted = {key: whole[key]
             for key in "teacher dataset dataset_name sample_mb seq_len seed".split()}
    # as the first edition wrote it
    first = noted | dict(batch_size=whole["training"]["batch_size"])
    def case(name, content, wanted=("run.json",)):
        folder = world.folder()
        run = world.copy(world.run, folder, "run")
        put(run / "run.json", content)
        return Case("run.json", name, folder, ["evaluate", "--checkpoint", run], wanted)
    for name, content in NO_JSON.items(): yield case(name, content)
    for name, content in OBJECTS.items(): yield case(name, content)
    for edition, good in dict(whole=whole, first=first).items():
        for key in noted if edition == "whole" else first:
            less = {k: v for k, v in good.items() if k != key}
            yield case(f"{edition}, lacks {key}", json.dumps(less))
            for value in (None, [1], {}, True):
                yield case(f"{edition}, {key} {value!r}", json.dumps(good | {key: value}))
        for key in ("sample_mb", "seq_len", "seed", "batch_size"):
            for value in ("5", -1, float("nan"), float("inf"), BIG, 10**400,
                          *([0] if key != "seed" else []), *([0.5] if key != "sample_mb" else [])):
                yield case(f"{edition}, {key} {value!r:.12}", json.dumps(good | {key: value}), ())
        for key in ("teacher", "dataset"):
            for value in (5, "", " ", "\0", "a\0b", CONTROL, "\ud800", "a" * 5000,
                          "/nowhere/at/all.txt"):
                yield case(f"{edition}, {key} {value!r:.12}", json.dumps(good | {key: value}), ())
    for part in ("model", "training"):
        for value in (None, 5, "x", [1], True, whole[part] | dict(bogus=1)):
            yield case(f"{part} {str(value)[:12]!r}", json.dumps(whole | {part: value}))
        for key in whole[part]:
            for value in (None, [1], "x" if key != "checkpoint_dir" else 5):
                spoilt = whole | {part: whole[part] | {key: value}}
                yield case(f"{part}.{key} {value!r}", json.dumps(spoilt))
    for key in ("bogus", "__class__", CONTROL, "k" * 100_000):
        yield case(f"key {key!r:.15}", json.dumps(whole | {key: 1}))
    for value in (0, 1.0, -0.1, "x", None):
        yield case(f"val_fraction {value!r}", json.dumps(whole | dict(val_fraction=value)))


def bad_studies(world):
    def case(name, file, content):
        folder = world.folder()
        (folder / "out").mkdir()
        put(folder / "out" / file, content)
        argv = world.train(folder / "cwd/run")
        return Case("study", f"{file}: {name}", folder,
                    ["study", *argv[1:], "--out", folder / "out", "--seeds", "1"],
                    (str(folder / "out"),))
    for name in ("empty", "cut", "list", "null", "deep lists", "binary", "UTF-16",
                 "a number of 5,000 digits"):
        yield case(name, "study.json", NO_JSON[name])
    for name in ("a folder", "a pipe that nobody writes to", "a device"):
        yield case(name, "study.json", OBJECTS[name])
    head = "alpha,temperature,steps,share,seed,loss,agreement\n"
    rows = {"words": "a,b,c,d,e,f,g", "a row too short": "0.5,1.0",
            "a row too long": "0.5,1.0,2,1.0,42,1.0,1.0,9",
            "a fraction of a step": "0.5,1.0,2.5,1.0,42,1.0,1.0",
            "a field of 200,000 letters": "x" * 200_000 + ",1.0,2,1.0,42,1.0,1.0",
            "steps of 5,000 digits": "0.5,1.0," + "9" * 5000 + ",1.0,42,1.0,1.0"}
    files = {name: f"{head}{row}\n" for name, row in rows.items()}
    files |= {"other columns": "a,b\n1,2\n", "no UTF-8": b"\xff\xfe\n\xff\n"}
    for name, content in files.items():
        yield case(name, "results.csv", content)


# Data

def bad_data(world):
    import pyarrow as pa, pyarrow.parquet as pq
    def case(name, file, content, wanted=None):
        folder = world.folder()
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        put(path, content)
        return Case("data", f"{file}: {name}", folder,
                    world.train(folder / "cwd/run", dataset=path), wanted or (str(path),))
    text = Path(world.text).read_bytes()
    for name, content in {"empty": b"", "blank": b" \n\n \t\n", "BOM alone": b"\xef\xbb\xbf",
                          "one article": "中国的名胜".encode(), "one article of NULs": b"\0" * 1000,
                          "Latin-1": b"caf\xe9\n\nth\xe9", "GBK": "中国\n\n北京".encode("gbk"),
                          "UTF-16": "中国\n\n北京".encode("utf-16"),
                          "a cut character": text[:1000] + "中".encode()[:2],
                          "a surrogate": text[:900] + b"\xed\xa0\x80",
                          "ends in a cut character": text + b"\xe4",
                          "too short": "中国\n\n北京".encode(), "a gzip": b"\x1f\x8b\x08\0\0\0\0\0"
                          + bytes(range(128, 256)),
                          "a long line that is no UTF-8": b"a" * 3_000_000 + b"\xff"}.items():
        yield case(name, "a.txt", content)
    for n in sorted(world.random.sample(range(1000, len(text)), 5)):
        yield case(f"byte {n} is 0xFF", "a.txt", text[:n] + b"\xff" + text[n:])
    lines = [json.dumps(dict(text=t), ensure_ascii=False) for t in text.decode().split("\n\n")]
    for n in range(10):
        at = world.random.randrange(len(lines))
        cut = lines[at][:world.random.randrange(1, len(lines[at]) - 1)]
        yield case(f"line {at + 1} cut", "a.jsonl",
                   "\n".join([*lines[:at], cut, *lines[at + 1:]]), (f"a.jsonl line {at + 1}",))
    for name, line in {"list": "[]", "number": "5", "null": "null", "string": '"x"',
                       "no text": '{"body": "x"}', "text a number": '{"text": 5}',
                       "text a list": '{"text": ["x"]}', "text true": '{"text": true}',
                       "deep": "[" * 100_000, "a surrogate": '{"text": "\\ud800"}',
                       "a number of 5,000 digits": '{"text": ' + "9" * 5000 + "}",
                       "a line of 3 MB": '{"text": "' + "x" * 3_000_000,
                       "control characters": json.dumps(CONTROL)[1:-1] + CONTROL[:3],
                       "NaN": "NaN", "two objects": '{"text": "a"}{"text": "b"}'}.items():
        yield case(name, "a.jsonl", "\n".join([*lines[:2], line]), ("a.jsonl line 3",))
    yield case("UTF-16", "a.jsonl", "\n".join(lines).encode("utf-16"))
    box = io.BytesIO()
    pq.write_table(pa.table(dict(text=[json.loads(l)["text"] for l in lines])), box)
    table = box.getvalue()
    for n in (0, 4, 8, 100, len(table) - 8, len(table) - 4, len(table) - 1,
              *sorted(world.random.sample(range(200, len(table)), 5))):
        yield case(f"cut to {n} bytes", "a.parquet", table[:n])
    size = struct.unpack("<I", table[-8:-4])[0]
    for name, footer in {"zeros": b"\0" * size, "0xFF": b"\xff" * size,
                         "random": world.random.randbytes(size),
                         "random again": world.random.randbytes(size),
                         "turned around": table[-8 - size:-8][::-1]}.items():
        yield case(f"footer of {name}", "a.parquet", table[:-8 - size] + footer + table[-8:])
    for n in (0, 1, 2**31, 2**32 - 1):
        yield case(f"footer said to have {n} bytes", "a.parquet",
                   table[:-8] + struct.pack("<I", n) + b"PAR1")
    for name, column in {"numbers": pa.array([1, 2]), "bytes": pa.array([b"a", b"\xff"]),
                         "lists": pa.array([["a"], ["b"]]),
                         "objects": pa.array([{"a": "b"}] * 2)}.items():
        def write(path, column=column): pq.write_table(pa.table(dict(text=column)), path)
        yield case(f"text of {name}", "a.parquet", write)
    yield case("another column", "a.parquet",
               lambda path: pq.write_table(pa.table(dict(body=["a", "b"])), path))
    yield case("no column", "a.parquet", lambda path: pq.write_table(pa.table({}), path))
    yield case("a text", "a.parquet", text)
    for name in ("a.csv", "a.csv.gz", "a", "a.json", "a.rtf"):
        yield case("another ending", name, text)
    yield case("one bad among good ones", "many/b.txt", b"\xff",
               None)._replace(name="a bad file in a folder")
    for name in ("a link to nothing", "a link to itself", "a folder"):
        for file in ("a.txt", "a.jsonl", "a.parquet"): yield case(name, file, OBJECTS[name])
    yield case("a name of control characters", "a\x1b[2J\n.txt", b"\xff", (r"a\x1b[2J\n.txt",))
    def named(name, dataset, wanted):
        return Case("data", f"--dataset {name}", folder := world.folder(),
                    world.train(folder / "cwd/run", dataset=dataset), wanted)
    for dataset in ("/dev/null", "/proc/self/mem", "/nowhere/x.txt", "./x.jsonl", "..",
                    "~nobody-of-this-name/x.txt", "no/such/data/set", "a" * 300, "a" * 5000,
                    "x" * 300 + ".txt", "a b/c", "../../etc/passwd", "file:///etc/passwd",
                    "a/b\n", CONTROL):
        yield named(f"{dataset!r:.25}", dataset, (dataset[:20].split("\x1b")[0].strip(),))
    for dataset in ("", " "): yield named(repr(dataset), dataset, ("empty",))
    for value in ("0.000001", "1e9", "1e300"):
        yield Case("data", f"--sample-mb {value}", folder := world.folder(),
                   world.train(folder / "cwd/run", sample_mb=value), ())


# Folders

def bad_folders(world):
    def file_in(folder):
        put(folder / "file", b"x")
        return folder / "file"
    def case(name, make, wanted=None, before=lambda folder: None):
        folder = world.folder()
        before(folder)
        argv, place = make(folder)
        return Case("folders", name, folder, argv, wanted or (str(place)[:200],))
    long, deep = "n" * 300, "d/" * 3000
    for name, place in {"a file": file_in, "below a file": lambda f: file_in(f) / "run",
                        "name too long": lambda f: f / long,
                        "path too long": lambda f: f / deep,
                        "below a device": lambda f: Path("/dev/null/run"),
                        "in /proc": lambda f: Path("/proc/nowhere")}.items():
        yield case(f"train --checkpoint-dir {name}", lambda f: (world.train(place(f)), place(f)))
        yield case(f"train --resume, --checkpoint-dir {name}",
                   lambda f: (world.resume(place(f)), place(f)))
        yield case(f"train --resume PATH {name}",
                   lambda f: ([*world.train(f / "cwd/run"), "--resume", place(f)], place(f)))
        yield case(f"export --out {name}",
                   lambda f: (["export", "--checkpoint", world.run, "--out", place(f)], place(f)))
        yield case(f"demo --out {name}",
                   lambda f: (["demo", "--out", place(f), "--max-steps", "1"], place(f)))
        yield case(f"study --out {name}",
                   lambda f: (["study", *world.train(f / "cwd/run")[1:], "--seeds", "1",
                               "--out", place(f)], place(f)))
        for command in ("generate", "evaluate", "export"):
            yield case(f"{command} --checkpoint {name}",
                       lambda f: ([command, "--checkpoint", place(f)], place(f)))
        yield case(f"bench --out {name}",
                   lambda f: (["bench", "loss", "--preset", "tiny", "--out", place(f) / "x"],
                              place(f)))
    yield case("bench --out a folder",
               lambda f: (["bench", "loss", "--preset", "tiny", "--out", f], f))
    yield case("train in the folder of a run", lambda f: (world.train(world.run), world.run))
    yield case("export into the folder of a run",
               lambda f: (["export", "--checkpoint", world.run, "--out", world.run], world.run))
    for command in ("generate", "evaluate", "export"):
        for name, place in {"empty": "", "blank": " ", "of control characters": CONTROL,
                            "no UTF-8": b"\xff\xfe", "~": "~nobody-of-this-name", "glob": "*",
                            "a link to itself": "loop"}.items():
            yield case(f"{command} --checkpoint {name}",
                       lambda f: ([command, "--checkpoint", place], f), ("no checkpoint in",),
                       lambda f: loop(f / "cwd/loop"))
    for name, place in {"empty": "", "of control characters": CONTROL, "no UTF-8": b"\xff\xfe",
                        "a link to itself": "loop",
                        "a step that is not there": world.run / "step-99999999",
                        "the teacher's": world.teacher,
                        "its weights": checkpoint_of(world.run) / "model.safetensors"}.items():
        yield case(f"--resume {name}",
                   lambda f: ([*world.train(f / "cwd/run"), b"--resume=" + os.fsencode(place)],
                              place), ("resume|checkpoint",), lambda f: loop(f / "cwd/loop"))
    yield case("an exported folder as a checkpoint",
               lambda f: (["generate", "--checkpoint", world.teacher], world.teacher))
    def steps(f, *names):
        for name in names: (f / "run" / name).mkdir(parents=True)
    for name in ("step-x", "step-", "step-00000001", "step-²", "step--1", "step-" + "9" * 200,
                 "step-1.5", "step-\x1b[2J"):
        yield case(f"a run with only {name!r:.20}",
                   lambda f: (["generate", "--checkpoint", f / "run"], f / "run"), None,
                   lambda f: steps(f, name))
        yield case(f"a run with only {name!r:.20}, --resume PATH",
                   lambda f: ([*world.train(f / "cwd/run"), "--resume", f / "run"], f / "run"),
                   None, lambda f: steps(f, name))


# Teachers

def bad_teachers(world):
    config = json.loads((Path(world.teacher) / "config.json").read_text())
    weights = (Path(world.teacher) / "model.safetensors").read_bytes()
    tokenizer = (Path(world.teacher) / "tokenizer.json").read_bytes()
    def case(name, file, content, command="evaluate"):
        folder = world.folder()
        teacher = world.copy(world.teacher, folder, "teacher")
        if content is None: (teacher / file).unlink()
        else: put(teacher / file, content)
        argv = {"evaluate": ["evaluate", "--checkpoint", world.run, "--teacher", teacher],
                "train": world.train(folder / "cwd/run", teacher=teacher),
                "plan": ["plan", "--teacher", teacher]}[command]
        return Case("teachers", f"{file}: {name}, {command}", folder, argv, (str(teacher),))
    for name in NO_JSON:
        if name not in ("a number of 5,000 digits", "a long line"):
            yield case(name, "config.json", NO_JSON[name], "plan" if len(name) % 2 else "evaluate")
        if name != "BOM": yield case(name, "tokenizer.json", NO_JSON[name])
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                "intermediate_size"):
        for value in ("x", None, [1], -1, 0, 10**400):
            yield case(f"{key} {value!r:.12}", "config.json", json.dumps(config | {key: value}),
                       "plan" if value == "x" else "evaluate")
    for value in ("nope", "", None, 5, "bert"):
        yield case(f"model_type {value!r}", "config.json",
                   json.dumps({k: v for k, v in config.items() if k != "architectures"}
                              | dict(model_type=value)))
    for n in (0, 7, 100, len(weights) // 2, len(weights) - 1):
        yield case(f"cut to {n} bytes", "model.safetensors", weights[:n])
    for n in (2**63, 2**64 - 1, 10**8):
        yield case(f"header said to have {n} bytes", "model.safetensors",
                   struct.pack("<Q", n) + weights[8:])
    for n in (100, len(tokenizer) // 2, len(tokenizer) - 2):
        yield case(f"cut to {n} bytes", "tokenizer.json", tokenizer[:n], "train")
    for name, content in OBJECTS.items():
        if name != "a device":
            for file in ("config.json", "model.safetensors"): yield case(name, file, content)
    for file in ("config.json", "model.safetensors"): yield case("missing", file, None)
    for place in ("", "/nowhere", "~nobody-of-this-name/x", "./x", "a/b/c", "no-such/teacher",
                  CONTROL, b"\xff\xfe", "a" * 5000):
        folder = world.folder()
        yield Case("teachers", f"--teacher {place!r:.25}", folder,
                   [*world.train(folder / "cwd/run", teacher="T")[:-2],
                    "--checkpoint-dir", folder / "cwd/run", b"--teacher=" + os.fsencode(place)], ())


GROUPS = dict(flags=bad_flags, fields=bad_fields, prompts=bad_prompts, manifests=bad_manifests,
              configs=bad_model_configs, weights=bad_weights, trainer=bad_trainer_files,
              states=bad_states, notes=bad_notes, studies=bad_studies, data=bad_data,
              folders=bad_folders, teachers=bad_teachers)
