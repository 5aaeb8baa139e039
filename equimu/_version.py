"""The version of the package, as its metadata have it."""

import importlib.metadata

__version__ = importlib.metadata.version("equimu")
"""The version of the package, such as `0.1.0`."""
