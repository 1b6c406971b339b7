"""A loopback stand-in for the model hub, so that the real loading code runs with nothing stubbed.

    python hub.py ROOT [--port PORT] [--log FILE] [--dies-in ENDING]

ROOT/models/OWNER/NAME/... and ROOT/datasets/OWNER/NAME/... are served under the hub's own addresses, so HF_ENDPOINT=http://127.0.0.1:PORT makes
transformers, datasets and huggingface_hub use it. The first line printed is the address. A data set without a card gets one that names each of its
folders as a configuration. FILE gets a line for every request. With --dies-in the process ends in the middle of a large answer from a file of that ending.
"""
import argparse, hashlib, json, os
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40
LARGE = 100_000  # bytes: an answer of data, not of a file's head or foot


@lru_cache
def sha256(path, modified):
    with open(path, "rb") as f: return hashlib.file_digest(f, "sha256").hexdigest()


def etag(path): return sha256(path, path.stat().st_mtime_ns)


def entry(base, path):
    "A file or a folder, as the hub lists it."
    if path.is_dir(): return dict(type="directory", path=str(path.relative_to(base)), size=0, oid=COMMIT)
    return dict(type="file", path=str(path.relative_to(base)), size=path.stat().st_size, oid=etag(path)[:40])


def about(base, repo):
    "What the hub says of a repository."
    files = [dict(rfilename=str(p.relative_to(base)), size=p.stat().st_size) for p in sorted(base.rglob("*")) if p.is_file()]
    return dict(_id="x", id=repo, modelId=repo, sha=COMMIT, private=False, gated=False, disabled=False, tags=[], downloads=0, likes=0,
                lastModified="2024-01-01T00:00:00.000Z", createdAt="2024-01-01T00:00:00.000Z", siblings=files)


def describe_datasets(root):
    "Give every data set without a card the card that makes its folders configurations."
    for base in root.glob("datasets/*/*"):
        folders = sorted(d.name for d in base.iterdir() if d.is_dir())
        if not folders or (base / "README.md").exists(): continue
        rows = "".join(f"- config_name: '{d}'\n  data_files:\n  - split: train\n    path: {d}/train-*\n" for d in folders)
        (base / "README.md").write_text(f"---\nconfigs:\n{rows}---\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = log = dies_in = None  # set by `main`

    def log_message(self, *args): pass

    def answer(self, code, body, **headers):
        body = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **headers}.items(): self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)

    def missing(self, what): self.answer(404, dict(error=f"{what} not found"), **{"X-Error-Code": what, "X-Error-Message": f"{what} not found"})

    def respond(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.log:
            with open(self.log, "a") as f: f.write(f"{self.command} {self.path}\n")
        url = urlsplit(self.path)
        parts = unquote(url.path).strip("/").split("/")
        if parts == [""]: self.answer(200, {})
        elif parts[0] == "api" and len(parts) >= 4: self.api(parts[1], "/".join(parts[2:4]), parts[4:], parse_qs(url.query), sent)
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
            return self.answer(200, [entry(base, p) for p in sorted(folder.rglob("*") if recursive else folder.iterdir())])
        if rest[0] == "paths-info":
            wanted = json.loads(sent)["paths"] if sent.strip().startswith(b"{") else parse_qs(sent.decode()).get("paths", [])
            return self.answer(200, [entry(base, base / w) for w in wanted if (base / w).exists()])
        self.missing("EntryNotFound")

    def file(self, path):
        size = path.stat().st_size
        first, last, asked = 0, size - 1, self.headers.get("Range", "")
        if asked.startswith("bytes="):
            a, b = asked[6:].split("-")
            first, last = (int(a), min(int(b or last), last)) if a else (max(0, size - int(b)), last)
        self.send_response(206 if asked else 200)
        if asked: self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        tag = f'"{etag(path)}"'
        for name, value in {"Content-Type": "application/octet-stream", "Content-Length": last - first + 1, "ETag": tag, "X-Repo-Commit": COMMIT,
                            "Accept-Ranges": "bytes", "X-Linked-Size": size, "X-Linked-Etag": tag}.items(): self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD": return
        left, dies = last - first + 1, self.dies_in and path.name.endswith(self.dies_in)
        if dies and left > LARGE: left //= 2
        dies = dies and left > LARGE // 2
        with open(path, "rb") as f:
            f.seek(first)
            while left > 0:
                block = f.read(min(1 << 20, left))
                left -= len(block)
                self.wfile.write(block)
        if dies:
            self.wfile.flush()
            os._exit(1)

    def do_GET(self):
        try: self.respond()
        except (BrokenPipeError, ConnectionResetError): pass
    do_HEAD = do_POST = do_GET


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=lambda p: Path(p).resolve())
    parser.add_argument("--port", type=int, default=0, help="any free one if not given")
    parser.add_argument("--log")
    parser.add_argument("--dies-in")
    args = parser.parse_args()
    Handler.root, Handler.log, Handler.dies_in = args.root, args.log, args.dies_in
    describe_datasets(args.root)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__": main()
