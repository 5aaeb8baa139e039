"""Experiments of papers, as data."""

from equimu.presets._page import reproduce_command as reproduce_command
from equimu.presets._page import summary as summary
from equimu.presets._page import summary_rows as summary_rows
from equimu.presets._page import write_reproduction as write_reproduction
from equimu.presets._paper import PAPER as PAPER
from equimu.presets._paper import PREFIX as PREFIX
from equimu.presets._paper import Group as Group
from equimu.presets._paper import group as group
from equimu.presets._paper import group_meant as group_meant
from equimu.presets._paper import groups as groups
from equimu.presets._paper import groups_of as groups_of
from equimu.presets._paper import means_all as means_all
from equimu.presets._paper import scale_takes as scale_takes
from equimu.presets._paper import scales as scales
from equimu.presets._reproduce import Planned as Planned
from equimu.presets._reproduce import Reproduced as Reproduced
from equimu.presets._reproduce import left_of as left_of
from equimu.presets._reproduce import plan_reproduction as plan_reproduction
from equimu.presets._reproduce import reproduce as reproduce
