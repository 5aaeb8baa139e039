"""What a step keeps between its forward and its backward pass, read off the traced program."""

import math
from typing import Any

# Operations that hand on what they are given, in another shape or type.
_PASSING = frozenset(
    ("broadcast_in_dim", "convert_element_type", "copy", "name", "optimization_barrier", "pvary", "reshape", "squeeze")
)


def saved_bytes(jaxpr: Any) -> int:
    """Bytes a device of what one scan writes layer by layer and a later one reads: the activations kept for the backward pass.

    Where scans are nested, as in the parts of an accumulated batch, what the inner ones keep is there once.

    Args:
        jaxpr: of the step, closed or not. Inside a `shard_map` shapes are a device's own.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    written: dict[Any, Any] = {}
    kept: dict[Any, int] = {}
    inner = 0
    for eqn in jaxpr.eqns:
        known = [v for v in eqn.invars if not hasattr(v, "val") and v in written]
        if eqn.primitive.name == "scan":
            body = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
            for v, one in zip(eqn.invars, body.invars, strict=True):
                if _is_stack(v, one) and not hasattr(v, "val") and v in written:
                    source = written[v]
                    kept[source] = source.aval.dtype.itemsize * math.prod(source.aval.shape)
            for v, one in zip(eqn.outvars, body.outvars, strict=True):
                if _is_stack(v, one):
                    written[v] = v
        elif eqn.primitive.name in _PASSING:
            written |= {out: written[v] for v in known for out in eqn.outvars[:1]}
        inner = max([inner, *(saved_bytes(sub) for sub in _inner(eqn.params))])
    return sum(kept.values()) + inner


def _is_stack(whole: Any, one: Any) -> bool:
    """Whether a scan cuts a value into, or puts it together from, those of its iterations, and does not hand it on as it is."""
    return len(whole.aval.shape) == len(one.aval.shape) + 1


def _inner(params: dict[str, Any]) -> list[Any]:
    values = [v for value in params.values() for v in (value if isinstance(value, tuple | list) else (value,))]
    return [value for value in values if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")]
