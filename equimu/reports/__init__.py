"""From the finished runs of a sweep to a fitted optimum, a table, a figure and a verdict.

Runs of other trainers are reported on without JAX; runs of this library know their configs, and need it.
"""

from equimu._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__)
