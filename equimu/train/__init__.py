"""Training: configs, the step over a mesh, and runs as folders."""

from equimu.train._build import build_make as build_make
from equimu.train._build import build_optimizer as build_optimizer
from equimu.train._build import build_parameterization as build_parameterization
from equimu.train._build import build_tree as build_tree
from equimu.train._config import DataConfig as DataConfig
from equimu.train._config import ModelConfig as ModelConfig
from equimu.train._config import OptimizerConfig as OptimizerConfig
from equimu.train._config import ParameterizationConfig as ParameterizationConfig
from equimu.train._config import RunConfig as RunConfig
from equimu.train._config import config_from_dict as config_from_dict
from equimu.train._config import config_to_dict as config_to_dict
from equimu.train._loop import open_data as open_data
from equimu.train._loop import train as train
from equimu.train._loss import cross_entropy_sum as cross_entropy_sum
from equimu.train._mesh import make_mesh as make_mesh
from equimu.train._mesh import shard_batch as shard_batch
from equimu.train._program import hyperparameters_of as hyperparameters_of
from equimu.train._program import program_for as program_for
from equimu.train._run import Run as Run
from equimu.train._run import read_run as read_run
from equimu.train._run import read_runs as read_runs
from equimu.train._step import StepMetrics as StepMetrics
from equimu.train._step import TrainState as TrainState
from equimu.train._step import evaluation as evaluation
from equimu.train._step import loss_and_gradient as loss_and_gradient
from equimu.train._step import update as update
