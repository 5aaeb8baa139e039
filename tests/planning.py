"""A small decoder to plan for, and programs as text."""

from pathlib import Path

import jax
import jax.numpy as jnp

from equimu.runs import RunConfig
from equimu.tasks import LanguageModel, ModelConfig, TextConfig

EXAMPLE_FILES = Path(__file__).parent.parent / "examples"


def decoder(size, *, base=None, parameterization="mup", seq=32, rows=16, vocab_size=256, **model):
    task = LanguageModel(model=ModelConfig(vocab_size=vocab_size, **model), text=TextConfig(seq=seq, rows=rows))
    return RunConfig(task=task, size=size, base=base or {}, parameterization=parameterization)


TINY_SIZE = {"width": 64, "depth": 3}


TINY = decoder(TINY_SIZE, base={"width": 32}, head_dim=16, remat=True)


def text_of(f, *args, **kwargs):
    return jax.jit(f, **kwargs).lower(*args).compile().as_text()


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)
