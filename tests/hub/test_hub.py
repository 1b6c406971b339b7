"""A hub that fails in every way that it can, against the real loading code.

The stand-in of tests/hub/rehearsal plays the faults and counts them.
"""
import json, os, pickle, re, shutil, signal, subprocess, sys, time
from hashlib import sha256
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from shell import finish, run, start
from test_rehearsal import Hub, settings

pytestmark = pytest.mark.slow

MODEL, DATA, PLAIN = "org/model", "org/text", "org/plain"
COMMIT = "a" * 40
WEIGHTS = f"GET /{MODEL}/resolve/{COMMIT}/model.safetensors"
PARQUET = f"GET /datasets/{DATA}/resolve/{COMMIT}/zh"
KINDS = "429", "500", "reset", "stall", "cut", "wrong"
GROUPS = 12
PATIENCE = 2  # seconds that a user's process waits for an answer

# A user's process that loads what it is told to, one thing after another; it waits a hundredth
# of what a user's would.
CLIENT = '''
import hashlib, json, logging, sys, time
import distill_nb.data as data, distill_nb.hub as hub
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer
slept = []
hub.time = type("Time", (), dict(sleep=lambda s: (slept.append(s), time.sleep(s / 100))))
logging.getLogger("distill_nb").addHandler(logging.StreamHandler())
logging.getLogger("distill_nb").setLevel(logging.INFO)
tiny = hub.load_pretrained(AutoTokenizer, "tiny")
print("ready", flush=True)
for line in sys.stdin:
    what, folder = json.loads(line)
    constants.HF_HUB_CACHE, begin, error, result = folder, time.monotonic(), None, None
    slept.clear()
    try:
        if what == "tokenizer": result = len(hub.load_pretrained(AutoTokenizer, "MODEL"))
        elif what.startswith("data"):
            name = what[5:] or "zh"
            source = "PLAIN" if name == "default" else "DATA"
            if "/" in name: source, name = name.rsplit("/", 1)
            kept = data.WikiDataset(source, name, sample_mb=1000, seq_len=32, tokenizer=tiny,
                                    cache_dir=folder)
            parts = (kept.train.tokens.tobytes(), kept.valid.tokens.tobytes())
            result = [hashlib.sha256(part).hexdigest() for part in parts]
        else:
            model = hub.load_pretrained(AutoModelForCausalLM, what)
            result = float(sum(p.double().abs().sum() for p in model.parameters()))
    except hub.BadInput as e: error = str(e)
    seconds = time.monotonic() - begin
    print(json.dumps(dict(result=result, error=error, slept=slept, seconds=seconds)), flush=True)
'''


@pytest.fixture(scope="module")
def material(teacher_folder, tmp_path_factory):
    """What the hub serves.

    A model with code and a pickle beside its weights, and the tiny text in parquet files of some
    row groups, with checksums.
    """
    import pyarrow as pa, pyarrow.parquet as pq
    from distill_nb.tour import tiny_text
    root = tmp_path_factory.mktemp("hub")
    model = root / "models" / MODEL
    model.mkdir(parents=True)
    for f in teacher_folder.iterdir(): (model / f.name).write_bytes(f.read_bytes())
    for name in ("pytorch_model.bin", "modeling.py", "onnx/config.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not to be asked for")
    names = {"pickle": ("config.json", "tokenizer.json", "tokenizer_config.json"),
             "coded": [f.name for f in teacher_folder.iterdir()]}
    for name, files in names.items():
        folder = root / "models/org" / name
        folder.mkdir()
        for f in files: (folder / f).write_bytes((teacher_folder / f).read_bytes())
        for f in ("pytorch_model.bin", "code.py"): (folder / f).write_bytes(b"not to be asked for")
    path = root / "models/org/coded/config.json"
    auto_map = dict(AutoModelForCausalLM="code.Model", AutoConfig="code.Config")
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(auto_map=auto_map)))
    articles = tiny_text().strip().split("\n\n")[:1200]
    table = pa.table(dict(id=[str(i) for i in range(len(articles))], title=articles, text=articles))
    for i, name in enumerate(("train-00000-of-00002", "train-00001-of-00002")):
        path = root / "datasets" / DATA / f"zh/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(i * 600, 600), path, row_group_size=1200 // GROUPS,
                       write_page_checksum=True, use_dictionary=False)
    plain = root / "datasets" / PLAIN
    shutil.copytree(root / "datasets" / DATA / "zh", plain / "data")
    (plain / "README.md").write_text("---\nlicense: mit\n---\n")
    rows = root / "datasets" / DATA / "rows"
    rows.mkdir()
    lines = "\n".join(json.dumps(dict(text=a)) for a in articles)
    (rows / "train-0.jsonl").write_text(lines, encoding="utf-8")
    for name in ("org/named", "org/unnamed", "org/rows"):
        put_splits(root / "datasets" / name, articles, name)
    return root


