"""The experiments of arXiv 2404.05728 as sweeps: at the paper's scale, or scaled down by one rule."""

import dataclasses
import functools
import importlib.resources
import math
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from equimu._errors import EquimuError, nearest
from equimu._values import Real
from equimu.runs import RunConfig, flat
from equimu.sweeps import SweepConfig, cells, octaves, sweep_config_from_dict

PAPER = "paper"
"""The scale at which the experiments of the paper were made."""
PREFIX = "paper:"
"""In front of the name of a group, where other names could stand."""
_ALL = ("all", "groups", "2404.05728", "arxiv:2404.05728")
# What stands in a group beside the fields of its sweep that it changes.
_OWN = ("text", "claim", "best", "rate", "at")


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of experiments, which differ from the baseline in what is named.

    Attributes:
        name: by which the paper's code calls it.
        text: what it changes, in words.
        claim: whether the paper says that the best learning rate transfers; None where it says nothing.
        best: log2 of the best learning rate at the widths 128, 512, 2048 and so on, as the paper has it; empty where it is not
            known.
        rate: what the paper's learning rate is multiplied by, in this group.
        changes: paths of the sweep's config, and their values at the paper's scale.
        at: what of the sweep is not what a scale makes of the paper's, by the scale.
    """

    name: str
    text: str
    claim: bool | None
    best: tuple[int, ...]
    rate: Real
    changes: Mapping[str, Any]
    at: Mapping[str, Mapping[str, Any]]

    @property
    def says(self) -> str:
        """What the paper says of the group, as a sentence."""
        if self.claim is None:
            return "the paper does not say whether the best learning rate transfers"
        best = f" (best log2 α {self.best_text})" if self.best else ""
        return f"the paper says that the best learning rate {'transfers' if self.claim else 'does not transfer'}{best}"

    @property
    def best_text(self) -> str:
        """`best`, as text."""
        widths = ", ".join(str(128 * 4**index) for index in range(len(self.best)))
        return f"{' '.join(map(str, self.best))} at widths {widths}"

    def sweep(self, scale: str = PAPER) -> SweepConfig:
        """The sweep of the group at a scale.

        Raises:
            EquimuError: an unknown scale.
        """
        found = _merged(_paper()["baseline"], _nested(self.changes))
        found["run"]["validation_batches"] = None
        found = found if scale == PAPER else _merged(_scaled(found, scale), self.at.get(scale, {}))
        step = found.pop("octaves", None)
        rates = found["fit"]["learning_rate"]
        if step is not None and len(rates) > 1:
            rates = octaves(math.log2(min(rates)), math.log2(max(rates)), step)
        found["fit"] = {"learning_rate": [self.rate * rate for rate in rates]}
        return sweep_config_from_dict(found)

    def largest(self, scale: str = PAPER) -> RunConfig:
        """The run of the largest width, at the middle one of the learning rates.

        Raises:
            EquimuError: an unknown scale.
        """
        sweep = self.sweep(scale)
        width = max(sweep.over["width"])
        runs = [run for run in cells(sweep) if run.size["width"] == width]
        runs.sort(key=lambda run: run.optimizer.learning_rate)
        return runs[len(runs) // 2]


def groups() -> tuple[str, ...]:
    """The names of all groups, the baseline first."""
    return tuple(_paper()["groups"])


def scales() -> tuple[str, ...]:
    """The names of all scales."""
    return (*_paper()["scales"], PAPER)


def groups_of(words: Sequence[str]) -> tuple[str, ...]:
    """The names of the groups that words of a command stand for.

    Args:
        words: names, with `paper:` or without; `all`, or the number of the paper, for all groups.

    Raises:
        EquimuError: a word is no group.
    """
    if means_all(words):
        return groups()
    return tuple(dict.fromkeys(group(word.removeprefix(PREFIX)).name for word in words))


def means_all(words: Sequence[str]) -> bool:
    """Whether words of a command stand for all groups.

    Args:
        words: as of `groups_of`.
    """
    return any(word.lower() in _ALL for word in words)


def group_meant(word: str) -> str | None:
    """The group that a word means in whatever case, with `paper:` or without; None where it means none.

    Args:
        word: which may be anything.
    """
    name = word.lower().removeprefix(PREFIX).replace("-", "_")
    return name if name in groups() else None


def scale_takes(scale: str) -> str:
    """About how long a group takes at a scale; empty for the paper's.

    Args:
        scale: its name.

    Raises:
        EquimuError: an unknown scale.
    """
    return "" if scale == PAPER else _scale(scale)["text"]


def scale_text(scale: str, names: Sequence[str]) -> str:
    """A scale in words, for some groups."""
    if scale == PAPER:
        return "that of the paper"
    by = _scale(scale)
    counts = [[len(group(name).sweep(at).over["width"]) for at in (scale, PAPER)] for name in names]
    of_widths = " or ".join(dict.fromkeys(f"{here} of {there}" for here, there in counts))
    divided = ", ".join(
        f"{words} (by {by[key]})"
        for key, words in (
            ("width", "widths"),
            ("depth", "layers"),
            ("steps", "steps"),
            ("rows", "rows"),
            ("seq", "positions"),
        )
        if by[key] != 1
    )
    return (
        f"{by['text']}. The smallest widths are run, {of_widths}; {divided} are divided, and weight decay is "
        "multiplied by the root of what the steps are divided by. Shares of warm-up and decay in a run are the paper's. "
        f"Learning rates are {by['octaves']:g} octave{'s' * (by['octaves'] != 1)} apart. The text is that of this machine, "
        "in bytes"
    )


def group(name: str) -> Group:
    """A group by its name.

    Raises:
        EquimuError: there is none of that name.
    """
    known = _paper()["groups"]
    if name not in known:
        raise EquimuError(f"the paper has no group {name[:99]!r}: {nearest(name, known)}")
    values = known[name]
    changes = {key: value for key, value in values.items() if key not in _OWN}
    return Group(
        name=name,
        text=values["text"],
        claim=values.get("claim"),
        best=tuple(values.get("best", ())),
        rate=values.get("rate", 1.0),
        changes=dict(flat(changes)),
        at=values.get("at", {}),
    )


def _scale(name: str) -> Mapping[str, Any]:
    """What a scale that is not the paper's divides by."""
    known = _paper()["scales"]
    if name not in known:
        raise EquimuError(f"scale {name[:99]!r} is unknown: {nearest(name, scales())}")
    return known[name]


