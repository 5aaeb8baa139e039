"""Data sets that Hugging Face's `datasets` reads, tokenized in parts; no network is asked."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from equimu import EquimuError
from equimu.cli import main
from equimu.data import (
    ByteTokenizer,
    DatasetCorpus,
    prepare,
    read_corpus,
    text,
    tokenizer_from_name,
    write_parts,
    write_store,
)
from equimu.data._parts import Parts

datasets = pytest.importorskip("datasets")
TEXTS = [f"document {i}, of {'words ' * (i % 5)}é" for i in range(60)]


def write_as(path, texts, column="text"):
    """Texts in a file of the format that its name says."""
    if ".parquet" in path.name:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({column: texts, "n": list(range(len(texts)))}), path)
        return
    lines = [json.dumps({column: text, "n": i}) if ".json" in path.name else text for i, text in enumerate(texts)]
    content = "".join(line + "\n" for line in lines).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    elif path.suffix == ".zst":
        import zstandard

        content = zstandard.compress(content)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three JSON files of twenty documents."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(3):
        write_as(folder / f"{i}.json.gz", TEXTS[20 * i : 20 * i + 20])
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(Parts, "characters", 100)


def texts_of(store):
    """Every document of a store, decoded, in the order of each split."""
    found = {}
    for split in store.info.tokens:
        tokens, offsets = store.tokens(split), store.offsets(split)
        found[split] = [ByteTokenizer().decode(tokens[a:b]) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    return found


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.json.zst", "a.parquet", "a.txt", "a.txt.gz", "a.txt.zst"])
def test_local_files_of_any_format_hold_the_same_documents(tmp_path, name):
    write_as(tmp_path / name, TEXTS)
    corpus = read_corpus(f"hf://{tmp_path / name}")
    assert isinstance(corpus, DatasetCorpus)
    assert list(corpus.documents()) == TEXTS


def test_a_folder_or_glob_is_one_data_set_of_a_shard_a_file(folder):
    for where in (folder, folder / "*.json.gz"):
        corpus = read_corpus(f"hf://{where}?column=text")
        assert corpus.shards() == 3 and list(corpus.documents()) == TEXTS
        assert list(corpus.rows(1, 15)) == TEXTS[35:40]


def test_store_holds_the_documents_that_plain_files_give(folder, tmp_path, small_parts, capsys):
    write_as(tmp_path / "plain.jsonl", TEXTS)
    plain = write_store(tmp_path / "plain", read_corpus(str(tmp_path / "plain.jsonl")), ByteTokenizer(), validation=0.2)
    store = write_store(tmp_path / "store", read_corpus(f"hf://{folder}"), ByteTokenizer(), validation=0.2)
    assert store.info.fingerprint == plain.info.fingerprint and texts_of(store) == texts_of(plain)
    assert sorted(sum(texts_of(store).values(), [])) == sorted(TEXTS)
    assert sorted(os.listdir(tmp_path / "store")) == [store.info.folder, "equimu-tokens.json"]
    assert f"data 3/3  60 documents, {sum(store.info.tokens.values())} tokens" in capsys.readouterr().err


class Killed(BaseException):
    """Stands for a signal."""


class Counting:
    """Bytes, counting what it encodes, and stopping after some texts."""

    def __init__(self, most=10**9):
        self.seen, self._most, self._bytes = [], most, ByteTokenizer()

    def __getattr__(self, name):
        return getattr(self._bytes, name)

    name = property(lambda self: self._bytes.name)
    fingerprint = property(lambda self: self._bytes.fingerprint)
    vocab_size, bos, eod = 256, 0, 0

    def decode(self, ids):
        return self._bytes.decode(ids)

    def encode_batch(self, texts):
        if len(self.seen) + len(texts) > self._most:
            raise Killed
        self.seen += texts
        return self._bytes.encode_batch(texts)


def test_what_is_tokenized_is_not_tokenized_again(folder, tmp_path, small_parts):
    corpus = read_corpus(f"hf://{folder}")
    first, second = Counting(most=33), Counting()
    with pytest.raises(Killed):
        write_store(tmp_path / "store", corpus, first, validation=0.2)
    assert 20 < len(first.seen) <= 33
    made = write_store(tmp_path / "store", corpus, second, validation=0.2)
    assert first.seen + second.seen == TEXTS
    whole = write_store(tmp_path / "whole", corpus, ByteTokenizer(), validation=0.2)
    assert made.info.fingerprint == whole.info.fingerprint
    third = Counting()
    assert write_store(tmp_path / "store", corpus, third, validation=0.2).info == made.info and not third.seen


def test_parts_of_other_settings_are_others(folder, tmp_path, small_parts):
    corpus, first, second = read_corpus(f"hf://{folder}"), Counting(most=33), Counting()
    with pytest.raises(Killed):
        write_store(tmp_path / "store", corpus, first, validation=0.2)
    write_store(tmp_path / "store", corpus, second, validation=0.3)
    assert second.seen == TEXTS


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
def test_a_damaged_part_is_told_and_made_anew(folder, tmp_path, small_parts, how):
    corpus = read_corpus(f"hf://{folder}")
    arguments = {"process": 0, "processes": 2, "validation": 0.2}
    assert write_parts(tmp_path / "s", corpus, ByteTokenizer(), **arguments) == 1
    path = sorted((tmp_path / "s").glob("parts-*/*"))[1]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes({"flipped": bytes(content), "cut": bytes(content[:-5]), "empty": b""}[how])
    if how != "empty":  # what is no part at all is made at once
        with pytest.raises(EquimuError, match="damaged; run the same again") as caught:
            write_store(tmp_path / "s", corpus, ByteTokenizer(), validation=0.2)
        assert "\n" not in str(caught.value)
    again = Counting()
    store = write_store(tmp_path / "s", corpus, again, validation=0.2)
    whole = write_store(tmp_path / "whole", corpus, ByteTokenizer(), validation=0.2)
    assert store.info.fingerprint == whole.info.fingerprint and len(again.seen) < 30


def test_processes_share_the_shards_and_make_one_store(folder, tmp_path, small_parts):
    corpus, each = read_corpus(f"hf://{folder}"), [Counting() for _ in range(2)]
    missing = [
        write_parts(tmp_path / "s", corpus, each[process], process=process, processes=2, validation=0.2)
        for process in (1, 0)
    ]
    assert missing == [2, 0]
    assert each[1].seen == TEXTS[20:40] and each[0].seen == TEXTS[:20] + TEXTS[40:]
    last = Counting()
    store = write_store(tmp_path / "s", corpus, last, validation=0.2)
    alone = write_store(tmp_path / "alone", corpus, ByteTokenizer(), validation=0.2)
    assert not last.seen and store.info.fingerprint == alone.info.fingerprint


def test_a_store_that_is_there_needs_neither_network_nor_data(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy")
    made = prepare(f"hf://{copy}", ByteTokenizer(), tmp_path / "stores", validation=0.2)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert prepare(f"hf://{copy}", ByteTokenizer(), tmp_path / "stores", validation=0.2).info == made.info
    monkeypatch.undo()
    write_as(copy / "0.json.gz", ["changed", *TEXTS[1:20]])
    assert prepare(f"hf://{copy}", ByteTokenizer(), tmp_path / "stores", validation=0.2).place != made.place


def test_rows_without_text_are_left_out(tmp_path):
    write_as(tmp_path / "a.json", ["one", "", None, "no\0text", "two"])
    corpus, left_out = read_corpus(f"hf://{tmp_path}/a.json"), []
    assert list(corpus.documents(left_out.append)) == ["one", "two"]
    assert left_out == [(0, 1), (0, 2), (0, 3)]
    assert write_store(tmp_path / "s", corpus, ByteTokenizer(), validation=0.5).info.documents_left_out == 3


def test_a_line_that_is_no_json_is_named_once(tmp_path, capfd, caplog):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": broken\n')
    with pytest.raises(EquimuError, match=r"cannot be read: .*a.jsonl, line 3, is not JSON \(Expecting value\)"):
        write_store(tmp_path / "s", read_corpus(f"hf://{tmp_path}/a.jsonl"), ByteTokenizer())
    assert capfd.readouterr().err == "" and not caplog.records


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a tokenizer trained on the texts, whose end-of-document token has an unusual name."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<stop>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_end_of_document_of_a_tokenizer_is_named_or_known(trained, tmp_path):
    file = trained / "tokenizer.json"
    with pytest.raises(EquimuError, match=r"which token ends a document; .* PATH\?eod=TOKEN") as caught:
        tokenizer_from_name(str(trained))
    assert "\n" not in str(caught.value)
    named = tokenizer_from_name(f"{file}?eod=<stop>")
    assert named.decode([named.eod]) == "" and named.bos == named.eod == 0
    assert tokenizer_from_name(f"{trained}?eod=<stop>").fingerprint == named.fingerprint
    shutil.copy(file, tmp_path)
    for eos in ("<stop>", {"content": "<stop>"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos, "bos_token": "<none>"}))
        assert tokenizer_from_name(str(tmp_path)).fingerprint == named.fingerprint
    for name, words in {
        f"{file}?eos=<stop>": "'eos' is not known behind the ?; did you mean 'eod'?",
        f"{file}?eod=": "eod needs one value",
        f"{file}?eod=<halt>": "has no token '<halt>'",
        f"{tmp_path}/none?eod=<stop>": "cannot read tokenizer file",
    }.items():
        with pytest.raises(EquimuError) as caught:
            tokenizer_from_name(name)
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_data_of_a_task_by_a_trained_tokenizer(folder, trained):
    data = text(f"hf://{folder}", tokenizer=f"{trained}?eod=<stop>", seq=16, rows=4, windows="packed", validation=0.2)
    tokenizer = tokenizer_from_name(f"{trained}?eod=<stop>")
    batch = data.training(0).batch(0)
    for row, ids in zip(batch.targets, batch.segment_ids, strict=True):
        for number in np.unique(ids)[1:-1]:
            assert tokenizer.decode(row[ids == number]) in TEXTS


def run_data(*flags):
    with pytest.raises(SystemExit) as caught:
        main(["data", *map(str, flags)])
    assert not caught.value.code


def test_command_makes_a_store_and_shares_it(folder, trained, tmp_path, capsys):
    flags = ("--corpus", f"hf://{folder}", "--tokenizer", f"{trained}?eod=<stop>", "--validation-share", 0.2)
    run_data(tmp_path / "s", *flags)
    alone = capsys.readouterr().out
    assert alone.startswith("train: ") and "tokens in" in alone
    run_data(tmp_path / "two", *flags, "--process", 0, "--processes", 2)
    told = capsys.readouterr()
    assert not told.out and "1 shard of others is still missing" in told.err
    run_data(tmp_path / "two", *flags, "--process", 1, "--processes", 2)
    assert capsys.readouterr().out == alone


MISTAKES = {
    "hf://": "names nothing",
    "hf://{f}?colum=text": "'colum' is not known behind the ?; did you mean 'column'?",
    "hf://{f}?column=txt": "has no column 'txt'; for ?column= did you mean 'text'? (valid: n, text)",
    "hf://{f}?column=n": "holds int, not text; for ?column= give one of text",
    "hf://{f}?split=trian": "has no split 'trian'; for ?split= did you mean 'train'?",
    "hf://{f}?config=english": "has no config 'english'; for ?config= give one of default",
    "hf://{f}?revision=main": "local files, which have no revision",
    "hf://{f}/none.json": "does not exist",
    "hf://none.jsonl.GZ": "does not exist",
    "hf://some/folder/of/mine": "does not exist",
    "hf://{f}/0.*": None,
    "hf://no/such-data": "cannot be read: Couldn't reach 'no/such-data' on the Hub",
}


@pytest.mark.parametrize("spec", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(folder, tmp_path, spec, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = spec.format(f=folder)
    if MISTAKES[spec] is None:
        assert read_corpus(given).shards() == 1
        return
    with pytest.raises(EquimuError) as caught:
        write_store(tmp_path / "store", read_corpus(given), ByteTokenizer())
    assert MISTAKES[spec] in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_configs_and_splits_of_a_folder(tmp_path):
    for name in ("en", "de"):
        (tmp_path / name).mkdir()
        write_as(tmp_path / name / "train.jsonl", [f"{name} {i}" for i in range(3)])
        write_as(tmp_path / name / "test.jsonl", [f"{name} held out"])
    described = "".join(f"- config_name: {name}\n  data_dir: {name}\n" for name in ("en", "de"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{described}---\n")
    assert list(read_corpus(f"hf://{tmp_path}?config=de").documents()) == ["de 0", "de 1", "de 2"]
    assert list(read_corpus(f"hf://{tmp_path}?config=en&split=test").documents()) == ["en held out"]
    for query, words in (
        ("", "has several configs; for ?config= give one of de, en"),
        ("?config=dee", "did you mean 'de'?"),
    ):
        with pytest.raises(EquimuError) as caught:
            read_corpus(f"hf://{tmp_path}{query}").shards()
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_several_formats_say_so(tmp_path):
    write_as(tmp_path / "a.json", TEXTS)
    write_as(tmp_path / "b.txt", TEXTS)
    with pytest.raises(EquimuError, match="files that end in .json, .txt; one format is wanted"):
        read_corpus(f"hf://{tmp_path}/*").shards()


def test_a_tokenizer_of_the_hub_that_is_out_of_reach_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EquimuError, match="hf://no/such-one has not come from the hub") as caught:
        tokenizer_from_name("hf://no/such-one")
    assert "\n" not in str(caught.value)


def test_without_the_extra_it_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(EquimuError, match=r"needs the package 'datasets': pip install 'equimu\[hf\]'"):
        next(read_corpus(f"hf://{folder}?column=n").documents())


@pytest.mark.slow
def test_a_killed_command_goes_on(folder, tmp_path):
    """A real signal, in a real process."""
    launched = (
        "import os, signal, equimu.data._parts as parts; from equimu.cli import main; parts.Parts.characters = 100\n"
        "write, count = parts.Parts._write, []\n"
        "def die(*given):\n    count.append(write(*given))\n    len(count) == 5 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return count[-1]\n"
        "parts.Parts._write = die\n"
        f"main(['data', {str(tmp_path / 's')!r}, '--corpus', 'hf://{folder}', '--validation-share', '0.2'])"
    )
    assert subprocess.run([sys.executable, "-c", launched]).returncode == -9
    again = Counting()
    kept = len(list((tmp_path / "s").glob("parts-*/*")))
    corpus = read_corpus(f"hf://{folder}")
    store = write_store(tmp_path / "s", corpus, again, validation=0.2)
    assert kept == 5 and 0 < len(again.seen) < 60 and not list((tmp_path / "s").glob("parts-*"))
    whole = write_store(tmp_path / "whole", corpus, ByteTokenizer(), validation=0.2)
    assert store.info.fingerprint == whole.info.fingerprint
