"A hub that fails in every way that it can, against the real loading code: the stand-in of tests/rehearsal plays the faults and counts them."
import hashlib, json, os, pickle, re, signal, subprocess, sys, time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from command import COMMAND, finish, run, start
from test_rehearsal import Hub, settings

pytestmark = pytest.mark.slow

MODEL, DATA = "org/model", "org/text"
WEIGHTS, PARQUET = f"GET /{MODEL}/resolve/{'a' * 40}/model.safetensors", f"GET /datasets/{DATA}/resolve/{'a' * 40}/zh"
KINDS = "429", "500", "reset", "stall", "cut", "wrong"
GROUPS = 12

# A user's process that loads what it is told to, one thing after another; it waits a hundredth of what a user's would.
CLIENT = '''
import hashlib, json, logging, sys, time
import distill_nb.data as data, distill_nb.teacher as teacher
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer
slept = []
teacher.time = type("Time", (), dict(sleep=lambda s: (slept.append(s), time.sleep(s / 100))))
logging.getLogger("distill_nb").addHandler(logging.StreamHandler())
logging.getLogger("distill_nb").setLevel(logging.INFO)
tiny = teacher.load_pretrained(AutoTokenizer, "tiny")
print("ready", flush=True)
for line in sys.stdin:
    what, folder = json.loads(line)
    constants.HF_HUB_CACHE, begin, error, result = folder, time.monotonic(), None, None
    slept.clear()
    try:
        if what == "tokenizer": result = len(teacher.load_pretrained(AutoTokenizer, "MODEL"))
        elif what.startswith("data"):
            kept = data.WikiDataset("DATA", what[5:] or "zh", sample_mb=1000, seq_len=32, tokenizer=tiny, cache_dir=folder)
            result = [hashlib.sha256(b.tokens.tobytes()).hexdigest() for b in (kept.train, kept.valid)]
        else: result = float(sum(p.double().abs().sum() for p in teacher.load_pretrained(AutoModelForCausalLM, what).parameters()))
    except teacher.BadInput as e: error = str(e)
    print(json.dumps(dict(result=result, error=error, slept=slept, seconds=time.monotonic() - begin)), flush=True)
'''


@pytest.fixture(scope="module")
def material(teacher_folder, tmp_path_factory):
    "What the hub serves: a model with code and a pickle beside its weights, and the tiny text in a parquet file of some row groups, without checksums and with."
    import pyarrow as pa, pyarrow.parquet as pq
    from distill_nb.tour import tiny_text
    root = tmp_path_factory.mktemp("hub")
    model = root / "models" / MODEL
    model.mkdir(parents=True)
    for f in teacher_folder.iterdir(): (model / f.name).write_bytes(f.read_bytes())
    for name in ("pytorch_model.bin", "modeling.py", "onnx/config.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not to be asked for")
    articles = tiny_text().strip().split("\n\n")[:1200]
    table = pa.table(dict(id=[str(i) for i in range(len(articles))], title=articles, text=articles))
    for i, name in enumerate(("train-00000-of-00002", "train-00001-of-00002")):
        path = root / "datasets" / DATA / f"zh/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(i * 600, 600), path, row_group_size=1200 // GROUPS, write_page_checksum=True, use_dictionary=False)
    rows = root / "datasets" / DATA / "rows"
    rows.mkdir()
    (rows / "train-0.jsonl").write_text("\n".join(json.dumps(dict(text=a)) for a in articles), encoding="utf-8")
    return root


