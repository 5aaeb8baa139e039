"""Trees of rules: what each array of a model starts from, is multiplied by, and how it is trained."""

from ._init import initialize as initialize
from ._law import (
    Dimensions as Dimensions,
    Law as Law,
    depth_ratio as depth_ratio,
    fan_in as fan_in,
    fan_in_ratio as fan_in_ratio,
    fan_out as fan_out,
    fan_out_ratio as fan_out_ratio,
    width_ratio as width_ratio,
)
from ._rule import NUMBERS as NUMBERS, ROLES as ROLES, Family as Family, Role as Role, Rule as Rule, is_rule as is_rule
from ._schemes import (
    BaseConstants as BaseConstants,
    Parameterization as Parameterization,
    Row as Row,
    mup as mup,
    sp as sp,
    tpv as tpv,
)
from ._table import from_json as from_json, table as table, to_json as to_json
from ._tree import (
    check_same_structure as check_same_structure,
    numbers_of as numbers_of,
    parameterize as parameterize,
    rules_of as rules_of,
    scaled as scaled,
    with_numbers as with_numbers,
)
