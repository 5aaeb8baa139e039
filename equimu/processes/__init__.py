"""Several processes as one run: how they find each other, decide together, and stop."""

from equimu.processes._consensus import Consensus as Consensus
from equimu.processes._consensus import StopVote as StopVote
from equimu.processes._processes import barrier as barrier
from equimu.processes._processes import connect as connect
from equimu.processes._processes import exit_process as exit_process
from equimu.processes._processes import is_process_zero as is_process_zero
from equimu.processes._processes import launcher as launcher
from equimu.processes._processes import on_process_zero as on_process_zero
from equimu.processes._processes import report_failure as report_failure
from equimu.processes._signals import handle_signals as handle_signals
from equimu.processes._together import Hosts as Hosts
