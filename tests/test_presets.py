"""The experiments of arXiv 2404.05728, field by field, and how they are scaled down."""

import dataclasses
import math
import shlex

import numpy as np
import pytest
from commands import call
from json_schemas import check_schema

from equimu import EquimuError, _progress
from equimu.cli import main
from equimu.cli._config_file import read_config
from equimu.optim import AdamW, Lion
from equimu.presets import PAPER, _paper, group, groups, reproduce, scales, summary
from equimu.runs import RunConfig
from equimu.sweeps import SweepConfig, cells
from equimu.tuning import TuneConfig

pytestmark = pytest.mark.usefixtures("light_compilation")

# What a run of the baseline is, in the paper's own terms.
BASELINE = {
    "width of the base": 128,
    "layers": 24,
    "head_dim": 128,
    "d_ff over width": 4.0,
    "activation": "relu",
    "vocabulary": 32_100,
    "rotary base": 10_000,
    "attention scale": "1/head_dim",
    "gains": "none",
    "norm epsilon": 1e-5,
    "embedding norm": False,
    "biases": False,
    "zero query": False,
    "key/value heads": None,
    "tokens a batch": 2**18,
    "sequence": 256,
    "windows": "document",
    "loss over": "positions",
    "steps": 125_000,
    "warm-up steps": 10_000,
    "schedule": "linear",
    "end of the schedule": 1e-4,
    "optimizer": "adamw",
    "betas": (0.9, 0.95),
    "epsilon": 1e-8,
    "decay": (0.0, None),
    "clip": 1.0,
    "compute": "bfloat16",
    "first moment": "bfloat16",
    "table": "mup(eps=constant)",
    "log2 rates": [-10, -8, -6, -4, -2],
    "widths": (128, 256, 512, 1024, 2048),
    "seeds": 1,
}
LION = {"optimizer": "lion", "betas": (0.95, 0.98), "epsilon": None}
SP = {"table": "sp.replace(output, init_std=fan_in**-0.5)", "attention scale": "1/sqrt(head_dim)"}
COMBINED = {
    "layers": 12,
    "zero query": True,
    "activation": "squared_relu",
    "tokens a batch": 2**21,
    "steps": 90_000,
    "warm-up steps": 7_000,
    "widths": (128, 256, 512, 1024, 2048, 4096),
}
COMBINED_LION = {**COMBINED, **LION, "table": "mup(form=absolute)", "decay": (1e-4, "independent")}
# What changes from it, and whether the rate transfers, by the paper.
GROUPS = {
    "baseline": ({}, True),
    "baseline_abs": ({"table": "mup(form=absolute, eps=constant)"}, None),
    "biases": ({"biases": True}, True),
    "gains_vector": ({"gains": "vector"}, False),
    "gains_scalar": ({"gains": "scalar"}, False),
    "qinit": ({"zero query": True}, True),
    "qkscale": ({"attention scale": "1/sqrt(head_dim)"}, False),
    "uinit": ({"table": "mup(eps=constant).replace(output, init_std=fan_in**-0.5)"}, True),
    "emb_norm": ({"embedding norm": True}, True),
    "cosine": ({"schedule": "cosine"}, True),
    "sqrelu": ({"activation": "squared_relu"}, True),
    "swiglu": ({"activation": "swiglu", "d_ff over width": 2.67}, True),
    "mqa": ({"key/value heads": 1, "d_ff over width": 5.0}, True),
    "bsz_large": (
        {
            "tokens a batch": 2**20,
            "steps": 31_250,
            "warm-up steps": 2_500,
            "log2 rates": [-9, -7, -5, -3, -1],
            "betas": (0.9, 0.98),
            "epsilon": 1e-9,
        },
        True,
    ),
    "bsz_small": (
        {
            "tokens a batch": 2**16,
            "steps": 500_000,
            "warm-up steps": 40_000,
            "log2 rates": [-11, -9, -7, -5, -3],
            "betas": (0.9, 0.98),
            "epsilon": 1e-9,
        },
        True,
    ),
    "wd_coupled": ({"decay": (0.1, "standard")}, False),
    "wd_indep_n3": ({"decay": (1e-3, "independent")}, None),
    "wd_indep_n4": ({"decay": (1e-4, "independent")}, None),
    "wd_indep_n5": ({"decay": (1e-5, "independent")}, None),
    "lion": (LION, False),
    "lion_abs": ({**LION, "table": "mup(form=absolute)"}, None),
    "sp": ({**SP, "biases": True, "gains": "vector"}, False),
    "sp_simple": (SP, None),
    "combined": (COMBINED_LION, True),
    "combined_dm8192": ({**COMBINED_LION, "widths": (128, 256, 512, 1024, 2048, 4096, 8192)}, True),
    "combined_no_wd": (COMBINED, None),
    "llama": (
        {
            **SP,
            "layers": 32,
            "widths": (4096,),
            "vocabulary": 32_000,
            "activation": "swiglu",
            "d_ff over width": 2.67,
            "gains": "vector",
            "tokens a batch": 2**22,
            "steps": 250_000,
            "warm-up steps": 2_500,
            "schedule": "cosine",
            "decay": (0.1, "standard"),
            "log2 rates": [math.log2(3e-4)],
        },
        None,
    ),
}
SWEEPS = [name for name in GROUPS if name != "llama"]


