"""Keeps where scikit-learn's trees send missing values; skl2onnx drops that, and sends all of them to the right."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_TRACKS = "nodes_missing_value_tracks_true"


@contextmanager
def missing_values_kept() -> Iterator[None]:
    """Within this context, skl2onnx's converters write for each node of a tree where missing values go."""
    replaced: list[tuple[Any, str, Any]] = []
    for name, made in (
        ("add_tree_to_attribute_pairs", _adding),
        ("add_tree_to_attribute_pairs_hist_gradient_boosting", _plainly_adding),
        ("populate_tree_attributes", _populating),
    ):
        for module in [module for key, module in sys.modules.items() if key.startswith("skl2onnx.")]:
            own = vars(module).get(name)
            if own is not None:
                replaced.append((module, name, own))
                setattr(module, name, made(own))
    try:
        yield
    finally:
        for module, name, own in replaced:
            setattr(module, name, own)


def _adding(own: Callable[..., None]) -> Callable[..., None]:
    """Wrap the function that adds the nodes of a tree to an ensemble."""

    def add(attributes: dict[str, Any], kind: Any, tree: Any, *others: Any, **named: Any) -> None:
        own(attributes, kind, tree, *others, **named)
        attributes[_TRACKS][-tree.node_count :] = _to_the_left(tree)

    return add


def _plainly_adding(own: Callable[..., None]) -> Callable[..., None]:
    """Wrap the function that adds a histogram-based tree: it keeps missing values, but writes bools."""

    def add(attributes: dict[str, Any], kind: Any, tree: Any, *others: Any, **named: Any) -> None:
        own(attributes, kind, tree, *others, **named)
        nodes = len(tree.nodes)
        for values in attributes.values():
            if isinstance(values, list):
                values[-nodes:] = map(_plain, values[-nodes:])  # no list has more than one entry per node

    return add


def _plain(value: Any) -> Any:
    """A numpy number as a Python number, and a bool as an integer."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, bool) else value


def _populating(own: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wrap the function that makes the nodes of a single tree."""

    def populate(model: Any, *others: Any, **named: Any) -> dict[str, Any]:
        return own(model, *others, **named) | {_TRACKS: _to_the_left(model.tree_)}

    return populate


def _to_the_left(tree: Any) -> list[int]:
    """For each node, 1 where missing values go to the left; scikit-learn before 1.3 has no missing values."""
    known = getattr(tree, "missing_go_to_left", None)
    return [0] * tree.node_count if known is None else [int(left) for left in known]
