"""Corpora: which files, in which order, cut into which documents, and what is refused."""

import os

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
    assert len(pieces) == 3 and max(map(len, pieces)) <= 111


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\\ntwo", "url": 3}\n{"text": ""}\n{"text": "half \\ud800 pair"}\n')
    assert documents(path) == ["one\ntwo", "half ? pair"]
    path.write_text('{"text": "one"}\n{"content": "two"}\n')
    with pytest.raises(EquimuError, match="line 2"):
        documents(path)


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
