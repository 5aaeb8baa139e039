"""What is declared of arrays: the words for axes, the registry, and where in a model each array stands."""

from equimu.declarations._axes import AXIS_WORDS as AXIS_WORDS
from equimu.declarations._axes import Axes as Axes
from equimu.declarations._axes import axes as axes
from equimu.declarations._axes import register_axes as register_axes
from equimu.declarations._axes import register_residual as register_residual
from equimu.declarations._equinox import register_equinox as register_equinox
from equimu.declarations._leaves import Containers as Containers
from equimu.declarations._leaves import Leaf as Leaf
from equimu.declarations._leaves import containers_of as containers_of
from equimu.declarations._leaves import dotted as dotted
from equimu.declarations._leaves import is_within as is_within
from equimu.declarations._leaves import locate as locate