def in_the_papers_terms(config):
    run, (table,), (widths,), (rates,) = config.run, config.panels, config.over.values(), config.fit.values()
    model, text, optimizer = run.task.model, run.task.text, run.optimizer
    assert isinstance(optimizer, AdamW | Lion) and model.qk_norm is False and not model.tie_embeddings
    return {
        "width of the base": config.base["width"],
        "layers": run.size["depth"],
        "head_dim": model.head_dim,
        "d_ff over width": model.d_ff_multiple,
        "activation": model.activation,
        "vocabulary": model.vocab_size,
        "rotary base": model.rotary_base,
        "attention scale": model.attention_scale,
        "gains": model.norm_gain,
        "norm epsilon": model.norm_eps,
        "embedding norm": model.embedding_norm,
        "biases": model.use_bias,
        "zero query": model.zero_query,
        "key/value heads": model.n_kv_head,
        "tokens a batch": text.rows * text.seq,
        "sequence": text.seq,
        "windows": text.windows,
        "loss over": run.task.loss_denominator,
        "steps": run.steps,
        "warm-up steps": round(optimizer.warmup * run.steps),
        "schedule": optimizer.schedule,
        "end of the schedule": optimizer.floor,
        "optimizer": "adamw" if isinstance(optimizer, AdamW) else "lion",
        "betas": (optimizer.b1, optimizer.b2),
        "epsilon": getattr(optimizer, "eps", None),
        "decay": (optimizer.weight_decay, optimizer.weight_decay_rule if optimizer.weight_decay else None),
        "clip": optimizer.clip_norm,
        "compute": model.dtype,
        "first moment": optimizer.first_moment_dtype,
        "table": table,
        "log2 rates": [math.log2(rate) for rate in rates],
        "widths": widths,
        "seeds": len(config.seeds),
    }


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_is_the_papers_field_by_field(name):
    changes, claim = GROUPS[name]
    assert in_the_papers_terms(group(name).sweep()) == {**BASELINE, **changes}
    assert group(name).claim is claim


def test_no_group_is_missing():
    assert groups() == tuple(GROUPS) and scales() == ("gpu", "cpu", PAPER)


@pytest.mark.parametrize("scale", ["gpu", "cpu"])
@pytest.mark.parametrize("name", SWEEPS)
def test_a_smaller_scale_keeps_the_ratios(name, scale):
    paper, small = group(name).sweep(), group(name).sweep(scale)
    there, here = next(cells(paper)), next(cells(small))  # they share all but what is looked at below
    assert here.task.model.head_dim == here.base["width"] == min(small.over["width"])
    assert round(here.optimizer.warmup * here.steps) / here.steps == pytest.approx(there.optimizer.warmup, abs=0.01)
    decay = [cell.optimizer.weight_decay**2 * cell.steps for cell in (here, there)]
    assert decay[0] == pytest.approx(decay[1], rel=0.01)
    same = ("b1", "b2", "schedule", "floor", "clip_norm", "weight_decay_rule")
    assert all(getattr(here.optimizer, each) == getattr(there.optimizer, each) for each in same)
    assert here.task.model.activation == there.task.model.activation
    assert here.parameterization == there.parameterization
    first = group("baseline").sweep(), group("baseline").sweep(scale)
    for count in (lambda c: c.run.task.text.rows, lambda c: c.run.steps):
        assert count(paper) / count(first[0]) == pytest.approx(count(small) / count(first[1]), rel=0.01)
    (widths,) = small.over.values()
    assert [b / a for a, b in zip(widths, widths[1:], strict=False)] == [2.0] * (len(widths) - 1)
    (rates,) = small.fit.values()
    assert min(rates) == min(paper.fit["learning_rate"]) and max(rates) == max(paper.fit["learning_rate"])


