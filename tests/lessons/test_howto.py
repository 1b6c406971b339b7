"The how-to pages: every command on them is one that the program takes, and what can run here runs."
import csv, json, os, re, shlex, shutil, subprocess, sys
from pathlib import Path

import pytest

from distill_nb.cli import _COMMANDS as COMMANDS, _parse as parse, main

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "howto").glob("*.md"))
CONFIGS = sorted((ROOT / "howto" / "accelerate").glob("*.yaml"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(page, wanted):
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [body for kind, body in found if kind == wanted]


def commands(page):
    "Every command of its bash blocks; one that goes on after a backslash is one."
    bodies = [re.sub(r" \\\n *", " ", body) for body in blocks(page, "bash")]
    return [line for body in bodies for line in body.splitlines()]


def words(line):
    "A command without the variables in front of it."
    found = shlex.split(line)
    while re.match(r"\w+=", found[0]): found.pop(0)
    return found


EVERY = [(page.stem, line) for page in PAGES for line in commands(page)]
OURS = [(page, line) for page, line in EVERY if "distill_nb" in words(line)]


def test_there_are_pages(): assert len(PAGES) == 8 and len(OURS) >= 25


def check_ours(argv): # from `distill_nb` on
    assert argv[1] in COMMANDS
    parse(argv[1], argv[2:])


def launched(argv): # after `accelerate launch`
    """What it would start, once it has read its file: as many processes as the file says,
    each a command and not a script."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    args = launch_command_parser().parse_args(argv)
    args.config_file = str(ROOT / args.config_file)
    wanted = load_config_from_file(args.config_file)
    args, *_ = _validate_launch_command(args)
    several = (args.multi_gpu or args.use_fsdp) and not args.cpu
    assert args.no_python and several, "otherwise one process is all there is"
    assert args.num_processes == wanted.num_processes > 1
    assert args.num_machines == wanted.num_machines
    if args.num_machines > 1:
        assert args.main_process_ip and args.main_process_port and args.machine_rank is not None
    return [args.training_script, *args.training_script_args]


def test_files_for_the_launcher_are_those_on_the_page():
    shown = blocks(ROOT / "howto" / "several_gpus.md", "yaml")
    assert len(CONFIGS) >= 3
    assert sorted(shown) == sorted(path.read_text(encoding="utf-8") for path in CONFIGS)
    given = {word for _, line in EVERY for word in words(line) if word.endswith(".yaml")}
    assert given == {path.relative_to(ROOT).as_posix() for path in CONFIGS}


@pytest.mark.parametrize("page, line", EVERY, ids=lambda x: x)
def test_command_is_one_that_the_program_takes(page, line):
    argv = words(line)
    if argv[0] == "distill_nb": return check_ours(argv)
    if argv[:2] == ["accelerate", "launch"]: return check_ours(launched(argv[2:]))
    others = "python", "iconv", "hf", "lm_eval"
    assert argv[0] in others or argv[0] == "export" and "=" in argv[1], line


def test_hf_knows_its_flags():
    for what in (["download"], ["repos", "create"]):
        help_of = ["hf", *what, "--help"]
        told = subprocess.run(help_of, capture_output=True, text=True, check=True)
        lines = [words(line) for _, line in EVERY if words(line)[1:len(what) + 1] == what]
        given = {word for line in lines for word in line if word.startswith("--")}
        assert given and [flag for flag in given if flag not in told.stdout] == []


def test_a_task_for_the_harness_has_what_its_file_names(tmp_path, monkeypatch):
    "Twenty questions; the right one of four different answers is where the file says."
    import yaml
    from distill_nb.facts import recall_prompts
    page = ROOT / "howto" / "other_programs.md"
    monkeypatch.chdir(tmp_path)
    exec(next(body for body in blocks(page, "python") if "facts.jsonl" in body), {})
    task = yaml.safe_load(*blocks(page, "yaml"))
    lines = Path(task["dataset_kwargs"]["data_files"]).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    text, choices, right = (task[f"doc_to_{name}"] for name in ("text", "choice", "target"))
    answers = dict(recall_prompts())
    assert len(rows) == 20 and all(len({*row[choices]}) == 4 for row in rows)
    assert [row[choices][row[right]] for row in rows] == [answers[row[text]] for row in rows]


def test_links_lead_to_files():
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).is_file()] == [], page.name


def test_python_lines_run():
    for page, line in EVERY:
        if words(line)[0] != "python": continue
        command = [sys.executable, *words(line)[1:]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "text")], ids=lambda p: p.stem)
def test_output_is_what_the_commands_print(page, capsys):
    "All of these come from `plan`, which counts: the same on every machine."
    for line in commands(page):
        needs_a_file = "--teacher" in line or "--dataset" in line
        if words(line)[:2] == ["distill_nb", "plan"] and not needs_a_file:
            assert main(words(line)[1:]) == 0
    printed = capsys.readouterr().out.splitlines()
    for body in blocks(page, "text"):
        assert [row for row in body.splitlines() if row not in printed] == []


@pytest.mark.slow
def test_what_needs_neither_card_nor_network_runs(tmp_path, text_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("articles.txt").write_bytes(text_file.read_bytes())
    articles = text_file.read_text(encoding="utf-8").split("\n\n")
    with open("articles.csv", "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([["content"], *([a] for a in articles)])
    shutil.copytree(ROOT / "howto" / "accelerate", "howto/accelerate")
    a_run = "train --preset tiny --device cpu --max-steps 2 --eval-batches 1"
    assert main([*a_run.split(), "--checkpoint-dir", "runs/demo/distilled"]) == 0
    runnable = [line for _, line in OURS if "--preset tiny" in line or "runs/demo" in line]
    elsewhere = {"verify-resume", "serve", "--push"} # as test_verify, test_serve, test_push do
    runnable = [line for line in runnable if not elsewhere & {*words(line)}]
    assert len(runnable) >= 5
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in runnable:
        done = subprocess.run(["bash", "-c", line], env={**os.environ, "PATH": path},
                              capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr[-2000:])
