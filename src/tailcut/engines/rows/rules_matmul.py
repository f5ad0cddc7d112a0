"""Products: the row axis must not be summed over, and rows must not be combined with other rows."""

from collections.abc import Sequence
from dataclasses import replace

from tailcut.engines.rows.operation import Operation, Rule, Table
from tailcut.engines.rows.sizes import ONE, Size, joint
from tailcut.engines.rows.values import Mixes, RowAxis, Unclear, Value, broadcast

_ELLIPSIS = 10  # axes at most, one digit each


def multiplied(a: Value, b: Value) -> Value:
    """A product as in numpy: sums over the last axis of a and the second to last of b, and broadcasts the others."""
    one_a, one_b = a.rank == 1, b.rank == 1
    a = Value((ONE, *a.sizes), a.rows and a.rows.at(1)) if one_a else a
    b = Value((*b.sizes, ONE), b.rows) if one_b else b
    if (a.rows is not None and a.rows.axis == a.rank - 1) or (b.rows is not None and b.rows.axis == b.rank - 2):
        raise Mixes("sums over the rows")
    left = Value((*a.sizes[:-1], ONE), a.rows)
    right = Value((*b.sizes[:-2], ONE, b.sizes[-1]), b.rows)
    result = broadcast(left, right)
    shape, rows = list(result.sizes), result.rows
    # Remove the axes that were added to vectors: the last one for b, the second to last for a.
    for given, index in ((one_b, len(shape) - 1), (one_a, len(shape) - 2)):
        if given:
            del shape[index]
            rows = rows.at(rows.axis - 1) if rows is not None and rows.axis > index else rows
    return Value(tuple(shape), rows)


def turned(value: Value) -> Value:
    """The value with its last two axes swapped."""
    sizes, last = value.sizes, value.rank - 1
    rows = value.rows
    if rows is not None and rows.axis >= last - 1:
        rows = rows.at(2 * last - 1 - rows.axis)
    return Value((*sizes[:-2], sizes[-1], sizes[-2]), rows)


def parameters_without_rows(operation: Operation, first: int) -> None:
    """Raise Unclear if a scale, zero point or weight from input `first` on depends on the rows."""
    if any(value is not None and value.rows is not None for value in operation.inputs[first:]):
        raise Unclear("takes a parameter from the rows")


def _matmul(operation: Operation) -> Value:
    return multiplied(operation.need(0), operation.need(1))


def _matmul_integer(operation: Operation) -> Value:
    parameters_without_rows(operation, 2)
    return multiplied(operation.need(0), operation.need(1))


def _qlinear_matmul(operation: Operation) -> Value:
    a, b = operation.need(0), operation.need(3)
    if any(operation.need(index).rows is not None for index in (1, 2, 4, 5, 6, 7)):
        raise Unclear("takes a parameter from the rows")
    return multiplied(a, b)


def gemm(operation: Operation) -> Value:
    """The sum alpha * A @ B + beta * C, with A and B transposed if the attributes say so."""
    a, b = operation.need(0), operation.need(1)
    a = turned(a) if operation.integer("transA", 0) else a
    b = turned(b) if operation.integer("transB", 0) else b
    result, bias = multiplied(a, b), operation.value(2)
    return result if bias is None else replace(result, rows=broadcast(result, bias).rows)


def _einsum(operation: Operation) -> Value:
    """The letter of the row axis must denote rows wherever it occurs, and must occur in the result."""
    left, right = _subscripts(str(operation.attributes["equation"]), operation.given)
    terms = list(zip(left, operation.given, strict=True))
    if any(len(term) != value.rank or len(set(term)) != len(term) for term, value in terms):
        raise Unclear("has an equation that cannot be followed")
    sizes: dict[str, Size] = {}
    for term, value in terms:
        for letter, size in zip(term, value.sizes, strict=True):
            sizes[letter] = joint(sizes.get(letter, ONE), size)
    rows = {term[value.rows.axis]: value.rows for term, value in terms if value.rows is not None}
    if not rows:
        return Value(tuple(sizes[letter] for letter in right))
    if len(rows) > 1:
        raise Mixes("combines rows with other rows")
    ((letter, row_axis),) = rows.items()
    if any(letter in term and not _as_rows(value, term.index(letter), row_axis) for term, value in terms):
        raise Mixes("aligns the rows with another axis")
    if letter not in right:
        raise Mixes("sums over the rows")
    shape = tuple(row_axis.size if other == letter else sizes[other] for other in right)
    return Value(shape, row_axis.at(right.index(letter)))


def _subscripts(equation: str, values: Sequence[Value]) -> tuple[list[str], str]:
    """The letters of each input and those of the result. The axes of an ellipsis are called 0, 1, ...

    Without an arrow, the result has the ellipsis and then the letters that occur once, in alphabetical order.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    open_terms = [(term, value) for term, value in zip(terms, values, strict=True) if "." in term]
    counts = {value.rank - len(term.replace("...", "")) for term, value in open_terms} or {0}
    count = counts.pop()
    letters = left.replace("...", "").replace(",", "")
    if counts or not 0 <= count <= _ELLIPSIS or not (arrow or letters.islower()) or not letters.isalpha():
        raise Unclear("has an equation that cannot be followed")
    if not arrow:
        once = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        right = ("..." if open_terms else "") + "".join(once)
    axes = "".join(map(str, range(count)))
    return [term.replace("...", axes) for term in terms], right.replace("...", axes)


def _as_rows(value: Value, axis: int, rows: RowAxis) -> bool:
    return value.sizes[axis] == ONE or value.rows == rows.at(axis)


RULES: Table = {
    "MatMul": Rule(_matmul),
    "MatMulInteger": Rule(_matmul_integer),
    "QLinearMatMul": Rule(_qlinear_matmul),
    "Gemm": Rule(gemm),
    "Einsum": Rule(_einsum),
}
