"""`LanguageModel`, the default task: a decoder transformer that predicts the next token of text."""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from equimu._errors import EquimuError
from equimu._types import Key, PyTree
from equimu._values import Count, NotNegative, OneOf, Part, PathLike, Positive, Size, check_fields, takes_ints
from equimu.attention import backend_names
from equimu.data import Batch, PackedBatch, TextData, open_store, text, tokenizer_from_name
from equimu.nn import Transformer
from equimu.tasks._cross_entropy import over_rows, summed_losses
from equimu.tasks._fields import execution
from equimu.tasks._losses import LossLike, Sums
from equimu.tasks._task import Task


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The decoder transformer, less its sizes; see `equimu.nn.Transformer`.

    Raises:
        EquimuError: a field that cannot be.
    """

    head_dim: Size = 16
    """Width of an attention head."""
    n_head: Size | None = None
    """Query heads, of width width / n_head; None for heads of head_dim."""
    n_kv_head: Size | None = None
    """Key/value heads; None for as many as query heads, 1 for multi-query attention."""
    d_ff_multiple: Positive = 4.0
    """Hidden width of the MLP over the width of the model."""
    activation: Literal["relu", "gelu", "squared_relu", "swiglu"] = "relu"
    """Of the MLP."""
    rotary_base: Positive | None = 10_000.0
    """Wavelength base of the rotary embedding; None for no positional encoding."""
    attention_scale: Literal["1/head_dim", "1/sqrt(head_dim)"] | float = "1/head_dim"
    """Factor on the attention scores."""
    norm_gain: Literal["none", "vector", "scalar"] = "none"
    """Trainable gains of all norms."""
    norm_eps: NotNegative = 1e-5
    """Epsilon inside the root of all norms."""
    embedding_norm: bool = False
    """RMS-normalize the embedding."""
    qk_norm: bool = False
    """RMS-normalize queries and keys."""
    use_bias: bool = False
    """Biases on every projection, the unembedding included."""
    zero_query: bool = False
    """Start the query projections at zero."""
    zero_residual: bool = False
    """Start the output projections of attention and MLP at zero."""
    zero_unembedding: bool = False
    """Start the unembedding at zero."""
    tie_embeddings: bool = False
    """Use the embedding as the unembedding too; not every table permits it."""
    vocab_size: Size | None = None
    """None for that of the tokenizer or store."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; weights, norms, softmax, logits and loss are float32 in any case."""
    remat: bool | Literal["projections"] = execution(False)
    """Recompute each block in the backward pass, to save memory: all of it, or all but the outputs of its matrices."""
    unroll: Count = execution(1)
    """Blocks per iteration of the scan over them; 1 leaves it to the platform: no scan on a GPU, up to 24 blocks."""
    attention_backend: Annotated[str, OneOf(backend_names)] = execution("auto")
    """auto, or the name of one; see `equimu.attention.backends`."""

    def __post_init__(self) -> None:
        check_fields(self, "model.")


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text and its batches; see `equimu.data.text`.

    Raises:
        EquimuError: a field that cannot be.
    """

    corpus: PathLike = "stdlib"
    """"stdlib" (the sources of Python's standard library); a file, folder or glob of text; or a data set,
    "hf://NAME?config=...&split=...&column=..."."""
    store: PathLike | None = None
    """A token store that `equimu data` made, folder or URL, in place of a corpus."""
    tokenizer: PathLike = "bytes"
    """"bytes"; the path of a Hugging Face tokenizers JSON file or of its folder, or "hf://NAME" of the hub; with ?eod=TOKEN
    behind it, TOKEN is its end-of-document token."""
    windows: Literal["concatenate", "document", "packed"] = "concatenate"
    """Documents one after the other; one a row; or one after the other, each apart from the others by its segment id."""
    seq: Size = 128
    """Positions of a row."""
    rows: Size = 8
    """Rows of a batch."""
    validation_share: Part = 0.05
    """Of the documents."""

    def __post_init__(self) -> None:
        check_fields(self, "text.")


@takes_ints
@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel(Task):
    """A decoder transformer that predicts the next token of text.

    Raises:
        EquimuError: a field that cannot be.
    """

    model: ModelConfig = ModelConfig()
    """The decoder, less its sizes."""
    text: TextConfig = TextConfig()
    loss_denominator: Literal["mask", "positions"] = "mask"
    """What the differentiated loss is divided by: the counted targets, or all positions of the batch (as in Lingle's code)."""
    z_loss: NotNegative = 0.0
    """Adds z_loss · log²Z of each position's logits to the differentiated loss."""
    loss_chunk: Count | None = execution(None)
    """Positions whose logits are in memory at once; None for as many as make 128 MiB."""

    def __post_init__(self) -> None:
        check_fields(self)

    def make(self, width: int = 128, depth: int = 2, *, key: Key) -> Transformer:
        """The transformer of this width, a multiple of `model.head_dim`, and of depth blocks.

        Raises:
            EquimuError: the width is no such multiple.
        """
        model = self.model
        if model.n_head is not None and width % model.n_head != 0:
            raise EquimuError(
                f"model.n_head={model.n_head} does not divide width {width}; take a divisor of all widths"
            )
        head_dim = model.head_dim if model.n_head is None else width // model.n_head
        scales = {"1/head_dim": 1 / head_dim, "1/sqrt(head_dim)": head_dim**-0.5}
        scale = model.attention_scale
        return Transformer(
            vocab_size=self.vocab_size,
            d_model=width,
            n_layer=depth,
            head_dim=head_dim,
            n_kv_head=model.n_kv_head,
            d_ff_multiple=model.d_ff_multiple,
            activation=model.activation,
            rotary_base=model.rotary_base,
            attention_scale=scales[scale] if isinstance(scale, str) else scale,
            norm_gain=model.norm_gain,
            norm_eps=model.norm_eps,
            embedding_norm=model.embedding_norm,
            qk_norm=model.qk_norm,
            use_bias=model.use_bias,
            zero_query=model.zero_query,
            zero_residual=model.zero_residual,
            zero_unembedding=model.zero_unembedding,
            tie_embeddings=model.tie_embeddings,
            dtype=jnp.dtype(model.dtype),
            remat=model.remat,
            unroll=model.unroll,
            attention_backend=model.attention_backend,
            key=key,
        )

    def data(self) -> TextData:
        """The text, tokenized: a store, or a corpus that is made one once.

        Raises:
            EquimuError: whatever is wrong with it, or it has tokens for which the model has none.
        """
        given, own = self.text, self.model.vocab_size
        found = text(
            given.corpus,
            store=given.store,
            tokenizer=given.tokenizer,
            windows=given.windows,
            seq=given.seq,
            rows=given.rows,
            validation=given.validation_share,
        )
        if own is not None and own < found.vocab_size:
            raise EquimuError(
                f"model.vocab_size={own} is below the {found.vocab_size} tokens of the text's tokenizer; leave it out"
            )
        return found

    def loss(self, model: PyTree, batch: Batch | PackedBatch) -> LossLike:
        """The cross-entropy of each position, in nats, and whether it counts."""
        logits = over_rows(model, batch)
        targets = jnp.asarray(batch.targets)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        return log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0], jnp.asarray(batch.mask)

    def sums(
        self, model: PyTree, batch: Any, *, keys: Any = None, state: Any = None, row_weights: Any = None, training: bool
    ) -> tuple[Sums, Any]:
        """As `Task.sums`: by logits that are made in chunks, and that devices share."""
        del keys, row_weights  # a row that fills up a batch has mask 0
        z_loss = self.z_loss if training else 0.0
        objective, cross_entropy = summed_losses(model, batch, z_loss=z_loss, chunk=self.loss_chunk)
        return Sums(objective, cross_entropy, jnp.sum(batch.mask)), state

    def totals(self, model: PyTree, batch: Any, *, keys: Any = None, state: Any = None) -> tuple[Any, Any]:
        """As `Task.totals`, without the model."""
        del model, keys, state
        targets = jnp.sum(batch.mask)
        return targets, targets if self.loss_denominator == "mask" else float(batch.mask.size)

    def batch_like(self) -> Batch | PackedBatch:
        """The shapes of a batch, known without its text."""
        shape = (self.text.rows, self.text.seq)
        whole, real = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.float32)
        like: tuple[Any, Any, Any, Any] = (whole, whole, real, whole)
        return PackedBatch(*like) if self.text.windows == "packed" else Batch(*like[:3])

    def units(self) -> tuple[str, int]:
        """Tokens, as many as a row has positions."""
        return "tokens", self.text.seq

    @property
    def program(self) -> Hashable:
        """All but which text it is."""
        windows = "packed" if self.text.windows == "packed" else "concatenate"  # the others' batches are alike
        given = TextConfig(seq=self.text.seq, rows=self.text.rows, windows=windows)
        return dataclasses.replace(self, text=given, model=dataclasses.replace(self.model, vocab_size=self.vocab_size))

    @functools.cached_property
    def vocab_size(self) -> int:
        """Number of token ids of the model."""
        if self.model.vocab_size is not None:
            return self.model.vocab_size
        tokenizer = tokenizer_from_name(self.text.tokenizer)
        if self.text.store is not None:
            return open_store(self.text.store, tokenizer).info.vocab_size
        return tokenizer.vocab_size
