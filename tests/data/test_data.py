"""The data on its way to the model: tokens on disk that somebody has spoiled, and files that
are named from somewhere else."""
import shutil, tracemalloc

import pytest
from torch.utils.data import Subset

from distill_nb.cli import main
from distill_nb.config import BadInput
from distill_nb.data import WikiDataset

SPOIL = {
    "empty": lambda f: f.write_bytes(b""),
    "three bytes": lambda f: f.write_bytes(b"abc"),
    "missing": lambda f: f.unlink(),
}


@pytest.mark.parametrize("how", SPOIL)
def test_damaged_tokens_are_made_anew(how, run_folder, text_file, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DISTILL_NB_CACHE", str(tmp_path))
    evaluate = ["evaluate", "--checkpoint", str(run_folder), "--eval-batches", "1",
                "--device", "cpu"]
    assert main(evaluate) == 0
    *first, _ = capfd.readouterr().out.splitlines() # the last line is the speed
    (valid,) = tmp_path.glob("*/valid.bin")
    SPOIL[how](valid)
    assert main(evaluate) == 0
    assert capfd.readouterr().out.splitlines()[:-1] == first


def test_data_named_from_another_folder(train_flags, text_file, tmp_path, monkeypatch, capfd):
    "A run remembers where its data were, not how they were named."
    (tmp_path / "a").mkdir()
    shutil.copy(text_file, tmp_path / "a/my.txt")
    monkeypatch.chdir(tmp_path / "a")
    flags = [*train_flags, "--dataset", "my.txt", "--checkpoint-dir", "run", "--max-steps", "2"]
    assert main(flags) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--checkpoint", "a/run", "--eval-batches", "1"]) == 0
    assert main(["train", "--checkpoint-dir", "a/run", "--resume", "--max-steps", "3"]) == 0
    told, = (line for line in capfd.readouterr().err.splitlines() if "going on from" in line)
    assert "total_steps 2 → 3" in told and "source" not in told


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return WikiDataset("tiny", seq_len=128, cache_dir=tmp_path_factory.mktemp("tokens"))


def test_blocks_are_read_one_by_one(shipped):
    "Four bytes per token on disk, and next to nothing in memory."
    n = len(shipped.train.tokens)
    assert (shipped.path / "train.bin").stat().st_size == 4 * n
    for _ in shipped.train: break
    tracemalloc.start()
    for _ in shipped.train: pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 8 * 129 <= peak < 10 * 8 * 129 + 10_000 < 4 * n / 20


def test_another_training_part_leaves_the_data_as_they_are(shipped):
    half = shipped.with_train(Subset(shipped.train, range(0, 100, 2)))
    assert len(half.train) == 50 and len(shipped.train) > 100
    assert (half.valid, half.path) == (shipped.valid, shipped.path)
    assert len(half.dataloaders(16)[0]) == 3
    assert sum(len(b["labels"]) for b in half.dataloaders(16)[1]) == len(shipped.valid)


def test_too_little_text_for_a_block_is_one_line(tmp_path):
    (tmp_path / "short.txt").write_text("水。\n\n氢。\n", encoding="utf-8") # water, hydrogen
    with pytest.raises(BadInput, match="has 3 tokens, fewer than one block of .* = 101") as told:
        WikiDataset(tmp_path / "short.txt", seq_len=100, tokenizer="tiny", cache_dir=tmp_path)
    assert "\n" not in str(told.value)
