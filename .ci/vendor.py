"""What pages need from npm: got once, checked against a pinned hash, kept in a cache,
copied beside the pages, so that a visitor asks no third party for it."""
import base64, hashlib, os, shutil, subprocess, sys, tarfile, tempfile
from fnmatch import fnmatch
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home()/".cache")/"distill_nb_site"


def integrity_of(path):
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def tarball(package, version, integrity):
    "The package as npm packs it, from the cache if it is there; no other hash is kept."
    kept = CACHE/f"{package.strip('@').replace('/', '-')}-{version}.tgz"
    if kept.exists() and integrity_of(kept) == integrity: return kept
    if not shutil.which("npm"):
        sys.exit(f"{package} {version} comes from npm, and npm is not there: "
            "install it, then build the site again")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", folder]
        command.append(f"{package}@{version}")
        if subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"npm did not get {package}@{version}: see above, or try again")
        got, = Path(folder).glob("*.tgz")
        if integrity_of(got) != integrity:
            sys.exit(f"{package}@{version} has the hash {integrity_of(got)}, "
                f"and {integrity} is pinned: not used")
        os.replace(got, kept)
    return kept


def fetch(package, version, integrity, wanted_files, target):
    "Put those files of an npm package (dist/fonts/*.woff2) below `target`; returns their paths."
    written, unused = [], set(wanted_files)
    with tarfile.open(tarball(package, version, integrity)) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            name = member.name.partition("/")[2] # below package/
            matching = {p for p in wanted_files if fnmatch(name, p)}
            path = (Path(target)/name).resolve()
            if not matching or not path.is_relative_to(Path(target).resolve()): continue
            unused -= matching
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy)
            written.append(path)
    if unused: sys.exit(f"{package}@{version} has no {', '.join(sorted(unused))}")
    return written
