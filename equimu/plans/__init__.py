"""Plans: whether a run fits a machine that need not be here, and what its step takes there."""

from equimu.plans._compile import training_flops as training_flops
from equimu.plans._count import Traffic as Traffic
from equimu.plans._mesh import MeshShape as MeshShape
from equimu.plans._plan import Memory as Memory
from equimu.plans._plan import NotFittingError as NotFittingError
from equimu.plans._plan import Plan as Plan
from equimu.plans._plan import Times as Times
from equimu.plans._plan import advice as advice
from equimu.plans._plan import plan as plan
from equimu.plans._show import candidates_to_json as candidates_to_json
from equimu.plans._show import plan_to_json as plan_to_json
from equimu.plans._show import print_candidates as print_candidates
from equimu.plans._show import print_plan as print_plan
from equimu.plans._sweep import Candidate as Candidate
from equimu.plans._sweep import sweep_plans as sweep_plans
from equimu.plans.machines import Machine as Machine
from equimu.plans.machines import examples as examples
from equimu.plans.machines import machines as machines
from equimu.plans.machines import register_machine as register_machine
