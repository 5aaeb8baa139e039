"""Runs from their folders: evaluated on whole splits, and sampled from."""

import dataclasses
import io
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from json_schemas import check_schema
from launched.lines import Lines
from runs import LINES, small_run, with_model, with_text
from test_cli import call

import equimu as mu
from equimu import EquimuError
from equimu.data import ByteTokenizer, HuggingFaceTokenizer, byte_lengths
from equimu.nn import Continuation, Sampling
from equimu.runs import Sizes
from equimu.trained import _load, _sample, evaluate, load, sample
from equimu.training import RuntimeConfig, data_of, train

pytestmark = pytest.mark.usefixtures("light_compilation")
SAVED = RuntimeConfig(save_final=True)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run under a table whose multipliers are not 1, validated on a part of the split."""
    config = with_model(small_run(corpus, width=32, name="ntk"), n_kv_head=1)
    config = dataclasses.replace(config, size=Sizes(width=32, depth=1), base=Sizes(width=16), steps=6)
    return train(config, out=tmp_path_factory.mktemp("runs"), runtime=SAVED)


@pytest.fixture(scope="module")
def trained(run):
    return load(run.folder)


@pytest.fixture(scope="module")
def whole(trained):
    return evaluate(trained)


@pytest.fixture(scope="module")
def of_lines(tmp_path_factory):
    """A run of a task in a file."""
    return train(Lines(), {"width": 8}, steps=4, out=tmp_path_factory.mktemp("lines"), runtime=SAVED)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- evaluation


def test_evaluation_is_that_of_each_token_of_the_split(run, trained, whole):
    """Against numpy in float64, from the logits of the model that `load` gives and the tokens of the store."""
    data = data_of(trained.config.task)
    tokens = data.store.tokens("validation").astype(int)
    forward = eqx.filter_jit(lambda model, rows: jax.vmap(model)(rows))
    nats = []
    windows = [tokens[i : i + 17] for i in range(0, len(tokens) - 1, 16)]
    padded = np.array([np.pad(w, (0, 17 - len(w))) for w in windows])
    logits = np.asarray(forward(trained.model, jnp.asarray(padded[:, :-1], jnp.int32)), np.float64)
    for window, row in zip(windows, logits, strict=True):
        for place, target in enumerate(window[1:]):
            nats.append(np.log(np.exp(row[place]).sum()) - row[place][target])
    found = whole
    assert (found.count, found.unit, found.step, found.same_data) == (len(tokens) - 1, "tokens", 6, True)
    assert found.loss == pytest.approx(np.mean(nats), rel=1e-6)
    assert found.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / np.sum(tokens[1:] != 0), rel=1e-6)
    assert found.loss != run.validation_loss  # which is of three batches


def test_rows_of_a_batch_change_nothing(trained, whole, of_lines):
    other = evaluate(trained, rows=50)
    assert (other.count, other.loss) == (whole.count, pytest.approx(whole.loss, rel=1e-6))
    assert evaluate(of_lines.folder, Lines, rows=7).loss == pytest.approx(of_lines.validation_loss, rel=1e-6)


def test_a_task_of_ones_own_is_evaluated_on_either_side(of_lines):
    found = evaluate(of_lines.folder, Lines)
    assert (found.loss, found.unit, found.bits_per_byte) == (pytest.approx(of_lines.validation_loss), "examples", None)
    other = evaluate(of_lines.folder, Lines(), split="train")
    assert found.count + other.count == 256 and other.loss != found.loss


def test_other_data_are_said(trained, capsys):
    identity = {**trained.identity, "data": "other"}
    assert not evaluate(dataclasses.replace(trained, identity=identity)).same_data
    assert "are others now than when it was trained" in capsys.readouterr().err


def test_data_of_ones_own_may_have_one_side_in_order():
    class Noise(mu.data.Data):
        rows, fingerprint = 1, "noise"

        def training(self, seed): ...

        def validation(self, first=None):
            return data_of(Lines()).validation(first)

    assert len(Noise().whole("validation")) == len(data_of(Lines()).validation())
    with pytest.raises(EquimuError, match="no examples of 'train' in order"):
        Noise().whole("train")


def test_bytes_of_tokens(tmp_path):
    assert byte_lengths(ByteTokenizer())[[0, 10, 255]].tolist() == [0, 1, 1]
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(["zwölf Boxkämpfer 日本 jagen "] * 9, vocab_size=300, special_tokens=["</s>"])
    made.save(str(tmp_path / "bpe.json"))
    tokenizer = HuggingFaceTokenizer(tmp_path / "bpe.json")
    text = "Boxkämpfer jagen 日本 und 12 €"
    (ids,) = tokenizer.encode_batch([text])
    lengths = byte_lengths(tokenizer)
    assert lengths[ids].sum() == len(text.encode()) and lengths[tokenizer.eod] == 0 and lengths.max() > 1
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "words.json"))
    assert byte_lengths(HuggingFaceTokenizer(tmp_path / "words.json")) is None


# --- sampling


def test_samples_are_the_most_likely_tokens_of_the_model(run, trained):
    """The model of `load` is the one that was trained: its multipliers are in it."""
    found = sample(run.folder, ["def", "2**3"], tokens=99, sampling=Sampling(temperature=0))
    assert [len(each.tokens) for each in found] == [12, 11]
    forward = eqx.filter_jit(lambda model, tokens: model(tokens))
    for each in found:
        ids = [0, *each.prompt.encode(), *each.tokens]
        padded = jnp.zeros(16, jnp.int32).at[: len(ids)].set(jnp.asarray(ids))
        best = np.asarray(jnp.argmax(forward(trained.model, padded), axis=-1)).tolist()
        assert best[len(each.prompt) : len(ids) - 1] == each.tokens
        assert each.text == bytes(each.tokens).decode(errors="replace") and each.ended == "context"


def test_characters_are_told_when_they_are_whole():
    tokens = list("aß€😀b".encode()) + [0xFF, ord("c"), 0xE2, 0x82]
    pieces = ([Continuation(tokens[:n], "tokens")] for n in range(1, len(tokens) + 1))
    assert list(_sample._joined(pieces, ByteTokenizer())) == ["a", "ß", "€", "😀", "b", "\ufffdc", "\ufffd"]


def test_a_store_on_another_machine_must_be_named(trained):
    away = with_text(trained.config, store="gs://somewhere/store")
    with pytest.raises(EquimuError, match="not on this machine; give --store"):
        _load._with_store(away, trained.folder, None)


# --- the command line


def test_eval_prints_the_loss_and_writes_nothing(capsys, run, of_lines):
    before = contents(run.folder.parent)
    code, out, err = call(capsys, "eval", run.folder)
    assert code == 0 and out.startswith("validation loss ") and "bits per byte" in out and "after step 6" in out, err
    assert contents(run.folder.parent) == before
    code, out, _ = call(capsys, "eval", LINES, of_lines.folder / "checkpoints" / "step-4", "--json")
    assert code == 0 and check_schema("eval", out)["loss"] == pytest.approx(of_lines.validation_loss)


def test_sample_takes_prompts_from_anywhere(capsys, run, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("def\n2**3\n")
    flags = ("--tokens", 99, "--temperature", 0)
    code, out, err = call(capsys, "sample", run.folder, "def", "2**3", *flags, "--json")
    lines = [check_schema("sample", line) for line in out.splitlines()]
    assert code == 0 and [line["prompt"] for line in lines] == ["def", "2**3"], err
    assert call(capsys, "sample", run.folder, "--file", tmp_path / "prompts.txt", *flags, "--json")[1] == out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"def\n2**3\n")))
    assert call(capsys, "sample", run.folder, *flags, "--json")[1] == out
    shown = [line["prompt"] + line["text"] for line in lines]
    assert call(capsys, "sample", run.folder, "def", "2**3", *flags)[1] == "\n---\n".join(shown) + "\n"
    assert call(capsys, "sample", run.folder, "def", *flags)[1] == shown[0] + "\n"
    err = call(capsys, "sample", run.folder, "def", *flags, "--context", 20)[2]
    assert err == "equimu: context=20 is more than rows of the training had, 16; no position behind was trained\n"


BAD = {
    "no such folder": (["eval", "{tmp}/nothing"], "there is no"),
    "a folder of runs": (["eval", "{run}/.."], "is a folder of runs; name one of"),
    "a run that was not begun": (["eval", "{tmp}/unbegun"], "is no run, it has no config.json"),
    "a file": (["eval", "{run}/config.json"], "is inside of a run; give the run, "),
    "the folder of checkpoints": (["sample", "{run}/checkpoints", "a"], "or its checkpoints/step-N"),
    "no such checkpoint": (["eval", "{run}/checkpoints/step-5"], "is not there; "),
    "no checkpoint": (["eval", "{unsaved}"], "--runtime.save-final True"),
    "the task not named": (["eval", "{lines}"], "name its class, too, e.g. lines.py:Lines"),
    "another task": (["eval", LINES, "{run}"], "and not of Lines"),
    "no such split": (["eval", "{run}", "--split", "test"], "train"),
    "a store of arrays": (["eval", LINES, "{lines}", "--store", "x"], "run of another task"),
    "sample of another task": (["sample", LINES, "{lines}", "a"], "is a run of Lines, which is no language model"),
    "no prompt": (["sample", "{run}"], "has no prompt"),
    "prompts twice": (["sample", "{run}", "a", "--file", "x"], "give one of them"),
    "no such file": (["sample", "{run}", "--file", "{tmp}/nothing"], "give a file of prompts, one a line"),
    "prompts that are not text": (["sample", "{run}", "--file", "{tmp}/latin.txt"], "are not UTF-8"),
    "a prompt that is too long": (["sample", "{run}", "a" * 15], f"the prompt '{'a' * 15}' has 15 tokens, which"),
    "a context of one token": (["sample", "{run}", "a", "--context", "2"], "the prompt 'a' has 1 token, which"),
    "more than all tokens": (
        ["sample", "{run}", "a", "--top-k", "257"],
        "top_k=257 is more than the 256 tokens there are",
    ),
    "a prompt of NUL": (["sample", "{run}", "a\0"], "NUL"),
    "no tokens": (["sample", "{run}", "a", "--tokens", "0"], "at least 1"),
    "a share of more than all": (["sample", "{run}", "a", "--top-p", "2"], "at most 1"),
}


@pytest.fixture(scope="module")
def places(run, of_lines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    (folder / "latin.txt").write_bytes("ä".encode("latin-1"))
    (folder / "unbegun").mkdir()
    (folder / "unbegun" / "lock").write_text("{}")
    unsaved = folder / "unsaved"
    unsaved.mkdir()
    (unsaved / "config.json").write_bytes((run.folder / "config.json").read_bytes())
    return {
        "tmp": folder,
        "run": run.folder,
        "lines": of_lines.folder,
        "unsaved": unsaved,
    }


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, capsys, places, monkeypatch):
    arguments, words = BAD[name]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    for key, place in places.items():
        arguments = [argument.replace("{" + key + "}", str(place)) for argument in arguments]
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "") and words in err
    assert err.startswith("equimu: ") and err.count("\n") == 1
