"""What the numbers of an optimizer may be, by the names of its arguments."""

from typing import Annotated, Any

from equimu._errors import EquimuError
from equimu._values import DecayRate, NotNegative, Positive, Range, checked, is_traced
from equimu.optim._beta import Beta

_TYPES: dict[str, Any] = {
    **dict.fromkeys(("learning_rate", "adam_learning_rate", "weight_decay", "eps", "min_scale"), NotNegative),
    **dict.fromkeys(("clip_norm", "clipping_threshold"), Positive),
    **dict.fromkeys(("b1", "b2", "beta", "momentum"), DecayRate),
    "decay_rate": Annotated[float, Range(above=0, most=1)],
}


def check_numbers(**numbers: Any) -> None:
    """Raises an `EquimuError` unless each number of an optimizer is one that it can be.

    None stands for what is left out. Traced scalars are not looked at.
    """
    for name, value in numbers.items():
        if value is None or is_traced(value) or isinstance(value, Beta):
            continue
        if callable(value):
            raise EquimuError(
                f"{name} is a number, got the function {getattr(value, '__name__', value)}; give the base value here and the "
                "function of the step as schedule=..., which multiplies it"
            )
        checked(name, value, _TYPES[name])