def put_splits(folder, articles, name):
    "A data set with a validation split, by its card or by the names of its files alone."
    import pyarrow as pa, pyarrow.parquet as pq
    (folder / "data").mkdir(parents=True)
    for split, some in dict(train=articles[:900], validation=articles[900:]).items():
        path = folder / f"data/{split}-0"
        if name == "org/rows":
            lines = "\n".join(json.dumps(dict(text=a)) for a in some)
            path.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
        else: pq.write_table(pa.table(dict(text=some)), path.with_suffix(".parquet"))
    splits = "".join(f"  - split: {split}\n    path: data/{split}-*\n"
                     for split in ("train", "validation"))
    card = f"configs:\n- config_name: default\n  data_files:\n{splits}"
    if name != "org/named": card = "license: mit\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")


class Client:
    "The process of CLIENT: `client(what, folder)`, and what it has written to stderr since."
    def __init__(self, address, folder, prelude=""):
        self.err = folder / "err"
        code = prelude + CLIENT
        for word, name in dict(MODEL=MODEL, DATA=DATA, PLAIN=PLAIN).items():
            code = code.replace(f'"{word}"', repr(name))
        timeouts = dict.fromkeys(("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"), str(PATIENCE))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.err.open("w"), env=os.environ | settings(address, folder) | timeouts)
        assert self.process.stdout.readline() == "ready\n", self.err.read_text()

    def __call__(self, what, folder):
        before = len(self.err.read_text())
        self.process.stdin.write(json.dumps([what, str(folder)]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or "{}")
        return answer | dict(lines=self.err.read_text()[before:].splitlines())


class Faulty(Hub):
    "The stand-in with its faults, and their number."
    faults = 0

    def play(self, *faults): # (kind, times, text)
        urlopen(Request(f"{self.address}/faults", json.dumps(faults).encode())).read()
        self.seen = len(self.log.read_text())

    def since(self): return self.log.read_text()[self.seen:].splitlines()

    def sent(self, text): # bytes of bodies since `play`
        lines = [line for line in self.since() if line.startswith("SENT") and text in line]
        return sum(int(line.split()[-1]) for line in lines)


@pytest.fixture(scope="module")
def hub(material, tmp_path_factory):
    with Faulty(material, tmp_path_factory.mktemp("log") / "requests.log") as hub:
        yield hub
        print(f"{len(hub.asked('FAULT'))} faults")


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = Client(hub.address, tmp_path_factory.mktemp("client"))
    yield client
    client.process.kill()


@pytest.fixture(scope="module")
def good(hub, client, tmp_path_factory):
    "What an undisturbed hub gives, and how many bytes it sends for it."
    folder, good = tmp_path_factory.mktemp("good"), {}
    for what, text in (("tokenizer", MODEL), (MODEL, "model.safetensors"), ("data", ".parquet")):
        hub.play()
        done = client(what, folder)
        assert done["error"] is None and done["slept"] == [], done
        good[what] = dict(result=done["result"], sent=hub.sent(text), since=hub.since())
    return good


def test_only_what_is_needed_is_asked_for(good):
    lines = good[MODEL]["since"] + good["tokenizer"]["since"]
    names = {m[1] for line in lines if (m := re.search(r"/resolve/[^/]+/(\S*)", line))}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not [n for n in names if not re.fullmatch(r"[\w.-]+\.(json|safetensors|txt)", n)], names


ASKED = {"tokenizer": ("tokenizer", f"GET /{MODEL}/resolve"),
         "model-info": ("tokenizer", f"GET /api/models/{MODEL}"),
         "weights": (MODEL, WEIGHTS), "weights-head": (MODEL, WEIGHTS.replace("GET", "HEAD")),
         "parquet": ("data", PARQUET), "parquet-head": ("data", PARQUET.replace("GET", "HEAD"))}
WITH_BODY = "tokenizer", "weights", "parquet"


@pytest.mark.parametrize("asked, kind", [(a, k) for a in ASKED for k in KINDS
                                         if k != "wrong" or a in WITH_BODY])
def test_fault_that_ends(kind, asked, hub, client, good, tmp_path):
    """Two faults, and then all is well: the same comes, and each fault is told in one line.

    The first of two wrong bytes in a parquet file is before the table at its end, among 64 kB
    that are fetched with it and not read.
    """
    what, text = ASKED[asked]
    hub.play((kind, 2, text))
    done = client(what, tmp_path)
    faults = [line for line in hub.since() if line.startswith("FAULT")]
    assert done["error"] is None and done["result"] == good[what]["result"], done
    told = [line for line in done["lines"] if "trying again in" in line]
    seen = 1 if (asked, kind) == ("parquet", "wrong") else 2
    assert len(faults) == 2 and len(told) == len(done["slept"]) == seen, (faults, done)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "wrong"])
