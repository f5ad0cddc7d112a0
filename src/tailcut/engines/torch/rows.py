"""Whether the rows of an exported program are independent, read from its graph: which axis they lie on in every tensor.

PyTorch gives each tensor of a program its symbolic shape, in which the number of rows is one symbol. Along `axis`,
element `(o * rows + row) * inner + i` belongs to `row`: `inner` is more than 1 where heads were folded into the rows,
and `outer`, the number of values of o, where rows were folded into times. One rule for each kind of operator says where
the rows of its result lie. The verdict is independent where every output has the rows on axis 0, one for one; dependent
where a rule sees that an operator mixes, counts or orders rows, or draws at random; unknown for an operator without a
rule. The run-time proof has to agree (docs/decisions/048).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy

from tailcut.spec import RowEvidence, Rows

_ONE = sympy.Integer(1)


@dataclass(frozen=True, slots=True)
class Lies:
    """Where a tensor's rows lie; `axis` is None where no element depends on a row or on their number."""

    axis: int | None
    inner: sympy.Expr = _ONE
    outer: sympy.Expr = _ONE

    def at(self, axis: int) -> "Lies":
        """The same on another axis."""
        return Lies(axis, self.inner, self.outer)


@dataclass(frozen=True, slots=True)
class RowsSpoiledError(Exception):
    """An operator whose result has no rows, or may have none."""

    rows: Rows
    reason: str


Place = Lies | tuple[Any, ...] | None  # None: no tensor
_NOWHERE = Lies(None)
_ELEMENTWISE = frozenset(
    [
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "true_divide",
        "floor_divide",
        "remainder",
        "fmod",
        "pow",
        "neg",
        "abs",
        "sign",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atan2",
        "sigmoid",
        "logit",
        "erf",
        "erfc",
        "relu",
        "relu6",
        "gelu",
        "silu",
        "mish",
        "elu",
        "selu",
        "celu",
        "leaky_relu",
        "prelu",
        "softplus",
        "softsign",
        "hardtanh",
        "hardsigmoid",
        "hardswish",
        "threshold",
        "log_sigmoid",
        "clamp",
        "clamp_min",
        "clamp_max",
        "minimum",
        "maximum",
        "fmin",
        "fmax",
        "round",
        "floor",
        "ceil",
        "trunc",
        "frac",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "logical_and",
        "logical_or",
        "logical_not",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_not",
        "bitwise_xor",
        "__and__",
        "__or__",
        "__xor__",
        "isnan",
        "isinf",
        "isfinite",
        "where",
        "masked_fill",
        "to",
        "_to_copy",
        "type_as",
        "float",
        "detach",
        "alias",
        "clone",
        "contiguous",
        "lift_fresh_copy",
        "lift_fresh",
        "addcmul",
        "addcdiv",
        "lerp",
        "square",
        "nan_to_num",
        "fill",
        "zeros_like",
        "ones_like",
        "full_like",
        "_conj",
        "resolve_conj",
        "resolve_neg",
        "positive",
        "detach_",
        "sgn",
        "hypot",
        "ldexp",
        "bitwise_left_shift",
        "bitwise_right_shift",
        "fake_quantize_per_tensor_affine",
        "quantize_per_tensor",
        "dequantize_per_tensor",
    ]
)
_VIEWS = frozenset(
    ["view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_copy", "_reshape_alias"]
)
_REDUCTIONS = frozenset(
    [
        "sum",
        "mean",
        "amax",
        "amin",
        "prod",
        "any",
        "all",
        "var",
        "std",
        "logsumexp",
        "norm",
        "linalg_vector_norm",
        "argmax",
        "argmin",
    ]
)
_PAIRED = frozenset(["max", "min"])  # with a dim: values and indices
_ALONG = frozenset(["softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum", "cumprod", "flip", "glu"])
_CONVOLUTIONS = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "convolution",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "_convolution",
    ]
)
_SPATIAL = {"pixel_shuffle": 3, "pixel_unshuffle": 3} | {  # so many of the last axes are mixed
    name: axes
    for axes in (1, 2, 3)
    for name in (
        f"max_pool{axes}d", f"avg_pool{axes}d", f"adaptive_avg_pool{axes}d", f"_adaptive_avg_pool{axes}d",
        f"adaptive_max_pool{axes}d", f"max_pool{axes}d_with_indices", f"upsample_nearest{axes}d",
        f"upsample_bilinear{axes}d", f"upsample_bicubic{axes}d", f"upsample_linear{axes}d", f"reflection_pad{axes}d",
        f"replication_pad{axes}d",
    )
}  # fmt: skip
_MADE = frozenset(
    [
        "zeros",
        "ones",
        "full",
        "empty",
        "arange",
        "scalar_tensor",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "eye",
        "tril_indices",
    ]
)
_RANDOM = frozenset(
    [
        "rand",
        "randn",
        "randint",
        "bernoulli",
        "multinomial",
        "normal",
        "rand_like",
        "randn_like",
        "uniform",
        "native_dropout",
    ]
)
_SILENT = frozenset(
    [
        "sym_size",
        "sym_numel",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
        "_assert_tensor_metadata",
        "_assert_scalar",
        "_assert_async",
        "sym_stride",
    ]
)


