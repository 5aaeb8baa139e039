"""Optimizers that read their factors from a tree of rules; any optax optimizer through `multi_transform`."""

from ._multi_transform import multi_transform as multi_transform
from ._optimizers import DecayRule as DecayRule, adamw as adamw, lion as lion, sgd as sgd
from ._schedule import Decay as Decay, Schedule as Schedule, warmup_schedule as warmup_schedule