def test_fault_in_the_list_of_data(kind, hub, client, good, tmp_path):
    hub.play((kind, 2, f"GET /api/datasets/{DATA}"))
    done = client("data", tmp_path)
    assert done["result"] == good["data"]["result"] and len(done["slept"]) == 2, done


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what, text", [(MODEL, WEIGHTS), ("data", PARQUET)], ids=["model", "data"])
def test_fault_for_ever(kind, what, text, hub, client, good, tmp_path):
    """Five tries, one line each but for the last, then one sentence.

    Nothing half is found later, and the next call, at a hub that is well, gets what had not come.
    """
    file = "model.safetensors" if what == MODEL else ".parquet"
    if what == "data":
        hub.play(("500", -1, text.replace("zh", "zh/train-00001")))
        assert "500" in client(what, tmp_path)["error"]
    hub.play((kind, -1, text))
    done = client(what, tmp_path)
    error = done["error"].replace(DATA, "data")
    assert what in error and "5 tries in vain" in error and "\n" not in error, done
    assert done["slept"] == ([3, 3, 4, 8] if kind == "429" else [1, 2, 4, 8]), done
    assert done["seconds"] < 15, done
    assert sum("trying again in" in line for line in done["lines"]) == 4, done["lines"]
    had = sum(f.stat().st_size for f in tmp_path.glob("models--*/blobs/*.part"))
    assert (had > 0) == (what == MODEL and kind in ("reset", "stall", "cut"))
    assert not list(tmp_path.glob(f"models--*/snapshots/*/{file}"))
    assert not list(tmp_path.glob("*/about.json"))
    hub.play()
    again = client(what, tmp_path)
    assert again["result"] == good[what]["result"] and not list(tmp_path.glob("*.part")), again
    if what == MODEL: assert hub.sent(file) == good[what]["sent"] - had, (hub.since(), had)
    else: # of the first file, the table at its end again
        assert hub.sent("train-00000") < 70_000 < hub.sent("train-00001")


def test_data_that_is_not_parquet(hub, client, good, tmp_path):
    hub.play()
    assert client("data rows", tmp_path)["result"] == good["data"]["result"]
    assert not list(tmp_path.glob("*.part"))


def test_data_whose_card_lists_no_files(hub, client, good, tmp_path):
    "`datasets` says which files; their row groups come one by one, and none of them twice."
    hub.play(("500", -1, f"GET /datasets/{PLAIN}/resolve/{COMMIT}/data/train-00001"))
    assert "5 tries in vain" in client("data default", tmp_path)["error"]
    hub.play()
    assert client("data default", tmp_path)["result"] == good["data"]["result"]
    assert hub.sent("train-00000") < 70_000 < hub.sent("train-00001"), hub.since()


def test_a_split_for_validation_validates(hub, client, material, tmp_path, cache_folder):
    "However the hub says which files it is; and the same of a copy in a folder."
    from distill_nb.data import WikiDataset
    hub.play()
    copy = WikiDataset(str(material / "datasets/org/rows"), "", 1000, 32, "tiny")
    wanted = [sha256(part.tokens.tobytes()).hexdigest() for part in (copy.train, copy.valid)]
    for name in ("named", "unnamed", "rows"):
        done = client(f"data org/{name}/default", tmp_path / name)
        assert done["result"] == wanted, (name, done)
        assert any("is the split that the data set has" in line for line in done["lines"]), done
        assert not any("far from" in line for line in done["lines"]), done
        assert not list((tmp_path / name).glob("*.part"))


