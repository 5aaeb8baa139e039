"""Pytrees of arrays kept in a folder or below a URL: written aside, committed whole, verified when read."""

from equimu.storage._checkpoint_place import MANIFEST as MANIFEST
from equimu.storage._checkpoints import Checkpoints as Checkpoints
from equimu.storage._checkpoints import Restored as Restored
from equimu.storage._manifest import OtherArrays as OtherArrays
from equimu.storage._places import local_path as local_path
from equimu.storage._places import one_line as one_line
from equimu.storage._sequence import ArrayWriter as ArrayWriter
from equimu.storage._sequence import cached_chunks as cached_chunks
from equimu.storage._sequence import check_files as check_files
from equimu.storage._sequence import delete_below as delete_below
from equimu.storage._sequence import open_array as open_array
from equimu.storage._sequence import open_place as open_place
from equimu.storage._sequence import read_rows as read_rows
from equimu.storage._sequence import told_as as told_as
