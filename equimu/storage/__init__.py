"""Pytrees of arrays kept in a folder or below a URL: written aside, committed whole, verified when read."""

from equimu.storage._checkpoint_place import MANIFEST as MANIFEST
from equimu.storage._checkpoints import Checkpoints as Checkpoints
from equimu.storage._checkpoints import Restored as Restored
from equimu.storage._folder import expanded as expanded
from equimu.storage._folder import is_of_the_kernel as is_of_the_kernel
from equimu.storage._folder import local_folder as local_folder
from equimu.storage._folder import open_inside as open_inside
from equimu.storage._folder import read_inside as read_inside
from equimu.storage._folder import read_regular as read_regular
from equimu.storage._folder import refuse_special as refuse_special
from equimu.storage._folder import write_files as write_files
from equimu.storage._folder import write_inside as write_inside
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
