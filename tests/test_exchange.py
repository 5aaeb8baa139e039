"""Export and import: plain weights have the logits of the run, by a Llama in float64 that shares nothing with the library."""

import dataclasses
import functools
import json
import shutil
import sys

import commands
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy_llama
import pytest
from runs import LINES, small_run, with_model
from tiers import long_but

import equimu as mu
from equimu import EquimuError, train
from equimu.exchange import export, run_from_llama
from equimu.llama import (
    arrays_to_llama,
    encode_tensors,
    llama_config_of,
    read_llama,
    read_tensors,
    reason_against_llama,
)
from equimu.parameterization import dotted
from equimu.runs import LlamaStart, RunConfig, Sizes
from equimu.tasks import find_task
from equimu.training import RuntimeConfig
from equimu.training._llama_start import weights_from_llama

pytest.importorskip("safetensors", reason="pip install 'equimu[export]'")
pytestmark = pytest.mark.usefixtures("light_compilation")

TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
VARIANTS = {
    "plain": {},
    "grouped heads": {"n_kv_head": 2, "norm_gain": "vector", "rotary_base": 500.0},
    "tied": {"tie_embeddings": True, "norm_gain": "vector"},
    "scalar gains": {"norm_gain": "scalar", "attention_scale": 0.3, "norm_eps": 1e-3, "d_ff_multiple": 2.7},
}
TABLES = {"plain": "mup", "grouped heads": "mup(form=absolute)", "tied": "tpv(8)", "scalar gains": "sp"}
TABLES_INTO = {
    "plain": "mup(form=absolute)",
    "grouped heads": "ntk",
    "tied": "tpv(8, form=absolute)",
    "scalar gains": "mup",
}


def tree_of(options, table="mup"):
    options = {"activation": "swiglu"} | options
    make = functools.partial(mu.nn.Transformer, vocab_size=11, n_layer=2, head_dim=4, **options)
    return mu.parameterize(make, mu.parameterization_from_text(table), base={"d_model": 8}, target={"d_model": 16})


def moved(tree, seed=0):
    """A model of the tree with other gains than 1."""
    model = mu.initialize(tree, jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def move(path, x):
        name = dotted(path)
        away = name.endswith("gain")
        return x + jnp.asarray(rng.normal(size=x.shape) * 0.3, x.dtype) if away and eqx.is_array(x) else x

    return jax.tree_util.tree_map_with_path(move, model)


def write_llama(folder, tree, model, most=2**32):
    folded = mu.fold(tree, model)
    leaves = jax.tree_util.tree_flatten_with_path(folded)[0]
    arrays = {dotted(path): np.asarray(x) for path, x in leaves if eqx.is_array(x)}
    folder.mkdir()
    for name, content in encode_tensors(arrays_to_llama(tree, arrays), most):
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(llama_config_of(tree).to_dict()))
    return np.asarray(folded(jnp.asarray(TOKENS)))


def with_weights(tree, weights):
    fresh = mu.initialize(tree, jax.random.key(99))
    return jax.tree_util.tree_map_with_path(lambda path, x: jnp.asarray(weights.get(dotted(path), x)), fresh)


