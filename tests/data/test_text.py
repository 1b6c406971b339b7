"""What people bring as text: read as it is meant, or refused in one line that names the file;
nothing is passed over in silence, and nothing of the validation is trained on."""
import csv, gzip, io, json, logging, os, random

import numpy as np
import pyarrow as pa, pyarrow.parquet as pq
import pytest

from distill_nb.cli import main
from distill_nb.config import RUN_FILE, BadInput
from distill_nb.data import WikiDataset
from distill_nb.formats import Reading
from distill_nb.splits import _copy_groups, split_articles


def prose(name, n=30): return [f"{name}第{i}篇文章，讲的是铁和铜的性质，以及它们在古代的用途。" for i in range(n)]


def long(seed, n):
    chars = [chr(0x4e00 + i) for i in range(600)]
    return "".join(random.Random(seed).choices(chars, k=n))


def lines(texts, field="text"):
    return "".join(json.dumps({field: t}, ensure_ascii=False) + "\n" for t in texts)


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def opened(source, *args, **settings):
    return WikiDataset(str(source), *args, **dict(seq_len=8, tokenizer="tiny") | settings)


def articles(data):
    "The articles of both parts."
    return [data.tokenizer.decode(np.asarray(blocks.tokens)).split("<|endoftext|>")[:-1]
            for blocks in (data.train, data.valid)]


def kinds(source, *args, **settings):
    "The names in `prose` that stand in the training part, and in that of validation."
    return [{a.split("第")[0] for a in part} for part in articles(opened(source, *args, **settings))]


@pytest.fixture
def said(caplog):
    "What the package has said since, as one text."
    caplog.set_level(logging.INFO, "distill_nb")
    logging.getLogger("distill_nb").propagate = True
    return lambda: "\n".join(r.getMessage() for r in caplog.records)


# Folders

@pytest.fixture
def wikipedia(tmp_path):
    "A copy of a data set with two configurations."
    for name in ("20231101.ab", "20231101.zh"):
        put(tmp_path / "w" / name / "train-00000-of-00001.jsonl", lines(prose(name)))
    return tmp_path / "w"


def test_a_folder_gives_the_configuration_that_was_named(wikipedia):
    for name in ("20231101.ab", "20231101.zh"):
        assert kinds(wikipedia, name) == [{name}, {name}]
    card = "configs:\n" + "".join(
        f"- config_name: {n}\n  data_files: [{{split: train, path: 20231101.{n}/train-*}}]\n"
        for n in ("ab", "zh"))
    put(wikipedia / "README.md", f"---\n{card}---\n")
    assert kinds(wikipedia, "zh") == [{"20231101.zh"}] * 2
    with pytest.raises(BadInput, match="no configuration 'ja', it has ab, zh"):
        opened(wikipedia, "ja")


def test_a_run_notes_the_configuration_that_was_read(wikipedia, text_file, train_flags, tmp_path):
    flags = [*train_flags, "--max-steps", "1", "--batch-size", "1", "--max-seq-len", "8"]
    for name, (source, wanted) in dict(a=(wikipedia, "20231101.zh"), b=(text_file, "")).items():
        folder = tmp_path / name
        assert main([*flags, "--dataset", str(source), "--checkpoint-dir", str(folder)]) == 0
        assert json.loads((folder / RUN_FILE).read_text())["dataset_name"] == wanted
        assert main(["train", "--checkpoint-dir", str(folder), "--resume", "--max-steps", "2"]) == 0


@pytest.mark.parametrize("name", ["data/{}-00000-of-00001.jsonl", "{}.jsonl", "{}/a.jsonl"])
def test_parts_of_a_folder_are_kept_apart(name, tmp_path, said):
    for part in ("train", "validation", "test"):
        put(tmp_path / name.format(part), lines([*prose(part), "同一篇文章，两边都有。"]))
    put(tmp_path / "everything.jsonl", lines(prose("everything")))
    data = opened(tmp_path)
    train, valid = articles(data)
    assert {a.split("第")[0] for a in train} == {"train"}
    assert {a.split("第")[0] for a in valid} == {"validation", "同一篇文章，两边都有。"}
    assert "1 articles are copies of some that validate" in said()
    assert "(for tests)" in said() and "everything.jsonl (not among" in said()


