"""What a run is: frozen dataclasses, of which every field is a flag of the command line and part of the run's identity."""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from equimu._errors import EquimuError, nearest
from equimu.parameterization import DecayRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The decoder transformer; see `equimu.nn.Transformer`."""

    width: int = 128
    """d_model, a multiple of head_dim."""
    n_layer: int = 2
    head_dim: int = 16
    n_kv_head: int | None = None
    """Key/value heads; None for as many as query heads, 1 for multi-query attention."""
    d_ff_multiple: float = 4.0
    activation: Literal["relu", "gelu", "squared_relu", "swiglu"] = "relu"
    rotary_base: float | None = 10_000.0
    """None for no positional encoding."""
    attention_scale: Literal["1/head_dim", "1/sqrt(head_dim)"] | float = "1/head_dim"
    norm_gain: Literal["none", "vector", "scalar"] = "none"
    norm_eps: float = 1e-5
    embedding_norm: bool = False
    qk_norm: bool = False
    use_bias: bool = False
    zero_query: bool = False
    zero_residual: bool = False
    tie_embeddings: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; weights, norms, softmax, logits and loss are float32 in any case."""
    remat: bool | Literal["projections"] = False
    """Recompute each block in the backward pass, to save memory: all of it, or all but the outputs of its matrices."""
    unroll: int = 1
    """Blocks per iteration of the scan over them; 1 leaves it to the platform: no scan on a GPU, up to 24 blocks."""
    attention_backend: str = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterizationConfig:
    """The rules; see `equimu.mup` and the functions beside it."""

    name: Literal[
        "mup",
        "sp",
        "tpv3",
        "tpv8",
        "tpv9",
        "ntk",
        "mean-field",
        "everett-sp",
        "everett-ntk",
        "everett-mup",
        "everett-mean-field",
        "spectral",
        "depth-mup",
        "completep",
        "completed-p",
        "umup",
    ] = "mup"
    form: Literal["relative", "absolute"] = "relative"
    """Of mup, tpv and spectral."""
    alignment: Literal["full", "none"] = "full"
    """Of everett."""
    alpha: float = 1.0
    """Of completep and completed-p: the power of the depth."""
    base_width: int = 32
    """Width of the small model, to which the rules are relative."""
    base_n_layer: int | None = None
    """Depth of the small model, for rules of depth; None for the model's own."""
    base_rows: int | None = None
    """Rows of the small run's batches (of the same seq), for rules of batch and length; None for the run's own."""
    base_steps: int | None = None
    """Steps of the small run; None for the run's own."""
    eps: Literal["gradient", "lr", "constant"] = "gradient"
    """How the optimizer's epsilon follows the width."""
    unembedding: Literal["table", "standard", "zero"] = "table"
    """Initial deviation of the unembedding: as the table says, 1/sqrt(width), or zero."""
    tune: tuple[str, ...] = ()
    """Base constants, e.g. output.multiplier=4 or blocks.mlp.lr=0.5."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule; see `equimu.adamw` and the functions beside it."""

    name: Literal["adamw", "lion", "sgd", "adafactor", "muon"] = "adamw"
    learning_rate: float = 2**-5
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    momentum: float = 0.9
    """Of SGD (0 for none) and of Muon's matrices."""
    weight_decay: float = 0.0
    weight_decay_rule: DecayRule = "independent"
    clip_norm: float | None = 1.0
    """Global norm to which gradients are clipped; None for no clipping."""
    warmup: float = 0.1
    """Share of the steps."""
    decay: Literal["linear", "cosine", "constant"] = "linear"
    floor: float = 1e-4
    """The schedule's factor at the first and the last update."""
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for name in ("learning_rate", "eps", "weight_decay", "floor", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise EquimuError(f"optimizer.{name} must be finite and not negative, got {value}")
        for name in ("b1", "b2", "momentum"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise EquimuError(f"optimizer.{name} is a rate of decay, at least 0 and below 1, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text and its batches; see `equimu.data`."""

    corpus: str = "stdlib"
    """"stdlib" (the sources of Python's standard library), or a file, folder or glob of text."""
    store: str | None = None
    """A token store that `equimu data` made, folder or URL, in place of a corpus."""
    tokenizer: str = "bytes"
    """"bytes", or the path of a Hugging Face tokenizers JSON file."""
    windows: Literal["concatenate", "document"] = "concatenate"
    seq: int = 128
    """Positions of a row."""
    rows: int = 8
    """Rows of a batch."""
    validation_share: float = 0.05
    """Of the documents."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    model: ModelConfig = ModelConfig()
    parameterization: ParameterizationConfig = ParameterizationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    steps: int = 150
    seed: int = 0
    """Of the initial weights and of the order of the data."""
    accumulate: int = 1
    """Parts that a batch is worked off in, one after the other, to save memory."""
    loss_denominator: Literal["mask", "positions"] = "mask"
    """What the differentiated loss is divided by: the counted targets, or all positions of the batch (as in Lingle's code)."""
    z_loss: float = 0.0
    """Adds z_loss · log²Z of each position's logits to the differentiated loss."""
    loss_chunk: int | None = None
    """Positions whose logits are in memory at once; None for as many as make 128 MiB."""
    on_nonfinite: Literal["stop", "skip", "record"] = "stop"
    """When a loss or gradient is no number: stop with an error, skip the update and count it, or record the run as diverged."""
    log_every: int = 10
    validation_batches: int | None = 32
    """Batches of the validation split at the end of the run; None for all."""

    def __post_init__(self):
        positive = {
            "steps": self.steps,
            "accumulate": self.accumulate,
            "loss_chunk": self.loss_chunk,
            "log_every": self.log_every,
            "model.width": self.model.width,
            "model.head_dim": self.model.head_dim,
            "data.seq": self.data.seq,
            "data.rows": self.data.rows,
            "parameterization.base_width": self.parameterization.base_width,
            "parameterization.base_n_layer": self.parameterization.base_n_layer,
            "parameterization.base_rows": self.parameterization.base_rows,
            "parameterization.base_steps": self.parameterization.base_steps,
        }
        for name, value in positive.items():
            if value is not None and value < 1:
                raise EquimuError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.seed < 2**32:  # of others, JAX takes the lower 32 bits alone
            raise EquimuError(f"seed must be at least 0 and below 2**32, got {self.seed}")
        if not 0 <= self.z_loss < math.inf:
            raise EquimuError(f"z_loss must be finite and not negative, got {self.z_loss}")
        if not 0 <= self.optimizer.warmup <= 1:
            raise EquimuError(f"optimizer.warmup is a share of the steps, from 0 to 1, got {self.optimizer.warmup}")
        if self.data.rows % self.accumulate != 0:
            raise EquimuError(f"a batch of {self.data.rows} rows cannot be worked off in {self.accumulate} equal parts")


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_from_dict(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """A config from plain JSON types; fields left out keep their defaults.

    Raises:
        EquimuError: an unknown key (with the nearest valid one), or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise EquimuError(f"unknown key {where + key!r}: {nearest(key, hints)}")
        found[key] = _read(hints[key], value, where + key)
    return cls(**found)


def _read(hint: Any, value: Any, where: str) -> Any:
    if isinstance(value, int) and abs(value) >= 2**64:  # Python does not even print the largest
        raise EquimuError(f"{where} is an integer of more than 64 bits")
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise EquimuError(f"{where} must be an object with keys, got {value!r}")
        return config_from_dict(typing.cast(type, hint), value, where + ".")
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_read(options[0], item, where) for item in value)
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return _read(option, value, where)
            except EquimuError:
                continue
    elif origin is Literal:
        if value in options:
            return value
        raise EquimuError(f"{where} {value!r} is unknown: {nearest(str(value), map(str, options))}")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    raise EquimuError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")


def digest(value: Any) -> str:
    """A short hash of plain JSON types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