@pytest.mark.parametrize("name", long_but(("plain", "grouped heads"), list(VARIANTS)))
def test_logits_are_those_of_a_llama_in_float64_both_ways(name, tmp_path):
    tree = tree_of(VARIANTS[name], TABLES[name])
    own = write_llama(tmp_path / "out", tree, moved(tree))
    expected = numpy_llama.logits(tmp_path / "out", TOKENS)
    np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    # Into a model of another table, of which other multipliers are divided out.
    other = tree_of(VARIANTS[name] | {"norm_gain": "vector", "attention_scale": 0.5}, TABLES_INTO[name])
    model = with_weights(other, weights_from_llama(other, read_llama(tmp_path / "out")))
    again = np.asarray(mu.fold(other, model)(jnp.asarray(TOKENS)))
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_round_trip_gives_the_arrays_back(tmp_path):
    tree = tree_of(VARIANTS["grouped heads"], "mup(form=absolute)")
    model = moved(tree)
    write_llama(tmp_path / "out", tree, model, most=2048)
    assert len(list(tmp_path.glob("out/model-*.safetensors"))) > 2  # in several files, with an index
    weights = weights_from_llama(tree, read_llama(tmp_path / "out"))
    leaves = {dotted(path): x for path, x in jax.tree_util.tree_flatten_with_path(model)[0] if eqx.is_array(x)}
    assert set(weights) == set(leaves)
    for path, x in leaves.items():
        np.testing.assert_allclose(weights[path], x, rtol=2**-22, err_msg=path)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A run of a Llama, saved at its end, and its export."""
    root = tmp_path_factory.mktemp("trained")
    config = with_model(
        small_run(corpus, width=32, steps=3, learning_rate=0.1),
        activation="swiglu", n_kv_head=2, norm_gain="vector", norm_eps=1e-6,
    )  # fmt: skip
    run = train(config, out=root, runtime=RuntimeConfig(save_final=True))
    return run, export(run.folder, root / "exported")


@pytest.mark.long
def test_an_export_has_the_validation_loss_of_the_run(trained):
    run, made = trained
    assert made.step == 3 and made.no_llama is None
    assert sorted(path.name for path in made.folder.iterdir()) == ["config.json", "model.safetensors"]
    data = run.config.task.data()
    batches = data.validation(3)
    losses = [numpy_llama.mean_loss(made.folder, b.inputs, b.targets) for b in map(batches.batch, range(len(batches)))]
    assert np.mean(losses) == pytest.approx(run.validation_loss, rel=1e-5)


def test_a_run_begins_from_it_with_its_loss(trained, corpus, tmp_path):
    run, made = trained
    text = run.config.task.text
    config = run_from_llama(made.folder)
    config = dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, text=text),
        base=Sizes(width=16, depth=2),
        parameterization="mup(form=absolute)",
        steps=2,
        seed=5,
        validation_batches=1,
    )
    again = train(config, out=tmp_path, runtime=RuntimeConfig(save_final=True))
    batch = config.task.data().training(5).batch(0)
    expected = numpy_llama.mean_loss(made.folder, batch.inputs, batch.targets)
    assert again.rows[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert again.identity["from"] == {"llama": read_llama(made.folder).digest}
    # Goes on from its own checkpoint, and is another run than with fresh weights.
    assert train(config, out=tmp_path).folder == again.folder
    assert LlamaStart(read_llama(made.folder)).step == 0


def test_the_command_line_exports_and_imports(trained, tmp_path, capsys):
    run, _ = trained

    call = functools.partial(commands.call, capsys)

    code, out, err = call("export", run.folder / "checkpoints" / "step-3", "--out", tmp_path / "out")
    assert (code, out.strip(), err) == (0, str(tmp_path / "out"), "")
    code, _, err = call("export", run.folder, "--out", tmp_path / "out")
    assert code == 2 and "is there already; choose another --out" in err
    code, out, err = call("import", tmp_path / "out", "--out", tmp_path / "config.json")
    assert (
        code == 0
        and out.startswith("equimu train --config ")
        and "learning rate 3.1e-05" in err
        and "rows of 16" in err
    )
    assert (tmp_path / "config.json").read_text().endswith("}\n")
    config = mu.runs.config_from_dict(json.loads((tmp_path / "config.json").read_text()))
    assert config == run_from_llama(tmp_path / "out")
    assert config.size == {"width": 32, "depth": 2} and config.task.model.n_kv_head == 2
    code, _, err = call("export", tmp_path, "--out", tmp_path / "more")
    assert code == 2 and "holds no checkpoint" in err and not (tmp_path / "more").exists()


def damaged(folder, tmp_path, **edits):
    """A copy of an export with other values in its config, and arrays taken out or changed."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    arrays, _ = read_tensors(copy)
    values = json.loads((copy / "config.json").read_text())
    for name, edit in edits.items():
        name = name.replace("__", ".")
        if name in values or not name.endswith("weight"):
            values[name] = edit
        elif edit is None:
            del arrays[name]
        else:
            arrays[name] = edit
    (copy / "config.json").write_text(json.dumps(values))
    for name, content in encode_tensors(arrays):
        (copy / name).write_bytes(content)
    return copy


