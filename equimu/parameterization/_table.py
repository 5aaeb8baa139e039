"""The rule tree as text: a table for people, JSON for files."""

import dataclasses
import html
import json
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

from equimu._errors import EquimuError
from equimu._html import html_table
from equimu._terminal import table_lines
from equimu.parameterization._law import Dimensions
from equimu.parameterization._rule import NUMBERS, Model, Rule, Tree, is_rule
from equimu.parameterization._tree import required_rules, rules_of

_FORMAT = 4  # of the JSON; another number where an older reader would read it wrongly
_FIELDS = [field.name for field in dataclasses.fields(Rule) if field.name not in ("path", "leaf", "blueprint")]
_NUMBERS = ("multiplier", "lr", "weight_decay", "eps")
_COLUMNS = ("path", "shape", "role", "init", "constructor", *_NUMBERS)
_SPARE = tuple(map(_COLUMNS.index, ("constructor", "eps", "shape")))  # what a narrow terminal leaves out, in this order
_OF_RUN = "one_minus_beta"  # a column only where some rule has it: rules of batch and length


class RuleTable(str):
    """A rule table as text; a notebook shows it as a table of its own.

    Attributes:
        html: the table as HTML.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html


def table(tree: Tree[Any], *, markdown: bool = False, width: int | None = None) -> RuleTable:
    """One row a leaf: path, shape, role, the initial draw, the constructor's own draw if there is one, and the factors.

    The initial draw is that of the stored array; the forward pass sees it times the multiplier.

    Args:
        tree: the tree of rules.
        markdown: a Markdown table instead of aligned columns.
        width: characters of a line, for which columns are left out and paths shortened where they must be; None for as many
            as it takes.
    """
    rules = required_rules(tree, "table")
    columns = _COLUMNS if all(_number(rule.one_minus_beta) == "1" for rule in rules) else (*_COLUMNS, _OF_RUN)
    rows: list[tuple[str, ...]] = []
    for rule in rules:
        numbers = tuple(_number(getattr(rule, name)) for name in columns[len(_COLUMNS) - len(_NUMBERS) :])
        own = "" if rule.own_std is None else spread(rule.own_mean, rule.own_std)
        rows.append((rule.path, "×".join(map(str, rule.shape)) or "scalar", rule.role, _draw(rule), own, *numbers))
    everything = range(len(columns))
    if markdown:
        lines = [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
    else:
        lines = table_lines(columns, rows, text=everything, spare=_SPARE, width=width)
    made = RuleTable("\n".join(lines))
    made.html = html_table(columns, [list(map(html.escape, row)) for row in rows], text=frozenset(everything))
    return made


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | int) else "(traced)"


def _draw(rule: Any) -> str:
    if rule.init_mean is None:
        trained = not (isinstance(rule.lr, float) and rule.lr == 0.0)
        return "as the model" if trained else "as the model, not trained"
    if isinstance(rule.init_std, float) and rule.init_std == 0.0:
        return f"= {_number(rule.init_mean)}"
    if rule.as_drawn:
        return f"as drawn, {_number(rule.init_mean)} ± {_number(rule.init_std)}"
    return f"N(0, {_number(rule.init_std)}²)"


def spread(mean: Any, std: Any) -> str:
    """Mean and standard deviation of a draw."""
    return f"{_number(mean or 0.0)} ± {float(std):.3g}" if isinstance(std, float | int) else "(traced)"


def to_json(tree: Tree[Any]) -> str:
    """The rules as JSON, by path; `from_json` reads them back exactly.

    Args:
        tree: of rules, none of whose numbers is traced.

    Raises:
        EquimuError: a number of a rule is traced.
    """
    rules: dict[str, Any] = {}
    for rule in required_rules(tree, "to_json"):
        for name in ("init_mean", *NUMBERS):
            if not isinstance(getattr(rule, name), float | int | None):
                raise EquimuError(
                    f"{rule.path}: {name} is not a plain number, so it cannot be written; write the tree it came from"
                )
        record = {name: getattr(rule, name) for name in _FIELDS}
        record["dtype"] = jnp.dtype(rule.dtype).name
        record["dimensions"] = {k: str(v) if isinstance(v, Fraction) else v for k, v in vars(rule.dimensions).items()}
        rules[rule.path] = record
    return json.dumps({"format": _FORMAT, "rules": rules}, indent=1)


def from_json(text: str, *, like: Tree[Model]) -> Tree[Model]:
    """The tree that `to_json` wrote.

    Args:
        text: the JSON.
        like: a tree of the same model (JSON holds the rules, not the model's structure).

    Raises:
        EquimuError: no JSON of this format, or the rules of another model; names the first difference.
    """
    try:
        found = json.loads(text)
        version, rules = found["format"], found["rules"]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise EquimuError(f"this is not a tree of rules in JSON ({reason}); write one with to_json(tree)") from None
    if version != _FORMAT:
        raise EquimuError(
            f"these rules are in format {version!r}, which this version of equimu cannot read ({_FORMAT})"
        )
    expected = {rule.path for rule in rules_of(like)}
    if expected != set(rules):
        odd = sorted(expected ^ set(rules))[0]
        side = "only the model" if odd in expected else "only the JSON"
        raise EquimuError(f"these rules are of another model: {side} has {odd}")

    def read(leaf: Any) -> Any:
        if not is_rule(leaf):
            return leaf
        record = dict(rules[leaf.path])
        odd = set(record) ^ set(_FIELDS)
        if odd:
            raise EquimuError(
                f"the JSON's rule of {leaf.path} is damaged at {min(odd)!r}; write it again with to_json(tree)"
            )
        if tuple(record["shape"]) != leaf.shape:
            raise EquimuError(
                f"these rules are of another model: {leaf.path} is {record['shape']} there, {list(leaf.shape)} here"
            )
        sizes: dict[str, Any] = {
            k: Fraction(v) if isinstance(v, str) else v for k, v in record.pop("dimensions").items()
        }
        record.update(
            shape=leaf.shape,
            dtype=jnp.dtype(record["dtype"]),
            axes=tuple(record["axes"]),
            dimensions=Dimensions(**sizes),
        )
        return dataclasses.replace(leaf, **record)

    return jax.tree.map(read, like)
