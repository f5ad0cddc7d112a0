"""How often tests repeat themselves: examples of a property, seeded runs of a statistic, models of one kind.

`make test-all` sets THOROUGH=1 and runs everything; `make test`, or THOROUGH=0, runs a fifth of the examples and seeds,
and every third model.
"""

import os
from collections.abc import Mapping
from typing import TypeVar

THOROUGH = os.environ.get("THOROUGH", "0") not in {"", "0"}
T = TypeVar("T")


def runs(count: int) -> int:
    """The number of runs, given that of `make test-all`."""
    return count if THOROUGH else -(-count // 5)


def some(cases: Mapping[str, T]) -> dict[str, T]:
    """All cases with `make test-all`; otherwise every third."""
    return {name: case for index, (name, case) in enumerate(cases.items()) if THOROUGH or index % 3 == 0}
