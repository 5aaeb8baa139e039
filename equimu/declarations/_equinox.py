"""The declarations for `equinox.nn`."""

from typing import Any

import equinox as eqx

from equimu.declarations._axes import Axes, axes, find_axes, register_axes, register_normalised, register_residual


def _conv_weight(conv: Any) -> tuple[str, ...]:
    # In a grouped convolution each output reads the channels of its own group. Where these are finitely many, its update moves
    # the channels of that group alone, as a gain's does, however wide the layer: no input layer, which reads features common
    # to all outputs.
    channels = "in" if conv.groups == 1 else "kernel"
    return ("out", channels, *("kernel",) * conv.num_spatial_dims)


def _transposed_conv_weight(conv: Any) -> Axes:
    return axes(*_conv_weight(conv), strides=conv.stride if conv.groups == 1 else (1, *conv.stride))


def _prelu_slope(prelu: Any) -> tuple[str, ...] | None:
    # One slope, one a feature (which need no declaration), or one a channel, with trailing ones that only broadcast.
    shape = prelu.negative_slope.shape
    broadcast = len(shape) - max((axis + 1 for axis, size in enumerate(shape) if size != 1), default=0)
    return None if len(shape) < 2 else ("out", *("stack",) * broadcast)


def _weight_norm_gain(wrapper: Any) -> Axes:
    weight = find_axes(wrapper.layer, wrapper.weight_name)
    of_weight = wrapper.g.ndim if weight is None else len(weight.words)
    kept = None if wrapper.axis is None else wrapper.axis % of_weight
    words = ("out" if axis == kept else "stack" for axis in range(of_weight))
    return axes(*words, constant=1.0, norm_of=f"layer.{wrapper.weight_name}")


def register_equinox() -> None:
    """Declares the axes of `equinox.nn`."""
    # Equinox draws biases uniformly in ±1/sqrt(fan_in); in every parameterization here biases start at zero.
    bias = axes("out", constant=0.0)
    register_axes(eqx.nn.Linear, weight=("out", "in"), bias=axes("out", constant=0.0, bias_of="weight"))
    register_axes(eqx.nn.Embedding, weight=("table", "out"))
    # A normalisation over several axes has gains of that shape, each an output of its own.
    for norm in (eqx.nn.LayerNorm, eqx.nn.RMSNorm):
        register_axes(norm, weight=lambda m: ("out",) * len(m.shape), bias=lambda m: ("out",) * len(m.shape))
    for norm in (eqx.nn.GroupNorm, eqx.nn.BatchNorm):
        register_axes(norm, weight=("out",), bias=("out",))
    for conv, weight in ((eqx.nn.Conv, _conv_weight), (eqx.nn.ConvTranspose, _transposed_conv_weight)):
        register_axes(
            conv,
            weight=weight,
            # shape (out, 1, 1, ...): the trailing ones only broadcast
            bias=lambda m: axes("out", *("stack",) * m.num_spatial_dims, constant=0.0, bias_of="weight"),
        )
    for cell in (eqx.nn.GRUCell, eqx.nn.LSTMCell):
        register_axes(cell, weight_ih=("out", "in"), weight_hh=("out", "in"), bias=bias)
    register_axes(eqx.nn.GRUCell, bias_n=bias)
    # The projections are eqx.nn.Linear, and what three of them make stays inside, even where heads are few and of one size.
    inside = {f"{name}_proj.weight": ("inner", "in") for name in ("query", "key", "value")}
    register_axes(eqx.nn.MultiheadAttention, **inside)
    register_axes(eqx.nn.PReLU, negative_slope=_prelu_slope)
    register_axes(eqx.nn.WeightNorm, g=_weight_norm_gain)
    # Their parts follow one another: nothing is added to a stream.
    for sequence in (eqx.nn.MLP, eqx.nn.Sequential):
        register_residual(sequence)
    register_normalised(eqx.nn.SpectralNorm, lambda wrapper: f"layer.{wrapper.weight_name}")


register_equinox()
