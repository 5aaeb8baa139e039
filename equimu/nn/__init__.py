"""Layers and a decoder transformer in the Equinox manner: modules own arrays, unbatched calls, `vmap` outside."""

from ._attention import SelfAttention as SelfAttention
from ._embedding import Embedding as Embedding, TiedEmbedding as TiedEmbedding
from ._linear import InnerLinear as InnerLinear, Linear as Linear
from ._mlp import MLP as MLP, Activation as Activation, activate as activate
from ._norm import Gain as Gain, RMSNorm as RMSNorm, rms_norm as rms_norm
from ._rope import rotary as rotary
from ._transformer import Block as Block, Transformer as Transformer
