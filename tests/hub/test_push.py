"""`distill_nb export --push` to a hub on this machine: the real library uploads, and another
process loads what is there by its name."""
import json, os, subprocess, sys
from urllib.request import Request, urlopen

import pytest
import torch
from shell import run, snapshot
from test_rehearsal import NO_HUB, Hub, settings

from distill_nb.generator import TextGenerator

pytestmark = pytest.mark.slow

# A user's process that exports what it is told to, one thing after another; the hub's library
# waits a hundredth of what it would between its tries.
CLIENT = """
import io, json, os, sys, time
from contextlib import redirect_stdout
from distill_nb.cli import main
from huggingface_hub import constants
sleep = time.sleep
time.sleep = lambda s: sleep(s / 100)
for line in sys.stdin:
    argv, address, os.environ["HF_TOKEN"] = json.loads(line)
    constants.ENDPOINT, out = address, io.StringIO()
    with redirect_stdout(out): status = main(argv)
    print(json.dumps([status, out.getvalue()]), flush=True)
"""
LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (k.from_pretrained(sys.argv[1]) for k in (AutoModelForCausalLM, AutoTokenizer))
text = tokenizer("中国", return_tensors="pt")
with torch.no_grad(): torch.save(model(**text).logits, sys.argv[2])
"""


class Uploads(Hub):
    script = "uploads.py"

    def play(self, *faults):
        urlopen(Request(f"{self.address}/faults", json.dumps(faults).encode())).read()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with Uploads(folder, tmp_path_factory.mktemp("log") / "requests.log") as hub:
        hub.models = folder / "models"
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    "Status, stdout and stderr of the command with these words."
    folder = tmp_path_factory.mktemp("machine")
    err = folder / "err"
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=err.open("w"), env=os.environ | settings(hub.address, folder))
    def ask(argv, address=hub.address, token="hf_org"):
        before = len(err.read_text())
        process.stdin.write(json.dumps([argv, address, token]) + "\n")
        process.stdin.flush()
        status, out = json.loads(process.stdout.readline() or "[null, null]")
        return status, out, err.read_text()[before:]
    yield ask
    process.kill()
    process.communicate()


@pytest.fixture
def push(checkpoint, client, tmp_path):
    def push(repo_id, *flags, out="out", **how):
        argv = ["export", "--checkpoint", str(checkpoint), "--out", str(tmp_path / out), "--push"]
        return client([*argv, repo_id, *flags], **how)
    return push


def test_what_is_pushed_loads_by_its_name(push, hub, checkpoint, tmp_path):
    repo_id = "org/student"
    status, out, err = push(repo_id)
    assert status == 0, err
    assert out.splitlines()[-1] == f"uploaded to {hub.address}/{repo_id}"
    there = hub.models / repo_id
    assert snapshot(there) == snapshot(tmp_path / "out")
    assert f'pipeline("text-generation", "{repo_id}")' in (there / "README.md").read_text()
    env = settings(hub.address, tmp_path / "another_machine")
    subprocess.run([sys.executable, "-c", LOAD, repo_id, tmp_path / "logits"], check=True, env=env)
    writer = TextGenerator.from_checkpoint(checkpoint)
    with torch.no_grad(): ours = writer.model(torch.tensor([writer.tokenizer.encode("中国")]))
    torch.testing.assert_close(torch.load(tmp_path / "logits"), ours)


def test_a_second_push_is_a_second_commit(push, hub, tmp_path):
    repo_id, before = "org/twice", len(hub.asked("COMMIT"))
    assert push(repo_id)[0] == 0
    status, out, err = push(repo_id, "--to", "gguf", out="gguf")
    assert status == 0, err
    assert len(hub.asked("COMMIT")) == before + 2
    there = hub.models / repo_id
    assert (there / "student.gguf").read_bytes() == (tmp_path / "gguf/student.gguf").read_bytes()
    assert (there / "model.safetensors").is_file()
    card = (there / "README.md").read_text()
    assert "library_name: gguf" in card and f'snapshot_download("{repo_id}")' in card


@pytest.mark.parametrize("given, words", [
    (dict(token="hf_other"), ["does not know this token", "status 401"]),
    (dict(token="hf_read"), ["the token may not write there", "status 403"]),
    (dict(repo_id="nobody/student"), ["there is no such owner", "status 403", '"nobody"']),
    (dict(address=NO_HUB), ["Connection refused"])])
def test_a_hub_that_does_not_take_it(push, hub, tmp_path, given, words):
    "One line, which says how to go on; the export is there."
    given = dict(repo_id="org/refused") | given
    repo_id, (status, out, err) = given["repo_id"], push(**given)
    line = err.splitlines()[-1]
    assert status == 2 and err.count("\n") == 1, err
    end = f"The export itself is whole; go on with: hf upload {repo_id} {tmp_path / 'out'}"
    assert line.startswith(f"distill_nb: {repo_id} is not uploaded: ") and line.endswith(end)
    assert [w for w in words if w not in line] == [], line
    assert "proved with transformers" in out
    assert (tmp_path / "out/config.json").is_file() and not (hub.models / repo_id).exists()


def test_an_upload_that_breaks_off(push, hub, tmp_path):
    "Nothing is in the repository; what was exported is whole, and is uploaded by the line's end."
    repo_id = "org/broken"
    hub.play(["cut", -1, "PUT /lfs"])
    status, out, err = push(repo_id)
    hub.play()
    assert status == 2 and "Traceback" not in err, err
    line = err.splitlines()[-1]
    assert line.startswith(f"distill_nb: {repo_id} is not uploaded: the hub did not take it")
    assert "disconnected" in line, line
    there, kept = hub.models / repo_id, snapshot(tmp_path / "out")
    assert snapshot(there) == {} and "model.safetensors" in kept
    command = line.partition("go on with: ")[2].split()
    env = settings(hub.address, tmp_path / "machine") | dict(HF_TOKEN="hf_org")
    status, out, err = run(*command[1:], command=["hf"], **env)
    assert status == 0, err
    assert snapshot(there) == kept


@pytest.mark.parametrize("given, words", [
    (dict(token=""), "needs a token of the hub that may write: hf auth login, or set HF_TOKEN"),
    (dict(repo_id="student"), "--push 'student' must be OWNER/NAME")])
def test_what_is_refused_before_anything_is_written(push, hub, tmp_path, given, words):
    before = len(hub.asked(""))
    status, out, err = push(**dict(repo_id="org/refused") | given)
    assert status == 2 and err.count("\n") == 1 and words in err
    assert not (tmp_path / "out").exists() and len(hub.asked("")) == before
