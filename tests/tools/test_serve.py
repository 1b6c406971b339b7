"The server as other programs meet it: as a process, asked by OpenAI's client."
import json, signal, socket, time, urllib.error, urllib.request

import pytest
from browsing import free_port
from shell import finish, start

pytestmark = pytest.mark.slow
PROMPT = "中国的"


@pytest.fixture(scope="module")
def server(run_folder):
    port = free_port()
    process = start("serve", "--checkpoint", run_folder, "--port", port)
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try: urllib.request.urlopen(f"{address}/health"); break
        except OSError:
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.1)
    yield address
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process, 60)
    assert "Traceback" not in err and status in (0, 130), (status, err)


@pytest.fixture(scope="module")
def client(server):
    from openai import OpenAI
    return OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def text(run_folder):
    from distill_nb.checkpoint import find_checkpoint
    from distill_nb.generator import TextGenerator
    writer = TextGenerator.from_checkpoint(find_checkpoint(run_folder))
    return writer.generate(PROMPT, max_new_tokens=8)


def test_openai_client_gets_the_generators_text(client, text):
    settings = dict(model="student", prompt=PROMPT, max_tokens=8, temperature=0)
    whole = client.completions.create(**settings, logprobs=2)
    choice = whole.choices[0]
    assert choice.text == text and choice.finish_reason in ("length", "stop")
    assert whole.usage.completion_tokens == len(choice.logprobs.token_logprobs) <= 8
    for told, best in zip(choice.logprobs.token_logprobs, choice.logprobs.top_logprobs):
        assert told == pytest.approx(max(best.values()))
    parts = list(client.completions.create(**settings, stream=True))
    assert "".join(p.choices[0].text for p in parts) == text and len(parts) > 2
    assert [p.choices[0].finish_reason for p in parts][-1] == choice.finish_reason
    assert [m.id for m in client.models.list()] == ["student"]


def test_stop_and_seed(client, text):
    settings = dict(model="student", prompt=PROMPT, max_tokens=8)
    stop = text[-2:]
    stopped = client.completions.create(**settings, temperature=0, stop=[stop]).choices[0]
    assert stopped.text == text[:text.index(stop)] and stopped.finish_reason == "stop"
    drawn = [client.completions.create(**settings, seed=s).choices[0].text for s in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len({*drawn}) > 1


def test_what_is_refused_is_named(client):
    from openai import BadRequestError, NotFoundError
    with pytest.raises(BadRequestError, match="n=2 is not supported"):
        client.completions.create(model="student", prompt=PROMPT, n=2)
    with pytest.raises(BadRequestError, match="top_p=1.5 must be"):
        client.completions.create(model="student", prompt=PROMPT, top_p=1.5, stream=True)
    with pytest.raises(NotFoundError, match="knows no chat"):
        client.chat.completions.create(model="student", messages=[dict(role="user", content="?")])


def post(address, body, timeout=60):
    request = urllib.request.Request(f"{address}/v1/completions", data=body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as e: return e.code, json.loads(e.read())


def test_bodies_that_are_none(server):
    for body in (b"", b"{", b"[" * 100_000, b'"x"', b"\xff", b"x" * 2_000_000):
        status, told = post(server, body)
        assert status == 400 and told["error"]["message"], body[:20]


def test_a_reader_who_leaves_holds_nobody_up(server):
    many = json.dumps(dict(prompt=[PROMPT] * 64, max_tokens=25, stream=True)).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(many)}\r\n\r\n"
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + many)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    start = time.monotonic()
    assert post(server, json.dumps(dict(prompt=PROMPT, max_tokens=1)).encode())[0] == 200
    with urllib.request.urlopen(f"{server}/health") as answer:
        assert json.loads(answer.read())["waiting"] == 0
    print(f"answered after {time.monotonic() - start:.1f} s")