def test_hub_that_knows_no_ranges(hub, client, good, tmp_path):
    "It is asked for the second half and sends all of it."
    hub.play(("cut", 1, WEIGHTS), ("whole", 1, WEIGHTS))
    done = client(MODEL, tmp_path)
    assert done["result"] == good[MODEL]["result"] and done["slept"] == [1], done
    assert hub.sent("model.safetensors") > 1.4 * good[MODEL]["sent"]


def test_the_hub_says_how_long_to_wait(hub, client, tmp_path):
    hub.play(("429", 3, WEIGHTS))
    assert client(MODEL, tmp_path)["slept"] == [3, 3, 4], "the stand-in asks for three seconds"


def test_hub_that_does_not_answer_at_all(hub, client, tmp_path):
    hub.play(("stall", -1, "HEAD /"))
    done = client(MODEL, tmp_path)
    assert "does not answer" in done["error"] and done["seconds"] < 5 * PATIENCE + 15, done


def test_what_the_hub_does_not_have(hub, client, tmp_path):
    "It is not asked for again, and nothing is said of tries."
    hub.play()
    for what in ("org/nothing", "data nothing"):
        done = client(what, tmp_path)
        assert "no such thing" in done["error"] or "nothing" in done["error"], done
        assert "in vain" not in done["error"] and done["slept"] == [], done


def test_file_in_the_cache_that_was_cut(hub, client, good, tmp_path):
    "It cannot be loaded, and is fetched again; the sound ones are not."
    hub.play()
    client(MODEL, tmp_path)
    (weights,) = tmp_path.glob("models--*/snapshots/*/model.safetensors")
    os.truncate(weights.resolve(), 1000)
    hub.play()
    assert client(MODEL, tmp_path)["result"] == good[MODEL]["result"]
    assert hub.sent(MODEL) == good[MODEL]["sent"], hub.since()


def test_no_pickle_and_no_code_is_asked_for(hub, client, good, tmp_path):
    "A model of pickles is refused; one that transformers knows is loaded without its code."
    hub.play()
    done = client("org/pickle", tmp_path)
    assert "pytorch_model.bin is a pickle" in done["error"] and "\n" not in done["error"], done
    assert client("org/coded", tmp_path)["result"] == good[MODEL]["result"]
    assert not [line for line in hub.since() if "pytorch_model.bin" in line or "code.py" in line]


class Plant:
    "A pickle that makes a folder when it is loaded."
    def __init__(self, where): self.where = where
    def __reduce__(self): return os.mkdir, (str(self.where),)


def test_folder_with_a_malicious_pickle(teacher_folder, train_flags, tmp_path):
    folder = tmp_path / "teacher"
    folder.mkdir()
    for f in teacher_folder.iterdir():
        if f.suffix != ".safetensors": (folder / f.name).write_bytes(f.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Plant(tmp_path / "it-ran")))
    status, _, err = run(*train_flags, "--teacher", folder, "--checkpoint-dir", tmp_path / "run")
    assert status == 2 and len(err.splitlines()) == 1 and "is a pickle" in err, err
    assert not (tmp_path / "it-ran").exists() and not (tmp_path / "run").exists()