def test_what_lies_beside_is_read_or_named(tmp_path, said):
    table = io.StringIO()
    csv.writer(table).writerows([["text"], *([t] for t in prose("csv"))])
    put(tmp_path / "d/a.txt", "\n\n".join(prose("txt")))
    put(tmp_path / "d/b.jsonl.gz", gzip.compress(lines(prose("gz")).encode()))
    put(tmp_path / "d/c.json", json.dumps([dict(text=t) for t in prose("json")]))
    put(tmp_path / "d/d.csv", table.getvalue())
    put(tmp_path / "d/wiki_00", "\n\n".join(prose("none")))
    put(tmp_path / "d/README.txt", "Licence: see the web page.")
    put(tmp_path / "elsewhere/e.TXT", "\n\n".join(prose("linked")))
    (tmp_path / "d/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d/loop").symlink_to(tmp_path / "d")
    train, valid = kinds(tmp_path / "d")
    assert train | valid == {"txt", "gz", "json", "csv", "linked"}
    assert "passed over: README.txt (about the data), wiki_00 (no ending)" in said()
    assert "5 files read in the order of their paths, 150 articles" in said()


def arrow(path, texts, kind=pa.ipc.new_stream):
    table = pa.table(dict(text=texts))
    path.parent.mkdir(parents=True, exist_ok=True)
    with kind(str(path), table.schema) as f: f.write_table(table, max_chunksize=10)
    return path


def test_what_datasets_saves_is_read(tmp_path, said):
    "`save_to_disk` leaves notes beside the text, and `map` what it has computed."
    for part in ("train", "validation"):
        arrow(tmp_path / part / "data-00000-of-00001.arrow", prose(part))
        for note in ("state", "dataset_info"): put(tmp_path / part / f"{note}.json", "{}")
    arrow(tmp_path / "train/cache-0123456789abcdef.arrow", prose("again"))
    put(tmp_path / "dataset_dict.json", '{"splits": ["train", "validation"]}')
    assert kinds(tmp_path) == [{"train"}, {"validation"}]
    assert "cache-0123456789abcdef.arrow (what datasets has computed)" in said()
    assert "dataset_dict.json (about the data)" in said()
    assert kinds(tmp_path / "train/data-00000-of-00001.arrow") == [{"train"}] * 2
    assert kinds(arrow(tmp_path / "b.arrow", prose("b"), pa.ipc.new_file)) == [{"b"}] * 2
    with pytest.raises(BadInput, match="no column 'title' of strings, only text"):
        opened(tmp_path / "b.arrow", text_field="title")


@pytest.mark.parametrize("kind", [pa.ipc.new_stream, pa.ipc.new_file])
def test_damaged_arrow_files(kind, tmp_path):
    "Cut off anywhere, or with a byte that is another: an error, or text, and no crash."
    whole = arrow(tmp_path / "a.arrow", prose("a", 20), kind).read_bytes()
    for n in range(0, len(whole), 97):
        for bad in (whole[:n], whole[:n] + bytes([whole[n] ^ 255]) + whole[n + 1:]):
            try: [*Reading(on_bad_text="skip").read([put(tmp_path / "b.arrow", bad)])]
            except BadInput as e: assert "b.arrow" in str(e) and "\n" not in str(e)


def test_many_small_files_are_an_article_each(tmp_path, said):
    for i in range(20):
        put(tmp_path / f"{i}.txt", "\n\n".join(f"文章{i}的第{j}段，讲铁和铜的用途。" for j in range(4)))
    train, valid = articles(opened(tmp_path))
    assert (len(train), len(valid)) == (18, 2)
    assert "each ends at the end of the file" in said()