BAD = {
    "another architecture": (
        {"model_type": "mistral"},
        "model_type is 'mistral'; equimu reads checkpoints of llama alone",
    ),
    "another rotary embedding": ({"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling is {'rope_type': 'llama3'}"),
    "heads that do not divide": ({"num_attention_heads": 3}, "make no heads of an even width each"),
    "a missing array": (
        {"model__layers__1__mlp__up_proj__weight": None},
        "has no array model.layers.1.mlp.up_proj.weight, which should have shape [128, 32]",
    ),
    "another shape": (
        {"model__norm__weight": np.ones(7, np.float32)},
        "model.norm.weight has shape [7], and by its config.json should have [32]",
    ),
    "one array too many": (
        {"model__layers__0__self_attn__q_norm__weight": np.ones(8, np.float32)},
        "has an array model.layers.0.self_attn.q_norm.weight, which a llama has not",
    ),
    "biases": ({"attention_bias": True}, "attention_bias is True; equimu reads llamas with False alone"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_llama_of_ours_is_refused(name, trained, tmp_path):
    edits, words = BAD[name]
    folder = damaged(trained[1].folder, tmp_path, **edits)
    for read in (read_llama, run_from_llama):
        with pytest.raises(EquimuError) as error:
            read(folder)
        assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "no head", "longer"])
def test_weights_that_are_not_whole_are_refused(how, trained, tmp_path):
    folder = damaged(trained[1].folder, tmp_path)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    kept = {"empty": b"", "cut": content[:-9], "no head": content[:20], "longer": content + b"more"}
    weights.unlink()
    if how in kept:
        weights.write_bytes(kept[how])
    for read in (read_llama, run_from_llama):
        with pytest.raises(
            EquimuError, match="(cannot read|is not a whole) .*; copy or convert the llama's weights again"
        ):
            read(folder)


def test_a_run_with_another_model_is_told_its_flags(trained, corpus, tmp_path):
    run, made = trained
    start = f"llama:{made.folder}"
    other = dataclasses.replace(with_model(run.config, rotary_base=99.0, norm_gain="none"), restore_from=start)
    with pytest.raises(EquimuError, match=r"another; the checkpoint is of --model\.rotary-base 10000\.0$"):
        train(other, out=tmp_path / "out")
    gains = dataclasses.replace(with_model(run.config, norm_gain="none"), restore_from=start)
    with pytest.raises(EquimuError, match=r"give --model\.norm-gain vector"):
        train(gains, out=tmp_path / "out")
    relu = dataclasses.replace(with_model(run.config, activation="relu"), restore_from=start)
    with pytest.raises(EquimuError, match=r"no llama: its activation is relu; .*--model\.activation swiglu"):
        train(relu, out=tmp_path / "out")
    with pytest.raises(EquimuError, match=r"cannot read .*config\.json: No such file or directory"):
        train(dataclasses.replace(run.config, restore_from=f"llama:{tmp_path}"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


NO_LLAMA = {
    "its activation is gelu": {"activation": "gelu"},
    "it has no rotary embedding": {"rotary_base": None},
    "its attention has a window": {"attention_window": 4},
    "it has biases": {"use_bias": True},
    "it normalises its embedding": {"embedding_norm": True},
    "it normalises queries and keys": {"qk_norm": True},
}


@pytest.mark.parametrize("reason", NO_LLAMA)
def test_what_no_llama_has_is_told(reason):
    assert reason_against_llama(tree_of(NO_LLAMA[reason])) == reason


def test_other_models_are_written_by_their_own_names(tmp_path):
    run = train(
        find_task(LINES)(),
        {"width": 16},
        steps=2,
        parameterization="ntk",
        out=tmp_path,
        runtime=RuntimeConfig(save_final=True),
    )
    with pytest.raises(EquimuError, match=r"is a run of the task 'Lines'; name its class, too, e\.g\. .*:Lines"):
        export(run.folder, tmp_path / "deep" / "out")
    made = export(run.folder, tmp_path / "deep" / "out", task=find_task(LINES))
    assert made.no_llama == "its task is Lines"
    arrays = numpy_llama.read_file(made.folder / "model.safetensors")
    batches = find_task(LINES)().data().validation(None)
    losses, weights = [], []
    for number in range(len(batches)):
        x, y = batches.batch(number)
        hidden = np.maximum(x @ arrays["first.weight"].T + arrays["first.bias"], 0)
        losses.append(np.square((hidden @ arrays["last.weight"].T + arrays["last.bias"])[:, 0] - y))
        weights.append(batches.weights(number))
    assert np.average(losses, weights=weights) == pytest.approx(run.validation_loss, rel=1e-5)
    described = json.loads((made.folder / "config.json").read_text())
    assert described["model_type"] == "equimu" and described["run"] == run.identity
    assert described["equimu"] == {"run": run.folder.name, "step": 2}


def test_an_export_that_fails_leaves_nothing(trained, tmp_path, monkeypatch):
    from equimu.exchange import _export

    def fail(folder, name, content):
        raise OSError(28, "No space left on device", str(folder / name))

    monkeypatch.setattr(_export, "write_inside", fail)
    with pytest.raises(EquimuError, match="No space left on device; choose another --out"):
        export(trained[0].folder, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(EquimuError, match=r"pip install 'equimu\[export\]'"):
        export(trained[0].folder, tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_hugging_face_reads_it(tied, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    name = "tied" if tied else "grouped heads"
    tree = tree_of(VARIANTS[name], TABLES[name])
    own = write_llama(tmp_path / "out", tree, moved(tree))
    theirs, told = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found = theirs(torch.tensor(TOKENS)[None]).logits[0].numpy()
    np.testing.assert_allclose(own, found, rtol=1e-5, atol=1e-5 * np.abs(found).max())
    # What it saves, in other dtypes too, is read here.
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "saved", max_shard_size="4KB")
    again = read_llama(tmp_path / "saved")
    assert again.config == llama_config_of(tree)
    np.testing.assert_allclose(
        again.tensors["model.norm.weight"], read_llama(tmp_path / "out").tensors["model.norm.weight"], rtol=2**-8
    )


def test_restore_from_is_checked_as_a_path():
    assert RunConfig(restore_from="llama:/somewhere").restore_from == "llama:/somewhere"
