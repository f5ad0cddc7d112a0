"""A measure that the user supplies: a function that rates a candidate's answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.functions import import_function

Answers = list[dict[str, np.ndarray]]
Function = Callable[[Answers, Answers], Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """A function `(reference, candidate) -> float | bool`: larger is better, and `--accuracy` is the least value.

    Both arguments are lists of equal length; each item is the outputs of one request by name. A function that returns a
    bool needs no least value.
    """

    name: str  # module:function
    function: Function

    def value(self, reference: Sequence[Any], candidate: Sequence[Any]) -> float:
        """The function's value; 1 and 0 for True and False.

        Raises:
            UsageError: the function raised, or returned something else.
        """
        try:
            result = self.function([dict(outputs) for outputs in reference], [dict(outputs) for outputs in candidate])
        except Exception as error:
            raise UsageError(f"--metric {self.name} raised {type(error).__name__}: {error}") from error
        if isinstance(result, np.ndarray) and result.ndim == 0:
            result = result[()]
        if not isinstance(result, bool | int | float | np.bool_ | np.integer | np.floating):
            raise UsageError(f"--metric {self.name} returned {type(result).__name__}: return a float or a bool")
        return float(result)

    def check(self, reference: Sequence[Any], least: float) -> None:
        """Try the function on the reference itself, before any time is spent.

        Raises:
            UsageError: the function raised, or does not reach the least value even for equal answers.
        """
        value = self.value(reference, reference)
        if not value >= least:
            raise UsageError(
                f"--metric {self.name} is {value:.6g} for answers compared with themselves, below --accuracy {least}: "
                "larger must be better"
            )


def load_metric(name: str) -> Metric:
    """The function that `module:function` names, from the current folder or the installed packages.

    Raises:
        UsageError: there is no such function, or it cannot be imported or called.
    """
    try:
        return Metric(name, import_function(name))
    except UsageError as error:
        raise UsageError(f"--metric: {error}") from error.__cause__
