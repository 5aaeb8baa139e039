"""Which columns of a table are what a report asks for, where nobody says it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from equimu._errors import EquimuError, nearest
from equimu.tables import Row

_WIDTHS = (
    *("width", "d_model", "n_embd", "hidden_size", "embed_dim", "embedding_dim", "emb_dim", "hidden_dim", "model_dim"),
    *("dim_model", "d_hidden", "n_hidden", "dim"),
)
_DEPTHS = ("depth", "n_layer", "n_layers", "num_layers", "num_hidden_layers")
_RATES = ("learning_rate", "lr", "base_lr", "peak_lr", "max_lr", "init_lr", "lr_max", "eta")
_VALIDATION = (
    *("validation_loss", "val_loss", "valid_loss", "eval_loss", "test_loss", "dev_loss"),
    *("loss_validation", "loss_val", "loss_valid", "loss_eval", "loss_test", "loss_dev"),
)
_TRAINING = ("final_loss", "loss", "train_loss", "training_loss", "loss_train", "loss_training")

# The names that others give to what a report asks for, those that are taken first in front.
USUAL: Mapping[str, tuple[str, ...]] = {
    "size": (*_WIDTHS, *_DEPTHS),
    "fit": _RATES,
    "loss": (*_VALIDATION, *_TRAINING),
    "panel": ("panel", "parametrization", "parameterization", "mup", "use_mup", "scheme"),
    "seed": ("seed", "random_seed", "rng_seed"),
    "step": ("step", "global_step", "iteration", "iter"),
    "run": ("run_id", "run", "id", "name", "run_name", "trial"),
    "state": ("state", "status"),
}
# What these are called in a report.
WORDS = {
    name: word for word, names in (("width", _WIDTHS), ("depth", _DEPTHS), ("learning_rate", _RATES)) for name in names
}
# Where a column comes from, in front of its name. What was logged along the way was not set: the rate of a schedule's end.
_LOGGED = {"metrics", "summary", "train", "training", "val", "validation", "eval"}
_SET = {"params", "config", "hparams"}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns by what they are for; those that the table does not have are missing."""

    names: Mapping[str, str]

    def __repr__(self) -> str:
        shown = [role for role in ("size", "fit", "loss", "panel", "seed", "step") if role in self.names]
        return ", ".join(f"{self.word(role)} from {self.names[role]}" for role in shown)

    def word(self, role: str) -> str:
        """What a column is called in the report: `"width"` of `d_model`, `"learning_rate"` of `params.lr`."""
        if role not in ("size", "fit"):
            return role
        ends = _ends(self.names[role])
        return next((WORDS[end] for end in ends if end in WORDS), ends[-1])

    def of(self, role: str, row: Row) -> Any:
        """The value in the column of a role; None if there is no such column, or if it is empty."""
        value = row.values.get(self.names[role]) if role in self.names else None
        value = value.strip() if isinstance(value, str) else value
        return None if value == "" else value


def find_columns(rows: Iterable[Row], given: Mapping[str, str | None]) -> Columns:
    """The columns of a table by what they are for.

    Args:
        rows: of the table.
        given: the columns that the caller names, by what they are for.

    Raises:
        EquimuError: the table has no such column, none for the size, the fitted number or the loss, or several that would do.
    """
    columns: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.values.items():
            columns.setdefault(name, set()).add(str(value).strip())
    found: dict[str, str] = {}
    for role, usual in USUAL.items():
        name = given.get(role)
        if name is not None and name not in columns:
            raise EquimuError(f"the table has no column {name!r} for --{role}: {nearest(name, columns)}")
        name = name or _guess(
            role, usual, {key: values for key, values in columns.items() if key not in found.values()}
        )
        if name is not None:
            found[role] = name
        elif role in ("size", "fit", "loss"):
            what = {"size": "what the sweep is over", "fit": "what was swept", "loss": "the loss"}[role]
            raise EquimuError(
                f"which column is {what}? none is called {', '.join(usual[:3])} or alike; say it with --{role}, one of "
                f"{', '.join(sorted(columns)[:20])}"
            )
    return Columns(names=found)


def _guess(role: str, usual: tuple[str, ...], columns: Mapping[str, set[str]]) -> str | None:
    """The column with the most usual name; sizes and rates that differ from row to row go before those that do not."""
    named: list[tuple[bool, int, int, str]] = []
    for column, values in columns.items():
        ends, within = _ends(column), set(_parts(column)[:-1])
        rank = next(((usual.index(end), place) for place, end in enumerate(ends) if end in usual), None)
        is_set, is_logged = bool(_SET & within), bool(_LOGGED & within)
        if rank is None or (is_set if role in ("loss", "step") else is_logged and not is_set):
            continue
        if role in ("run", "state") and rank[1] > 0:
            continue
        same = role in ("size", "fit", "panel") and len(values - {"", "None"}) < 2
        named.append((same, *rank, column))
    best = sorted(named)[:2]
    if len(best) == 2 and best[0][:3] == best[1][:3]:
        raise EquimuError(f"columns {best[0][3]} and {best[1][3]} could both be the {role}; say which with --{role}")
    return best[0][3] if best else None


def _parts(column: str) -> list[str]:
    """The parts of a column's name: `params` and `lr` of `params.lr`."""
    return [
        re.sub(r"\W+", "_", part.strip()).strip("_").lower() for part in re.split(r"[./]", column) if part.strip("_ ")
    ]


def _ends(column: str) -> list[str]:
    """The ends of a column's name, the longest first: `val_loss` and `loss` of `val/loss`."""
    parts = _parts(column)
    return ["_".join(parts[at:]) for at in range(len(parts))] or [column]