def test_stories_that_say_where_they_end(tmp_path, said):
    stories = [f"One day {i} began.\n\nIt went on.\n\nThen {i} ended." for i in range(40)]
    put(tmp_path / "a.txt", "\n<|endoftext|>\n".join(stories))
    put(tmp_path / "b.txt", "".join(s + "<|endoftext|>\n" for s in stories))
    for name in "ab":
        train, valid = articles(opened(tmp_path / f"{name}.txt"))
        assert sorted(train + valid) == sorted(stories)


def test_names_of_special_tokens_are_counted(tmp_path, said):
    rows = [f"{text} <|endoftext|> {i}" for i, text in enumerate(prose("a"))]
    data = opened(put(tmp_path / "a.jsonl", lines(rows)))
    assert sum(len(part) for part in articles(data)) > 30  # decoded, text and token look the same
    ends = sum((np.asarray(b.tokens) == data.tokenizer.eos_token_id).sum()
               for b in (data.train, data.valid))
    assert ends == 30 and "read as text: <|endoftext|> 30 times" in said()


# The split

def share(parts): return sum(map(len, parts[1])) / sum(map(len, parts[0] + parts[1]))


@pytest.mark.parametrize("lengths", [[400] * 9 + [60_000], [60_000, 50], [60_000],
                                     [30_000, 20_000, 9_000], [9_000] * 3 + [100] * 300])
def test_the_split_is_of_text(lengths):
    texts = [long(i, n) for i, n in enumerate(lengths)]
    for seed in range(12):
        parts = split_articles(texts, 0.1, seed)
        assert 0.07 <= share(parts) <= 0.13, (seed, share(parts))
        assert sum(map(len, parts[0] + parts[1])) > 0.9 * sum(lengths)


def test_around_a_cut_nothing_is_used():
    book = long(0, 60_000)
    (begin,), (end,) = split_articles([book], 0.1, 0)
    assert book.startswith(begin) and book.endswith(end)
    assert len(book) - len(begin) - len(end) >= 1000


def test_ordinary_articles_are_split_as_ever():
    texts = [long(i, 200 + i % 300) for i in range(400)]
    order = np.random.default_rng(7).permutation(400)[:40]
    assert split_articles(texts, 0.1, 7)[1] == [texts[i] for i in sorted(order)]


@pytest.mark.parametrize("copied", [lambda t: t, lambda t: f" {t[:150]}\n{t[150:]} ",
                                    lambda t: t[:150] + "改" + t[151:]],
                         ids=["exact", "blanks", "near"])
def test_copies_stand_on_one_side(copied):
    texts = [long(i, 300) for i in range(50)]
    both = [*texts, *map(copied, texts), *texts, *map(copied, texts)]
    assert _copy_groups(both) == [*range(50)] * 4
    train, valid = split_articles(both, 0.1, 42)
    apart = {t: i for i, t in enumerate([*texts, *map(copied, texts)])}
    assert {apart[t] % 50 for t in train}.isdisjoint(apart[t] % 50 for t in valid)
    assert len(train + valid) == 200 and 0.07 <= share((train, valid)) <= 0.13


# sample_mb

def test_as_much_as_was_asked_for(tmp_path, said):
    for i, n in enumerate((100, 60_000, 400, 400)):
        put(tmp_path / f"{i}.jsonl", lines([long(i, n), long(-i, n)]))
    size = lambda d: sum(len(a.encode()) for part in articles(d) for a in part)
    for mb in (0.01, 0.1):
        assert 0.9 * mb * 1e6 - 5000 < size(opened(tmp_path, sample_mb=mb)) <= mb * 1e6
        assert "2 files were not opened, sample_mb was full: 2.jsonl, 3.jsonl" in said()
        assert "ends within an article of 0.180 MB" in said()


# Bad text

