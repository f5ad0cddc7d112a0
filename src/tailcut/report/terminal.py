"""The console that results and progress are printed on."""

import os

from rich.console import Console

_WIDTH = 170  # of the widest table


def output_console(*, stderr: bool = False, highlight: bool = True) -> Console:
    """A console as wide as its terminal. Where there is none (a pipe, CI, a file), nothing is cut off: 170 columns.

    COLUMNS, where it is set, is the width that the user wants.
    """
    console = Console(stderr=stderr, highlight=highlight)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(stderr=stderr, highlight=highlight, width=_WIDTH)
