"""What is malformed is refused: hundreds of inputs, each given to the command as a process, get
one line and status 2, and damage nothing. Every third of them is tried, all with THOROUGH=1."""
import ast, hashlib, os, re, stat, time
from pathlib import Path

import pytest
from malformed import CONTROL, GROUPS, World, pwned
from shell import THOROUGH
from zygote import Zygote

import distill_nb

LIMIT = 60  # seconds: what takes longer hangs
SIDE_BY_SIDE = 3


def snapshot(*folders):
    """All names below the folders, and what stands behind them; links are not followed, and
    nothing that may block is opened."""
    def of(path):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode): return os.readlink(path)
        if not stat.S_ISREG(mode): return stat.S_IFMT(mode)
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return {os.path.join(where, name): of(Path(where, name)) for folder in folders
            for where, inside, files in os.walk(folder) for name in inside + files}


@pytest.fixture(scope="module")
def zygote():
    with Zygote(HF_HUB_OFFLINE="1") as zygote: yield zygote


@pytest.fixture(scope="module")
def world(zygote, tmp_path_factory, teacher_folder, text_file):
    root = tmp_path_factory.mktemp("malformed")
    world = World(root / "cases", root / "good/run", teacher_folder, text_file)
    status, _, err = zygote.run(*world.train(world.run))
    assert status == 0, err
    return world


def refused(case, p, before, pwned):
    "What is wrong with how the command refused this input; nothing, if all is well."
    try: status = p.wait(LIMIT)
    except TimeoutError as e: return f"hangs: {e}"
    raw = (p.folder / "err").read_bytes()
    err = raw.decode("utf-8", "backslashreplace")
    *told, line = re.split("[\n\r]", err.rstrip("\n")) if err.strip() else [""]
    if "Traceback" in err + p.out: return "traceback: " + err[-1500:]
    if status != 2: return f"status {status}: {p.out[-200:]} {err[-600:]}"
    if not line.startswith("distill_nb: ") or any("distill_nb: " in t for t in told):
        return f"not one last line: {err[-600:]}"
    if len(line) > 2100: return f"a line of {len(line)} characters: {line[:200]}"
    if lacking := [w for w in case.wanted if not any(part in line for part in w.split("|"))]:
        return f"does not name {lacking}: {line}"
    unseen = [c for c in CONTROL if c not in "\x1b\n\r" and not c.isprintable()]
    printable = all(c.isprintable() or c == "\u3000" for c in line)
    if not printable or any(c in err for c in unseen) or CONTROL[:4] in err:
        return f"control characters: {err[-600:]!r}"
    if p.out: return f"on stdout: {p.out[:300]}"
    changed = sorted(set(snapshot(case.folder).items()) ^ set(before.items()))
    changed = [(name, content) for name, content in changed if Path(name).name != ".lock"]
    if changed: return f"its files are others: {changed[:6]}"
    if pwned.exists():
        pwned.unlink()
        return "what was in a file has run"


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_malformed(group, world, zygote):
    start, cases, wrong = time.monotonic(), list(GROUPS[group](world)), []
    if not THOROUGH: cases = cases[::3]
    good = [world.run, world.teacher, Path(world.text).parent]
    before = snapshot(*good)
    for some in (cases[i:i + SIDE_BY_SIDE] for i in range(0, len(cases), SIDE_BY_SIDE)):
        snapshots = [snapshot(c.folder) for c in some]
        running = [zygote.start(*c.argv, cwd=c.folder / "cwd") for c in some]
        for case, p, shot in zip(some, running, snapshots):
            if found := refused(case, p, shot, pwned(world)):
                wrong.append(f"{case.group}: {case.name}\n  {found}")
        if snapshot(*good) != before:
            wrong.append(f"one of {[c.name for c in some]} has changed what is good")
            before = snapshot(*good)
    print(f"{group}: {len(cases)} malformed inputs in {time.monotonic() - start:.0f} s")
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong)


@pytest.mark.slow
def test_there_are_enough(world):
    "Counted without running them, so that it holds whichever tests are chosen."
    found = {group: len(list(make(world))) for group, make in GROUPS.items()}
    print(f"{sum(found.values())} malformed inputs: {found}")
    assert sum(found.values()) >= 200


# What is loaded runs nothing: the package's source has no way to run it.

RUNS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal",
        "zipfile", "tarfile", "runpy", "code"}  # and what unpacks names of its own choice
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "np.load",
         "numpy.load", "shutil.unpack_archive", "torch.jit.load", "torch.hub.load", "yaml.load",
         "pd.read_pickle"}


def suspicious(source):
    "Every import and call that could run what is in a file, or unpack it to anywhere."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in RUNS)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.split(".")[0] in RUNS: yield node.module
        if not isinstance(node, ast.Call): continue
        name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name in CALLS: yield name
        loads = name.split(".")[-1] == "load" and name.startswith("torch.")
        if loads and given.get("weights_only") != "True":
            yield f"{name} without weights_only=True"
        if given.get("trust_remote_code", "False") != "False": yield "trust_remote_code"
        if given.get("shell", "False") != "False" or given.get("allow_pickle", "False") != "False":
            yield f"{name} with {given}"


@pytest.mark.parametrize("path", sorted(Path(distill_nb.__file__).parent.glob("*.py")),
                         ids=lambda p: p.stem)
def test_the_package_runs_nothing_that_it_loads(path):
    assert list(suspicious(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("line",
                         ["import pickle", "from pickle import loads", "import zipfile, json",
                          "torch.load(p)", "torch.load(p, weights_only=False)",
                          "torch.load(p, weights_only=flag)", "eval(x)", "exec(x)",
                          "np.load(p)", "os.system(x)", "subprocess.run(x, shell=True)",
                          "K.from_pretrained(p, trust_remote_code=True)",
                          "K.from_pretrained(p, trust_remote_code=flag)",
                          "np.memmap(p, allow_pickle=True)", "shutil.unpack_archive(p)"])
def test_what_would_run_is_noticed(line): assert len(list(suspicious(line))) == 1
