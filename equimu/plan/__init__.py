"""Plans: whether a run fits a machine that need not be here, and what its step takes there."""

from equimu.plan._chips import CHIPS as CHIPS
from equimu.plan._chips import Chip as Chip
from equimu.plan._count import Traffic as Traffic
from equimu.plan._mesh import MeshShape as MeshShape
from equimu.plan._plan import Memory as Memory
from equimu.plan._plan import NotFittingError as NotFittingError
from equimu.plan._plan import Plan as Plan
from equimu.plan._plan import Times as Times
from equimu.plan._plan import advice as advice
from equimu.plan._plan import plan as plan
from equimu.plan._show import candidates_to_json as candidates_to_json
from equimu.plan._show import plan_to_json as plan_to_json
from equimu.plan._show import print_candidates as print_candidates
from equimu.plan._show import print_plan as print_plan
from equimu.plan._sweep import Candidate as Candidate
from equimu.plan._sweep import sweep_plans as sweep_plans
