"""Runs small enough for the tests."""

from equimu.train import DataConfig, ModelConfig, OptimizerConfig, ParameterizationConfig, RunConfig


def small_run(
    corpus: str,
    *,
    width: int = 16,
    learning_rate: float = 2**-5,
    name: str = "mup",
    seed: int = 0,
    steps: int = 12,
    clip_norm: float | None = 1.0,
) -> RunConfig:
    """A run of a few steps of a tiny model on a few rows."""
    return RunConfig(
        model=ModelConfig(width=width, n_layer=2, head_dim=8),
        parameterization=ParameterizationConfig(name=name, base_width=16),  # pyright: ignore[reportArgumentType]
        optimizer=OptimizerConfig(learning_rate=learning_rate, clip_norm=clip_norm),
        data=DataConfig(corpus=corpus, seq=16, rows=4),
        steps=steps,
        seed=seed,
        log_every=5,
        validation_batches=3,
    )
