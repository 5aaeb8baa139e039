"""A Llama in NumPy and float64, as its authors published it (arXiv 2302.13971, 2307.09288), reading Hugging Face's files.

It shares nothing with the library: the file format, the layout of arrays and the formulas are written here again.
"""

import json
import struct
from pathlib import Path

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file: the length of a JSON header, the header, and the elements."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Of a row of tokens, (seq, vocab)."""
    config = json.loads((folder / "config.json").read_text())
    arrays: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        arrays |= {name: array.astype(np.float64) for name, array in read_file(path).items()}
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads
    eps, seq = config["rms_norm_eps"], len(tokens)

    def norm(x, name):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * arrays[f"{name}.weight"]

    def linear(x, name):
        return x @ arrays[f"{name}.weight"].T

    inverse = config["rope_theta"] ** (-np.arange(0, size, 2) / size)
    turn = np.exp(1j * np.arange(seq)[:, None] * inverse)

    def rotate(x):  # (seq, size), whose entry j is a pair with entry j + size / 2: as complex numbers
        turned = (x[:, : size // 2] + 1j * x[:, size // 2 :]) * turn
        return np.concatenate([turned.real, turned.imag], axis=-1)

    hidden = arrays["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        x = norm(hidden, f"{layer}.input_layernorm")
        q, k, v = (linear(x, f"{layer}.self_attn.{name}_proj") for name in "qkv")
        mixed = []
        for head in range(heads):
            group = head // (heads // groups)
            own, shared = slice(head * size, (head + 1) * size), slice(group * size, (group + 1) * size)
            scores = rotate(q[:, own]) @ rotate(k[:, shared]).T / np.sqrt(size)
            scores = np.where(np.tri(seq, dtype=bool), scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed.append(weights / weights.sum(axis=-1, keepdims=True) @ v[:, shared])
        hidden = hidden + linear(np.concatenate(mixed, axis=-1), f"{layer}.self_attn.o_proj")
        x = norm(hidden, f"{layer}.post_attention_layernorm")
        gate = linear(x, f"{layer}.mlp.gate_proj")
        hidden = hidden + linear(
            gate / (1 + np.exp(-gate)) * linear(x, f"{layer}.mlp.up_proj"), f"{layer}.mlp.down_proj"
        )
    readout = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    return linear(norm(hidden, "model.norm"), readout)


def mean_loss(folder: Path, inputs: np.ndarray, targets: np.ndarray) -> float:
    """The mean cross-entropy of rows of tokens, in nats."""
    losses = []
    for row, target in zip(inputs, targets, strict=True):
        scores = logits(folder, row)
        log_z = np.log(np.exp(scores - scores.max(-1, keepdims=True)).sum(-1)) + scores.max(-1)
        losses.append(log_z - scores[np.arange(len(row)), target])
    return float(np.mean(losses))
