"""Checks that decide by themselves whether a parameterization is right in a model."""

from equimu.diagnostics._record import record as record
from equimu.diagnostics._sites import register_sites as register_sites
