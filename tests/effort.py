"""How often a test repeats itself: examples of a property, seeded runs of a statistic, models of one kind.

`make test` makes a third of what `make test-all` does, which sets THOROUGH=1; with THOROUGH=0 that makes a third, too.
"""

import os
from collections.abc import Mapping
from typing import TypeVar

THOROUGH = os.environ.get("THOROUGH", "0") not in {"", "0"}
T = TypeVar("T")


def runs(count: int) -> int:
    """So many of `make test-all`."""
    return count if THOROUGH else -(-count // 3)


def some(cases: Mapping[str, T]) -> dict[str, T]:
    """Those of `make test-all`: all of them; otherwise every third."""
    return {name: case for index, (name, case) in enumerate(cases.items()) if THOROUGH or index % 3 == 0}
