"""Training: the step over a mesh, the compiled program, the loop."""

from equimu.training._build import build_parameterization as build_parameterization
from equimu.training._build import build_tree as build_tree
from equimu.training._loop import compile_ahead as compile_ahead
from equimu.training._loop import data_of as data_of
from equimu.training._loop import train as train
from equimu.training._loss_record import NotFiniteError as NotFiniteError
from equimu.training._means import Means as Means
from equimu.training._program import Numbers as Numbers
from equimu.training._program import Program as Program
from equimu.training._program import Programs as Programs
from equimu.training._program import build_optimizer as build_optimizer
from equimu.training._program import hyperparameters_of as hyperparameters_of
from equimu.training._program import program_for as program_for
from equimu.training._program import program_key as program_key
from equimu.training._runtime import RuntimeConfig as RuntimeConfig
from equimu.training._step import Outcome as Outcome
from equimu.training._step import StepMetrics as StepMetrics
from equimu.training._step import TrainState as TrainState
from equimu.training._step import evaluation as evaluation
from equimu.training._step import loss_and_gradient as loss_and_gradient
from equimu.training._step import update as update
