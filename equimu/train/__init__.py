"""Training: configs, the step over a mesh, and runs as folders."""

from ._build import build_make as build_make
from ._build import build_optimizer as build_optimizer
from ._build import build_parameterization as build_parameterization
from ._build import build_tree as build_tree
from ._config import DataConfig as DataConfig
from ._config import ModelConfig as ModelConfig
from ._config import OptimizerConfig as OptimizerConfig
from ._config import ParameterizationConfig as ParameterizationConfig
from ._config import RunConfig as RunConfig
from ._config import config_from_dict as config_from_dict
from ._config import config_to_dict as config_to_dict
from ._loop import open_data as open_data
from ._loop import train as train
from ._loss import cross_entropy_sum as cross_entropy_sum
from ._mesh import make_mesh as make_mesh
from ._mesh import shard_batch as shard_batch
from ._program import hyperparameters_of as hyperparameters_of
from ._program import program_for as program_for
from ._run import Run as Run
from ._run import read_run as read_run
from ._run import read_runs as read_runs
from ._step import StepMetrics as StepMetrics
from ._step import TrainState as TrainState
from ._step import evaluation as evaluation
from ._step import loss_and_gradient as loss_and_gradient
from ._step import update as update
