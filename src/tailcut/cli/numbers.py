"""Numbers as options have them. This module imports nothing that is slow or starts threads."""

from math import isfinite

import typer


def finite(value: float | None) -> float | None:
    """The value of an option, unless it is infinite or not a number, which `min` and `max` let through.

    Raises:
        BadParameter: it is.
    """
    if value is not None and not isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value
