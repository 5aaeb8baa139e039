"""What a Llama checkpoint's `config.json` says, as far as its logits depend on it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from equimu._errors import EquimuError
from equimu._values import Positive, Size, check_fields, shown, takes_ints

# Of other values of these keys, the model computes something else than `equimu.nn.Transformer` can.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
    "quantization_config": (None,),
}


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The sizes and constants of a Llama, by Hugging Face's names.

    - `vocab_size`: token ids.
    - `hidden_size`: width of the residual stream.
    - `intermediate_size`: width inside the MLP.
    - `num_hidden_layers`: blocks.
    - `num_attention_heads`, `num_key_value_heads`: heads of queries, and of keys and values.
    - `rms_norm_eps`: epsilon inside the root of the norms.
    - `rope_theta`: wavelength base of the rotary embedding.
    - `tie_word_embeddings`: whether the embedding is the unembedding, too.
    - `max_position_embeddings`: the longest rows that it was trained on; no array depends on it.

    Raises:
        EquimuError: sizes that do not fit each other.
    """

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size
    rms_norm_eps: Positive
    rope_theta: Positive
    tie_word_embeddings: bool
    max_position_embeddings: Size = 2048

    def __post_init__(self) -> None:
        check_fields(self, "config.json: ")
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads or heads % groups or self.head_dim % 2:
            raise EquimuError(
                f"config.json: hidden_size {self.hidden_size}, num_attention_heads {heads} and num_key_value_heads {groups} "
                "make no heads of an even width each; equimu reads models in which each divides the one before"
            )

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array of the checkpoint, by name."""
        d, ff, kv = self.hidden_size, self.intermediate_size, self.num_key_value_heads * self.head_dim
        layer = {
            "input_layernorm": (d,),
            "self_attn.q_proj": (d, d),
            "self_attn.k_proj": (kv, d),
            "self_attn.v_proj": (kv, d),
            "self_attn.o_proj": (d, d),
            "post_attention_layernorm": (d,),
            "mlp.gate_proj": (ff, d),
            "mlp.up_proj": (ff, d),
            "mlp.down_proj": (d, ff),
        }
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, d)}
        for i in range(self.num_hidden_layers):
            found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        found["model.norm.weight"] = (d,)
        return found if self.tie_word_embeddings else found | {"lm_head.weight": (self.vocab_size, d)}

    def to_dict(self) -> dict[str, Any]:
        """All of `config.json` that the weights decide, in plain JSON types."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **dataclasses.asdict(self),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rope_scaling": None,
            "torch_dtype": "float32",
        }

    def model_fields(self) -> dict[str, Any]:
        """The same as fields of the language model and sizes of a run, by the names of their flags."""
        multiple = self.intermediate_size / self.hidden_size
        if int(multiple * self.hidden_size) != self.intermediate_size:  # the division was rounded down
            multiple = (self.intermediate_size + 0.5) / self.hidden_size
        same = self.num_key_value_heads == self.num_attention_heads
        return {
            "size.width": self.hidden_size,
            "size.depth": self.num_hidden_layers,
            "model.head_dim": self.head_dim,
            "model.n_kv_head": None if same else self.num_key_value_heads,
            "model.d_ff_multiple": multiple,
            "model.activation": "swiglu",
            "model.rotary_base": self.rope_theta,
            "model.norm_eps": self.rms_norm_eps,
            "model.tie_embeddings": self.tie_word_embeddings,
            "model.vocab_size": self.vocab_size,
        }


def llama_config_from_dict(values: Mapping[str, Any]) -> LlamaConfig:
    """What the content of a `config.json` says; keys that are left out have Hugging Face's defaults.

    Raises:
        EquimuError: it is of another architecture, or of a Llama that `equimu.nn.Transformer` is not.
    """
    if values.get("model_type") != "llama":
        raise EquimuError(
            f"config.json: model_type is {shown(values.get('model_type'))}; equimu reads checkpoints of llama alone"
        )
    rope = values.get("rope_parameters")  # since transformers 5
    rope = rope if isinstance(rope, dict) else {}
    for key, valid in _ONLY.items():
        given = values.get(key)
        of_default = key == "rope_scaling" and isinstance(given, dict) and _rope_type(given) == "default"
        if given not in valid and not of_default:
            raise EquimuError(f"config.json: {key} is {shown(given)}; equimu reads llamas with {shown(valid[0])} alone")
    if _rope_type(rope) != "default":
        raise EquimuError(
            f"config.json: rope_parameters are of {shown(_rope_type(rope))}; equimu reads llamas with 'default' alone"
        )
    heads = values.get("num_attention_heads", 32)
    given = {
        "vocab_size": values.get("vocab_size", 32000),
        "hidden_size": values.get("hidden_size", 4096),
        "intermediate_size": values.get("intermediate_size", 11008),
        "num_hidden_layers": values.get("num_hidden_layers", 32),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if values.get("num_key_value_heads") is None else values["num_key_value_heads"],
        "rms_norm_eps": values.get("rms_norm_eps", 1e-6),
        "rope_theta": rope.get("rope_theta", values.get("rope_theta", 10_000.0)),
        "tie_word_embeddings": values.get("tie_word_embeddings", False),
        "max_position_embeddings": values.get("max_position_embeddings", 2048),
    }
    config = LlamaConfig(**given)
    head_dim = values.get("head_dim")
    if head_dim not in (None, config.head_dim):
        raise EquimuError(
            f"config.json: head_dim is {shown(head_dim)}; equimu reads llamas whose heads make up the width, "
            f"{config.hidden_size} / {config.num_attention_heads} = {config.head_dim}"
        )
    return config


def _rope_type(rope: Mapping[str, Any]) -> Any:
    return rope.get("rope_type", rope.get("type", "default"))
