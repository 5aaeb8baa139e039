"""Checks that decide by themselves whether a parameterization is right in a model."""

from equimu.diagnostics._linearization import linearization_error as linearization_error
