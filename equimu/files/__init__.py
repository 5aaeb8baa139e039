"""Files in folders that may be anyone's: opened without following links, written whole or not at all."""

from equimu.files._folder import check_inside as check_inside
from equimu.files._folder import expanded as expanded
from equimu.files._folder import is_of_the_kernel as is_of_the_kernel
from equimu.files._folder import local_folder as local_folder
from equimu.files._folder import open_inside as open_inside
from equimu.files._folder import read_inside as read_inside
from equimu.files._folder import read_regular as read_regular
from equimu.files._folder import refuse_special as refuse_special
from equimu.files._folder import write_files as write_files
from equimu.files._folder import write_inside as write_inside
