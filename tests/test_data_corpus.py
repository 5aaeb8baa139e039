"""Corpora: which files, in which order, cut into which documents, and what is refused."""

import gzip
import json
import os
import random
import sys
import tracemalloc
import types

import pytest

from equimu._errors import EquimuError
from equimu.data import read_corpus


def documents(spec):
    return list(read_corpus(str(spec)).documents())


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_stdlib_is_large_sorted_and_free_of_foreign_code():
    corpus = read_corpus("stdlib")
    assert 8_000_000 < sum(path.stat().st_size for path in corpus.paths) < 20_000_000
    assert list(corpus.paths) == sorted(corpus.paths, key=lambda path: path.as_posix())
    names = {path.name for path in corpus.paths}
    assert {"argparse.py", "_strptime.py"} <= names
    parts = {part for path in corpus.paths for part in path.parts}
    assert parts.isdisjoint({"site-packages", "__pycache__", "idle_test"})
    assert any("class ArgumentParser" in text for text in corpus.documents())
    assert read_corpus("stdlib") == corpus


def test_folder_glob_and_file(tmp_path):
    write(tmp_path, b_txt="two", sub__a_txt="three", a_md="one", sub__empty_txt="")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("no")
    assert documents(tmp_path) == ["one", "two", "three"]
    assert documents(tmp_path / "**" / "*.txt") == ["two", "three"]
    assert "".join(documents(tmp_path / "*.md")) == "one"


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "a[1].txt").write_text("text")
    assert documents(tmp_path / "a[1].txt")


def test_bytes_of_the_text_survive(tmp_path):
    text = "eins\r\nzwei\rdrei\n\n\tvier ☃"
    write(tmp_path, a_txt=text, b_txt="\ufeffbom")
    assert documents(tmp_path) == [text, "\ufeffbom"]


def test_a_lone_file_is_cut_at_ends_of_lines(tmp_path):
    lines = [f"line {i} of a book\n" for i in range(3000)]
    (tmp_path / "book.txt").write_text("".join(lines))
    pieces = documents(tmp_path / "book.txt")
    assert "".join(pieces) == "".join(lines)
    assert 200 <= len(pieces) <= 256
    assert all(piece.endswith("\n") for piece in pieces)


def test_a_long_file_among_others_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("equimu.data._corpus._LONGEST_DOCUMENT", 100)
    long = "0123456789\n" * 30
    write(tmp_path, a_txt=long, b_txt="short")
    *pieces, short = documents(tmp_path)
    assert "".join(pieces) == long and short == "short"
    assert len(pieces) == 4 and max(map(len, pieces)) <= 100
    assert all(piece.endswith("\n") for piece in pieces)


def test_a_long_line_is_cut_at_spaces_into_bounded_pieces(tmp_path):
    words = " ".join(f"word{i}" for i in range(200_000))
    (tmp_path / "text8").write_text(words)
    pieces = documents(tmp_path / "text8")
    assert "".join(pieces) == words
    assert 200 <= len(pieces) <= 300 and all(piece.endswith(" ") for piece in pieces[:-1])


def test_a_long_line_is_never_read_whole(tmp_path):
    """Neither alone nor among others, with spaces or without."""
    for text in ("x" * 3_500_000, "ab " * 1_200_000):
        long = tmp_path / "long.txt"
        long.write_text(text)
        (tmp_path / "short.txt").write_text("short")
        for spec in (tmp_path, long):
            pieces = [piece for piece in documents(spec) if piece != "short"]
            assert "".join(pieces) == text and max(map(len, pieces)) <= 2**20
        tracemalloc.start()
        next(iter(read_corpus(str(tmp_path)).documents()))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * 2**20  # the decoder holds a piece a few times


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\\ntwo", "url": 3}\n{"text": ""}\n{"text": "half \\ud800 pair"}\n')
    assert documents(path) == ["one\ntwo", "half ? pair"]
    path.write_text('{"text": "one"}\n{"content": "two"}\n')
    with pytest.raises(EquimuError, match="line 2"):
        documents(path)


LINES = "".join(json.dumps({"text": text}) + "\n" for text in ("one", "two"))


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL", "a.Jsonl"])
@pytest.mark.parametrize("lines", [LINES, f"\ufeff{LINES}", LINES.replace("\n", "\n\n  \r\n"), "\n" + LINES.strip()])
def test_json_lines_of_any_spelling(tmp_path, name, lines):
    (tmp_path / name).write_bytes(lines.encode())
    assert documents(tmp_path / name) == ["one", "two"]


