"""Layers and a decoder transformer in the Equinox manner: modules own arrays, unbatched calls, `vmap` outside."""

from equimu.nn._attention import SelfAttention as SelfAttention
from equimu.nn._cache import KeyValues as KeyValues
from equimu.nn._choose import Sampling as Sampling
from equimu.nn._decoder import Decoder as Decoder
from equimu.nn._embedding import Embedding as Embedding
from equimu.nn._embedding import TiedEmbedding as TiedEmbedding
from equimu.nn._generate import Continuation as Continuation
from equimu.nn._generate import generate as generate
from equimu.nn._generate import stream as stream
from equimu.nn._linear import Linear as Linear
from equimu.nn._mlp import MLP as MLP
from equimu.nn._mlp import Activation as Activation
from equimu.nn._mlp import activate as activate
from equimu.nn._norm import Gain as Gain
from equimu.nn._norm import RMSNorm as RMSNorm
from equimu.nn._norm import rms_norm as rms_norm
from equimu.nn._rope import rotary as rotary
from equimu.nn._transformer import Block as Block
from equimu.nn._transformer import Transformer as Transformer