def with_tiny_scale(patch):
    """A scale of runs of a few steps."""
    paper = dict(_paper._paper())
    paper["scales"] = {
        **paper["scales"],
        "tiny": {
            "text": "nothing to speak of",
            "widths": 0.4,
            "width": 16,
            "depth": 24,
            "steps": 15_000,
            "rows": 512,
            "seq": 16,
            "validation_batches": 1,
            "octaves": 4.0,
        },
    }
    patch.setattr(_paper, "_paper", lambda: paper)
    return "tiny"


@pytest.fixture
def tiny(monkeypatch):
    return with_tiny_scale(monkeypatch)


@pytest.fixture(scope="module")
def found(corpus, tmp_path_factory, light_compilation):
    """The baseline, run at that scale."""
    with pytest.MonkeyPatch.context() as patch:
        scale, out = with_tiny_scale(patch), tmp_path_factory.mktemp("found")
        return reproduce(["baseline"], scale=scale, out=out, seeds=1, text={"corpus": corpus})[0]


def printed(capsys, *words):
    code, out, err = call(capsys, *words)
    assert code == 0, err
    return out, err.splitlines()


@pytest.mark.long
def test_groups_are_run_and_put_beside_the_paper(tiny, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_progress, "_SECONDS", 0.0)  # each line is told
    flags = ["--scale", tiny, "--seeds", "1", "--out", str(tmp_path / "runs"), "--text.corpus", corpus]
    command = ["reproduce", "baseline", "paper:bsz_large", *flags]
    dry, _ = printed(capsys, *command, "--dry-run", "--json")
    planned = check_schema("reproduce-dry-run", dry)
    assert (planned["cells"], planned["done"], len(planned["groups"])) == (12, 0, 2) and not list(tmp_path.iterdir())
    assert planned["command"] == shlex.join(["equimu", "reproduce", "baseline", "bsz_large", *flags])
    out, told = printed(capsys, *command)
    lines = out.splitlines()
    assert lines[0].startswith("group") and lines[2].startswith("baseline") and lines[3].startswith("bsz_large")
    assert lines[-1].startswith("2 groups: ") and "agreeing with the paper " in lines[-1]
    assert told[0] == "reproducing 0/12  no cells done before, 12 to train, nothing to speak of a group"
    assert [line.split()[1] for line in told[1:]] == [f"{done}/12" for done in range(1, 13)]
    assert all(line.endswith(" left)") for line in told[1:-1]) and not told[-1].endswith("left)")
    # What is done is not told again.
    assert printed(capsys, *command)[1] == ["reproducing 12/12  all cells were done before"]
    out, _ = printed(capsys, *command, "--dry-run")
    assert "12 cells: 12 done, none to train" in out.splitlines()
    page = (tmp_path / "runs" / "paper.md").read_text()
    assert "at the scale `tiny`: nothing to speak of. The smallest widths are run, 2 of 5; widths (by 16)" in page
    assert f"`{planned['command']}`" in page
    assert f"`{shlex.join(['equimu', 'reproduce', 'bsz_large', *flags])}`" in page
    assert "![Loss against learning rate](baseline/report.png)" in page
    assert (
        "The paper says that the best learning rate transfers (best log2 α -6 -6 -6 at widths 128, 512, 2048)" in page
    )
    whole = (tmp_path / "runs" / "paper.html").read_text()
    assert whole.count("data:image/svg+xml;base64,") == 2 and '<h2 id="bsz_large">' in whole
    data = check_schema("reproduce", (tmp_path / "runs" / "paper.json").read_text())
    # Whatever does not agree has a reason, in the page and in the data.
    for name, each in data["groups"].items():
        assert (each["reason"] is None) == (each["agreement"] == "agrees")
        assert each["reason"] is None or f"- {name} ({each['agreement']}): {each['reason']}" in page
    assert data["groups"]["baseline"]["claim"] is True and data["groups"]["baseline"]["paper_best"] == [-6, -6, -6]
    # Learning rates are counted as the paper does, whose alpha is half of the rate of a large batch.
    assert set(data["groups"]["bsz_large"]["best"]) <= {-10.0, -6.0, -2.0}
    assert all((tmp_path / "runs" / name).is_dir() for each in data["groups"].values() for name in each["runs"])


