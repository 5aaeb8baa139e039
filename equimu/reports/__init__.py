"""From the finished runs of a sweep to a fitted optimum, a table, a figure and a verdict."""

from equimu.reports._cells import Cell as Cell
from equimu.reports._cells import Curve as Curve
from equimu.reports._fit import Fit as Fit
from equimu.reports._fit import Optimum as Optimum
from equimu.reports._fitted import Fitted as Fitted
from equimu.reports._held_out import HeldOut as HeldOut
from equimu.reports._joint_law import Exponent as Exponent
from equimu.reports._joint_law import JointLaw as JointLaw
from equimu.reports._joint_law import Prediction as Prediction
from equimu.reports._law import Law as Law
from equimu.reports._laws import PanelLaw as PanelLaw
from equimu.reports._laws import joint_law as joint_law
from equimu.reports._read import cells_of as cells_of
from equimu.reports._read import read_cells as read_cells
from equimu.reports._regret import Regret as Regret
from equimu.reports._report import Panel as Panel
from equimu.reports._report import Report as Report
from equimu.reports._report import report as report
from equimu.reports._suggest import Addition as Addition
from equimu.reports._suggest import Suggestion as Suggestion
from equimu.reports._suggest import suggest as suggest
from equimu.reports._table import markdown as markdown
from equimu.reports._table import print_table as print_table
from equimu.reports._verdict import Verdict as Verdict
from equimu.reports._write import write_report as write_report
