import json
import subprocess
import sys

import pytest

from equimu._cli import main

TINY = [
    *("--model.width", "16", "--model.head-dim", "8", "--parameterization.base-width", "16", "--steps", "6"),
    *("--data.seq", "16", "--data.rows", "4", "--validation-batches", "2"),
]


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_show_prints_the_rules(capsys):
    code, out, _ = call(capsys, "show", "--model.width", 256)
    assert code == 0 and "blocks.mlp.down.weight" in out and "0.125" in out
    code, out, _ = call(capsys, "show", "--format", "json")
    assert code == 0 and json.loads(out)["rules"]["embedding.weight"]["role"] == "input"
    code, out, _ = call(capsys, "show", "--format", "markdown")
    assert code == 0 and "| path" in out


def test_train_prints_loss_and_folder(capsys, corpus, tmp_path):
    arguments = ("train", *TINY, "--data.corpus", corpus, "--out", tmp_path)
    code, out, err = call(capsys, *arguments)
    loss, folder = out.splitlines()
    assert code == 0 and loss.startswith("validation loss") and folder.startswith(str(tmp_path))
    assert "training 6/6" in err
    assert call(capsys, *arguments)[1] == out
    # the config of a run folder is a config file
    code, again, _ = call(capsys, "train", "--config", f"{folder}/config.json", "--out", tmp_path)
    assert (code, again) == (0, out)


def test_sweep_and_report(capsys, corpus, tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        f"""
        widths = [8, 16]
        log2_learning_rates = [-7, -5, -3]
        parameterizations = ["mup"]
        [run]
        steps = 6
        validation_batches = 2
        model = {{head_dim = 8}}
        data = {{seq = 16, rows = 4, corpus = {json.dumps(corpus)}}}
        """
    )
    code, out, err = call(capsys, "sweep", "--config", file, "--out", tmp_path / "runs")
    assert code == 0 and "6/6" in err
    paths = [line for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert [path.rsplit("/", 1)[1] for path in paths] == ["report.md", "report.png", "report.json"]
    code, again, _ = call(capsys, "report", tmp_path / "runs")
    assert (code, again) == (0, out)


def test_data_makes_a_store_that_train_reads(capsys, corpus, tmp_path):
    code, out, _ = call(capsys, "data", tmp_path / "store", "--corpus", corpus)
    assert code == 0 and out.startswith("train: ")
    code, out, _ = call(capsys, "train", *TINY, "--data.store", tmp_path / "store", "--out", tmp_path / "runs")
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
    "unknown flag": (["train", "--model.widht", "3"], "did you mean --model.width"),
    "unknown choice": (["train", "--model.activation", "gelo"], "gelu"),
    "not a number": (["train", "--steps", "many"], "many"),
    "width not a multiple": (["train", "--model.width", "100"], "not a multiple of head_dim 16"),
    "base above target": (["train", "--model.width", "16"], "larger than the target"),
    "kv heads": (["train", "--model.n-kv-head", "3"], "do not divide"),
    "tied": (["train", "--model.tie-embeddings", "True"], "does not permit"),
    "bad constant": (["show", "--parameterization.tune", "output.multipler=2"], "did you mean 'multiplier'"),
    "constant nowhere": (["show", "--parameterization.tune", "nose.lr=2"], "no such role, module or leaf"),
    "empty grid": (["sweep", "--widths"], "empty"),
    "width in a sweep": (["sweep", "--run.model.width", "64"], "widths"),
    "missing corpus": (["train", "--data.corpus", "{tmp}/nothing"], "nothing"),
    "empty corpus": (["train", "--data.corpus", "{tmp}/empty"], "empty"),
    "binary corpus": (["train", "--data.corpus", "{tmp}/binary.bin"], "binary.bin"),
    "missing tokenizer": (["train", "--data.tokenizer", "{tmp}/no.json"], "no.json"),
    "missing store": (["train", "--data.store", "{tmp}/nostore"], "nostore"),
    "store dtype": (["data", "{tmp}/store", "--dtype", "uint4"], "uint8"),
    "missing config": (["train", "--config", "{tmp}/no.json"], "no.json"),
    "config that is no JSON": (["train", "--config", "{tmp}/broken.json"], "broken.json"),
    "config with an unknown key": (["train", "--config", "{tmp}/typo.json"], "did you mean 'steps'"),
    "config of the wrong command": (["report", "--config", "x", "runs"], "takes no --config"),
    "no such runs": (["report", "{tmp}/noruns"], "noruns"),
    "no finished runs": (["report", "{tmp}/empty"], "no finished runs"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(name, capsys, tmp_path):
    arguments, words = BAD[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 50)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "typo.json").write_text('{"stepz": 3}')
    before = sorted(tmp_path.rglob("*"))
    arguments = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    out = ["--out", str(tmp_path / "out")] if arguments[0] in ("train", "sweep") else []
    code, printed, err = call(capsys, *arguments, *out)
    assert code == 2 and printed == ""
    assert err.startswith("equimu: ") and err.count("\n") == 1
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before


def test_interrupt_exits_with_130(corpus, tmp_path):
    code = (
        "from equimu.train import _loop as loop\n"
        "def stop(*args, **kwargs): raise KeyboardInterrupt\n"
        "loop._train = stop\n"
        "from equimu._cli import main\nmain()"
    )
    arguments = [sys.executable, "-c", code, "train", *TINY, "--data.corpus", corpus, "--out", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr and "interrupted" in done.stderr