DIE = """
import os, signal
import distill_nb.sources as sources, distill_nb.splits as splits
from pathlib import Path
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
"""
POINTS = {
    "at the list": ("sources._row_groups = die", 0),
    "in the third row group's line": ("""add, n = sources._ArticleLog.add, []
def half(self, value):
    n.append(value)
    if len(n) < 4: return add(self, value)
    self.file.write(b'0123abcd [0, 2, [half'); self.file.flush(); die()
sources._ArticleLog.add = half""", 2),
    "with all text": ("splits.split_articles = die", GROUPS),
    "in the training tokens": ("""def half(path, *_):
    path.write_bytes(b'half')
    die()
splits._tokenize_to = half""", GROUPS),
    "between the two parts": ("""tokenize = splits._tokenize_to
def first(path, *args): return die() if path.name == 'valid.bin' else tokenize(path, *args)
splits._tokenize_to = first""", GROUPS),
    "before the note": ("splits.write_file = die", GROUPS),
    "before the rename": ("rename = Path.rename\nPath.rename = die", GROUPS),
    "before the text is removed": ("Path.unlink = die", GROUPS)}


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_it_prepares(point, hub, client, good, tmp_path):
    """SIGKILL: the next call asks for the row groups that were not kept.

    It makes the tokens of an undisturbed run to the bit, and leaves nothing lying about.
    """
    prelude, groups = POINTS[point]
    (tmp_path / "client").mkdir()
    hub.play()
    killed = Client(hub.address, tmp_path / "client", DIE + prelude)
    cache = tmp_path / "cache"
    assert killed("data", cache).keys() == {"lines"}, killed.err.read_text()
    assert killed.process.wait(10) == -signal.SIGKILL, killed.err.read_text()
    hub.play()
    done = client("data", cache)
    assert done["result"] == good["data"]["result"], done
    left = [f for f in cache.iterdir() if not f.name.startswith("models--")]
    assert sorted(f.suffix for f in left) == ["", ".lock"], left
    all_sent, footers = good["data"]["sent"], 3 * 65_536
    most = all_sent * (GROUPS - groups) / GROUPS * 1.2 + footers
    assert hub.sent(".parquet") <= most, (hub.since(), all_sent)


PATIENT = "import os; os.environ['HF_HUB_DOWNLOAD_TIMEOUT'] = '20'\n"


def test_killed_in_the_middle_of_the_weights(hub, client, good, tmp_path):
    (tmp_path / "client").mkdir()
    killed, cache = Client(hub.address, tmp_path / "client", PATIENT), tmp_path / "cache"
    def came(): return sum(f.stat().st_size for f in cache.glob("models--*/blobs/*.part"))
    hub.play(("stall", 1, WEIGHTS))
    killed.process.stdin.write(json.dumps([MODEL, str(cache)]) + "\n")
    killed.process.stdin.flush()
    while came() <= 200_000: time.sleep(0.01)
    killed.process.kill()
    had = came()
    hub.play()
    assert client(MODEL, cache)["result"] == good[MODEL]["result"]
    assert hub.sent("model.safetensors") == good[MODEL]["sent"] - had


# The command on a machine whose clock runs fast: it waits a tenth of what it says.
QUICK = [sys.executable, "-c", """
import sys, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 10)
from distill_nb.cli import main
sys.exit(main())
"""]
TRAIN = f"""
train --device cpu --batch-size 1 --warmup-steps 1 --eval-batches 1 --max-steps 1 --sample-mb 0.3
--hidden-size 32 --num-layers 1 --num-heads 2 --num-kv-heads 1 --intermediate-size 64
--vocab-size 4096 --max-seq-len 32 --teacher {MODEL} --dataset {DATA} --dataset-name zh
""".split()


@pytest.mark.parametrize("text, lines", [(WEIGHTS, 4), (PARQUET, 5)], ids=["teacher", "data"])
def test_command_gives_up(text, lines, hub, tmp_path):
    "Status 2, one line for each try that failed and one sentence, and nothing of a run."
    hub.play(("500", -1, text))
    flags = [*TRAIN, "--checkpoint-dir", tmp_path / "run"]
    machine = settings(hub.address, tmp_path)
    status, _, err = run(*flags, command=QUICK, **machine)
    *before, last = err.splitlines()
    assert status == 2 and last.startswith("distill_nb: cannot ") and "5 tries in vain" in last, err
    told = [line for line in before if re.search(r"^teacher |; trying again in [1248] s$", line)]
    assert len(before) == len(told) == lines, err
    assert not (tmp_path / "run").exists()
    hub.play()
    status, _, err = run(*flags, command=QUICK, **machine)
    assert status == 0, err


def test_two_processes_ask_once(hub, tmp_path):
    "The second waits, and says so; weights and text come once."
    hub.play(("429", 1, WEIGHTS), ("429", 1, PARQUET))
    machine = settings(hub.address, tmp_path)
    folders = tmp_path / "run0", tmp_path / "run1"
    both = [start(*TRAIN, "--checkpoint-dir", folder, **machine) for folder in folders]
    ends = [finish(p) for p in both]
    assert [status for status, *_ in ends] == [0, 0], ends
    assert "another process fetches" in ends[0][2] + ends[1][2], ends
    asked = [line for line in hub.since() if line.startswith("SENT")]
    assert len(asked) == len({line for line in asked}), "no bytes were sent twice"
    assert len([line for line in asked if "model.safetensors" in line]) == 1