class RowAnalysis:
    """One reading of a graph.

    Args:
        rows: the symbol that stands for the number of rows.
    """

    def __init__(self, rows: sympy.Symbol) -> None:
        self._rows = rows
        self._places: dict[Any, Place] = {}

    def run(self, graph: Any, inputs: Sequence[Any], outputs: Mapping[str, Any]) -> RowEvidence:
        """Follow the rows from these placeholders to these outputs, by name."""
        for node in graph.nodes:
            if node.op == "placeholder":
                self._places[node] = Lies(0) if node in inputs else _NOWHERE
            elif node.op == "call_function":
                try:
                    self._places[node] = self._place(node)
                except RowsSpoiledError as spoiled:
                    return RowEvidence(spoiled.rows, f"operator {_name(node)} {spoiled.reason}")
            elif node.op != "output":
                self._places[node] = _NOWHERE
        return self._judge(outputs)

    def _judge(self, outputs: Mapping[str, Any]) -> RowEvidence:
        for name, node in outputs.items():
            place = self._places.get(node)
            shape = _shape(node)
            if not isinstance(place, Lies) or place.axis is None:
                return RowEvidence(Rows.DEPENDENT, f"output {name!r} does not follow the rows of the inputs")
            if place != Lies(0) or shape[0] != self._rows:
                return RowEvidence(Rows.DEPENDENT, f"output {name!r} has its rows elsewhere than on the first axis")
        return RowEvidence(Rows.INDEPENDENT, "every operator of the program keeps rows apart")

    def _place(self, node: Any) -> Place:
        name = _name(node)
        if node.target.__class__.__name__ != "OpOverload":
            return self._of_python(node)
        if name in _SILENT:
            return None
        if name.endswith("_") and not name.endswith("__"):
            changed = node.args[0]
            if len(changed.users) > 1:
                raise _unknown("changes a tensor that others read")
            name = name[:-1]
        operands = [arg for arg in _flat((node.args, node.kwargs)) if arg in self._places]
        if name in _RANDOM or (name in {"dropout", "feature_dropout"} and node.args[2]):
            raise RowsSpoiledError(Rows.DEPENDENT, "draws at random")
        places = [self._places[arg] for arg in operands]
        if name in _MADE:
            return self._made(node, name)
        if all(isinstance(place, Lies) and place.axis is None for place in places if place is not None):
            return self._constant(node, operands)
        return self._follow(node, name, operands)

    def _follow(self, node: Any, name: str, operands: list[Any]) -> Place:  # noqa: PLR0911  a rule a line
        if name in _ELEMENTWISE or name == "dropout":
            return self._elementwise(node, operands)
        if name in _VIEWS:
            return self._view(node)
        if name in _REDUCTIONS or (name in _PAIRED and len(node.args) > 1):
            return self._reduce(node, pairs=name in _PAIRED)
        if name in _CONVOLUTIONS:
            return self._first_axis(node, operands, len(_shape(node)))
        if name in {
            "batch_norm",
            "_native_batch_norm_legit_no_training",
            "instance_norm",
            "group_norm",
            "cudnn_batch_norm",
        }:
            return self._normalise(node, name, operands)
        base = name.removeprefix("_").removesuffix("_aa")
        if base in _SPATIAL or name in _SPATIAL:
            return self._last_axes(node, _SPATIAL[name if name in _SPATIAL else base])
        rule = getattr(self, f"_rule_{name.strip('_')}", None)
        if rule is None and name in _ALONG:
            rule = self._along
        if rule is None:
            raise _unknown("has no rule")
        return rule(node)  # type: ignore[no-any-return]

    # Rules.

    def _constant(self, node: Any, operands: Sequence[Any]) -> Place:
        """No operand has rows; so neither has the result, unless it is spread over them."""
        if _name(node) == "expand" and self._axes_of_rows(node):
            return self._rule_expand(node)
        if self._counts(node) or any(self._counts(operand) for operand in operands):
            raise RowsSpoiledError(Rows.DEPENDENT, "counts the rows")
        return tuple(_NOWHERE for _ in node.meta["val"]) if isinstance(node.meta["val"], list | tuple) else _NOWHERE

    def _made(self, node: Any, name: str) -> Place:
        """Filled alike everywhere; numbered elements tell a row's place."""
        axes = self._axes_of_rows(node)
        if not axes:
            if name in {"full", "new_full", "scalar_tensor", "arange"} and self._counts_in(node):
                raise RowsSpoiledError(Rows.DEPENDENT, "counts the rows")
            return _NOWHERE
        if name in {"arange", "eye", "tril_indices"} or len(axes) > 1:
            raise RowsSpoiledError(Rows.DEPENDENT, "numbers the rows")
        return Lies(axes[0], _shape(node)[axes[0]] / self._rows)

    def _elementwise(self, node: Any, operands: Sequence[Any]) -> Place:
        """Operands are broadcast from the right; all that have rows have them on the same axis."""
        rank = len(_shape(node))
        found: Lies | None = None
        for operand in operands:
            place = self._places[operand]
            if place is None:
                if self._rows in _symbols(operand):
                    raise RowsSpoiledError(Rows.DEPENDENT, "counts the rows")
                continue
            place = _lies(place)
            if place.axis is None:
                continue
            place = place.at(place.axis + rank - len(_shape(operand)))
            if found is not None and found != place:
                raise RowsSpoiledError(Rows.DEPENDENT, "combines rows with other rows")
            found = place
        if found is None or found.axis is None:
            return _NOWHERE
        for operand in operands:
            place = self._places[operand]
            shape = _shape(operand) if isinstance(place, Lies) else ()
            axis = found.axis - rank + len(shape)
            if isinstance(place, Lies) and place.axis is None and axis >= 0 and shape[axis] != 1:
                if self._rows in shape[axis].free_symbols:
                    raise RowsSpoiledError(Rows.DEPENDENT, "tells a row by its place")
                raise _unknown("broadcasts over the rows")
        return found

    def _view(self, node: Any) -> Place:
        """Elements keep their order, so as many lie before and behind each row as did."""
        place = self._of(node.args[0])
        before = _product(_shape(node.args[0])[: place.axis]) * place.outer
        shape = _shape(node)
        for axis, size in enumerate(shape):
            if self._rows in size.free_symbols:
                outer = before / _product(shape[:axis])
                inner = size / self._rows / outer
                after = _product(shape[axis + 1 :])
                whole = all(sympy.fraction(part)[1] == 1 for part in (outer, inner))
                if whole and not any(self._rows in part.free_symbols for part in (outer, inner, after)):
                    return Lies(axis, inner, outer)
                break
        raise RowsSpoiledError(Rows.DEPENDENT, "folds the rows into another axis")

    def _reduce(self, node: Any, *, pairs: bool) -> Place:
        place = self._of(node.args[0])
        rank = len(_shape(node.args[0]))
        dims = _argument(node, 2 if _name(node) in {"norm", "linalg_vector_norm"} else 1, "dim")
        if isinstance(dims, bool) or dims in (None, []):
            raise RowsSpoiledError(Rows.DEPENDENT, "reduces over the rows")
        axes = {int(dim) % rank for dim in (dims if isinstance(dims, list | tuple) else [dims])}
        result = node.meta["val"][0] if pairs else node.meta["val"]
        kept = len(result.shape) == rank
        found = self._without(place, axes, "reduces over the rows", kept=kept)
        return (found, found) if pairs else found

    def _first_axis(self, node: Any, operands: Sequence[Any], rank: int) -> Place:
        data = self._of(node.args[0])
        if (
            data.axis != 0
            or len(_shape(node.args[0])) != rank
            or any(
                _lies(self._places[operand]).axis is not None
                for operand in operands
                if operand is not node.args[0] and self._places[operand] is not None
            )
        ):
            raise _unknown("has weights or channels that depend on rows")
        return data

    def _normalise(self, node: Any, name: str, operands: Sequence[Any]) -> Place:
        training = {"batch_norm": 5, "cudnn_batch_norm": 5}.get(name)
        if training is not None and _argument(node, training, "training"):
            raise RowsSpoiledError(Rows.DEPENDENT, "normalises over the batch")
        data = self._of(node.args[0])
        if data != Lies(0) or any(
            _lies(self._places[one]).axis is not None for one in operands if one is not node.args[0]
        ):
            raise _unknown("has its rows elsewhere than on the first axis")
        if isinstance(node.meta["val"], list | tuple):
            return (data, *(_NOWHERE for _ in node.meta["val"][1:]))
        return data

    def _last_axes(self, node: Any, count: int) -> Place:
        place = self._of(node.args[0])
        if place.axis is None or place.axis >= len(_shape(node.args[0])) - count:
            raise RowsSpoiledError(Rows.DEPENDENT, "mixes the rows")
        return (place, place) if isinstance(node.meta["val"], list | tuple) else place

    def _along(self, node: Any) -> Place:
        place = self._of(node.args[0])
        dims = _argument(node, 1, "dim")
        rank = len(_shape(node.args[0]))
        for dim in dims if isinstance(dims, list | tuple) else [-1 if dims is None else dims]:
            if int(dim) % rank == place.axis:
                raise RowsSpoiledError(Rows.DEPENDENT, "mixes the rows")
        return place

    def _rule_linear(self, node: Any) -> Place:
        place = self._of(node.args[0])
        if place.axis == len(_shape(node.args[0])) - 1:
            raise RowsSpoiledError(Rows.DEPENDENT, "sums over the rows")
        self._need_constant(node.args[1:])
        return place

    def _rule_addmm(self, node: Any) -> Place:
        self._need_constant([node.args[0], node.args[2]])
        place = self._of(node.args[1])
        if place.axis != 0:
            raise RowsSpoiledError(Rows.DEPENDENT, "sums over the rows")
        return place

    def _rule_matmul(self, node: Any) -> Place:
        left, right = node.args[:2]
        ranks = [len(_shape(left)), len(_shape(right))]
        rank = len(_shape(node))
        if min(ranks) < 2:
            raise _unknown("multiplies vectors")
        found: set[Lies] = set()
        for operand, own, summed in ((left, ranks[0], ranks[0] - 1), (right, ranks[1], ranks[1] - 2)):
            place = _lies(self._places[operand])
            if place.axis is None:
                continue
            if place.axis == summed:
                raise RowsSpoiledError(Rows.DEPENDENT, "sums over the rows")
            found.add(place.at(place.axis + rank - own))
        if len(found) != 1:
            raise RowsSpoiledError(Rows.DEPENDENT, "multiplies rows with other rows")
        [place] = found
        both = all(_lies(self._places[one]).axis is not None for one in (left, right))
        if both and place.axis is not None and place.axis >= rank - 2:
            raise RowsSpoiledError(Rows.DEPENDENT, "multiplies rows with other rows")
        return place

    _rule_mm = _rule_bmm = _rule_matmul

    def _rule_scaled_dot_product_attention(self, node: Any) -> Place:
        query, rank = self._of(node.args[0]), len(_shape(node.args[0]))
        mask = _argument(node, 3, "attn_mask")
        if _argument(node, 4, "dropout_p"):
            raise RowsSpoiledError(Rows.DEPENDENT, "draws at random")
        if query.axis is None or query.axis >= rank - 2 or {self._of(one) for one in node.args[1:3]} != {query}:
            raise _unknown("attends over rows")
        if mask is not None:
            place, own = _lies(self._places[mask]), len(_shape(mask))
            axis = query.axis - rank + own
            aligned = place == query.at(axis)
            if not aligned and (place.axis is not None or (axis >= 0 and _shape(mask)[axis] != 1)):
                raise _unknown("masks rows by other rows")
        return query

    def _rule_layer_norm(self, node: Any) -> Place:
        self._need_constant(node.args[2:4])
        return self._last_axes_single(node, len(node.args[1]))

    _rule_rms_norm = _rule_layer_norm

    def _rule_native_layer_norm(self, node: Any) -> Place:
        place = _lies(self._rule_layer_norm(node))
        return (place, place, place)

    def _last_axes_single(self, node: Any, count: int) -> Lies:
        place = self._of(node.args[0])
        if place.axis is None or place.axis >= len(_shape(node.args[0])) - count:
            raise RowsSpoiledError(Rows.DEPENDENT, "mixes the rows")
        return place

    def _rule_embedding(self, node: Any) -> Place:
        self._need_constant([node.args[0]])
        return self._of(node.args[1])

    def _rule_transpose(self, node: Any) -> Place:
        place, rank = self._of(node.args[0]), len(_shape(node))
        one, other = (int(axis) % rank for axis in node.args[1:3])
        return place.at({one: other, other: one}.get(place.axis or 0, place.axis or 0))

    def _rule_t(self, node: Any) -> Place:
        place = self._of(node.args[0])
        return place.at(len(_shape(node)) - 1 - (place.axis or 0))

    def _rule_permute(self, node: Any) -> Place:
        place, rank = self._of(node.args[0]), len(_shape(node))
        return place.at([int(axis) % rank for axis in node.args[1]].index(place.axis or 0))

    def _rule_expand(self, node: Any) -> Place:
        place, shape = _lies(self._places[node.args[0]]), _shape(node)
        moved = len(shape) - len(_shape(node.args[0]))
        axes = self._axes_of_rows(node)
        if place.axis is not None:
            axes = [axis for axis in axes if axis != place.axis + moved]
            if axes:
                raise RowsSpoiledError(Rows.DEPENDENT, "spreads rows over other rows")
            return place.at(place.axis + moved)
        if len(axes) != 1:
            raise _unknown("spreads over several axes")
        own = axes[0] - moved
        if own >= 0 and _shape(node.args[0])[own] != 1:
            raise RowsSpoiledError(Rows.DEPENDENT, "tells a row by its place")
        return Lies(axes[0], shape[axes[0]] / self._rows)

    _rule_broadcast_to = _rule_expand

    def _rule_expand_as(self, node: Any) -> Place:
        return self._rule_expand(node)

    def _rule_select(self, node: Any) -> Place:
        return self._without(self._of(node.args[0]), {self._axis(node)}, "picks a row", kept=False)

    def _rule_unbind(self, node: Any) -> Place:
        axis = int(_argument(node, 1, "dim") or 0) % len(_shape(node.args[0]))
        place = self._without(self._of(node.args[0]), {axis}, "picks rows", kept=False)
        return tuple(place for _ in node.meta["val"])

    def _rule_slice(self, node: Any) -> Place:
        place = self._of(node.args[0])
        if self._axis(node) == place.axis and _shape(node) != _shape(node.args[0]):
            raise RowsSpoiledError(Rows.DEPENDENT, "picks rows")
        return place

    def _rule_narrow(self, node: Any) -> Place:
        return self._rule_slice(node)

    def _rule_split(self, node: Any) -> Place:
        place = self._of(node.args[0])
        if int(_argument(node, 2, "dim") or 0) % len(_shape(node.args[0])) == place.axis:
            raise RowsSpoiledError(Rows.DEPENDENT, "picks rows")
        return tuple(place for _ in node.meta["val"])

    _rule_chunk = _rule_split_with_sizes = _rule_tensor_split = _rule_split

    def _rule_cat(self, node: Any) -> Place:
        tensors = node.args[0]
        rank, dim = len(_shape(tensors[0])), int(_argument(node, 1, "dim") or 0)
        places = {_lies(self._places[one]) for one in tensors}
        if len(places) != 1:
            raise _unknown("joins tensors with rows and without")
        [place] = places
        if dim % rank == place.axis:
            raise RowsSpoiledError(Rows.DEPENDENT, "joins rows")
        return place

    _rule_concat = _rule_cat

    def _rule_stack(self, node: Any) -> Place:
        rank, dim = len(_shape(node)), int(_argument(node, 1, "dim") or 0) % len(_shape(node))
        places = {_lies(self._places[one]) for one in node.args[0]}
        if len(places) != 1 or rank < 1:
            raise _unknown("joins tensors with rows and without")
        [place] = places
        return place.at((place.axis or 0) + (dim <= (place.axis or 0)))

    def _rule_gather(self, node: Any) -> Place:
        place = self._of(node.args[0])
        if self._axis(node) == place.axis or _lies(self._places[node.args[2]]) != place:
            raise _unknown("gathers across rows")
        return place

    def _rule_index_select(self, node: Any) -> Place:
        self._need_constant([node.args[2]])
        if self._axis(node) == self._of(node.args[0]).axis:
            raise RowsSpoiledError(Rows.DEPENDENT, "picks rows")
        return self._of(node.args[0])

    def _rule_index(self, node: Any) -> Place:
        """One index: constant, of another axis; or of a table without rows, by each row's own numbers."""
        given = [(axis, index) for axis, index in enumerate(node.args[1]) if index is not None]
        data = _lies(self._places[node.args[0]])
        if len(given) != 1:
            raise _unknown("has several indices")
        [(axis, index)] = given
        place, rank = _lies(self._places[index]), len(_shape(index))
        if data.axis is None:
            return place.at((place.axis or 0) + axis)
        if place.axis is not None or axis == data.axis:
            raise _unknown("picks across rows")
        return data.at(data.axis + (rank - 1 if axis < data.axis else 0))

    def _rule_topk(self, node: Any) -> Place:
        dim = _argument(node, 2, "dim")
        if (-1 if dim is None else int(dim)) % len(_shape(node.args[0])) == self._of(node.args[0]).axis:
            raise RowsSpoiledError(Rows.DEPENDENT, "orders the rows")
        return (self._of(node.args[0]), self._of(node.args[0]))

    def _rule_sort(self, node: Any) -> Place:
        place = self._along(node)
        return (place, place)

    _rule_cummax = _rule_cummin = _rule_sort

    def _rule_argsort(self, node: Any) -> Place:
        return self._along(node)

    def _rule_constant_pad_nd(self, node: Any) -> Place:
        return self._last_axes_single(node, len(node.args[1]) // 2)

    _rule_pad = _rule_constant_pad_nd

    def _rule_repeat(self, node: Any) -> Place:
        place, rank = self._of(node.args[0]), len(_shape(node))
        axis = (place.axis or 0) + rank - len(_shape(node.args[0]))
        if node.args[1][axis] != 1 or len(self._axes_of_rows(node)) != 1:
            raise RowsSpoiledError(Rows.DEPENDENT, "repeats the rows")
        return place.at(axis)

    def _rule_lstm(self, node: Any) -> Place:
        """Input, states of (layers, rows, features), ..., and whether the rows come first."""
        first = bool(node.args[8])
        for state in node.args[1]:
            if self._of(state) != Lies(1):
                raise _unknown("has states without rows")
        return (self._recurrent(node, first=first), Lies(1), Lies(1))

    def _rule_gru(self, node: Any) -> Place:
        if self._of(node.args[1]) != Lies(1):
            raise _unknown("has states without rows")
        return (self._recurrent(node, first=bool(node.args[8])), Lies(1))

    def _recurrent(self, node: Any, *, first: bool) -> Lies:
        place = self._of(node.args[0])
        if place != Lies(0 if first else 1):
            raise RowsSpoiledError(Rows.DEPENDENT, "takes the rows for times")
        return place

    def _of_python(self, node: Any) -> Place:
        """Arithmetic on sizes, and taking one of several results."""
        if node.target.__name__ == "getitem":
            result = self._places[node.args[0]]
            if isinstance(result, tuple):
                return result[node.args[1]]  # type: ignore[no-any-return]
        if any(isinstance(self._places.get(arg), Lies) for arg in _flat(node.args)):
            raise _unknown("has no rule")
        return None

    # What operands and results are.

    def _of(self, node: Any) -> Lies:
        """Where the rows of a tensor lie that has some."""
        place = _lies(self._places[node])
        if place.axis is None:
            raise _unknown("has rows only in its other operands")
        return place

    def _need_constant(self, nodes: Sequence[Any]) -> None:
        for node in nodes:
            if node is not None and _lies(self._places[node]).axis is not None:
                raise _unknown("has weights that depend on rows")

    def _axis(self, node: Any) -> int:
        return int(_argument(node, 1, "dim") or 0) % len(_shape(node.args[0]))

    def _axes_of_rows(self, node: Any) -> list[int]:
        return [axis for axis, size in enumerate(_shape(node)) if self._rows in size.free_symbols]

    def _counts(self, node: Any) -> bool:
        """Whether a value is as large as there are rows, or a number made of how many there are."""
        return self._rows in _symbols(node)

    def _counts_in(self, node: Any) -> bool:
        return any(self._counts(arg) for arg in _flat((node.args, node.kwargs)) if hasattr(arg, "meta"))

    @staticmethod
    def _without(place: Lies, axes: set[int], fault: str, *, kept: bool) -> Lies:
        if place.axis in axes:
            raise RowsSpoiledError(Rows.DEPENDENT, fault)
        return place if kept else place.at((place.axis or 0) - sum(axis < (place.axis or 0) for axis in axes))


def _unknown(reason: str) -> RowsSpoiledError:
    return RowsSpoiledError(Rows.UNKNOWN, reason)


def _lies(place: Place) -> Lies:
    if not isinstance(place, Lies):
        raise _unknown("takes several results at once")
    return place


def _name(node: Any) -> str:
    """An operator's name without its library and overload: `softmax`."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet).rpartition(".")[2] if packet is not None else str(getattr(node.target, "__name__", node.target))


def _shape(node: Any) -> tuple[sympy.Expr, ...]:
    return tuple(expression(dim) for dim in node.meta["val"].shape)


def expression(dim: Any) -> sympy.Expr:
    """A size as PyTorch has it, as an expression of symbols."""
    return dim.node.expr if hasattr(dim, "node") else sympy.Integer(int(dim))


def _symbols(node: Any) -> set[Any]:
    value = node.meta.get("val")
    sizes = value.shape if hasattr(value, "shape") else [value]
    return {symbol for size in sizes if hasattr(size, "node") for symbol in size.node.expr.free_symbols}


def _product(sizes: Sequence[sympy.Expr]) -> sympy.Expr:
    return sympy.Mul(*sizes)


def _argument(node: Any, index: int, name: str) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name)


def _flat(value: Any) -> list[Any]:
    """All arguments, those in lists among them."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [one for item in value for one in _flat(item)]
    return [value] if hasattr(value, "meta") else []
