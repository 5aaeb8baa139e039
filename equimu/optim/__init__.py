"""Optimizers that read their factors from a tree of rules; any optax optimizer through `multi_transform`."""

from equimu.optim._config import SGD as SGD
from equimu.optim._config import Adafactor as Adafactor
from equimu.optim._config import AdamW as AdamW
from equimu.optim._config import Lion as Lion
from equimu.optim._config import Muon as Muon
from equimu.optim._config import Optimizer as Optimizer
from equimu.optim._config import is_optimizer_text as is_optimizer_text
from equimu.optim._config import optimizer_class as optimizer_class
from equimu.optim._config import optimizer_from_dict as optimizer_from_dict
from equimu.optim._config import optimizer_from_text as optimizer_from_text
from equimu.optim._config import optimizer_name as optimizer_name
from equimu.optim._config import optimizer_to_dict as optimizer_to_dict
from equimu.optim._config import register_optimizer as register_optimizer
from equimu.optim._convert import convert as convert
from equimu.optim._epsilon import epsilon_shares as epsilon_shares
from equimu.optim._matrix_optimizers import adafactor as adafactor
from equimu.optim._matrix_optimizers import muon as muon
from equimu.optim._multi_transform import as_transformation as as_transformation
from equimu.optim._multi_transform import multi_transform as multi_transform
from equimu.optim._optimizers import adamw as adamw
from equimu.optim._optimizers import lion as lion
from equimu.optim._optimizers import sgd as sgd
from equimu.optim._schedule import Decay as Decay
from equimu.optim._schedule import Schedule as Schedule
from equimu.optim._schedule import warmup_schedule as warmup_schedule
from equimu.optim._update import decay_of as decay_of
