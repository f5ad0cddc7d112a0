"""Operators that combine elements along axes: reductions, normalisation, pooling, sorting."""

from functools import partial
from typing import Any

from tailcut.engines.torch.rows.nodes import argument, name_of, nodes_in, shape_of
from tailcut.engines.torch.rows.places import NOWHERE, Lies, Place, Places, Table, dependent, single, unknown, without
from tailcut.engines.torch.rows.rules_elementwise import elementwise

_REDUCTIONS = (
    "sum", "mean", "amax", "amin", "prod", "any", "all", "var", "std", "logsumexp", "norm", "linalg_vector_norm",
    "argmax", "argmin",
)  # fmt: skip
_ALONG = ("softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum", "cumprod", "flip", "glu", "argsort")
_NORMS = ("batch_norm", "_native_batch_norm_legit_no_training", "instance_norm", "group_norm", "cudnn_batch_norm")
_SPATIAL = {"pixel_shuffle": 3, "pixel_unshuffle": 3} | {  # the number of last axes that are mixed
    name: axes
    for axes in (1, 2, 3)
    for name in (
        f"max_pool{axes}d", f"avg_pool{axes}d", f"adaptive_avg_pool{axes}d", f"_adaptive_avg_pool{axes}d",
        f"adaptive_max_pool{axes}d", f"max_pool{axes}d_with_indices", f"upsample_nearest{axes}d",
        f"upsample_bilinear{axes}d", f"upsample_bicubic{axes}d", f"upsample_linear{axes}d", f"reflection_pad{axes}d",
        f"replication_pad{axes}d",
    )
}  # fmt: skip


def _reduce(places: Places, node: Any, *, pairs: bool = False) -> Place:
    location = places.of(node.args[0])
    rank = len(shape_of(node.args[0]))
    dims = argument(node, 2 if name_of(node) in {"norm", "linalg_vector_norm"} else 1, "dim")
    if isinstance(dims, bool) or dims in (None, []):
        raise dependent("reduces over the rows")
    axes = {int(dim) % rank for dim in (dims if isinstance(dims, list | tuple) else [dims])}
    result = node.meta["val"][0] if pairs else node.meta["val"]
    kept = len(result.shape) == rank
    reduced = without(location, axes, "reduces over the rows", kept=kept)
    return (reduced, reduced) if pairs else reduced


def _reduce_paired(places: Places, node: Any) -> Place:
    """Max and min: with an axis, the result is values and indices; with a second tensor, it is elementwise."""
    if len(node.args) < 2:
        raise unknown("has no rule")
    if nodes_in(node.args[1]):
        return elementwise(places, node)
    return _reduce(places, node, pairs=True)


def _along(places: Places, node: Any) -> Place:
    location = places.of(node.args[0])
    dims = argument(node, 1, "dim")
    rank = len(shape_of(node.args[0]))
    for dim in dims if isinstance(dims, list | tuple) else [-1 if dims is None else dims]:
        if int(dim) % rank == location.axis:
            raise dependent("mixes the rows")
    return location


def _normalise(places: Places, node: Any) -> Place:
    training = {"batch_norm": 5, "cudnn_batch_norm": 5}.get(name_of(node))
    if training is not None and argument(node, training, "training"):
        raise dependent("normalises over the batch")
    data = places.of(node.args[0])
    if data != Lies(0) or any(
        single(places[operand]).axis is not None for operand in places.operands(node) if operand is not node.args[0]
    ):
        raise unknown("has its rows elsewhere than on the first axis")
    if isinstance(node.meta["val"], list | tuple):
        return (data, *(NOWHERE for _ in node.meta["val"][1:]))
    return data


def _pool(places: Places, node: Any, *, count: int) -> Place:
    location = last_axes(places, node, count)
    return (location, location) if isinstance(node.meta["val"], list | tuple) else location


def last_axes(places: Places, node: Any, count: int) -> Lies:
    """The rows stay where they are if only the last `count` axes are mixed.

    Raises:
        RowsSpoiledError: the rows are on one of these axes.
    """
    location = places.of(node.args[0])
    if location.axis is None or location.axis >= len(shape_of(node.args[0])) - count:
        raise dependent("mixes the rows")
    return location


def _layer_norm(places: Places, node: Any) -> Place:
    places.need_constant([argument(node, 2, "weight"), argument(node, 3, "bias")])
    return last_axes(places, node, len(node.args[1]))


def _rms_norm(places: Places, node: Any) -> Place:
    places.need_constant([argument(node, 2, "weight")])
    return last_axes(places, node, len(node.args[1]))


def _native_layer_norm(places: Places, node: Any) -> Place:
    location = single(_layer_norm(places, node))
    return (location, location, location)


def _topk(places: Places, node: Any) -> Place:
    dim = argument(node, 2, "dim")
    if (-1 if dim is None else int(dim)) % len(shape_of(node.args[0])) == places.of(node.args[0]).axis:
        raise dependent("orders the rows")
    return (places.of(node.args[0]), places.of(node.args[0]))


def _sort(places: Places, node: Any) -> Place:
    location = _along(places, node)
    return (location, location)


RULES: Table = {
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("max", "min"), _reduce_paired),
    **dict.fromkeys(_ALONG, _along),
    **dict.fromkeys(_NORMS, _normalise),
    **{name: partial(_pool, count=axes) for name, axes in _SPATIAL.items()},
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "native_layer_norm": _native_layer_norm,
    "topk": _topk,
    "sort": _sort,
    "cummax": _sort,
    "cummin": _sort,
}
