"""Runs as folders: what a run is, its files and rows, who owns it, and what it may begin from."""

from equimu.runs._config import RunConfig as RunConfig
from equimu.runs._config import Sizes as Sizes
from equimu.runs._config import config_from_dict as config_from_dict
from equimu.runs._config import config_to_dict as config_to_dict
from equimu.runs._config import run_config as run_config
from equimu.runs._files import CHECKPOINTS as CHECKPOINTS
from equimu.runs._folder import RunFolder as RunFolder
from equimu.runs._folder import StorageError as StorageError
from equimu.runs._lock import FolderLock as FolderLock
from equimu.runs._logger import Logger as Logger
from equimu.runs._logger import LoggerFeed as LoggerFeed
from equimu.runs._logger import logger_names as logger_names
from equimu.runs._logger import register_logger as register_logger
from equimu.runs._run import Run as Run
from equimu.runs._run import read_run as read_run
from equimu.runs._run import read_runs as read_runs
from equimu.runs._warm_start import WarmStart as WarmStart
from equimu.runs._warm_start import find_warm_start as find_warm_start
