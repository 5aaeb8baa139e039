"""The arrays of a `Transformer`, by path and with their multipliers applied, as those of a Llama, and back.

Both compute rotary embeddings of half-split pairs, and norms with epsilon inside the root, so rows of queries and keys keep
their order. What differs goes into arrays: a Llama divides scores by sqrt(head_dim), so the queries take what the run's scale
is above that; it has no factor on the logits, so the last gain takes that of a tied unembedding.
"""

import math
from collections.abc import Mapping

import numpy as np

from equimu._errors import EquimuError
from equimu._values import Real, shown
from equimu.llama._config import LlamaConfig
from equimu.nn import Transformer

_QUERY = "blocks.attention.query.weight"
_GAIN = "norm.gain"
_EMBEDDING = ("embedding.weight", "model.embed_tokens.weight")
_UNEMBEDDING = ("unembedding.weight", "lm_head.weight")
_MATRICES = {
    _QUERY: "self_attn.q_proj",
    "blocks.attention.key.weight": "self_attn.k_proj",
    "blocks.attention.value.weight": "self_attn.v_proj",
    "blocks.attention.output.weight": "self_attn.o_proj",
    "blocks.mlp.gate.weight": "mlp.gate_proj",
    "blocks.mlp.up.weight": "mlp.up_proj",
    "blocks.mlp.down.weight": "mlp.down_proj",
}
_GAINS = {"blocks.attention_norm.gain": "input_layernorm", "blocks.mlp_norm.gain": "post_attention_layernorm"}


def reason_against_llama(model: Transformer) -> str | None:
    """Why a model is not a Llama, as the words after its name; None if it is one. Arrays are not looked at."""
    attention, mlp = model.blocks.attention, model.blocks.mlp
    reasons = {
        f"its activation is {mlp.activation}": mlp.activation != "swiglu",
        "it has no rotary embedding": attention.rotary_base is None,
        "its attention has a window": attention.window is not None,
        "it has biases": attention.query.bias is not None,
        "it normalises its embedding": model.embedding_norm is not None,
        "it normalises queries and keys": attention.query_norm is not None,
        "its norm_eps is 0": model.norm.eps == 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def llama_config_of(model: Transformer) -> LlamaConfig:
    """The Llama that a model is, which `reason_against_llama` has nothing against."""
    attention = model.blocks.attention
    return LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=attention.n_head * attention.head_dim,
        intermediate_size=model.blocks.mlp.d_ff,
        num_hidden_layers=model.blocks.mlp.down.weight.shape[0],
        num_attention_heads=attention.n_head,
        num_key_value_heads=attention.n_kv_head,
        rms_norm_eps=model.norm.eps,
        rope_theta=attention.rotary_base or 0.0,
        tie_word_embeddings=model.unembedding is None,
    )


def arrays_to_llama(model: Transformer, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of the Llama that a model is, in float32.

    Args:
        model: its structure.
        arrays: its arrays by path, of the shapes that the model has, with their multipliers applied; gains of norms may be left
            out.
    """
    config = llama_config_of(model)
    found = {_EMBEDDING[1]: arrays[_EMBEDDING[0]]}
    d = config.hidden_size
    for i in range(config.num_hidden_layers):
        for path, name in _GAINS.items():
            found[f"model.layers.{i}.{name}.weight"] = np.broadcast_to(arrays[path][i] if path in arrays else 1.0, (d,))
        for path, name in _MATRICES.items():
            matrix = arrays[path][i].T
            found[f"model.layers.{i}.{name}.weight"] = matrix * _query_scale(model) if path == _QUERY else matrix
    found["model.norm.weight"] = np.broadcast_to(arrays.get(_GAIN, np.float32(1)), (d,)) * _readout(model, arrays)
    if model.unembedding is not None:
        found[_UNEMBEDDING[1]] = arrays[_UNEMBEDDING[0]].T
    return {name: np.array(array, np.float32, order="C") for name, array in found.items()}


def arrays_from_llama(
    model: Transformer, config: LlamaConfig, tensors: Mapping[str, np.ndarray], readout_multiplier: Real
) -> dict[str, np.ndarray]:
    """The arrays of a model, by path and with their multipliers applied, with which its logits are those of a Llama.

    Args:
        model: its structure.
        config: of the Llama.
        tensors: its arrays by name, of the shapes that Hugging Face gives them.
        readout_multiplier: of the model's tied embedding, its own multiplier applied; 1 for others.

    Raises:
        EquimuError: the model is no Llama, or another one; names the flags that make it this one.
    """
    reason = reason_against_llama(model)
    wanted = config.model_fields()
    given = {} if reason is not None else llama_config_of(model).model_fields()
    different = [name for name, value in wanted.items() if given.get(name) != value]
    if reason is not None or different:
        names = wanted if reason is not None else different
        told = " ".join(f"--{name.replace('_', '-')} {wanted[name]}" for name in names)
        differs = f"the run's model is no llama: {reason}" if reason is not None else "the run's model is another"
        raise EquimuError(f"{differs}; the checkpoint is of {told}")
    scale = _query_scale(model)
    if scale == 0:
        raise EquimuError("the run's attention scale is 0, so no queries make its scores those of the checkpoint")
    layers = range(config.num_hidden_layers)

    def stacked(name: str) -> np.ndarray:
        return np.stack([tensors[f"model.layers.{i}.{name}.weight"] for i in layers])

    found = {_EMBEDDING[0]: tensors[_EMBEDDING[1]]}
    for path, name in _MATRICES.items():
        matrices = stacked(name).transpose(0, 2, 1)
        found[path] = matrices / np.float32(scale) if path == _QUERY else matrices
    gains = {path: stacked(name) for path, name in _GAINS.items()}
    gains[_GAIN] = tensors["model.norm.weight"] / np.float32(readout_multiplier)
    for path, gain in gains.items():
        kept = _as_kind(gain, model.norm.kind, path)
        if kept is not None:
            found[path] = kept
    if not config.tie_word_embeddings:
        found[_UNEMBEDDING[0]] = tensors[_UNEMBEDDING[1]].T
    return found


def _query_scale(model: Transformer) -> Real:
    attention = model.blocks.attention
    return attention.scale * math.sqrt(attention.head_dim)


def _readout(model: Transformer, arrays: Mapping[str, np.ndarray]) -> float:
    return float(arrays["embedding.readout_multiplier"]) if model.unembedding is None else 1.0


def _as_kind(gain: np.ndarray, kind: str, path: str) -> np.ndarray | None:
    """A gain as a model of this kind of gains has it; None where it has none."""
    if kind == "vector":
        return gain
    first = gain[..., :1]
    if not np.array_equal(gain, np.broadcast_to(first, gain.shape)) or (kind == "none" and not np.all(first == 1)):
        odd = shown(float(gain.flat[np.argmax(np.abs(gain - (1 if kind == "none" else first)))]))
        raise EquimuError(
            f"the checkpoint has gains that the run's norms have not ({odd} in {path}, which the run has as norm_gain={kind}); "
            "give --model.norm-gain vector"
        )
    return None if kind == "none" else first[..., 0]
