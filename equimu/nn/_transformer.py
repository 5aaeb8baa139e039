"""A decoder transformer: pre-norm blocks, stacked and scanned."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from wadler_lindig import TextDoc, pformat

from equimu._device import default_platform, known_platform
from equimu._errors import EquimuError, nearest
from equimu._kept import keeps, kept
from equimu._types import Key
from equimu._values import Count, Positive, Real, Size, check, check_key
from equimu.declarations import register_residual
from equimu.nn._attention import SelfAttention
from equimu.nn._cache import KeyValues
from equimu.nn._embedding import Embedding, TiedEmbedding
from equimu.nn._linear import Linear
from equimu.nn._mlp import MLP, Activation
from equimu.nn._norm import Gain, RMSNorm
from equimu.sharding import Shard, gather_positions, gather_shards, is_gather_of_shards, tensor_parallel_size

Remat: TypeAlias = bool | Literal["projections"]


class Block(eqx.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    - `attention_norm`, `mlp_norm`: of what goes into the branches.
    - `attention`, `mlp`: the branches.
    """

    attention_norm: RMSNorm
    attention: SelfAttention
    mlp_norm: RMSNorm
    mlp: MLP

    def __call__(
        self, x: Float[Array, "seq d_model"], segment_ids: Int[Array, " all"] | None = None
    ) -> Float[Array, "seq d_model"]:
        return self._add(x, self.attention(self.attention_norm(x), segment_ids))

    def extend(
        self, x: Float[Array, "seq d_model"], cache: KeyValues, length: int | Int[Array, ""]
    ) -> tuple[Float[Array, "seq d_model"], KeyValues]:
        """As `SelfAttention.extend`."""
        mixed, cache = self.attention.extend(self.attention_norm(x), cache, length)
        return self._add(x, mixed), cache

    def _add(self, x: Float[Array, "seq d_model"], mixed: Float[Array, "seq d_model"]) -> Float[Array, "seq d_model"]:
        """The residual stream after both branches, of which that of the attention is given."""
        x = kept(x + mixed)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(eqx.Module):
    """A decoder-only language model. Unbatched: `jax.vmap(model)(tokens)` for a batch.

    A sequence may hold several documents one after the other: `model(tokens, segment_ids)` computes for each what it would
    for that document alone.

    The blocks are one `Block` whose arrays have a leading axis of layers. On a mesh with several devices along `tensor` each
    of them makes logits of a part: of its share of the vocabulary, or where that does not divide, of its own positions.
    """

    mesh_aware: ClassVar[bool] = True
    # Blocks. On a GPU the scan copies what the backward pass needs: on an H100 12 blocks took 13 to 21 % longer scanned, with
    # 1.5 to 1.7 times the memory, and compiled as fast unrolled.
    unrolled_on_gpu: ClassVar[int] = 24

    embedding: Embedding | TiedEmbedding
    embedding_norm: RMSNorm | None
    blocks: Block
    norm: RMSNorm
    unembedding: Linear | None
    dtype: Any = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)
    unroll: int = eqx.field(static=True)

    def __repr__(self) -> str:
        return pformat(self, whole=True)

    def __pdoc__(self, *, whole: bool = False, **_: Any) -> TextDoc | None:
        """Without its parts within something else, such as a message about another argument."""
        return None if whole else TextDoc("Transformer(...)")

    def __init__(
        self,
        *,
        vocab_size: int,
        d_model: int,
        n_layer: int,
        head_dim: int,
        n_kv_head: int | None = None,
        d_ff_multiple: Real = 4.0,
        activation: Activation = "relu",
        rotary_base: Real | None = 10_000.0,
        attention_scale: Real | None = None,
        attention_window: int | None = None,
        norm_gain: Gain = "none",
        norm_eps: Real = 1e-5,
        embedding_norm: bool = False,
        qk_norm: bool = False,
        use_bias: bool = False,
        zero_query: bool = False,
        zero_residual: bool = False,
        zero_unembedding: bool = False,
        tie_embeddings: bool = False,
        dtype: Any = None,
        remat: Remat = False,
        unroll: int = 1,
        attention_backend: str = "auto",
        key: Key,
    ):
        """
        Args:
            vocab_size: number of token ids.
            d_model: width of the residual stream; a multiple of `head_dim`.
            n_layer: number of blocks.
            head_dim: width of one attention head.
            n_kv_head: key/value heads (1 is multi-query attention); as many as query heads by default.
            d_ff_multiple: the MLP's hidden width is int(d_ff_multiple · d_model).
            activation: `"relu"`, `"gelu"`, `"squared_relu"` or `"swiglu"`.
            rotary_base: wavelength base of the rotary embedding; None for no positional encoding.
            attention_scale: factor on the attention scores; 1/head_dim by default.
            attention_window: positions that each sees, its own the last; all before it by default.
            norm_gain: trainable gains of all norms: `"none"`, `"vector"` or `"scalar"`.
            norm_eps: epsilon inside the root of all norms.
            embedding_norm: RMS-normalise the embedding.
            qk_norm: RMS-normalise queries and keys.
            use_bias: biases on every projection, the unembedding included.
            zero_query, zero_residual, zero_unembedding: start the query projections; the output projections of attention and
                MLP; the unembedding at zero.
            tie_embeddings: use the embedding as the unembedding too. Not every parameterization permits it.
            dtype: of the computation between embedding and logits, e.g. `jnp.bfloat16`; the weights' own by default. Norms,
                softmax and logits are float32 or better in any case.
            remat: recompute each block in the backward pass instead of keeping its intermediates; `"projections"` keeps the
                outputs of its matrices and recomputes the rest. False keeps all; on a GPU it recomputes
                elementwise operations, which cost little there.
            unroll: blocks per iteration of the scan over them. 1 leaves it to the platform: on a GPU up to 24 blocks are not
                scanned at all, elsewhere one is taken at a time. On a CPU a few small blocks run faster unrolled; compile
                time grows with it.
            attention_backend: as in `equimu.attention.dot_product_attention`.
            key: random key.

        Raises:
            EquimuError: sizes that do not fit each other, or an unknown choice.
        """
        if not isinstance(remat, bool) and remat not in get_args(get_args(Remat)[1]):
            raise EquimuError(f"remat {remat!r} is unknown: {nearest(str(remat), ('projections', 'True', 'False'))}")
        check(Size, vocab_size=vocab_size, d_model=d_model, n_layer=n_layer)
        check(Positive, d_ff_multiple=d_ff_multiple)
        check(Count, unroll=unroll)
        switches = (zero_query, zero_residual, zero_unembedding, tie_embeddings, embedding_norm, qk_norm, use_bias)
        names = "zero_query zero_residual zero_unembedding tie_embeddings embedding_norm qk_norm use_bias"
        check(bool, **dict(zip(names.split(), switches, strict=True)))
        check_key("key", key)
        d_ff = int(d_ff_multiple * d_model)
        if d_ff < 1:
            raise EquimuError(f"d_ff_multiple {d_ff_multiple} leaves the MLP no hidden units at d_model {d_model}")
        if tie_embeddings and (zero_unembedding or use_bias):
            what = "zero_unembedding" if zero_unembedding else "use_bias"
            raise EquimuError(
                f"{what} and tie_embeddings exclude each other: a tied unembedding is the embedding itself"
            )

        def make_norm(width: int) -> RMSNorm:
            return RMSNorm(width, gain=norm_gain, eps=norm_eps)

        def make_block(block_key: Key) -> Block:
            attention_key, mlp_key = jax.random.split(block_key)
            return Block(
                attention_norm=make_norm(d_model),
                attention=SelfAttention(
                    d_model,
                    head_dim,
                    n_kv_head=n_kv_head,
                    rotary_base=rotary_base,
                    scale=attention_scale,
                    window=attention_window,
                    qk_norm=qk_norm,
                    norm_gain=norm_gain,
                    norm_eps=norm_eps,
                    use_bias=use_bias,
                    zero_query=zero_query,
                    zero_residual=zero_residual,
                    backend=attention_backend,
                    key=attention_key,
                ),
                mlp_norm=make_norm(d_model),
                mlp=MLP(
                    d_model,
                    d_ff,
                    activation=activation,
                    use_bias=use_bias,
                    zero_residual=zero_residual,
                    key=mlp_key,
                ),
            )

        embedding_key, block_key, unembedding_key = jax.random.split(key, 3)
        make_embedding = TiedEmbedding if tie_embeddings else Embedding
        self.embedding = make_embedding(vocab_size, d_model, key=embedding_key)
        self.embedding_norm = make_norm(d_model) if embedding_norm else None
        self.blocks = eqx.filter_vmap(make_block)(jax.random.split(block_key, n_layer))
        self.norm = make_norm(d_model)
        self.unembedding = (
            None
            if tie_embeddings
            else Linear(
                d_model,
                vocab_size,
                use_bias=use_bias,
                zero=zero_unembedding,
                split=("out", vocab_size),
                key=unembedding_key,
            )
        )
        self.dtype = dtype
        self.remat = remat
        self.unroll = unroll

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.embedding.vocab_size

    def embed(self, tokens: Int[Array, " seq"]) -> Float[Array, "own d_model"]:
        """The residual stream before the first block."""
        # Not in the compute dtype: many tokens read one row, and its gradient is the sum of all of theirs.
        x = gather_shards(self.embedding)(tokens)
        if self.dtype is not None:
            x = x.astype(self.dtype)
        return x if self.embedding_norm is None else gather_shards(self.embedding_norm)(x)

    def features(
        self, tokens: Int[Array, " seq"], segment_ids: Int[Array, " seq"] | None = None
    ) -> Float[Array, "seq_of_logits d_model"]:
        """The normalised residual stream after the last block, from which the logits are read.

        Args:
            tokens: token ids.
            segment_ids: where `tokens` are several documents one after the other, a number for each position, equal along a
                document and different from one to the next: attention stays inside of it, and its positions begin at 0.
        """
        x = self.embed(tokens)
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def layer(x: Array, arrays: Any) -> Array:
            block = gather_shards(eqx.combine(arrays, static), self.dtype)
            return block(x, segment_ids)

        layer = self._rematerialised(layer)
        x, _ = jax.lax.scan(
            lambda x, arrays: (layer(x, arrays), None), x, arrays, unroll=_unrolled(self.unroll, arrays)
        )
        x = gather_shards(self.norm)(x)
        return gather_positions(x) if self.vocab_size % tensor_parallel_size(x) == 0 else x

    def readout(self) -> Callable[[Float[Array, "*seq d_model"]], Float[Array, "*seq vocab"]]:
        """The function from `features` to logits, float32 or better: a pytree, whose arrays have been gathered."""
        return jax.tree_util.Partial(_logits, gather_shards(self.unembedding or self.embedding, self.dtype))

    def unembed(self, x: Float[Array, "*seq d_model"]) -> Float[Array, "*seq vocab"]:
        """Logits of each token, float32 or better, from `features`."""
        return self.readout()(x)

    def __call__(
        self, tokens: Int[Array, " seq"], segment_ids: Int[Array, " seq"] | None = None
    ) -> Float[Array, "seq_of_logits vocab"]:
        """Logits for the token after each position; the arguments are those of `features`."""
        return self.unembed(self.features(tokens, segment_ids))

    def _rematerialised(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        if self.remat == "projections":
            return jax.checkpoint(layer, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
        if self.remat:
            return jax.checkpoint(layer)
        on_gpu, is_shard = _on_gpu(), lambda x: isinstance(x, Shard)
        if not on_gpu and not any(map(is_shard, jax.tree.leaves(self.blocks, is_leaf=is_shard))):
            return layer

        def policy(*args: Any, **kwargs: Any) -> bool:
            # Kept for the backward pass, the gathered weights of all layers would be the whole model.
            return not is_gather_of_shards(*args, **kwargs) and (not on_gpu or keeps(*args, **kwargs))

        recomputed = jax.checkpoint(layer, policy=policy)
        if self.dtype is None or not on_gpu:
            return recomputed
        # `jax.checkpoint` holds its arguments together until the backward pass. In the compute dtype they are made anyway;
        # a layer's own weights in float32 would be copies.
        return lambda x, arrays: recomputed(x, jax.tree.map(lambda w: w.astype(self.dtype), arrays))


register_residual(Block, "attention.output", "mlp.down")


def _unrolled(unroll: int, arrays: Any) -> int:
    """Blocks per iteration of the scan over blocks with these arrays, where 1 leaves it to the platform."""
    n_layer = jax.tree.leaves(arrays)[0].shape[0]
    return n_layer if unroll == 1 and _on_gpu() and n_layer <= Transformer.unrolled_on_gpu else unroll


def _on_gpu() -> bool:
    return (known_platform() or default_platform()) in ("cuda", "rocm")


def _logits(head: Linear | TiedEmbedding, x: Float[Array, "*seq d_model"]) -> Float[Array, "*seq vocab"]:
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return head.unembed(x, dtype=dtype) if isinstance(head, TiedEmbedding) else head(x, dtype=dtype)