@pytest.mark.long
def test_agreement_is_of_verdicts(found):
    panel = found.panel

    def judged(kind, claim, harmless=False):
        verdict = dataclasses.replace(panel.verdict, kind=kind, harmless=harmless)
        report = dataclasses.replace(found.report, panels=(dataclasses.replace(panel, verdict=verdict),))
        return dataclasses.replace(found, report=report, group=dataclasses.replace(found.group, claim=claim))

    cases = [
        *(judged("transfers", True), judged("drifts", True), judged("drifts", True, harmless=True)),
        *(judged("drifts", False), judged("transfers", False), judged("undecided", True), judged("drifts", None)),
    ]
    assert [case.agreement for case in cases] == [
        *("agrees", "disagrees", "agrees", "agrees", "disagrees", "undecided", "no claim"),
    ]
    told = "7 groups: agreeing with the paper 3, disagreeing 2, undecided 1, without a claim of the paper 1"
    assert summary(cases) == told


@pytest.mark.long
def test_the_papers_criterion_is_on_its_own_grid(found):
    panel = found.panel
    points = [-10.0, -9.0, -8.0, -7.0, -6.0]

    def at(*losses):
        curves = tuple(
            dataclasses.replace(
                panel.curves[0],
                size=float(size),
                grid=np.array(points),
                losses=np.array([own]),
                diverged=np.array([value > 9 for value in own], int),
            )
            for size, own in enumerate(losses, 1)
        )
        report = dataclasses.replace(found.report, panels=(dataclasses.replace(panel, curves=curves),))
        return dataclasses.replace(found, report=report)

    # The best of all, at -9, is not on the paper's grid; of large batches the paper's alpha is half of the rate.
    two = at([3.0, 1.0, 2.0, 2.5, 4.0], [3.0, 1.0, 2.0, 1.9, 4.0])
    assert two.best == (-8.0, -8.0) and two.same_best is True
    large = dataclasses.replace(two, group=group("bsz_large"))
    assert large.best == (-10.0, -10.0)
    assert at([3.0, 1.0, 2.0, 2.5, 4.0], [3.0, 1.0, 4.0, 1.9, 3.5]).same_best is False
    assert at([3.0, 1.0, 2.0, 2.5, 4.0]).same_best is None


@pytest.mark.parametrize("name", ["baseline", "combined", "llama"])
def test_a_group_is_a_config_of_other_commands(name):
    sweep = read_config(f"paper:{name}", SweepConfig, None, [])
    assert sweep == group(name).sweep()
    run = read_config(f"paper:{name}", RunConfig, None, [])
    assert run == group(name).largest() and run.size["width"] == max(sweep.over["width"])
    assert run.optimizer.learning_rate == sorted(sweep.fit["learning_rate"])[len(sweep.fit["learning_rate"]) // 2]
    with pytest.raises(EquimuError, match=f"paper:{name} is a sweep, with nothing to search; give it to sweep"):
        read_config(f"paper:{name}", TuneConfig, None, [])


def test_a_config_of_no_group_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plan", "v3:8x8", "--config", "paper:lyon"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("equimu: the paper has no group 'lyon': did you mean 'lion'?")


@pytest.mark.parametrize(
    "given, words",
    [
        (["bassline"], "the paper has no group 'bassline': did you mean 'baseline'?"),
        (["baseline", "--scale", "big"], "scale 'big' is unknown: give one of cpu, gpu, paper"),
        ([], "name at least one group of the paper, e.g. baseline, or all; equimu show all lists them"),
    ],
)
def test_mistakes(given, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *given, "--out", str(tmp_path / "runs")])
    assert stop.value.code == 2 and words in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_field_of_text_that_is_not_there_is_told(tmp_path):
    with pytest.raises(EquimuError, match="text has no field 'stor': did you mean 'store'"):
        reproduce(["baseline"], scale="cpu", out=tmp_path, text={"stor": "x"})


