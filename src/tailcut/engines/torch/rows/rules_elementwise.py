"""Operators that compute each element from those in the same position, and operators that create filled tensors."""

from typing import Any

from tailcut.engines.torch.rows.nodes import shape_of, symbols_of
from tailcut.engines.torch.rows.places import NOWHERE, Lies, Place, Places, Table, dependent, single, unknown

_ELEMENTWISE = (
    "add", "sub", "rsub", "mul", "div", "true_divide", "floor_divide", "remainder", "fmod", "pow", "neg", "abs",
    "sign", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos",
    "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atan2", "sigmoid", "logit", "erf",
    "erfc", "relu", "relu6", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "prelu", "softplus",
    "softsign", "hardtanh", "hardsigmoid", "hardswish", "threshold", "log_sigmoid", "clamp", "clamp_min", "clamp_max",
    "minimum", "maximum", "fmin", "fmax", "round", "floor", "ceil", "trunc", "frac", "eq", "ne", "lt", "le", "gt",
    "ge", "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not",
    "bitwise_xor", "__and__", "__or__", "__xor__", "isnan", "isinf", "isfinite", "where", "masked_fill", "to",
    "_to_copy", "type_as", "float", "detach", "alias", "clone", "contiguous", "lift_fresh_copy", "lift_fresh",
    "addcmul", "addcdiv", "lerp", "square", "nan_to_num", "fill", "zeros_like", "ones_like", "full_like", "_conj",
    "resolve_conj", "resolve_neg", "positive", "detach_", "sgn", "hypot", "ldexp", "bitwise_left_shift",
    "bitwise_right_shift", "fake_quantize_per_tensor_affine", "quantize_per_tensor", "dequantize_per_tensor",
    "dropout",
)  # fmt: skip
MADE = (
    "zeros", "ones", "full", "empty", "arange", "scalar_tensor", "new_zeros", "new_ones", "new_full", "new_empty",
    "eye", "tril_indices",
)  # fmt: skip
_VALUES = {"full": 1, "new_full": 2, "scalar_tensor": 0, "arange": 0}  # the first argument that is not a size


def elementwise(places: Places, node: Any) -> Place:
    """Operands are broadcast from the right; all that have rows have them on the same axis."""
    rank = len(shape_of(node))
    common: Lies | None = None
    for operand in places.operands(node):
        location = places[operand]
        if location is None:
            if places.rows in symbols_of(operand):
                raise dependent("counts the rows")
            continue
        location = single(location)
        if location.axis is None:
            continue
        location = location.at(location.axis + rank - len(shape_of(operand)))
        if common is not None and common != location:
            raise dependent("combines rows with other rows")
        common = location
    if common is None or common.axis is None:
        return NOWHERE
    for operand in places.operands(node):
        location = places[operand]
        shape = shape_of(operand) if isinstance(location, Lies) else ()
        axis = common.axis - rank + len(shape)
        if isinstance(location, Lies) and location.axis is None and axis >= 0 and shape[axis] != 1:
            if places.rows in shape[axis].free_symbols:
                raise dependent("tells a row by its place")
            raise unknown("broadcasts over the rows")
    return common


def made(places: Places, node: Any, name: str) -> Place:
    """A tensor filled with one value; numbered elements (`arange`) depend on a row's index."""
    axes = places.axes_of_rows(node)
    values = _VALUES.get(name)
    if values is not None and (values or not axes) and places.counts_among(node.args[values:]):
        raise dependent("counts the rows")
    if not axes:
        return NOWHERE
    if name in {"arange", "eye", "tril_indices"} or len(axes) > 1:
        raise dependent("numbers the rows")
    return Lies(axes[0], shape_of(node)[axes[0]] / places.rows)


RULES: Table = dict.fromkeys(_ELEMENTWISE, elementwise)
