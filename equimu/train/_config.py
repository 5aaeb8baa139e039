"""What a run is: frozen dataclasses, of which every field is a flag of the command line and part of the run's identity."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any, Literal

from equimu._errors import EquimuError, nearest
from equimu._values import (
    Count,
    DecayRate,
    NotNegative,
    Part,
    PathLike,
    Positive,
    Seed,
    Share,
    Size,
    check_fields,
    checked,
    hints_of,
    shown,
)
from equimu.parameterization import DecayRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The decoder transformer; see `equimu.nn.Transformer`."""

    width: Size = 128
    """d_model, a multiple of head_dim."""
    n_layer: Size = 2
    head_dim: Size = 16
    n_kv_head: Size | None = None
    """Key/value heads; None for as many as query heads, 1 for multi-query attention."""
    d_ff_multiple: Positive = 4.0
    activation: Literal["relu", "gelu", "squared_relu", "swiglu"] = "relu"
    rotary_base: Positive | None = 10_000.0
    """None for no positional encoding."""
    attention_scale: Literal["1/head_dim", "1/sqrt(head_dim)"] | float = "1/head_dim"
    norm_gain: Literal["none", "vector", "scalar"] = "none"
    norm_eps: NotNegative = 1e-5
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
    unroll: Count = 1
    """Blocks per iteration of the scan over them; 1 leaves it to the platform: no scan on a GPU, up to 24 blocks."""
    attention_backend: str = "auto"

    def __post_init__(self):
        check_fields(self, "model.")


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
    alpha: Positive = 1.0
    """Of completep and completed-p: the power of the depth."""
    base_width: Size = 32
    """Width of the small model, to which the rules are relative."""
    base_n_layer: Size | None = None
    """Depth of the small model, for rules of depth; None for the model's own."""
    base_rows: Count | None = None
    """Rows of the small run's batches (of the same seq), for rules of batch and length; None for the run's own."""
    base_steps: Count | None = None
    """Steps of the small run; None for the run's own."""
    eps: Literal["gradient", "lr", "constant"] = "gradient"
    """How the optimizer's epsilon follows the width."""
    unembedding: Literal["table", "standard", "zero"] = "table"
    """Initial deviation of the unembedding: as the table says, 1/sqrt(width), or zero."""
    tune: tuple[str, ...] = ()
    """Base constants, e.g. output.multiplier=4 or blocks.mlp.lr=0.5."""

    def __post_init__(self):
        check_fields(self, "parameterization.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule; see `equimu.adamw` and the functions beside it."""

    name: Literal["adamw", "lion", "sgd", "adafactor", "muon"] = "adamw"
    learning_rate: NotNegative = 2**-5
    b1: DecayRate = 0.9
    b2: DecayRate = 0.95
    eps: NotNegative = 1e-8
    momentum: DecayRate = 0.9
    """Of SGD (0 for none) and of Muon's matrices."""
    weight_decay: NotNegative = 0.0
    weight_decay_rule: DecayRule = "independent"
    clip_norm: Positive | None = 1.0
    """Global norm to which gradients are clipped; None for no clipping."""
    warmup: Share = 0.1
    """Share of the steps."""
    decay: Literal["linear", "cosine", "constant"] = "linear"
    floor: NotNegative = 1e-4
    """The schedule's factor at the first and the last update."""
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        check_fields(self, "optimizer.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text and its batches; see `equimu.data`."""

    corpus: PathLike = "stdlib"
    """"stdlib" (the sources of Python's standard library), or a file, folder or glob of text."""
    store: PathLike | None = None
    """A token store that `equimu data` made, folder or URL, in place of a corpus."""
    tokenizer: PathLike = "bytes"
    """"bytes", or the path of a Hugging Face tokenizers JSON file."""
    windows: Literal["concatenate", "document"] = "concatenate"
    seq: Size = 128
    """Positions of a row."""
    rows: Size = 8
    """Rows of a batch."""
    validation_share: Part = 0.05
    """Of the documents."""

    def __post_init__(self):
        check_fields(self, "data.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    model: ModelConfig = ModelConfig()
    parameterization: ParameterizationConfig = ParameterizationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    steps: Count = 150
    seed: Seed = 0
    """Of the initial weights and of the order of the data."""
    accumulate: Count = 1
    """Parts that a batch is worked off in, one after the other, to save memory."""
    loss_denominator: Literal["mask", "positions"] = "mask"
    """What the differentiated loss is divided by: the counted targets, or all positions of the batch (as in Lingle's code)."""
    z_loss: NotNegative = 0.0
    """Adds z_loss · log²Z of each position's logits to the differentiated loss."""
    loss_chunk: Count | None = None
    """Positions whose logits are in memory at once; None for as many as make 128 MiB."""
    on_nonfinite: Literal["stop", "skip", "record"] = "stop"
    """When a loss or gradient is no number: stop with an error, skip the update and count it, or record the run as diverged."""
    log_every: Count = 10
    validation_batches: Count | None = 32
    """Batches of the validation split at the end of the run; None for all."""

    def __post_init__(self):
        check_fields(self)
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
    hints = hints_of(cls)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise EquimuError(f"unknown key {where + key!r}: {nearest(key, hints)}")
        hint = hints[key]
        if not dataclasses.is_dataclass(hint):
            found[key] = checked(where + key, value, hint)
        elif isinstance(value, Mapping):
            section = typing.cast(Mapping[str, Any], value)
            found[key] = config_from_dict(typing.cast(type, hint), section, f"{where}{key}.")
        else:
            raise EquimuError(f"{where}{key} must be an object with keys, got {shown(value)}")
    return cls(**found)


def digest(value: Any) -> str:
    """A short hash of plain JSON types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
