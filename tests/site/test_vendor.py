"Files from npm: only with the pinned hash, only those asked for, and the network once."
import importlib.util, io, subprocess, tarfile
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("vendor", Path(__file__).parents[2] / ".ci/vendor.py")
vendor = importlib.util.module_from_spec(spec)
spec.loader.exec_module(vendor)

FILES = {"package/dist/a.js": b"a", "package/dist/fonts/f.woff2": b"f",
         "package/README.md": b"r", "package/dist/../../out.js": b"o"}


@pytest.fixture
def npm(tmp_path, monkeypatch):
    "A stand-in for npm that packs FILES and counts; the hash of what it packs is npm.integrity."
    packed = tmp_path / "packed.tgz"
    with tarfile.open(packed, "w:gz") as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

    class Npm:
        calls, integrity, returncode = [], vendor.integrity_of(packed), 0
        def run(self, command, **kwargs):
            self.calls.append(command)
            if not self.returncode:
                folder = Path(command[command.index("--pack-destination") + 1])
                (folder / "x-1.0.tgz").write_bytes(packed.read_bytes())
            return subprocess.CompletedProcess(command, self.returncode)
    npm = Npm()
    npm.calls = []
    monkeypatch.setattr(vendor, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(vendor.shutil, "which", lambda name: name)
    monkeypatch.setattr(vendor.subprocess, "run", npm.run)
    return npm


def written(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_only_what_is_wanted_and_the_network_once(npm, tmp_path):
    for target in (tmp_path / "one", tmp_path / "two"):
        vendor.fetch("@scope/x", "1.0", npm.integrity, ["dist/*.js", "dist/fonts/*"], target)
        assert written(target) == ["dist/a.js", "dist/fonts/f.woff2"]
        assert (target / "dist/a.js").read_bytes() == b"a"
    assert len(npm.calls) == 1 and npm.calls[0][-1] == "@scope/x@1.0"
    assert not list(tmp_path.rglob("out.js")), "a path that leads out of the folder"


def test_another_hash_is_refused_and_not_kept(npm, tmp_path):
    with pytest.raises(SystemExit, match="pinned: not used"):
        vendor.fetch("x", "1.0", "sha512-other", ["dist/*"], tmp_path / "t")
    assert not (tmp_path / "t").exists() and written(tmp_path / "cache") == []


def test_a_damaged_cache_is_fetched_again(npm, tmp_path):
    vendor.fetch("x", "1.0", npm.integrity, ["dist/a.js"], tmp_path / "t")
    (tmp_path / "cache/x-1.0.tgz").write_bytes(b"half")
    vendor.fetch("x", "1.0", npm.integrity, ["dist/a.js"], tmp_path / "t")
    assert len(npm.calls) == 2
    assert vendor.integrity_of(tmp_path / "cache/x-1.0.tgz") == npm.integrity


def test_what_is_missing_is_named(npm, tmp_path, monkeypatch):
    def refused(package, version, files, match):
        with pytest.raises(SystemExit, match=match):
            vendor.fetch(package, version, npm.integrity, files, tmp_path / "t")
    refused("x", "1.0", ["dist/a.js", "dist/none.js"], "has no dist/none.js")
    npm.returncode = 1
    refused("y", "2.0", ["dist/a.js"], "did not get y@2.0")
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    refused("y", "2.0", ["dist/a.js"], "npm is not there")
