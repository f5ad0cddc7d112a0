"""Sizes of axes as products of a number, the number of rows, free axes, and other factors that cannot be decomposed.

Exported models compute the operands of Reshape, Expand and Slice from the shapes of other tensors, so arithmetic must
preserve sizes: `rows * length * 12 / 12` is `rows * length`. Sizes are exact fractions times sorted atoms; two sizes
that compare equal are equal for every request.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from math import gcd

_NAME_CHARS = 120  # longer names are replaced by a digest; otherwise they would grow with the depth of the graph
_TERMS = 32  # a product of sums with more terms is not expanded


@dataclass(frozen=True, slots=True, order=True)
class Atom:
    """A factor that is not a number. Atoms are compared by name alone.

    `rows`: it depends on the number of rows. `positive`: at least 1; otherwise at least 0 where `natural`.
    """

    name: str
    rows: bool = field(default=False, compare=False)
    whole: bool = field(default=True, compare=False)
    natural: bool = field(default=True, compare=False)
    positive: bool = field(default=False, compare=False)
    kind: str = field(default="", compare=False)  # "" for a symbol, "+" for a sum, or a function's name
    parts: "tuple[Size, ...]" = field(default=(), compare=False)  # the terms of a sum, a function's arguments


@dataclass(frozen=True, slots=True)
class Size:
    """`factor` times `atoms` (sorted; an atom may occur several times)."""

    factor: Fraction
    atoms: tuple[Atom, ...] = ()

    def __str__(self) -> str:
        names = [atom.name for atom in self.atoms]
        return "*".join(names if self.factor == 1 and names else [str(self.factor), *names])

    def __mul__(self, other: "Size") -> "Size":
        if not self.atoms and self.factor == 1:
            return other
        if not other.atoms and other.factor == 1:
            return self
        factor = self.factor * other.factor
        return Size(factor, tuple(sorted(self.atoms + other.atoms))) if factor else ZERO

    def __add__(self, other: "Size") -> "Size":
        return _total((*_expanded(self), *_expanded(other)))

    def __sub__(self, other: "Size") -> "Size":
        return self + Size(-other.factor, other.atoms)

    @property
    def number(self) -> Fraction | None:
        """The value if there are no atoms; otherwise None."""
        return None if self.atoms else self.factor

    @property
    def integer(self) -> int | None:
        """The value if it is a known integer; otherwise None."""
        return self.factor.numerator if not self.atoms and self.factor.denominator == 1 else None

    @property
    def rows(self) -> bool:
        """Whether it depends on the number of rows."""
        return any(atom.rows for atom in self.atoms)

    @property
    def whole(self) -> bool:
        """Whether it is an integer for every request."""
        return self.factor.denominator == 1 and all(atom.whole for atom in self.atoms)

    @property
    def natural(self) -> bool:
        """Whether it is at least 0 for every request."""
        return self.factor >= 0 and all(atom.natural for atom in self.atoms)

    @property
    def positive(self) -> bool:
        """Whether it is greater than 0 for every request."""
        return self.factor > 0 and all(atom.positive for atom in self.atoms)

    @property
    def per_row(self) -> "Size | None":
        """The other factor, if this is the number of rows times something without rows; otherwise None."""
        quotient = self.over(ROWS)
        return None if quotient is None or quotient.rows else quotient

    def over(self, other: "Size") -> "Size | None":
        """The quotient if it is exact for every request; otherwise None."""
        if other.factor == 0:
            return None
        if self.factor == 0:
            return ZERO
        left = Counter(self.atoms)
        left.subtract(Counter(other.atoms))
        if any(count < 0 for count in left.values()):
            return None
        quotient = Size(self.factor / other.factor, tuple(sorted(left.elements())))
        return quotient if quotient.whole or not self.whole else None


def number(value: float | Fraction) -> Size:
    """A known number."""
    return Size(Fraction(value))


def symbol(kind: str, *names: str | int) -> Size:
    """An axis whose length is the same for every row, known only by its names, which may be any text."""
    return Size(Fraction(1), (Atom(f"{kind} {names!r}"),))


def opaque(kind: str, *parts: Size, whole: bool = True, natural: bool = True) -> Size:
    """An opaque function of other sizes: equal to another one if its name and arguments are equal."""
    name = f"{kind}({', '.join(map(str, parts))})"
    atom = Atom(_short(name), any(part.rows for part in parts), whole, natural, kind=kind, parts=parts)
    return Size(Fraction(1), (atom,))


def product(sizes: Iterable[Size]) -> Size:
    """The product of all sizes; 1 for none."""
    return reduce(Size.__mul__, sizes, ONE)


def sign(size: Size) -> int | None:
    """The sign (-1, 0 or 1) if it is the same for every request; otherwise None."""
    terms = _expanded(size)
    if all(term.natural for term in terms):
        if any(term.positive for term in terms):
            return 1
        return 0 if all(term.factor == 0 for term in terms) else None
    negated = [Size(-term.factor, term.atoms) for term in terms]
    if all(term.natural for term in negated) and any(term.positive for term in negated):
        return -1
    return None


def joint(a: Size, b: Size) -> Size:
    """The size of an axis on which two tensors are broadcast: both are equal, or one of them is 1."""
    if a == b or b.integer == 1:
        return a
    if a.integer == 1:
        return b
    if a.integer is not None or b.integer is not None:
        return a if a.integer is not None else b
    for size, other in ((a, b), (b, a)):
        atom = size.atoms[0]
        if size.factor == 1 and len(size.atoms) == 1 and other in atom.parts:
            if atom.kind == "min":  # such as a table of 512 positions cut to the length: equal, or the engine fails
                return other
            if atom.kind == "joint":
                return size
    return opaque("joint", *sorted((a, b), key=str))


def floor_divide(a: Size, b: Size) -> Size:
    """Integer division of sizes."""
    exact, rest = ZERO, ZERO
    for term in _expanded(a):
        quotient = term.over(b)
        if quotient is None or not quotient.whole:
            rest = rest + term
        else:
            exact = exact + quotient
    if rest == ZERO:
        return exact
    if rest.integer is not None and b.integer:
        return exact + number(rest.integer // b.integer)
    return exact + opaque("floor", rest, b, natural=rest.natural and b.natural)


def modulo(a: Size, b: Size) -> Size:
    """The remainder of an integer division of sizes of at least 0."""
    if a.over(b) is not None:
        return ZERO
    if a.integer is not None and b.integer:
        return number(a.integer % b.integer)
    return opaque("modulo", a, b)


def smaller(a: Size, b: Size) -> Size:
    """The smaller of two sizes."""
    which = sign(a - b)
    if which is not None:
        return b if which > 0 else a
    return opaque("min", *sorted((a, b), key=str), whole=a.whole and b.whole, natural=a.natural and b.natural)


def larger(a: Size, b: Size) -> Size:
    """The larger of two sizes."""
    which = sign(a - b)
    if which is not None:
        return a if which > 0 else b
    return opaque("max", *sorted((a, b), key=str), whole=a.whole and b.whole, natural=a.natural or b.natural)


def _expanded(size: Size) -> tuple[Size, ...]:
    """The terms of a sum, or of a sum times something; otherwise the size alone."""
    sums = [atom for atom in size.atoms if atom.kind == "+"]
    if not sums or len(sums[0].parts) > _TERMS:
        return (size,)
    rest = list(size.atoms)
    rest.remove(sums[0])
    outer = Size(size.factor, tuple(rest))
    return tuple(piece for term in sums[0].parts for piece in _expanded(outer * term))


def _total(terms: tuple[Size, ...]) -> Size:
    """The sum, with the common factor of all terms in front: `rows * length + rows` becomes `rows * (length + 1)`."""
    sums: dict[tuple[Atom, ...], Fraction] = {}
    for term in terms:
        sums[term.atoms] = sums.get(term.atoms, Fraction(0)) + term.factor
    kept = [(atoms, factor) for atoms, factor in sums.items() if factor]
    if not kept:
        return ZERO
    if len(kept) == 1:
        return Size(kept[0][1], kept[0][0])
    shared = reduce(lambda a, b: a & b, (Counter(atoms) for atoms, _ in kept))
    scale = Fraction(gcd(*(factor.numerator for _, factor in kept)), max(factor.denominator for _, factor in kept))
    rest = [(tuple(sorted((Counter(atoms) - shared).elements())), factor / scale) for atoms, factor in kept]
    parts = tuple(Size(factor, atoms) for atoms, factor in sorted(rest))
    name = _short("(" + " + ".join(map(str, parts)) + ")")
    natural = all(part.natural for part in parts)
    atom = Atom(
        name,
        any(part.rows for part in parts),
        all(part.whole for part in parts),
        natural,
        natural and any(part.positive for part in parts),
        "+",
        parts,
    )
    return Size(scale, tuple(sorted((*shared.elements(), atom))))


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else hashlib.blake2b(name.encode(), digest_size=12).hexdigest()


ZERO = number(0)
ONE = number(1)
ROWS = Size(Fraction(1), (Atom("rows", rows=True, positive=True),))