def test_bad_text_is_named_and_counted(tmp_path, said):
    good = prose("a")
    bad = "\n\n".join(good).encode() + b"\n\nwater \xff, and more water, and more\n"
    one = "".join(lines([t]) for t in good) + '{"text": "half \\ud83d of a character"}\n'
    column = pa.array([t.encode() for t in good] + [b"water \xff, and more"]).view(pa.string())
    pq.write_table(pa.table(dict(text=column)), tmp_path / "c.parquet")
    files = [put(tmp_path / "a.txt", bad), put(tmp_path / "b.jsonl", one), tmp_path / "c.parquet"]
    places = [f"a.txt is not UTF-8 .line 61, byte {bad.index(0xff)}", "b.jsonl line 31 .*ud83d at",
              "c.parquet line 31 "]
    for file, place in zip(files, places):
        with pytest.raises(BadInput, match=place): opened(file)
        skipped, replaced = (sum(articles(opened(file, on_bad_text=how)), [])
                             for how in ("skip", "replace"))
        assert sorted(skipped) == sorted(good)
        (mended,) = set(replaced) - set(good)
        assert mended.count("\ufffd") == 1
        assert f"1 bad articles or lines of {file} were skipped" in said()


def test_line_ends_and_marks_are_alike_everywhere(tmp_path):
    text = "\ufeff第一行。\r\n第二行。\ufeff\r第三行。"
    table = io.StringIO()
    csv.writer(table).writerows([["text"], [text]])
    pq.write_table(pa.table(dict(text=[text])), tmp_path / "d.parquet")
    files = [put(tmp_path / "a.txt", text), put(tmp_path / "b.jsonl", lines([text])),
             put(tmp_path / "c.csv", table.getvalue()), tmp_path / "d.parquet"]
    for file in files: assert [*Reading().read([file])] == ["第一行。\n第二行。\n第三行。"], file.name


def test_the_field_is_named(tmp_path, train_flags, capfd):
    file = put(tmp_path / "a.jsonl", lines(prose("a"), "正文"))
    flags = [*train_flags, "--dataset", str(file), "--max-steps", "1", "--batch-size", "1",
             "--max-seq-len", "8", "--checkpoint-dir", str(tmp_path / "run")]
    assert main(flags) == 2
    assert "only 正文 (text); name the field" in capfd.readouterr().err
    assert main([*flags, "--text-field", "正文"]) == 0
    assert json.loads((tmp_path / "run" / RUN_FILE).read_text())["text_field"] == "正文"
    assert main(["evaluate", "--checkpoint", str(tmp_path / "run"), "--eval-batches", "1"]) == 0
    assert main([*flags, "--on-bad-text", "guess"]) == 2
    assert "must be one of stop, skip, replace" in capfd.readouterr().err


def test_a_quotation_mark_that_swallows_the_rest_is_refused(tmp_path):
    rows = ["text", *prose("a"), '"never closed', *prose("b")]
    with pytest.raises(BadInput, match="a.csv line 32 is no row of a table"):
        opened(put(tmp_path / "a.csv", "\n".join(rows)), on_bad_text="skip")


# What is no file

@pytest.mark.parametrize("source, told", [
    ("texts/*.txt", "is a pattern; give the folder"),
    ("https://example.com/a.txt", "is an address; fetch what is there"),
    ("s3://bucket/a.parquet", "is an address; fetch what is there"),
    ("https://huggingface.co/datasets/wikimedia/wikipedia/tree/main",
     "give the id alone: wikimedia/wikipedia$"),
    ("hf://datasets/org/text", "give the id alone: org/text$"),
    (pa.table(dict(text=["a"])), "is a Table and no name; write it to a file"),
    (["a.txt", "b.txt"], "is a list and no name")], ids=str)
def test_what_names_no_file_is_told_what_to_give(source, told):
    with pytest.raises(BadInput, match=told): WikiDataset(source, seq_len=8, tokenizer="tiny")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "log.txt").symlink_to("/proc/self/status")  # a regular file of 0 bytes, not empty
    for name in ("pipe", "zero"):
        with pytest.raises(BadInput, match=f"{name}.txt is a .* and no file"):
            opened(tmp_path / f"{name}.txt")
    with pytest.raises(BadInput, match="gave 0 article"): opened(tmp_path / "log.txt")
    with pytest.raises(BadInput, match="only log.txt .empty., pipe.txt .a pipe and no file."):
        opened(tmp_path)