@pytest.mark.parametrize(
    "name, content, wanted", [("a.jsonl.gz", LINES, ["one", "two"]), ("B.TXT.GZ", "plain", ["plain"])]
)
def test_compressed_files_are_read_as_what_they_hold(tmp_path, name, content, wanted):
    (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    (tmp_path / "other.txt").write_text("other")
    assert documents(tmp_path) == [*wanted, "other"]


def test_zstd_names_the_package_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl.zst").write_bytes(b"(\xb5/\xfd")
    for name in ("zstandard", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EquimuError, match="a.jsonl.zst .*pip install zstandard"):
        documents(tmp_path / "a.jsonl.zst")


def test_zstd_is_read_by_the_module_that_is_there(tmp_path, monkeypatch):
    """A stand-in with the interface of Python 3.14's module, whose compression is gzip."""
    stand_in = types.SimpleNamespace(ZstdFile=lambda file: gzip.GzipFile(fileobj=file), ZstdError=ValueError)
    monkeypatch.setitem(sys.modules, "compression", types.ModuleType("compression"))
    monkeypatch.setitem(sys.modules, "compression.zstd", stand_in)
    (tmp_path / "a.JSONL.zst").write_bytes(gzip.compress(LINES.encode()))
    assert documents(tmp_path / "a.JSONL.zst") == ["one", "two"]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "line 1: not a document .JSON nested"),
        ("a.jsonl", b'{"text": ' + b"[" * 300 + b"]" * 300 + b"}", "line 1: .*nested more than 200 deep"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": 1}', "line 3: .*no object with a text"),
        ("a.jsonl", b'{"text": "a"}\n["text"]', "line 2: .*no object with a text"),
        ("a.jsonl", b'{"text": "a"', "line 1: not a document"),
        ("a.jsonl", b'{"n": 1' + b"0" * 5000 + b"}", "an integer of 5001 digits"),
        ("a.gz", b"no gzip at all", "a.gz: Not a gzipped file"),
        ("a.gz", gzip.compress(b"a text " * 1000, mtime=0)[:-20], "a.gz: .*end"),
        ("a.gz", gzip.compress(random.Random(0).randbytes(1000), mtime=0)[:-100] + b"x" * 100, "cannot read .*a.gz"),
    ],
)
def test_what_is_no_document_is_told_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EquimuError, match=words) as error:
        documents(tmp_path / name)
    assert "\n" not in str(error.value)


def test_each_file_once_whatever_links_there_are(tmp_path, capsys):
    write(tmp_path, lib__a_txt="one", lib__sub__b_txt="two")
    (tmp_path / "lib64").symlink_to("lib")
    (tmp_path / "lib" / "up").symlink_to(tmp_path)
    (tmp_path / "lib" / "sub" / "up").symlink_to("..")
    (tmp_path / "again.txt").symlink_to("lib/a.txt")
    (tmp_path / "dead.txt").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for spec in (tmp_path, tmp_path / "**" / "*.txt", tmp_path / "**"):
        corpus = read_corpus(str(spec))
        assert sorted(corpus.documents()) == ["one", "two"]
        assert corpus.paths == (tmp_path / "lib" / "a.txt", tmp_path / "lib" / "sub" / "b.txt")
        assert corpus.doubled == 4
        assert (
            f"{corpus.doubled} lead to what is there already, {corpus.broken} lead nowhere" in capsys.readouterr().err
        )
    assert read_corpus(str(tmp_path)).broken == 2
    assert documents(tmp_path / "again.txt") == ["one"]  # named, it is read


def test_a_folder_that_is_only_reached_by_a_link_is_read(tmp_path, capsys):
    write(tmp_path, elsewhere__a_txt="one", corpus__b_txt="two")
    (tmp_path / "corpus" / "more").symlink_to(tmp_path / "elsewhere")
    assert documents(tmp_path / "corpus") == ["two", "one"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("spec", ["/proc", "/proc/self/environ", "/sys", "a\0b", "", "x" * 300, "~nobody-there/x"])
def test_what_is_no_place_of_text_is_an_error(spec):
    with pytest.raises(EquimuError) as error:
        read_corpus(spec)
    assert "\n" not in str(error.value)


def test_one_stray_byte_is_replaced_but_binary_is_left_out(tmp_path):
    write(tmp_path, good_txt=b"caf\xe9 and then a lot of text", also_txt="fine")
    assert "caf\ufffd and then a lot of text" in documents(tmp_path)
    latin = "café crème à côté, déjà vu. ".encode("latin-1") * 20
    for content in (b"\x89PNG\r\n\x1a\n\x00\x00", "text".encode("utf-16"), latin):
        write(tmp_path, bad_txt=content)
        left_out = []
        assert len(list(read_corpus(str(tmp_path)).documents(left_out.append))) == 2
        assert left_out == [tmp_path / "bad.txt"]


@pytest.mark.parametrize("spec", ["nowhere", "nowhere/*.txt", ".", "**/*.nothing"])
def test_nothing_there_is_an_error(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EquimuError, match="corpus .*(does not exist|has no files); write 'stdlib' or"):
        read_corpus(spec)


def test_fingerprint_follows_every_change(tmp_path):
    write(tmp_path, a_txt="one", b_txt="two")
    seen = [read_corpus(str(tmp_path)).fingerprint]
    assert read_corpus(str(tmp_path)).fingerprint == seen[0]
    write(tmp_path, a_txt="ONE!")
    seen.append(read_corpus(str(tmp_path)).fingerprint)
    os.utime(tmp_path / "a.txt", ns=(1, 1))
    seen.append(read_corpus(str(tmp_path)).fingerprint)
    write(tmp_path, c_txt="")
    seen.append(read_corpus(str(tmp_path)).fingerprint)
    (tmp_path / "c.txt").rename(tmp_path / "d.txt")
    seen.append(read_corpus(str(tmp_path)).fingerprint)
    assert len(set(seen)) == len(seen)


def test_fingerprint_tells_twin_folders_apart(tmp_path):
    """Names, sizes and times may agree where the text does not."""
    twins = [write(tmp_path / name, a_txt=text) for name, text in (("one", "left"), ("two", "rite"))]
    for folder in twins:
        os.utime(folder / "a.txt", ns=(1, 1))
    assert len({read_corpus(str(folder)).fingerprint for folder in twins}) == 2
