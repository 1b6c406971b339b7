"""`distill_nb` as one of several processes that keeps a diary: `watched.py DIARY COMMAND …`

Its files in DIARY: pid.RANK, blocks.RANK (a line a step: the blocks that it trained on),
written.RANK (what it wrote under the run's folder), kept.RANK (how many of the student's
weights it keeps). With $SECONDS_A_STEP no step is shorter, so that there is time to stop it.
With $FSDP_ON_CPU Accelerate believes that the CPU is a card that FSDP can use: left to itself
it passes over FSDP on a CPU without a word.
"""
import json, os, sys, time
from pathlib import Path

diary, rank = Path(sys.argv[1]), os.environ.get("RANK", "0")
run = os.path.abspath(sys.argv[sys.argv.index("--checkpoint-dir") + 1])


def note(kind, value):
    with open(diary / f"{kind}.{rank}", "a") as f: f.write(f"{json.dumps(value)}\n")


def wrote(path):
    if not isinstance(path, (str, bytes, os.PathLike)): return
    path = os.path.abspath(os.fsdecode(path))
    if path.startswith(run): note("written", path)


def hook(event, args):
    "What Python does to files."
    if event == "open" and (set(args[1] or "") & set("wax+")
                            or args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        wrote(args[0])
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"):
        wrote(args[0])
    elif event in ("os.rename", "os.link", "os.symlink"): wrote(args[0]), wrote(args[1])


def told(function, at): # the place of the path among its arguments
    "Torch and safetensors open files without Python."
    def call(*args, **kwargs):
        wrote(args[at])
        return function(*args, **kwargs)
    return call


note("pid", os.getpid())
sys.addaudithook(hook)
if "FSDP_ON_CPU" in os.environ:
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    from accelerate.state import DistributedType, PartialState
    init = PartialState.__init__
    PartialState.__init__ = lambda self, cpu=False, **kwargs: init(self, **kwargs)
    several = "gloo", DistributedType.MULTI_GPU
    PartialState._prepare_backend = lambda self, *args, **kwargs: several
import safetensors.torch, torch
torch.save = told(torch.save, 1)
safetensors.torch.serialize_file = told(safetensors.torch.serialize_file, 1)
from distill_nb.cli import main
from distill_nb.trainer import DistillationTrainer as Trainer

number = {}  # of each block


def watch(trainer):
    "A hook."
    blocks, place = trainer.data.train, trainer.place
    if not number:
        number.update({blocks[i]["input_ids"].numpy().tobytes(): i for i in range(len(blocks))})
    if not (diary / f"kept.{rank}").exists():
        note("kept", sum(getattr(p, "_local_tensor", p).numel()
                         for p in trainer.student.parameters()))
    seen = [number[ids.numpy().tobytes()] for b in trainer.watch.batches for ids in b["input_ids"]]
    note("blocks", dict(epoch=place.epoch, step=place.step - 1, blocks=seen))
    time.sleep(float(os.environ.get("SECONDS_A_STEP", 0)))


make = Trainer.__init__


def watched_init(self, *args, **kwargs):
    make(self, *args, **kwargs)
    self.hooks.append(watch)


Trainer.__init__ = watched_init
sys.exit(main(sys.argv[2:]))
