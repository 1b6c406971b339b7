"""The stand-in of hub.py, to which one can upload, too: what `upload_folder` asks of a hub.

    python uploads.py ROOT ...

The token `hf_org` may write below `org`, `hf_read` nowhere, and no other is known. A repository
is a folder of ROOT/models, which a commit fills; until then its large files lie in ROOT/lfs.
"""
import base64, json

import yaml
from hub import COMMIT, Handler, main

OWNERS = dict(hf_org=("org",), hf_read=())
LARGE = (".safetensors", ".gguf", ".onnx")


class Uploads(Handler):
    def refuse(self, status, why): self.answer(status, dict(error=why), **{"X-Error-Message": why})

    def owners(self):
        "Of the token that came with the request; None if it is not known."
        return OWNERS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def route(self, sent):
        parts = self.path.partition("?")[0].strip("/").split("/")
        if self.command == "PUT" and parts[0] == "lfs": self.keep(parts[1], sent)
        elif self.command != "POST": super().route(sent)
        elif self.owners() is None: self.refuse(401, "Invalid credentials in Authorization header")
        elif parts[:2] == ["api", "validate-yaml"]: self.validate(json.loads(sent)["content"])
        elif parts[:3] == ["api", "repos", "create"]: self.create(**json.loads(sent))
        elif parts[4:5] == ["preupload"]: self.modes(json.loads(sent)["files"])
        elif parts[4:5] == ["commit"]: self.commit(parts[2], parts[3], sent)
        elif parts[-3:] == ["lfs", "objects", "batch"]: self.wanted(json.loads(sent)["objects"])
        else: super().route(sent)

    def keep(self, oid, content):
        path = self.root / "lfs" / oid
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        self.answer(200, {})

    def validate(self, content):
        head = yaml.safe_load(content.partition("---\n")[2].partition("---")[0])
        wrong = [] if isinstance(head, dict) else [dict(message="no settings at the head")]
        self.answer(400 if wrong else 200, dict(errors=wrong, warnings=[]))

    def create(self, name, organization=None, **settings):
        if organization not in self.owners():
            return self.refuse(403, f'You have no rights below the namespace "{organization}"')
        repo, there = f"{organization}/{name}", self.root / "models" / organization / name
        status = 409 if there.is_dir() else 200
        there.mkdir(parents=True, exist_ok=True)
        self.answer(status, dict(url=f"http://{self.headers['Host']}/{repo}", name=repo))

    def modes(self, files):
        def mode(path): return "lfs" if path.endswith(LARGE) else "regular"
        self.answer(200, dict(files=[dict(path=f["path"], uploadMode=mode(f["path"]),
                                          shouldIgnore=False) for f in files]))

    def wanted(self, objects):
        address = f"http://{self.headers['Host']}/lfs"
        self.answer(200, dict(transfer="basic", objects=[
            o | dict(actions=dict(upload=dict(href=f"{address}/{o['oid']}"))) for o in objects]))

    def commit(self, owner, name, sent):
        if owner not in self.owners(): return self.refuse(403, "You cannot write here")
        folder = self.root / "models" / owner / name
        for line in map(json.loads, sent.splitlines()):
            kind, value = line["key"], line["value"]
            if kind == "file":
                (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            elif kind == "lfsFile":
                (self.root / "lfs" / value["oid"]).rename(folder / value["path"])
            else: self.note(f"COMMIT {value['summary']}")
        url = f"http://{self.headers['Host']}/{owner}/{name}/commit/{COMMIT}"
        self.answer(200, dict(commitUrl=url, commitOid=COMMIT))

    do_PUT = Handler.do_GET


if __name__ == "__main__": main(Uploads)
