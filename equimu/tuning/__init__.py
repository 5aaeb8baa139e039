"""Tuning: the best numbers of a small run, and the large run that takes them."""

from equimu.tuning._config import USUAL_SEARCH as USUAL_SEARCH
from equimu.tuning._config import TuneConfig as TuneConfig
from equimu.tuning._config import tune_config_from_dict as tune_config_from_dict
from equimu.tuning._result import Effect as Effect
from equimu.tuning._result import Tuned as Tuned
from equimu.tuning._result import carried_run as carried_run
from equimu.tuning._runner import tune as tune
from equimu.tuning._space import SearchedNumber as SearchedNumber
from equimu.tuning._space import is_base_constant as is_base_constant
from equimu.tuning._write import write_tuned as write_tuned
