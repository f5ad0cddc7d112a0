"""How often a test repeats itself: examples of a property, seeded runs of a statistic, models of one kind.

`make test` makes a third of what `make test-all` does, which sets THOROUGH.
"""

import os
from collections.abc import Mapping
from typing import TypeVar

THOROUGH = bool(os.environ.get("THOROUGH"))
T = TypeVar("T")


def runs(count: int) -> int:
    """So many of `make test-all`."""
    return count if THOROUGH else -(-count // 3)


def some(cases: Mapping[str, T]) -> dict[str, T]:
    """Those of `make test-all`: all of them; otherwise every third."""
    return {name: case for place, (name, case) in enumerate(cases.items()) if THOROUGH or place % 3 == 0}
