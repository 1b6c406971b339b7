"""A loopback stand-in for the model hub, so that the real loading code runs with nothing stubbed.

    python hub.py ROOT [--port PORT] [--log FILE] [--dies-in ENDING] [--fault 'KIND TIMES TEXT' ...]

ROOT/models/OWNER/NAME/... and ROOT/datasets/OWNER/NAME/... are served under the hub's own
addresses, so HF_ENDPOINT=http://127.0.0.1:PORT makes transformers, datasets and huggingface_hub
use it. The first line printed is the address. A data set without a card gets one that names
each of its folders as a configuration.

FILE gets a line for every request, one for every fault, and one for every body that was sent:
SENT path first-byte bytes. With --dies-in the process ends in the middle of a large answer from
a file of that ending.

A fault is played TIMES times (-1: for ever) in answers to requests that hold TEXT, as in "GET
/owner/name/resolve". Its KIND is a status (429 asks for a wait of three seconds), `reset` or
`cut` (the connection ends in the middle of the body, with an error or as if it were over),
`stall` (nothing more comes), `wrong` (one byte is another) or `whole` (all of the file,
whatever part was asked for). POST /faults sets them anew.
"""
import argparse, hashlib, json, os, socket, struct, threading, time
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

COMMIT = "a" * 40
LARGE = 100_000  # bytes: an answer of data, not of a file's head or foot


@lru_cache
def digest(path, modified):
    "The SHA-256 of a large file, and of a small one what git calls it."
    if path.suffix not in (".json", ".txt", ".md"):
        with open(path, "rb") as f: return hashlib.file_digest(f, "sha256").hexdigest()
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(path): return digest(path, path.stat().st_mtime_ns)


def entry(base, path):
    "A file or a folder, as the hub lists it."
    name = str(path.relative_to(base))
    if path.is_dir(): return dict(type="directory", path=name, size=0, oid=COMMIT)
    return dict(type="file", path=name, size=path.stat().st_size, oid=etag(path)[:40])


def about(base, repo):
    "What the hub says of a repository."
    paths = [p for p in sorted(base.rglob("*")) if p.is_file()]
    files = [dict(rfilename=str(p.relative_to(base)), size=p.stat().st_size) for p in paths]
    long_ago = "2024-01-01T00:00:00.000Z"
    return dict(_id="x", id=repo, modelId=repo, sha=COMMIT, private=False, gated=False,
                disabled=False, tags=[], downloads=0, likes=0, lastModified=long_ago,
                createdAt=long_ago, siblings=files, cardData=card(base))


def card(base):
    "The settings at the head of a repository's README."
    path = base / "README.md"
    text = path.read_text() if path.exists() else ""
    return yaml.safe_load(text.partition("---\n")[2].partition("---")[0])


