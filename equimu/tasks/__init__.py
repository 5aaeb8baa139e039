"""Tasks: what is trained."""

from equimu.tasks._cross_entropy import cross_entropy_sum as cross_entropy_sum
from equimu.tasks._cross_entropy import summed_losses as summed_losses
from equimu.tasks._fields import execution as execution
from equimu.tasks._fields import is_execution as is_execution
from equimu.tasks._find import checked_task as checked_task
from equimu.tasks._find import files_of as files_of
from equimu.tasks._find import find_task as find_task
from equimu.tasks._find import import_files as import_files
from equimu.tasks._find import source_digest as source_digest
from equimu.tasks._find import task_from_dict as task_from_dict
from equimu.tasks._find import task_to_dict as task_to_dict
from equimu.tasks._find import where_of as where_of
from equimu.tasks._function import task as task
from equimu.tasks._language_model import LanguageModel as LanguageModel
from equimu.tasks._language_model import ModelConfig as ModelConfig
from equimu.tasks._language_model import TextConfig as TextConfig
from equimu.tasks._losses import Losses as Losses
from equimu.tasks._losses import Sums as Sums
from equimu.tasks._losses import add as add
from equimu.tasks._task import Task as Task
from equimu.tasks._task import mean_loss as mean_loss
