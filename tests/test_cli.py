import shutil
import subprocess
import sys

import pytest
from commands import call
from json_schemas import check_schema
from runs import LINES

from equimu._progress import progress
from equimu.data import read_corpus, tokenizer_from_name, write_store

pytestmark = pytest.mark.usefixtures("light_compilation")

TINY = [
    *("--size.width", "16", "--model.head-dim", "8", "--base.width", "16", "--steps", "6"),
    *("--text.seq", "16", "--text.rows", "4", "--validation-batches", "2"),
]
TEXT = ("--text.corpus", "{corpus}")
PEERS = ("--runtime.processes", "2", "--runtime.process-id", "0")


def test_show_prints_the_rules(capsys):
    code, out, _ = call(capsys, "show", "--size.width", 256, "--base.width", 32)
    assert code == 0 and "mlp.down.weight" in out and "0.125" in out
    code, out, _ = call(capsys, "show", "--json")
    assert code == 0 and check_schema("show", out)["rules"]["embedding.weight"]["role"] == "input"
    code, out, _ = call(capsys, "show", "--markdown")
    assert code == 0 and "| path" in out


def test_a_number_may_be_written_as_a_power(capsys):
    outs = [call(capsys, "show", *flags) for flags in (("--steps", "2**3"), ("--steps=2**3",), ("--steps", "8"))]
    assert outs[0] == outs[1] == outs[2] and outs[0][0] == 0
    assert call(capsys, "show", "--optimizer.learning-rate", "2**-6")[0] == 0


def test_train_prints_loss_and_folder(capsys, corpus, tmp_path):
    arguments = ("train", *TINY, "--text.corpus", corpus, "--out", tmp_path)
    code, out, err = call(capsys, *arguments)
    loss, folder = out.splitlines()
    assert code == 0 and loss.startswith("validation loss") and folder.startswith(str(tmp_path))
    assert err.count("training 6/6") == 1 and len(err.splitlines()) == 2
    assert call(capsys, *arguments)[1] == out.replace("\n", " (already done)\n", 1)
    # the config of a run folder is a config file
    code, again, _ = call(capsys, "train", "--config", f"{folder}/config.json", "--out", tmp_path)
    assert (code, again) == (0, out.replace("\n", " (already done)\n", 1))


