"""Pytrees of arrays kept in a folder or below a URL: written aside, committed whole, verified when read."""

from equimu.checkpoint._checkpoints import Checkpoints as Checkpoints
from equimu.checkpoint._checkpoints import Restored as Restored
