"""A measure that the user brings: a function of theirs that says how good a candidate's answers are."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tailcut.errors import UsageError

Answers = list[dict[str, np.ndarray]]
Function = Callable[[Answers, Answers], Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """A function `(reference, candidate) -> float | bool`: larger is better, and the least value is --accuracy's.

    Both arguments are lists of equal length, the outputs of one request by name in each place. True and False need no
    least value.
    """

    name: str  # module:function
    function: Function

    def value(self, reference: Sequence[Any], candidate: Sequence[Any]) -> float:
        """The function's value; 1 and 0 for True and False.

        Raises:
            UsageError: the function raised, or returned something else.
        """
        try:
            found = self.function([dict(one) for one in reference], [dict(one) for one in candidate])
        except Exception as error:
            raise UsageError(f"--metric {self.name} raised {type(error).__name__}: {error}") from error
        if isinstance(found, np.ndarray) and found.ndim == 0:
            found = found[()]
        if not isinstance(found, bool | int | float | np.bool_ | np.integer | np.floating):
            raise UsageError(f"--metric {self.name} returned {type(found).__name__}: return a float or a bool")
        return float(found)

    def check(self, reference: Sequence[Any], least: float) -> None:
        """Try the function on the reference itself, before any time is spent.

        Raises:
            UsageError: the function cannot be used: not even equal answers reach the least value.
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
        UsageError: it is not there, or cannot be imported or called.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise UsageError(f"--metric {name}: write MODULE:FUNCTION, such as my_metrics:f1")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a script of one's own, as `python -m` would find it
    try:
        found: Any = import_module(module_name)
    except Exception as error:
        raise UsageError(f"--metric {name}: cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise UsageError(f"--metric {name}: {module_name} has no {path}")
    if not callable(found):
        raise UsageError(f"--metric {name}: {path} is not a function")
    return Metric(name, found)
