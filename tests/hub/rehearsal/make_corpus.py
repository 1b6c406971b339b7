"""Build a corpus of real Chinese text with the columns of `wikimedia/wikipedia`.

    python make_corpus.py OUT.parquet [--package libreoffice-help-zh-cn] [--max-mb 50]

The text is the Chinese documentation of a Debian package, fetched with apt-get and unpacked with
dpkg-deb; nothing is installed. It stands in for `20231101.zh` on a machine that does not reach the
hub: modern Chinese of many subjects, with some English and left-overs of markup.
"""
import argparse, re, subprocess, tempfile, warnings
from pathlib import Path

import pyarrow as pa, pyarrow.parquet as pq
from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning

warnings.filterwarnings("ignore", category=XMLParsedAsHTMLWarning)


def pages(folder):
    "Yield (name, title, text) of every page below `folder` of which at least a quarter is Chinese."
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".html", ".xhtml", ".htm") or not path.is_file(): continue
        page = BeautifulSoup(path.read_bytes(), "lxml")
        for tag in page(["script", "style", "nav", "head"]): tag.decompose()
        text = re.sub(r"\s*\n\s*", "\n", re.sub(r"[ \t]+", " ", page.get_text("\n"))).strip()
        title = (page.find(["h1", "h2", "title"]) or page).get_text(" ")[:80].strip()
        chinese = len(re.findall(r"[\u4e00-\u9fff]", text))
        if len(text) >= 200 and chinese > len(text) / 4: yield path.name, title, text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--package", default="libreoffice-help-zh-cn")
    parser.add_argument("--max-mb", type=float, default=50)
    args = parser.parse_args()
    rows, size = [], 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-qq", args.package], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, "unpacked"], cwd=folder, check=True)
        for i, (name, title, text) in enumerate(pages(Path(folder) / "unpacked")):
            url = f"https://example.invalid/{name}"
            rows.append(dict(id=str(i), url=url, title=title, text=text))
            size += len(text.encode())
            if size > args.max_mb * 1e6: break
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), args.out)
    print(f"{args.out}: {len(rows)} articles, {size / 1e6:.2f} MB of text")


if __name__ == "__main__": main()