def test_sweep_and_report(capsys, tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        """
        fit = { learning_rate = ["2**-7", 0.03125, 0.125] }
        panels = ["mup"]
        seeds = [0]
        [over]
        width = [8, 16]
        [run]
        steps = 6
        validation_batches = 2
        [run.task]
        rows = 4
        """
    )
    code, out, err = call(capsys, "sweep", LINES, "--config", file, "--out", tmp_path / "runs")
    assert code == 0 and "6/6" in err
    paths = [line for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert [path.rsplit("/", 1)[1] for path in paths] == ["report.html", "report.md", "report.png", "report.json"]
    code, again, _ = call(capsys, "report", tmp_path / "runs")
    assert (code, again) == (0, out)


@pytest.mark.long
def test_sweep_suggests_cells(capsys, tmp_path):
    arguments = [
        *("sweep", LINES, "--over.width", "8", "16", "--over.steps", "4", "8", "--panels", "mup", "--seeds", "2"),
        *("--fit.learning-rate", *(f"2**{x}" for x in range(-8, 1))),
        *("--run.validation-batches", "2", "--out", tmp_path),
    ]
    code, out, err = call(capsys, *arguments, "--suggest", "width=64", "steps=32")
    assert code == 0, err
    # Runs this short may tell too little of their optima for a law.
    lines = out.splitlines()
    assert "with the sweep's other flags as they are" in lines[-1]
    said = next(
        line for line in lines if line.startswith(("mup: at width 64, steps 32", "mup: no cells can be suggested"))
    )
    for line in lines[lines.index(said) + 1 : -1]:
        assert not line.startswith("  ") or (
            line.startswith("  equimu sweep ")
            and " --panels mup --over.width " in line
            and "--base.width 8 --fit.learning-rate 2**" in line
        )


def test_data_makes_a_store_that_train_reads(capsys, corpus, tmp_path):
    code, out, _ = call(capsys, "data", tmp_path / "store", "--corpus", corpus)
    assert code == 0 and out.startswith("train: ")
    code, out, _ = call(capsys, "train", *TINY, "--text.store", tmp_path / "store", "--out", tmp_path / "runs")
    assert code == 0 and out.startswith("validation loss")


def test_help_of_every_command(capsys):
    code, out, _ = call(capsys)
    assert code == 0
    for command in ("show", "train", "sweep", "report", "data"):
        assert command in out
        code, text, _ = call(capsys, command, "--help")
        assert code == 0 and f"equimu {command}" in text


BAD = {
    "unknown command": (["trian"], "did you mean 'train'"),
    "unknown flag": (["train", "--size.widht", "3"], "did you mean --size.width"),
    "unknown choice": (["train", "--model.activation", "gelo"], "gelu"),
    "not a number": (["train", "--steps", "many"], "many"),
    "width not a multiple": (["train", "--size.width", "100"], "not a multiple of head_dim 16"),
    "base above target": (["train", "--size.width", "64", "--base.width", "128"], "larger than the target"),
    "kv heads": (["train", "--model.n-kv-head", "3"], "do not divide"),
    "vocabulary": (["train", *TINY, *TEXT, "--model.vocab-size", "100"], "is below the 256 tokens of the text's"),
    "resume": (["train", "--resume"], "the same command, given again, goes on where it was"),
    "layers": (["sweep", "--layers", "4"], "write --run.size.depth"),
    "machine without a number": (["plan", "h100"], "'h100' is unknown (how many follows a colon)"),
    "machine of another shape": (["plan", "v5p:2x2"], "'v5p:2x2' is unknown (v5p has 3 dimensions)"),
    "tied": (["train", "--model.tie-embeddings", "True"], "does not permit"),
    "bad constant": (["show", "--parameterization", "mup.tune(output, multipler=2)"], "did you mean 'multiplier'"),
    "constant nowhere": (["show", "--parameterization", "mup.tune(nose, lr=2)"], "no such role, module or leaf"),
    "suggest no size": (["sweep", "--suggest", "wide"], "--suggest takes each size by name once"),
    "suggest beside the sweep": (
        ["sweep", "--over.width", "8", "16", "--over.steps", "4", "8", "--suggest", "width=32", "rows=4"],
        "write --suggest width=... steps=...",
    ),
    "suggest over one size": (["sweep", "--over.width", "16", "32", "--suggest", "width=64"], "two sizes or more"),
    "empty grid": (["sweep", "--fit.learning-rate"], "empty"),
    "width in a sweep": (["sweep", "--over.width", "64", "--run.size.width", "64"], "takes it from over.width"),
    "two fitted numbers": (["sweep", "--fit.b2", "0.9", "--fit.learning-rate", "0.1"], "a sweep fits one number"),
    "another library's name": (["train", "--lr", "0.1"], "write --optimizer.learning-rate"),
    "another library's name in a sweep": (["sweep", "--lr", "0.1"], "write --fit.learning-rate"),
    "a field of the run in a sweep": (["sweep", "--steps", "3"], "write --run.steps"),
    "flag of a former version in a section": (["train", "--runtime.restore-from", "x"], "write --restore-from"),
    "a file in place of a task": (["show", "my.py"], "name a task in it, e.g. my.py:NextByte"),
    "a power out of range": (["show", "--optimizer.learning-rate", "2**9999"], "could not convert"),
    "two formats": (["show", "--json", "--markdown"], "two ways to print; give one of them"),
    "one panel twice": (["sweep", "--panels", "lion", "lion()"], "lion and lion() are the same"),
    "unknown number": (["sweep", "--over.weight-decy", "0.1"], "did you mean 'weight_decay'"),
    "a number's word": (
        ["sweep", "--over.steps", "many"],
        "over.steps must be a number, e.g. 0.01 or 2**-9, got 'many'",
    ),
    "flag of a former version": (["sweep", "--log2-learning-rates", "-3"], "fit.learning_rate"),
    "missing corpus": (["train", "--text.corpus", "{tmp}/nothing"], "nothing"),
    "empty corpus": (["train", "--text.corpus", "{tmp}/empty"], "empty"),
    "binary corpus": (["train", "--text.corpus", "{tmp}/binary.bin"], "binary.bin"),
    "missing tokenizer": (["train", "--text.tokenizer", "{tmp}/no.json"], "no.json"),
    "missing store": (["train", "--text.store", "{tmp}/nostore"], "nostore"),
    "store dtype": (["data", "{tmp}/store", "--dtype", "uint4"], "uint8"),
    "missing config": (["train", "--config", "{tmp}/no.json"], "no.json"),
    "config that is not JSON": (["train", "--config", "{tmp}/broken.json"], "broken.json"),
    "config with an unknown key": (["train", "--config", "{tmp}/typo.json"], "did you mean 'steps'"),
    "config of the wrong command": (["report", "--config", "x", "runs"], "takes no --config"),
    "no such runs": (["report", "{tmp}/noruns"], "noruns"),
    "a file of runs": (
        ["report", "{tmp}/list.json"],
        "is a file; give the folder of the runs, or a table of other runs",
    ),
    "no such table": (["verdict", "{tmp}/nothing.csv"], "give a table of runs as CSV or JSON Lines"),
    "no such config": (["train", "--config", "{tmp}/nothing.toml"], "give a TOML or JSON file"),
    "no such split": (
        ["eval", "{tmp}/saved", "--split", "validatoin"],
        "--split 'validatoin' is unknown: did you mean",
    ),
    "no finished runs": (["report", "{tmp}/empty"], "no finished runs"),
    # configs
    "config without a file": (["show", "--config"], "needs a file"),
    "config that is a folder": (["train", "--config", "{tmp}/empty"], "cannot read the config"),
    "config that is not text": (["train", "--config", "{tmp}/binary.bin"], "binary.bin is not JSON"),
    "config that is a list": (["train", "--config", "{tmp}/list.json"], "must be an object"),
    "config that is not TOML": (["train", "--config", "{tmp}/broken.toml"], "is not TOML"),
    "config with a word for a number": (["train", "--config", "{tmp}/word.json"], "steps must be int"),
    "config with a truth for a number": (["train", "--config", "{tmp}/truth.json"], "steps must be int"),
    "config with a number for a section": (["train", "--config", "{tmp}/flat.json"], "model must be an object"),
    "config with a typo in a section": (["train", "--config", "{tmp}/nested.json"], "did you mean 'width'"),
    "config with an unknown choice": (["train", "--config", "{tmp}/choice.json"], "did you mean 'gelu'"),
    "config that nests": (["train", "--config", "{tmp}/deep.json"], "nested more than"),
    "config that nests, in TOML": (["train", "--config", "{tmp}/deep.toml"], "is not TOML"),
    "config with a number of 5000 digits": (["train", "--config", "{tmp}/digits.json"], "integer of 5000 digits"),
    "config with a number of 20000 bits": (["train", "--config", "{tmp}/bits.toml"], "integer of 20000 bits"),
    # flags
    "no steps": (["train", "--steps", "0"], "steps must be at least 1"),
    "no rows": (["train", "--text.rows", "0"], "text.rows must be at least 1"),
    "warmup beyond the end": (["train", "--optimizer.warmup", "2"], "at least 0 and at most 1"),
    "infinite rate": (["train", "--optimizer.learning-rate", "inf"], "must be finite"),
    "negative decay": (["train", "--optimizer.weight-decay", "-1"], "at least 0"),
    "moment that never decays": (["train", "--optimizer.b1", "1"], "below 1"),
    "parts that are not equal": (["train", "--accumulate", "3"], "3 equal micro-batches"),
    "unknown policy": (["train", "--on-nonfinite", "stopp"], "stop"),
    "value missing": (["train", "--steps"], "--steps"),
    "no workers": (["sweep", "--workers", "0"], "workers must be at least 1"),
    "unknown parameterization": (["sweep", "--panels", "mop"], "did you mean 'mup'"),
    "width twice": (["sweep", "--over.width", "64", "64"], "twice"),
    # devices and processes
    "no device": (["train", "--runtime.data", "0"], "runtime.data must be at least 1"),
    "more devices than there are": (["train", *TINY, *TEXT, "--runtime.fsdp", "64"], "64 devices, there are 8"),
    "rows that do not divide": (["train", *TINY, *TEXT, "--runtime.data", "8"], "make rows a multiple of 8"),
    "coordinator alone": (["train", "--runtime.coordinator", "a:1"], "give runtime.processes"),
    "coordinator without port": (["train", *PEERS, "--runtime.coordinator", "a"], "host:port"),
    "sweep of several processes": (["sweep", *PEERS, "--runtime.coordinator", "a:1"], "a sweep is one process"),
    "sweep from a checkpoint": (["sweep", "--run.restore-from", "x"], "for a single run"),
    "workers on one mesh": (["sweep", "--runtime.data", "2", "--workers", "2"], "cannot share a mesh"),
    "silence of no time": (["train", "--runtime.heartbeat-seconds", "0"], "above 0"),
    # checkpoints
    "no step to save at": (["train", "--runtime.checkpoint-every", "0"], "at least 1"),
    "no checkpoint to begin from": (["train", *TEXT, "--restore-from", "{tmp}/empty"], "holds no checkpoint"),
    "no such checkpoint": (["train", *TEXT, "--restore-from", "{tmp}/saved/checkpoints/step-2"], "has step-3"),
    "checkpoint of no run": (["train", *TEXT, "--restore-from", "{tmp}/saved"], "no readable config.json"),
    # text
    "line that is not JSON": (["train", "--text.corpus", "{tmp}/broken.jsonl"], "line 2: not a document"),
    "document without text": (["train", "--text.corpus", "{tmp}/untexted.jsonl"], "line 1: not a document"),
    "one document": (["train", "--text.corpus", "{tmp}/one.jsonl"], "is one document"),
    "text that is Latin-1": (["train", "--text.corpus", "{tmp}/latin.txt"], "UTF-8 text"),
    "glob of nothing": (["train", "--text.corpus", "{tmp}/*.nothing"], "does not exist"),
    "text too short": (["train", *TEXT, "--text.seq", "100000000"], "too few for a window"),
    "tokenizer that is none": (["train", "--text.tokenizer", "{tmp}/broken.json"], "broken.json"),
    # stores
    "store that is a run": (["train", "--text.store", "{tmp}/saved"], "there is no token store"),
    "store without its arrays": (["train", "--text.store", "{tmp}/hollow"], "cannot be read"),
    "store whose description was changed": (["train", "--text.store", "{tmp}/changed"], "checksum"),
    "store whose description was cut off": (["train", "--text.store", "{tmp}/cut"], "cannot be read"),
    "store of another format": (["train", "--text.store", "ftp://somewhere/store"], "cannot open"),
    "everything held out": (["data", "{tmp}/store", *("--validation-share", "1")], "above 0 and below 1"),
    "store where another is": (
        ["data", "{tmp}/hollow", "--corpus", "{tmp}/two.jsonl"],
        "holds a token store made from other",
    ),
    "no place for the store": (["data"], "store"),
    # run folders
    "runs below a file": (["train", *TINY, *TEXT, "--out", "{tmp}/list.json"], "choose another folder"),
    "report of a damaged run": (["report", "{tmp}/damaged"], "not a readable run"),
    "report of a run without its config": (["report", "{tmp}/bare"], "not a readable run"),
}
assert len(BAD) >= 60


@pytest.fixture(scope="module")
def malformed(corpus, tmp_path_factory):
    """A folder of things that are not what they should be."""
    folder = tmp_path_factory.mktemp("malformed")
    for name in ("empty", "saved/checkpoints/step-3", "damaged/run", "bare/run"):
        (folder / name).mkdir(parents=True)
    (folder / "binary.bin").write_bytes(bytes(range(256)) * 50)
    (folder / "latin.txt").write_bytes("äöü".encode("latin-1") * 1000)
    texts = {
        "broken.json": "{",
        "typo.json": '{"stepz": 3}',
        "list.json": "[1, 2]",
        "broken.toml": "steps = = 3",
        "word.json": '{"steps": "many"}',
        "truth.json": '{"steps": true}',
        "flat.json": '{"task": {"model": 3}}',
        "nested.json": '{"size": {"widht": 3}}',
        "choice.json": '{"task": {"model": {"activation": "gelo"}}}',
        "deep.json": "[" * 100_000,
        "deep.toml": "steps = " + "[" * 100_000,
        "digits.json": '{"steps": ' + "9" * 5000 + "}",
        "bits.toml": "steps = 0x" + "f" * 5000,
        "broken.jsonl": '{"text": "a"}\n{"text": ',
        "untexted.jsonl": '{"title": "a"}\n',
        "one.jsonl": '{"text": "the same"}\n{"text": "the same"}\n',
        "two.jsonl": '{"text": "one"}\n{"text": "two"}\n',
        "saved/checkpoints/step-3/manifest.json": "{}",
        "damaged/run/done": "fini",
        "bare/run/done": '{"status": "finished"}',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    info = "equimu-tokens.json"
    write_store(folder / "hollow", read_corpus(corpus), tokenizer_from_name("bytes"))
    message = (folder / "hollow" / info).read_text()
    for name, text in (("changed", message.replace('"eod": ', '"eod": 1')), ("cut", message[: len(message) // 2])):
        (folder / name).mkdir()
        (folder / name / info).write_text(text)
    for path in (folder / "hollow").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    return folder


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(name, capsys, corpus, malformed, tmp_path):
    arguments, words = BAD[name]
    before = sorted(malformed.rglob("*"))
    arguments = [a.replace("{tmp}", str(malformed)).replace("{corpus}", corpus) for a in arguments]
    out = ["--out", str(tmp_path / "out")] if arguments[0] in ("train", "sweep") and "--out" not in arguments else []
    code, printed, err = call(capsys, *arguments, *out)
    assert code == 2 and printed == ""
    assert err.startswith("equimu: ") and err.count("\n") == 1 and "Traceback" not in err
    assert words in err
    assert sorted(malformed.rglob("*")) == before and not list(tmp_path.iterdir())


def test_progress_is_a_few_lines_where_there_is_no_terminal(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("equimu._progress.time.monotonic", lambda: now)
    with progress("working", 1) as bar:
        for done in range(100):
            bar.update(done, f"part {done}", 100)
            bar.update(done, "")  # says nothing new
            now += 0.9
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"working {done}/100  part {done}" for done in (0, 34, 68, 99)]


def test_interrupt_exits_with_130(corpus, tmp_path):
    code = (
        "from equimu.training import _loop as loop\n"
        "def stop(*args, **kwargs): raise KeyboardInterrupt\n"
        "loop._train = stop\n"
        "from equimu.cli import main\nmain()"
    )
    arguments = [sys.executable, "-c", code, "train", *TINY, "--text.corpus", corpus, "--out", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr and "interrupted" in done.stderr


COORD_CHECK = (
    *("coord-check", "--over", "width", "--sizes", "16", "64", "--seeds", "6", "--check-steps", "1"),
    *("--size.depth", "1", "--model.head-dim", "8", "--base.width", "16", "--text.seq", "8", "--text.rows", "2"),
)


@pytest.mark.long
def test_coord_check_tells_by_its_exit_code(capsys, corpus, tmp_path):
    arguments = (*COORD_CHECK, "--text.corpus", corpus, "--out", tmp_path)
    code, out, err = call(capsys, *arguments)
    assert code == 0, err
    assert "as mup-relative says over width 16, 64" in out and "checking 2/2" in err
    assert {path.name for path in tmp_path.iterdir()} == {"coord-check.md", "coord-check.png", "coord-check.json"}
    # the standard factor on attention scores, with heads that grow
    code, out, err = call(capsys, *arguments, "--model.n-head", "2", "--model.attention-scale", "1/sqrt(head_dim)")
    assert code == 1 and err.splitlines()[-1].startswith("equimu: off: blocks.attention.scores"), err


def test_coord_check_tells_what_cannot_be_checked(capsys, corpus, tmp_path):
    arguments = (*COORD_CHECK, "--text.corpus", corpus, "--out", tmp_path)
    code, _, err = call(capsys, *arguments, "--over", "heads")
    assert code == 2 and "over names 'heads'" in err
    code, _, err = call(capsys, *arguments, "--model.n-head", "3")
    assert code == 2 and "model.n_head=3 does not divide width 16" in err
