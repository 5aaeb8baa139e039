"""Tuning: the best numbers of a small run, and the large run that takes them."""

from equimu.tuning._compare import RATES as RATES
from equimu.tuning._compare import compare as compare
from equimu.tuning._comparison import Comparison as Comparison
from equimu.tuning._comparison import Trained as Trained
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
from equimu.tuning._write_comparison import comparison_table as comparison_table
from equimu.tuning._write_comparison import write_comparison as write_comparison
