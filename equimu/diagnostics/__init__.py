"""Checks that decide by themselves whether a parameterization is right in a model."""

from equimu.diagnostics._alignment import Alignment as Alignment
from equimu.diagnostics._alignment import alignments as alignments
from equimu.diagnostics._check import CoordinateProbe as CoordinateProbe
from equimu.diagnostics._check import coord_check as coord_check
from equimu.diagnostics._fit import Exponent as Exponent
from equimu.diagnostics._laws import Interval as Interval
from equimu.diagnostics._linearization import linearization_error as linearization_error
from equimu.diagnostics._record import record as record
from equimu.diagnostics._result import CoordinateCheck as CoordinateCheck
from equimu.diagnostics._run import CheckFailedError as CheckFailedError
from equimu.diagnostics._run import check_run as check_run
from equimu.diagnostics._sites import register_sites as register_sites
from equimu.diagnostics._table import print_check as print_check
from equimu.diagnostics._verdicts import Row as Row
from equimu.diagnostics._write import write_check as write_check