@pytest.mark.parametrize("words", [["lion"], ["paper:lion"], ["lion", "sp"]])
def test_what_a_group_changes_is_shown(words, capsys):
    out = printed(capsys, "show", *words)[0].partition("\n\n")[0].splitlines()
    assert out[:3] == [
        "lion: Lion",
        "the paper says that the best learning rate does not transfer (best log2 α -10 -8",
        "-8 at widths 128, 512, 2048)",
    ]
    changed = {line.split()[0]: line for line in out[3:-1]}
    assert set(changed) == {"optimizer.name", "optimizer.b1", "optimizer.b2"}
    assert changed["optimizer.b1"].endswith("0.95  (baseline: 0.9)")
    assert out[-1] == "equimu reproduce lion --scale paper"
    data = check_schema("show-groups", printed(capsys, "show", "--json", *words)[0])["groups"]
    assert list(data) == [word.removeprefix("paper:") for word in words]
    assert data["lion"]["values"] == {"optimizer.name": "lion", "optimizer.b1": 0.95, "optimizer.b2": 0.98}
    assert data["lion"]["baseline"]["optimizer.name"] == "adamw" and data["lion"]["claim"] is False


@pytest.mark.parametrize("word", ["all", "2404.05728"])
def test_all_groups_are_listed(word, capsys):
    lines = printed(capsys, "show", word)[0].splitlines()
    assert [line.split()[0] for line in lines[2:29]] == list(groups())
    assert lines[2].split()[1] == "transfers" and lines[3].split()[1] == "–" and max(map(len, lines)) <= 80
    assert list(check_schema("show-groups", printed(capsys, "show", word, "--json")[0])["groups"]) == list(groups())


def test_what_is_shown_of_groups_fits_80_columns(capsys):
    lines = printed(capsys, "show", *groups())[0].splitlines()
    assert max(map(len, lines)) <= 80 and not any("None" in line or "nothing" in line for line in lines)
    assert "the paper does not say whether the best learning rate transfers" in lines


@pytest.mark.parametrize(
    "given, words",
    [
        ("show lyon", "'lyon' is neither a task, as my.py:NextByte is, nor a group of the paper: did you mean 'lion'?"),
        ("show LION", "the paper has no group 'LION': did you mean 'lion'?"),
        ("show 'mup(form=absolute)'", "did you mean --parameterization 'mup(form=absolute)'?"),
        ("show lion --size.width 64", "write equimu show --config paper:lion and its flags"),
        ("show --scale cpu", "--scale is of groups of the paper, e.g. equimu show lion --scale cpu"),
        ("show lion --scale cup", "scale 'cup' is unknown: did you mean 'cpu'?"),
        ("show --config lion", "No such file or directory; did you mean --config paper:lion?"),
        (
            "show --config 2404.05728",
            "--config takes one group of the paper, e.g. paper:baseline; equimu show all lists",
        ),
        ("train --config paper", "--config takes one group of the paper, e.g. paper:baseline; equimu show all lists"),
        ("train lion", "did you mean --config paper:lion?"),
        ("train paper:lion", "did you mean --config paper:lion?"),
        ("sweep Lion", "did you mean --config paper:lion?"),
        ("sweep mup", "did you mean --panels mup?"),
        ("tune lion", "did you mean --run.optimizer.name lion?"),
        ("train adamw", "did you mean --optimizer.name adamw?"),
        ("train --optimizer lion", "write --optimizer.name"),
        ("train runs/3f0c/config.json", "did you mean --config runs/3f0c/config.json?"),
        ("lion", "unknown command 'lion': did you mean equimu show lion?"),
        ("2404.05728", "unknown command '2404.05728': did you mean equimu show all?"),
        ("reproduce Lion", "the paper has no group 'Lion': did you mean 'lion'?"),
        ("reproduce --list", "equimu show all lists the groups"),
        (
            "eval",
            "eval needs RUN: Folder of a run, whose newest checkpoint is taken, or RUN/checkpoints/step-N; equimu eval",
        ),
        ("export", "export needs RUN and --out STR; equimu export --help tells more"),
        ("reproduce all lyon", "the paper has no group 'lyon': did you mean 'lion'?"),
    ],
)
def test_guesses_find_the_way(given, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(given))
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and words in err and len(err.splitlines()) == 1
