"""Sweeps: grids of runs."""

from equimu.sweep._grid import SweepConfig as SweepConfig
from equimu.sweep._grid import cells as cells
from equimu.sweep._grid import parameterization_name as parameterization_name
from equimu.sweep._runner import Runs as Runs
from equimu.sweep._runner import cores as cores
from equimu.sweep._runner import sweep as sweep
