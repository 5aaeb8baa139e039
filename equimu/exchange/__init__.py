"""Weights to and from other libraries: what a run ends with as plain files, and runs that begin from those of others."""

from equimu.exchange._export import Exported as Exported
from equimu.exchange._export import export as export
from equimu.exchange._import import run_from_llama as run_from_llama
