"""Checks of numbers given as options. This module imports nothing that is slow or starts threads."""

from math import isfinite

import typer


def finite(value: float | None) -> float | None:
    """The value of an option, if it is finite: typer's `min` and `max` accept infinity and NaN.

    Raises:
        BadParameter: it is infinite or NaN.
    """
    if value is not None and not isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value
