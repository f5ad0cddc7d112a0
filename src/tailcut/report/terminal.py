"""The console that results and progress are printed on."""

import os

from rich.console import Console

_WIDTH = 170  # of the widest table


def output_console(*, stderr: bool = False, highlight: bool = True) -> Console:
    """A console as wide as the terminal; without one (a pipe, CI, a file), 170 columns, so that nothing is cut off.

    If the variable COLUMNS is set, it is the width in any case.
    """
    console = Console(stderr=stderr, highlight=highlight)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(stderr=stderr, highlight=highlight, width=_WIDTH)
