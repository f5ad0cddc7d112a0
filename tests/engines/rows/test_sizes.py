"""Symbolic sizes, against numbers put in for their symbols."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tailcut.engines.rows.sizes import (
    ROWS,
    Size,
    floor_divide,
    joint,
    larger,
    number,
    opaque,
    product,
    sign,
    smaller,
    symbol,
)

A, B = symbol("axis", "a"), symbol("axis", "b")
VALUES = {ROWS.atoms[0].name: 3, A.atoms[0].name: 4, B.atoms[0].name: 6}
LEAVES = st.sampled_from([ROWS, A, B, number(0), number(1), number(2), number(3), number(12)])


def valued(size: Size) -> Fraction:
    """What a size is when rows = 3, a = 4 and b = 6."""
    result = size.factor
    for atom in size.atoms:
        result *= atom_value(atom.kind, atom.parts) if atom.parts else VALUES[atom.name]
    return result


def atom_value(kind: str, parts: tuple[Size, ...]) -> Fraction:
    values = [valued(part) for part in parts]
    if kind == "+":
        return sum(values, Fraction(0))
    if kind == "floor":
        return Fraction(values[0] // values[1])
    return min(values) if kind == "min" else max(values)


@st.composite
def pairs(draw: st.DrawFn, depth: int = 4) -> tuple[Size, Fraction]:
    """A size made by operations, and its value made by the same operations on numbers."""
    size = draw(LEAVES)
    value = valued(size)
    for _ in range(draw(st.integers(0, depth))):
        other, operation = draw(LEAVES), draw(st.sampled_from("+-*/<>"))
        if operation == "/" and (valued(other) == 0 or not size.natural):
            continue
        size, value = applied(operation, size, other, value, valued(other))
    return size, value


def applied(operation: str, size: Size, other: Size, a: Fraction, b: Fraction) -> tuple[Size, Fraction]:
    if operation == "/":
        return floor_divide(size, other), Fraction(a // b)
    return {
        "+": lambda: (size + other, a + b),
        "-": lambda: (size - other, a - b),
        "*": lambda: (size * other, a * b),
        "<": lambda: (smaller(size, other), min(a, b)),
        ">": lambda: (larger(size, other), max(a, b)),
    }[operation]()


@given(pairs())
def test_arithmetic_is_right(pair: tuple[Size, Fraction]) -> None:
    """Whatever is computed with sizes is what is computed with numbers, and what is claimed of it holds."""
    size, value = pair
    assert valued(size) == value
    assert not size.natural or value >= 0
    assert not size.positive or value > 0
    assert not size.whole or value.denominator == 1
    known = sign(size)
    assert known is None or known == (value > 0) - (value < 0)


@given(pairs(), pairs())
def test_exact_quotients_are_exact(a: tuple[Size, Fraction], b: tuple[Size, Fraction]) -> None:
    """A quotient is given only where it times the divisor is the dividend; a product can be taken apart again."""
    quotient = a[0].over(b[0])
    assert quotient is None or valued(quotient) * b[1] == a[1]
    if b[0].factor:
        assert (a[0] * b[0]).over(b[0]) == a[0]


def test_rows_are_found_in_products_only() -> None:
    """What rows are multiplied with is known for products, and for nothing else."""
    a, two = A, number(2)
    assert (ROWS * a * two).per_row == a * two
    assert (ROWS * a + ROWS).per_row == a + number(1)
    assert (ROWS + number(1)).per_row is None
    assert (ROWS * ROWS).per_row is None
    assert floor_divide(ROWS, two).per_row is None
    assert floor_divide(ROWS * a + ROWS * two, ROWS) == a + two
    assert floor_divide(ROWS * two + number(1), two) == ROWS


def test_broadcast_sizes() -> None:
    """Two sizes that are broadcast leave the one that is known, and a cut table leaves its length."""
    a, b = A, B
    assert joint(a, number(1)) == a
    assert joint(number(5), a) == number(5)
    assert joint(smaller(a, number(512)), a) == a
    assert joint(joint(a, b), b) == joint(b, a)


def test_names_stay_short() -> None:
    """The name of a size does not grow with the depth of the graph."""
    size = A
    for _ in range(40):
        size = opaque("Conv", size + size, size * size)
    assert len(str(size)) < 200
    assert product([size, size]).over(size) == size
