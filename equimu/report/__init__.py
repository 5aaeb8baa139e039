"""From the finished runs of a learning-rate sweep to a fitted optimum, a table, a figure and a verdict."""

from equimu.report._cells import Cell as Cell
from equimu.report._cells import Curve as Curve
from equimu.report._fit import Fit as Fit
from equimu.report._fit import Optimum as Optimum
from equimu.report._law import Law as Law
from equimu.report._read import cells_of as cells_of
from equimu.report._read import read_cells as read_cells
from equimu.report._regret import Regret as Regret
from equimu.report._report import Panel as Panel
from equimu.report._report import Report as Report
from equimu.report._report import report as report
from equimu.report._table import markdown as markdown
from equimu.report._table import print_table as print_table
from equimu.report._verdict import Verdict as Verdict
from equimu.report._write import write_report as write_report
