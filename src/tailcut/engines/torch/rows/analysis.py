"""Decides whether the rows of an exported program are independent, by following their axis through every tensor.

In the symbolic shapes of a program's tensors, the number of rows is a symbol. A rule for each kind of operator says
where the rows of its result are. The verdict is independent if every output has the input's rows on axis 0; dependent
if a rule finds that an operator mixes, counts or orders rows, or draws random numbers; unknown for an operator without
a rule. The proof at run time has to agree (docs/decisions/048).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sympy

from tailcut.engines.torch.rows import rules_elementwise, rules_layout, rules_matmul, rules_pick, rules_reduce
from tailcut.engines.torch.rows.nodes import name_of, nodes_in, shape_of
from tailcut.engines.torch.rows.places import (
    NOWHERE,
    Lies,
    Place,
    Places,
    RowsSpoiledError,
    Rule,
    Table,
    dependent,
    unknown,
)
from tailcut.spec import RowEvidence, Rows

_RULES: Table = {
    **rules_elementwise.RULES,
    **rules_layout.RULES,
    **rules_matmul.RULES,
    **rules_pick.RULES,
    **rules_reduce.RULES,
}
_RANDOM = (
    "rand", "randn", "randint", "bernoulli", "multinomial", "normal", "rand_like", "randn_like", "uniform",
    "native_dropout",
)  # fmt: skip
_SILENT = (
    "sym_size", "sym_numel", "sym_constrain_range", "sym_constrain_range_for_size", "_assert_tensor_metadata",
    "_assert_scalar", "_assert_async", "sym_stride",
)  # fmt: skip


class RowAnalysis:
    """The analysis of one graph.

    Args:
        rows: the symbol that stands for the number of rows.
    """

    def __init__(self, rows: sympy.Symbol) -> None:
        self._places = Places(rows)

    def run(self, graph: Any, inputs: Sequence[Any], outputs: Mapping[str, Any]) -> RowEvidence:
        """Follow the rows from these placeholders to these outputs, by name."""
        for node in graph.nodes:
            if node.op == "placeholder":
                self._places[node] = Lies(0) if node in inputs else NOWHERE
            elif node.op == "call_function":
                try:
                    self._places[node] = _place(self._places, node)
                except RowsSpoiledError as spoiled:
                    return RowEvidence(spoiled.rows, f"operator {name_of(node)} {spoiled.reason}")
            elif node.op != "output":
                self._places[node] = NOWHERE
        return self._judge(outputs)

    def _judge(self, outputs: Mapping[str, Any]) -> RowEvidence:
        for name, node in outputs.items():
            location = self._places.get(node)
            shape = shape_of(node)
            if not isinstance(location, Lies) or location.axis is None:
                return RowEvidence(Rows.DEPENDENT, f"output {name!r} does not follow the rows of the inputs")
            if location != Lies(0) or shape[0] != self._places.rows:
                return RowEvidence(Rows.DEPENDENT, f"output {name!r} has its rows elsewhere than on the first axis")
        return RowEvidence(Rows.INDEPENDENT, "every operator of the program keeps rows apart")


def _place(places: Places, node: Any) -> Place:
    name = name_of(node)
    if node.target.__class__.__name__ != "OpOverload":
        return _of_python(places, node)
    if name in _SILENT:
        return None
    if name.endswith("_") and not name.endswith("__"):
        changed = node.args[0]
        if len(changed.users) > 1:
            raise unknown("changes a tensor that others read")
        name = name[:-1]
    operands = places.operands(node)
    if name in _RANDOM or (name in {"dropout", "feature_dropout"} and node.args[2]):
        raise dependent("draws at random")
    if name in rules_elementwise.MADE:
        return rules_elementwise.made(places, node, name)
    if all(
        isinstance(location, Lies) and location.axis is None
        for location in map(places.__getitem__, operands)
        if location is not None
    ):
        return _constant(places, node, operands)
    return _rule(name)(places, node)


def _rule(name: str) -> Rule:
    """The rule of an operator, also under PyTorch's private name for it, such as `_adaptive_avg_pool2d`."""
    rule = _RULES.get(name) or _RULES.get(name.strip("_").removesuffix("_aa"))
    if rule is None:
        raise unknown("has no rule")
    return rule


def _constant(places: Places, node: Any, operands: Sequence[Any]) -> Place:
    """An operator without operands that have rows: its result has none, unless it is expanded over them."""
    if name_of(node) in {"expand", "repeat"} and places.axes_of_rows(node):
        return rules_layout.expand(places, node)
    if places.counts(node) or any(places.counts(operand) for operand in operands):
        raise dependent("counts the rows")
    return tuple(NOWHERE for _ in node.meta["val"]) if isinstance(node.meta["val"], list | tuple) else NOWHERE


def _of_python(places: Places, node: Any) -> Place:
    """Python's operators: arithmetic on sizes, and picking one of several results."""
    if node.target.__name__ == "getitem":
        result = places[node.args[0]]
        if isinstance(result, tuple):
            return result[node.args[1]]  # type: ignore[no-any-return]
    if any(isinstance(places.get(arg), Lies) for arg in nodes_in(node.args)):
        raise unknown("has no rule")
    return None
