"""What is needed to walk a traced program: which operations are calls, what they hold, and which axes follow which."""

import math
from collections.abc import Sequence
from typing import Any

# Calls whose inside is the same program in another place.
CALLS = {"pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"}
"""Names of the primitives that only call a program."""
# Operations that leave every axis where it is and take one array (and perhaps indices after it).
_IN_PLACE = {
    *("convert_element_type", "copy", "copy_p", "neg", "stop_gradient", "reduce_precision", "slice", "dynamic_slice"),
    *(
        "rev",
        "pad",
        "cumsum",
        "cumprod",
        "cummax",
        "cumlogsumexp",
        "real",
        "name",
        "optimization_barrier",
        "sort",
        "split",
        "tap",
        "pvary",
    ),
}
_REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin", "reduce_and", "reduce_or"}


def opened(jaxpr: Any) -> tuple[Any, Any]:
    """A jaxpr and its constants; some operations hold an open one, without any."""
    return (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())


def inside(eqn: Any) -> Any:
    """What a call holds; None for other operations.

    Args:
        eqn: an equation of a jaxpr.
    """
    return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))


def parts_of_scan(inputs: Sequence[Any], params: dict[str, Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """What a scan closes over, what it carries, and what it goes through.

    Args:
        inputs: of the scan.
        params: of its equation.
    """
    if "ft_in" in params:  # JAX 0.12
        consts, carry, xs = map(list, params["ft_in"].update(inputs).unpack())
        return consts, carry, xs
    first, second = params["num_consts"], params["num_consts"] + params["num_carry"]
    return list(inputs[:first]), list(inputs[first:second]), list(inputs[second:])


def axes_before(eqn: Any) -> list[tuple[int, ...]] | None:
    """For each axis of an operation's output the axes of its first input that lie along it; None for other operations."""
    name, shape = eqn.primitive.name, eqn.invars[0].aval.shape if eqn.invars else ()
    if name in _IN_PLACE:
        return [(axis,) for axis in range(len(shape))]
    if name == "transpose":
        return [(axis,) for axis in eqn.params["permutation"]]
    if name == "squeeze":
        gone = {axis % len(shape) for axis in eqn.params["dimensions"]}
        return [(axis,) for axis in range(len(shape)) if axis not in gone]
    if name == "broadcast_in_dim":
        came = dict(zip(eqn.params["broadcast_dimensions"], range(len(shape)), strict=True))
        return [(came[axis],) if axis in came else () for axis in range(len(eqn.params["shape"]))]
    if name == "reshape" and eqn.params.get("dimensions") is None:
        return _reshaped(shape, eqn.outvars[0].aval.shape)
    if name in _REDUCTIONS:
        return [(axis,) for axis in range(len(shape)) if axis not in eqn.params["axes"]]
    if name == "gather":
        dims = eqn.params["dimension_numbers"]
        gone = {*dims.collapsed_slice_dims, *dims.operand_batching_dims}
        came = dict(zip(dims.offset_dims, (axis for axis in range(len(shape)) if axis not in gone), strict=True))
        return [(came[axis],) if axis in came else () for axis in range(len(eqn.outvars[0].aval.shape))]
    return None


def axes_read(eqn: Any) -> set[int]:
    """The axes of the first input that an operation with indices reads a part of."""
    shape = eqn.invars[0].aval.shape
    if eqn.primitive.name == "gather":
        dims = eqn.params["dimension_numbers"]
        return {axis for axis in dims.start_index_map if eqn.params["slice_sizes"][axis] < shape[axis]}
    return {axis for axis, size in enumerate(eqn.params["slice_sizes"]) if size < shape[axis]}


def is_entry_by_entry(eqn: Any) -> bool:
    """Whether the shapes of an operation are those of one that works entry by entry, with axes of size 1 that broadcast."""
    if len(eqn.outvars) != 1:
        return False
    out = eqn.outvars[0].aval.shape

    def spreads(shape: tuple[int, ...]) -> bool:
        return not shape or (len(shape) == len(out) and all(a in (1, b) for a, b in zip(shape, out, strict=True)))

    return all(spreads(atom.aval.shape) for atom in eqn.invars)


def _reshaped(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, ...]]:
    """A merged axis has all that are merged in it; parts of a split axis have that axis each."""
    found: list[tuple[int, ...]] = []
    if 0 in before:
        return [()] * len(after)
    i = j = 0
    while j < len(after):
        if after[j] == 1 and (i >= len(before) or before[i] != 1):
            found.append(())
            j += 1
            continue
        mine, its = [i], [j]
        i, j = i + 1, j + 1
        while _size(before, mine) != _size(after, its):
            if _size(before, mine) < _size(after, its):
                mine.append(i)
                i += 1
            else:
                its.append(j)
                j += 1
        wide = tuple(axis for axis in mine if axis < len(before) and before[axis] != 1) or tuple(mine[:1])
        found += [wide if after[axis] != 1 or len(its) == 1 else () for axis in its]
    return found


def _size(shape: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(shape[axis] if axis < len(shape) else 1 for axis in axes)