def describe_datasets(root):
    "Give every data set without a card the card that makes its folders configurations."
    for base in root.glob("datasets/*/*"):
        folders = sorted(d.name for d in base.iterdir() if d.is_dir())
        if not folders or (base / "README.md").exists(): continue
        row = "- config_name: '{0}'\n  data_files:\n  - split: train\n    path: {0}/train-*\n"
        rows = "".join(row.format(d) for d in folders)
        (base / "README.md").write_text(f"---\nconfigs:\n{rows}---\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = log = dies_in = None  # set by `main`
    faults, lock = [], threading.Lock()

    def log_message(self, *args): pass

    def note(self, line):
        if self.log:
            with self.lock, open(self.log, "a") as f: f.write(line + "\n")

    def take_fault(self):
        "What goes wrong with this answer, if anything."
        asked = f"{self.command} {self.path}"
        with self.lock:
            fault = next((f for f in self.faults if f[1] and f[2] in asked), None)
            if fault: fault[1] -= 1
        if fault: self.note(f"FAULT {fault[0]} {self.command} {self.path}")
        return fault and fault[0]

    def break_off(self, kind):
        "End the connection, with an error or without, or let it hang."
        self.wfile.flush()
        if kind == "stall": time.sleep(30)
        if kind == "reset":
            at_once = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.close_connection = True
        self.connection.close() if kind == "reset" else self.connection.shutdown(socket.SHUT_RDWR)

    def send_head(self, code, headers):
        self.send_response(code)
        for name, value in headers.items(): self.send_header(name, str(value))

    def answer(self, code, body, **headers):
        body = json.dumps(body).encode()
        self.send_head(code, {"Content-Type": "application/json", "Content-Length": len(body),
                              **headers})
        if self.fault in ("reset", "cut", "stall"): return self.break_off(self.fault)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)

    def missing(self, what):
        headers = {"X-Error-Code": what, "X-Error-Message": f"{what} not found"}
        self.answer(404, dict(error=f"{what} not found"), **headers)

    fault = None

    def respond(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/faults":
            with self.lock: self.faults[:] = json.loads(sent)
            return self.answer(200, {})
        self.note(f"{self.command} {self.path}")
        self.fault = self.take_fault()
        if (self.fault or "").isdigit():
            wait = {"Retry-After": 3} if self.fault == "429" else {}
            return self.answer(int(self.fault), dict(error="a fault that was asked for"), **wait)
        self.route(sent)

    def route(self, sent):
        url = urlsplit(self.path)
        parts = unquote(url.path).strip("/").split("/")
        if parts == [""]: self.answer(200, {})
        elif parts[0] == "api" and len(parts) >= 4:
            self.api(parts[1], "/".join(parts[2:4]), parts[4:], parse_qs(url.query), sent)
        else:
            kind = "datasets" if parts[0] == "datasets" else "models"
            parts = parts[kind == "datasets":]
            if len(parts) < 5 or parts[2] != "resolve": return self.missing("EntryNotFound")
            base = self.root / kind / "/".join(parts[:2])
            path = base / "/".join(parts[4:])
            if not base.is_dir(): self.missing("RepoNotFound")
            elif not path.is_file(): self.missing("EntryNotFound")
            else: self.file(path)

    def api(self, kind, repo, rest, query, sent):
        base = self.root / kind / repo
        if not base.is_dir(): return self.missing("RepoNotFound")
        if not rest or rest[0] == "revision": return self.answer(200, about(base, repo))
        if rest[0] == "tree":
            folder = base.joinpath(*rest[2:])
            if not folder.exists(): return self.missing("EntryNotFound")
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            found = sorted(folder.rglob("*") if recursive else folder.iterdir())
            return self.answer(200, [entry(base, p) for p in found])
        if rest[0] == "paths-info":
            is_json = sent.strip().startswith(b"{")
            wanted = (json.loads(sent) if is_json else parse_qs(sent.decode())).get("paths", [])
            return self.answer(200, [entry(base, base / w) for w in wanted if (base / w).exists()])
        self.missing("EntryNotFound")

    def file(self, path):
        size = path.stat().st_size
        first, last = 0, size - 1
        asked = "" if self.fault == "whole" else self.headers.get("Range", "")
        if asked.startswith("bytes="):
            a, b = asked[6:].split("-")
            if a: first, last = int(a), min(int(b or last), last)
            else: first = max(0, size - int(b))
        tag = f'"{etag(path)}"'
        headers = {"Content-Type": "application/octet-stream", "Content-Length": last - first + 1,
                   "ETag": tag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes",
                   "X-Linked-Size": size, "X-Linked-Etag": tag}
        if asked: headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self.send_head(206 if asked else 200, headers)
        breaks = self.fault in ("reset", "cut", "stall")
        if self.command == "HEAD" and breaks: return self.break_off(self.fault)
        self.end_headers()
        if self.command == "HEAD": return
        left, dies = last - first + 1, self.dies_in and path.name.endswith(self.dies_in)
        if breaks: left //= 2
        wrong_at = left // 2 if self.fault == "wrong" else None
        sent = 0
        if dies and left > LARGE: left //= 2
        dies = dies and left > LARGE // 2
        try:
            with open(path, "rb") as f:
                f.seek(first)
                while left > 0:
                    block = bytearray(f.read(min(1 << 20, left)))
                    if wrong_at is not None and sent <= wrong_at < sent + len(block):
                        block[wrong_at - sent] ^= 1
                    self.wfile.write(block)
                    left, sent = left - len(block), sent + len(block)
        finally: self.note(f"SENT {self.path} {first} {sent}")
        if breaks: self.break_off(self.fault)
        if dies:
            self.wfile.flush()
            os._exit(1)

    def do_GET(self):
        try: self.respond()
        except OSError: pass  # whoever asked has gone
    do_HEAD = do_POST = do_GET


def main(handler=Handler):
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=lambda p: Path(p).resolve())
    parser.add_argument("--port", type=int, default=0, help="any free one if not given")
    parser.add_argument("--log")
    parser.add_argument("--dies-in")
    parser.add_argument("--fault", action="append", default=[])
    args = parser.parse_args()
    handler.root, handler.log, handler.dies_in = args.root, args.log, args.dies_in
    for fault in args.fault:
        kind, times, text = fault.split(maxsplit=2)
        handler.faults.append([kind, int(times), text])
    describe_datasets(args.root)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__": main()
