"""equimu: hyperparameter transfer (μP) in JAX, by trees of rules shaped like the model.

import equimu as mu

tree = mu.parameterize(make, mu.mup(), base={"d_model": 128}, target={"d_model": 1024})
model = mu.initialize(tree, key)
optimizer = mu.adamw(tree, learning_rate=2**-6)
logits = mu.scaled(tree, model)(tokens)
"""

import importlib
from typing import TYPE_CHECKING, Any

from equimu import attention as attention
from equimu import data as data
from equimu import nn as nn
from equimu import optim as optim
from equimu import parameterization as parameterization
from equimu import reports as reports
from equimu import tasks as tasks
from equimu._errors import EquimuError as EquimuError
from equimu.attention import register_backend as register_backend
from equimu.declarations import axes as axes
from equimu.declarations import register_axes as register_axes
from equimu.declarations import register_residual as register_residual
from equimu.optim import SGD as SGD
from equimu.optim import Adafactor as Adafactor
from equimu.optim import AdamW as AdamW
from equimu.optim import Lion as Lion
from equimu.optim import Muon as Muon
from equimu.optim import Optimizer as Optimizer
from equimu.optim import adafactor as adafactor
from equimu.optim import adamw as adamw
from equimu.optim import convert as convert
from equimu.optim import lion as lion
from equimu.optim import multi_transform as multi_transform
from equimu.optim import muon as muon
from equimu.optim import register_optimizer as register_optimizer
from equimu.optim import register_schedule as register_schedule
from equimu.optim import sgd as sgd
from equimu.optim import warmup_schedule as warmup_schedule
from equimu.parameterization import Parameterization as Parameterization
from equimu.parameterization import Row as Row
from equimu.parameterization import Rule as Rule
from equimu.parameterization import check_uses as check_uses
from equimu.parameterization import completed_p as completed_p
from equimu.parameterization import completep as completep
from equimu.parameterization import depth_mup as depth_mup
from equimu.parameterization import everett as everett
from equimu.parameterization import fold as fold
from equimu.parameterization import from_json as from_json
from equimu.parameterization import initialize as initialize
from equimu.parameterization import is_rule as is_rule
from equimu.parameterization import mean_field as mean_field
from equimu.parameterization import mup as mup
from equimu.parameterization import ntk as ntk
from equimu.parameterization import parameterization_from_text as parameterization_from_text
from equimu.parameterization import parameterize as parameterize
from equimu.parameterization import register_parameterization as register_parameterization
from equimu.parameterization import scaled as scaled
from equimu.parameterization import sp as sp
from equimu.parameterization import spectral as spectral
from equimu.parameterization import table as table
from equimu.parameterization import to_json as to_json
from equimu.parameterization import tpv as tpv
from equimu.parameterization import umup as umup
from equimu.plans import Machine as Machine
from equimu.plans import plan as plan
from equimu.plans import register_machine as register_machine
from equimu.reports import report as report
from equimu.runs import Logger as Logger
from equimu.runs import RunConfig as RunConfig
from equimu.runs import register_logger as register_logger
from equimu.sweeps import SweepConfig as SweepConfig
from equimu.sweeps import octaves as octaves
from equimu.sweeps import sweep as sweep
from equimu.tasks import LanguageModel as LanguageModel
from equimu.tasks import Losses as Losses
from equimu.tasks import Task as Task
from equimu.tasks import execution as execution
from equimu.tasks import task as task
from equimu.training import RuntimeConfig as RuntimeConfig
from equimu.training import train as train
from equimu.tuning import TuneConfig as TuneConfig
from equimu.tuning import compare as compare
from equimu.tuning import tune as tune

if TYPE_CHECKING:
    from equimu import diagnostics as diagnostics
    from equimu.diagnostics import coord_check as coord_check
    from equimu.diagnostics import register_sites as register_sites


def __getattr__(name: str) -> Any:
    """Diagnostics are imported when they are first asked for: many a program never does."""
    if name in ("diagnostics", "coord_check", "register_sites"):
        module = importlib.import_module("equimu.diagnostics")
        return module if name == "diagnostics" else getattr(module, name)
    raise AttributeError(f"module 'equimu' has no attribute {name!r}")