class Client:
    "The process of CLIENT: `client(what, folder)`, and what it has written to stderr since."
    def __init__(self, address, folder):
        self.err = folder / "err"
        code = CLIENT.replace('"MODEL"', repr(MODEL)).replace('"DATA"', repr(DATA))
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.err.open("w"), text=True,
                                        env=os.environ | settings(address, folder) | dict(HF_HUB_DOWNLOAD_TIMEOUT="1", HF_HUB_ETAG_TIMEOUT="1"))
        assert self.process.stdout.readline() == "ready\n", self.err.read_text()

    def __call__(self, what, folder):
        before = len(self.err.read_text())
        self.process.stdin.write(json.dumps([what, str(folder)]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer | dict(lines=self.err.read_text()[before:].splitlines())


class Faulty(Hub):
    "The stand-in with its faults, and their number."
    faults = 0

    def play(self, *faults): # (kind, times, text)
        urlopen(Request(f"{self.address}/faults", json.dumps(faults).encode())).read()
        self.seen = len(self.log.read_text())

    def since(self): return self.log.read_text()[self.seen:].splitlines()

    def sent(self, text): # bytes of bodies since `play`
        return sum(int(line.split()[-1]) for line in self.since() if line.startswith("SENT") and text in line)


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
    names = {line.split()[1].partition("/resolve/")[2].partition("/")[2] for line in good[MODEL]["since"] + good["tokenizer"]["since"] if "/resolve/" in line}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not [n for n in names if not re.fullmatch(r"[\w.-]+\.(json|safetensors|txt)", n)], names


ASKED = {"tokenizer": ("tokenizer", f"GET /{MODEL}/resolve"), "model-info": ("tokenizer", f"GET /api/models/{MODEL}"),
         "weights": (MODEL, WEIGHTS), "weights-head": (MODEL, WEIGHTS.replace("GET", "HEAD")),
         "parquet": ("data", PARQUET), "parquet-head": ("data", PARQUET.replace("GET", "HEAD"))}


@pytest.mark.parametrize("asked, kind", [(a, k) for a in ASKED for k in KINDS if k != "wrong" or a in ("tokenizer", "weights", "parquet")])
def test_fault_that_ends(kind, asked, hub, client, good, tmp_path):
    "Two faults, and then all is well: the same weights, tokens or vocabulary come, and each fault is told in one line."
    what, text = ASKED[asked]
    hub.play((kind, 2, text))
    done = client(what, tmp_path)
    faults = [line for line in hub.since() if line.startswith("FAULT")]
    assert done["error"] is None and done["result"] == good[what]["result"], done
    assert len(faults) == 2 == len(done["slept"]), (faults, done)
    assert len([line for line in done["lines"] if "trying again in" in line]) == 2, done["lines"]


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "wrong"])
def test_fault_in_the_list_of_data(kind, hub, client, good, tmp_path):
    hub.play((kind, 2, f"GET /api/datasets/{DATA}"))
    done = client("data", tmp_path)
    assert done["result"] == good["data"]["result"] and len(done["slept"]) == 2, done


@pytest.mark.parametrize("what, text, kind", [(w, t, k) for w, t in ((MODEL, WEIGHTS), ("data", PARQUET)) for k in KINDS])
def test_fault_for_ever(kind, what, text, hub, client, good, tmp_path):
    "Five tries, one line each but for the last, then one sentence. Nothing half is found later, and the next try, at a hub that is well, gets what had not come."
    file = "model.safetensors" if what == MODEL else ".parquet"
    if what == "data":
        hub.play(("500", -1, text.replace("zh", "zh/train-00001")))
        assert "500" in client(what, tmp_path)["error"]
    hub.play((kind, -1, text))
    done = client(what, tmp_path)
    assert what in done["error"].replace(DATA, "data") and "5 tries in vain" in done["error"] and "\n" not in done["error"], done
    assert done["slept"] == [1, 2, 4, 8] and done["seconds"] < 15, done
    assert len(done["lines"]) in (4, 5), done["lines"]
    had = hub.sent(file) if kind in ("reset", "stall", "cut") else 0
    assert not list(tmp_path.glob(f"models--*/snapshots/*/{file}")) and not list(tmp_path.glob("*/about.json"))
    hub.play()
    again = client(what, tmp_path)
    assert again["result"] == good[what]["result"] and not list(tmp_path.glob("*.part")), again
    if what == MODEL: assert hub.sent(file) == good[what]["sent"] - had, (hub.since(), had)
    else: assert hub.sent("train-00000") < 70_000 < hub.sent("train-00001"), "of the first file, the table at its end again"
