"""The command `distill_nb` as a process of its own that costs a few hundredths of a second to
start instead of seconds.

A zygote is a Python that has imported all that the commands import, and then forks a child for
each request. The child is an ordinary process (its own pid and process group, its own output,
killed and waited for like any other) that runs `distill_nb.cli.main(argv)` and ends as the
command ends. What a process pays before its first line is paid once. Not the same as a fresh
process: what is decided when a module is imported (`OMP_NUM_THREADS`, `HF_HUB_OFFLINE`,
`HF_ENDPOINT`, which accelerator there is) is decided for all of them, by `Zygote(**env)`.

    with Zygote() as zygote:
        p = zygote.start("train", "--checkpoint-dir", folder, DISTILL_NB_CACHE=cache)
        wait_until(lambda: steps(folder), p)
        p.kill()                                # SIGKILL; or p.kill(signal.SIGTERM)
        assert p.wait(60) == -signal.SIGKILL    # statuses are those of subprocess
        print(p.out, p.err)                     # also while it runs
"""
import atexit, gc, importlib, json, os, pkgutil, shutil, signal, subprocess, sys, tempfile
import threading, time, traceback
from pathlib import Path


class Zygote:
    "Starts commands by forking. Use it in a `with`: what still runs at the end is killed."
    def __init__(self, **env):
        self.folder, self.number = Path(tempfile.mkdtemp(prefix="zygote-")), 0
        # a process that has threads cannot be forked
        threads = dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, encoding="ascii",
                                        env=os.environ | threads | env)
        try: self.answer()  # it is ready
        except BaseException: self.close(); raise

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the zygote has ended with status {self.process.wait()}; what it said is above")
        return json.loads(line)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def start(self, *argv, cwd=None, **env):
        """The running command, a `Process`. `argv` as `main` would get it; bytes that are not
        UTF-8 become surrogates, as in `sys.argv`."""
        self.number += 1
        folder = self.folder / str(self.number)
        folder.mkdir()
        for name in ("out", "err"): (folder / name).touch()
        argv = [os.fsdecode(a) if isinstance(a, (bytes, os.PathLike)) else str(a) for a in argv]
        pid = self.ask(start=argv, folder=str(folder), cwd=str(cwd or os.getcwd()),
                       env={k: str(v) for k, v in env.items()})
        return Process(self, pid, folder)

    def run(self, *argv, timeout=60, **kwargs):
        """Status, stdout and stderr of a command that ends; one that does not is killed, and
        `TimeoutError` raised."""
        p = self.start(*argv, **kwargs)
        return p.wait(timeout), p.out, p.err

    def close(self):
        "End the zygote, and with it all that it has started."
        self.process.stdin.close()
        try: self.process.wait(30)
        except subprocess.TimeoutExpired: self.process.kill(); self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self): return self
    def __exit__(self, *exc): self.close()


class Process:
    "A command that a zygote has started; used like a `subprocess.Popen`."
    def __init__(self, zygote, pid, folder):
        self.zygote, self.pid, self.folder, self.returncode = zygote, pid, folder, None

    def poll(self):
        "Its status, or None while it runs; −n where signal n has ended it."
        if self.returncode is None: self.returncode = self.zygote.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout=60):
        """Its status when it has ended; a process that takes longer than `timeout` seconds is
        killed, and `TimeoutError` raised."""
        end, pause = time.monotonic() + timeout, 0.001
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                while self.poll() is None: time.sleep(0.005)
                raise TimeoutError(
                    f"still running after {timeout} s; on stderr: {self.err[-2000:]}")
            time.sleep(pause)
            pause = min(0.02, 2 * pause)
        return self.returncode

    def kill(self, number=signal.SIGKILL):
        """Send a signal to it and to what it has started; nothing happens where it has ended
        already."""
        # the zygote has not taken its status yet, so the number is still its own
        if self.poll() is None: os.killpg(self.pid, number)
    send_signal = kill

    def communicate(self, timeout=60):
        self.wait(timeout)
        return self.out, self.err

    @property
    def out(self): return (self.folder / "out").read_text(encoding="utf-8", errors="replace")
    @property
    def err(self): return (self.folder / "err").read_text(encoding="utf-8", errors="replace")


# The other side: what runs in the zygote.

def load_everything():
    "Import what the commands import late, or PyTorch at its first step, without starting a thread."
    import distill_nb, torch, torch._dynamo, transformers
    import transformers.models.llama.modeling_llama, transformers.models.qwen2.modeling_qwen2
    for module in pkgutil.iter_modules(distill_nb.__path__):
        try: importlib.import_module(f"distill_nb.{module.name}")
        except ImportError as e:
            if (e.name or "").startswith("distill_nb"): raise  # else a part that no command needs
    threads = os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else [0]
    if len(threads) > 1:
        raise RuntimeError(
            f"a process with {len(threads)} threads cannot be forked safely: "
            "some import has started one")


def fork(request, *ours):
    "→ pid in the zygote, None in the child, whose files, folder and environment are then its own."
    sys.stdout.flush(); sys.stderr.flush()
    if pid := os.fork():
        try: os.setpgid(pid, pid)  # on both sides, whichever is first: a kill may come at once
        except OSError: pass
        return pid
    os.setpgid(0, 0)
    for f in ours: os.close(f)
    for number, (path, flags) in enumerate([(os.devnull, os.O_RDONLY), ("out", os.O_WRONLY),
                                            ("err", os.O_WRONLY)]):
        fd = os.open(os.path.join(request["folder"], path), flags)
        os.dup2(fd, number); os.close(fd)
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, signal.default_int_handler if s == signal.SIGINT else signal.SIG_DFL)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    return None


def serve():
    "Answer requests until there are no more; in a child, return what it is to do."
    questions, answers, running = os.dup(0), os.dup(1), {}
    os.dup2(2, 1)  # what an import prints is no answer
    load_everything()
    gc.collect(); gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then close us
    os.write(answers, b"true\n")
    with os.fdopen(questions, encoding="ascii", closefd=False) as lines:
        for line in lines:
            request = json.loads(line)
            if "start" in request:
                pid = answer = fork(request, questions, answers)
                if pid is None: return request["start"]
                running[pid] = None
            else: answer = check(request["poll"], running)
            os.write(answers, json.dumps(answer).encode() + b"\n")
    for pid in running:
        try: os.killpg(pid, signal.SIGKILL)
        except OSError: pass
        os.waitpid(pid, 0)
    os._exit(0)


def check(pid, running):
    "The status of a child, or None while it runs."
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended: return None
    del running[pid]
    return os.waitstatus_to_exitcode(status)


def end(status):
    """What Python does at its end, but for taking its modules apart, which would cost as much
    as ten starts."""
    threading._shutdown()  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.argv = ["distill_nb", *serve()]
    from distill_nb.cli import main
    try: status = main() or 0
    except SystemExit as e:
        status = e.code or 0
        if not isinstance(status, int):  # a message
            print(status, file=sys.stderr)
            status = 1
    except BaseException: status = traceback.print_exc() or 1
    end(status)
