"""The names of the package, which are imported when they are first asked for; see `equimu._lazy`."""

from equimu.reports._cells import Cell as Cell
from equimu.reports._cells import Curve as Curve
from equimu.reports._fit import Fit as Fit
from equimu.reports._fit import Optimum as Optimum
from equimu.reports._fitted import Fitted as Fitted
from equimu.reports._law import Law as Law
from equimu.reports._read import cells_of as cells_of
from equimu.reports._read import read_cells as read_cells
from equimu.reports._read_table import TableRuns as TableRuns
from equimu.reports._read_table import read_table as read_table
from equimu.reports._regret import Regret as Regret
from equimu.reports._report import Panel as Panel
from equimu.reports._report import Report as Report
from equimu.reports._report import report as report
from equimu.reports._table import markdown as markdown
from equimu.reports._table import print_table as print_table
from equimu.reports._verdict import Verdict as Verdict
from equimu.reports._write import write_report as write_report
