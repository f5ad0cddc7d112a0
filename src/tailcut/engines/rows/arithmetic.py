"""Elementwise operators on known elements, as exported models compute them from shapes.

Each function takes one size per input and returns the result's size, or None if it cannot be determined.
"""

from collections.abc import Callable, Mapping

from tailcut.engines.rows.sizes import (
    ONE,
    ZERO,
    Size,
    floor_divide,
    larger,
    modulo,
    number,
    opaque,
    sign,
    smaller,
)
from tailcut.engines.rows.values import Sizes

_ROUNDING = 1e-3  # a float this close to an integer may be rounded to either side
Arithmetic = Callable[[Sizes], Size | None]


def add(items: Sizes) -> Size:
    """Their sum."""
    return sum(items[1:], start=items[0])


def least(items: Sizes) -> Size:
    """The smallest."""
    result = items[0]
    for item in items[1:]:
        result = smaller(result, item)
    return result


def greatest(items: Sizes) -> Size:
    """The largest."""
    result = items[0]
    for item in items[1:]:
        result = larger(result, item)
    return result


def negation(items: Sizes) -> Size:
    """1 for 0, and 0 for anything else."""
    return opaque("not", *items) if items[0].number is None else number(int(items[0].number == 0))


def rounded(kind: str, item: Size) -> Size:
    """Floor, Ceil or Round of one size."""
    if item.whole:
        return item
    if item.number is None:
        return opaque(kind, item, natural=item.natural)
    if abs(item.number - round(item.number)) < _ROUNDING:
        return opaque(kind, item)
    down = item.number.numerator // item.number.denominator
    return number({"Floor": down, "Ceil": down + 1, "Round": round(item.number)}[kind])


def _divide(items: Sizes) -> Size | None:
    a, b = items
    if a.natural and b.natural:
        return floor_divide(a, b)
    return None if a.rows or b.rows else opaque("divide", a, b, natural=False)


def _divide_real(items: Sizes) -> Size | None:
    a, b = items
    if b.number:
        return a * number(1 / b.number)
    exact = a.over(b)
    if exact is not None or b.number is not None:
        return exact
    return opaque("ratio", a, b, whole=False, natural=a.natural and b.natural)


def _modulo(items: Sizes) -> Size | None:
    a, b = items
    return modulo(a, b) if a.natural and b.natural else None


def _compared(kind: str, holds: Callable[[int], bool]) -> Arithmetic:
    """A comparison: its result is known if the sign of the difference is the same for every request."""

    def compare(items: Sizes) -> Size:
        which = sign(items[0] - items[1])
        return opaque(kind, *items) if which is None else number(int(holds(which)))

    return compare


def _and(items: Sizes) -> Size:
    numbers = [item.number for item in items]
    if 0 in numbers:
        return ZERO
    return opaque("and", *items) if None in numbers else ONE


def _or(items: Sizes) -> Size:
    numbers = [item.number for item in items]
    if any(numbers):
        return ONE
    return opaque("or", *items) if None in numbers else ZERO


def _where(items: Sizes) -> Size:
    condition, a, b = items
    if a == b:
        return a
    if condition.number is None:
        return opaque("where", *items, whole=a.whole and b.whole, natural=a.natural and b.natural)
    return a if condition.number else b


def _absolute(items: Sizes) -> Size | None:
    if items[0].natural:
        return items[0]
    return None if items[0].number is None else number(abs(items[0].number))


WHOLE: Mapping[str, Arithmetic] = {
    "Add": add,
    "Sum": add,
    "Sub": lambda items: items[0] - items[1],
    "Mul": lambda items: items[0] * items[1],
    "Div": _divide,
    "Mod": _modulo,
    "Min": least,
    "Max": greatest,
    "Neg": lambda items: ZERO - items[0],
    "Abs": _absolute,
    "Floor": lambda items: rounded("Floor", items[0]),
    "Ceil": lambda items: rounded("Ceil", items[0]),
    "Round": lambda items: rounded("Round", items[0]),
    "Equal": _compared("Equal", lambda which: which == 0),
    "Less": _compared("Less", lambda which: which < 0),
    "LessOrEqual": _compared("LessOrEqual", lambda which: which <= 0),
    "Greater": _compared("Greater", lambda which: which > 0),
    "GreaterOrEqual": _compared("GreaterOrEqual", lambda which: which >= 0),
    "And": _and,
    "Or": _or,
    "Not": negation,
    "Where": _where,
}
REAL: Mapping[str, Arithmetic] = {**WHOLE, "Div": _divide_real, "Mod": lambda _: None}
TRUTH = frozenset(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not"))