def _scaled(sweep: Mapping[str, Any], scale: str) -> dict[str, Any]:
    """A sweep of the paper's scale at another one.

    Widths, depth, steps, rows and positions are divided, and the size of a head as the widths are. So the shares of warm-up and
    decay in a run, and the ratios between batches stay what they are. Weight decay is multiplied by the root of what the steps
    are divided by: by all of that, its time scale would stay the same share of a run (arXiv 2405.13698), but weights could
    hardly grow against it; by 1, their size in equilibrium would stay, but a run ends long before. Text is that of this
    machine, in bytes, without padding, as so short rows of documents would be little else; computed in float32.
    """
    by = _scale(scale)
    widths = sweep["over"]["width"]
    run = sweep["run"]
    task, decay = run["task"], run["optimizer"].get("weight_decay", 0.0)
    model = {key: value for key, value in task["model"].items() if key not in ("vocab_size", "remat")}
    smaller = {
        "over": {"width": [width // by["width"] for width in widths[: max(1, int(by["widths"] * len(widths)))]]},
        "base": {"width": sweep["base"]["width"] // by["width"]},
        "octaves": by["octaves"],
        "run": {
            "steps": round(run["steps"] / by["steps"]),
            "size": {"depth": math.ceil(run["size"]["depth"] / by["depth"])},
            "validation_batches": by["validation_batches"],
            "task": {
                "model": {"head_dim": task["model"]["head_dim"] // by["width"], "dtype": "float32"},
                "text": {
                    "windows": "concatenate",
                    "seq": task["text"]["seq"] // by["seq"],
                    "rows": max(1, task["text"]["rows"] // by["rows"]),
                },
            },
            "optimizer": {"weight_decay": decay * math.sqrt(by["steps"])},
        },
    }
    return _merged({**sweep, "run": {**run, "task": {**task, "model": model}}}, smaller)


@functools.cache
def _paper() -> Mapping[str, Any]:
    text = importlib.resources.files("equimu.presets").joinpath("paper.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with others' values in the place of its own."""
    found = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = _merged(found[key], value) if both else value
    return found


def _nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, value in changes.items():
        *names, last = path.split(".")
        within = found
        for name in names:
            within = within.setdefault(name, {})
        within[last] = value
    return found
