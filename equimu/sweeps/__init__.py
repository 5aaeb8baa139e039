"""Sweeps: grids of runs."""

from equimu.runs import Runs as Runs
from equimu.sweeps._early_stopping import early_stopping as early_stopping
from equimu.sweeps._grid import SweepConfig as SweepConfig
from equimu.sweeps._grid import cells as cells
from equimu.sweeps._grid import curves as curves
from equimu.sweeps._grid import octaves as octaves
from equimu.sweeps._grid import refuse_former as refuse_former
from equimu.sweeps._grid import sweep_config_from_dict as sweep_config_from_dict
from equimu.sweeps._grid import sweep_config_of as sweep_config_of
from equimu.sweeps._launchers import launcher_from_text as launcher_from_text
from equimu.sweeps._launchers import pool_of as pool_of
from equimu.sweeps._pool import Launcher as Launcher
from equimu.sweeps._pool import Pool as Pool
from equimu.sweeps._pool import unfinished as unfinished
from equimu.sweeps._pool import work as work
from equimu.sweeps._print_commands import commands as commands
from equimu.sweeps._print_commands import flags_of as flags_of
from equimu.sweeps._ray import Ray as Ray
from equimu.sweeps._runner import Local as Local
from equimu.sweeps._runner import RunPool as RunPool
from equimu.sweeps._runner import check_trees as check_trees
from equimu.sweeps._runner import cores as cores
from equimu.sweeps._slurm import Slurm as Slurm
from equimu.sweeps._sweep import dry_run as dry_run
from equimu.sweeps._sweep import sweep as sweep
