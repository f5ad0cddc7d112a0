"""Numbers and nouns in the sentences of a plan."""

from decimal import Decimal

_WHOLE = 1000  # from here on, decimals do not matter


def number(value: float, digits: int = 4) -> str:
    """Format a number with this many significant digits, as an integer from 1,000 on, and without an exponent."""
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{Decimal(f'{value:.{digits}g}'):,f}"


def several(value: float, noun: str) -> str:
    """A number with a noun: `1 core`, `2 cores`."""
    text = number(value)
    return f"{text} {noun}" if text == "1" else f"{text} {noun}s"
