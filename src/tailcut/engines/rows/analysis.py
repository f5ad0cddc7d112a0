"""Follows the rows through a graph, node by node, from the inputs to the outputs; needs no engine and no weights."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper, inliner, numpy_helper

from tailcut.engines.rows import (
    rules_blocks,
    rules_contrib,
    rules_elementwise,
    rules_join,
    rules_layout,
    rules_lists,
    rules_matmul,
    rules_microsoft,
    rules_ml,
    rules_nchwc,
    rules_pick,
    rules_quantize,
    rules_random,
    rules_reduce,
    rules_sequence,
    rules_text,
    rules_vision,
)
from tailcut.engines.rows.constants import constant_node, initializer
from tailcut.engines.rows.needed import captured, needed_names
from tailcut.engines.rows.operation import Operation, Rule, Table
from tailcut.engines.rows.signature import excluded, input_values, judged
from tailcut.engines.rows.sizes import Size, number
from tailcut.engines.rows.values import ITEMS, Foreign, Mixes, Spoiled, Unclear, Value
from tailcut.spec import RowEvidence, Rows

_ONNX: Table = {
    **rules_elementwise.RULES,
    **rules_layout.RULES,
    **rules_join.RULES,
    **rules_lists.RULES,
    **rules_pick.RULES,
    **rules_reduce.RULES,
    **rules_matmul.RULES,
    **rules_vision.RULES,
    **rules_sequence.RULES,
    **rules_quantize.RULES,
    **rules_random.RULES,
    **rules_text.RULES,
}
_TABLES: Mapping[str, Table] = {
    "": _ONNX,
    "ai.onnx": _ONNX,
    "ai.onnx.ml": rules_ml.RULES,
    "com.microsoft": {
        **rules_microsoft.RULES,
        **rules_blocks.RULES,
        **rules_contrib.RULES,
        **rules_text.MICROSOFT,
    },
    "com.microsoft.nchwc": rules_nchwc.RULES,
}
_CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}
_OLDEST_OPSET = 7  # in older ones, broadcasting and some operators differ
_OLDEST_SCAN = 9  # in older ones, Scan has a batch axis

Tensor = Value | Spoiled


def analyse_rows(model: onnx.ModelProto) -> RowEvidence:
    """Whether each row of every output is a function of the same row of the inputs, and of nothing else.

    The rows are on the first axis of every input and output. The verdict is INDEPENDENT only if rules for all operators
    prove it, whatever the sizes of the other axes; DEPENDENT names the operator that mixes rows, or the input or output
    without a free first axis; UNKNOWN names the operator that cannot be analysed. Weights are not read, except small
    numeric tensors in the file itself. The rules follow the ONNX operator specification
    (https://onnx.ai/onnx/operators/) and onnxruntime's ContribOperators.md.
    """
    signature = excluded(model.graph)
    if signature is not None:
        return signature
    if model.functions:
        try:
            model = inliner.inline_local_functions(model)
        except Exception:  # noqa: BLE001  the inliner's errors have no common base
            return RowEvidence(Rows.UNKNOWN, "the model's own functions cannot be inlined")
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    walk = _Walk({**opsets, "": opset, "ai.onnx": opset})
    walk.tensors.update(input_values(model.graph))
    walk.through(model.graph)
    outputs = [judged(output.name, walk.tensors.get(output.name)) for output in model.graph.output]
    return _verdict([*outputs, *walk.unneeded], walk.count)


def _verdict(outputs: Iterable[Tensor], count: int) -> RowEvidence:
    spoiled = _worst(output for output in outputs if isinstance(output, Spoiled))
    if spoiled is None:
        return RowEvidence(Rows.INDEPENDENT, f"each of the graph's {count} operators keeps the rows apart")
    return RowEvidence(spoiled.verdict, spoiled.reason)


def _worst(spoiled: Iterable[Spoiled]) -> Spoiled | None:
    """The first tensor whose rows are certainly mixed; otherwise the first of all; None if there is none."""
    candidates = list(spoiled)
    return next(
        (candidate for candidate in candidates if candidate.verdict is Rows.DEPENDENT),
        candidates[0] if candidates else None,
    )


@dataclass(slots=True)
class _Walk:
    """The tensors known so far, the number of operators followed, and what is unclear in those that no output needs."""

    opsets: Mapping[str, int]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    unneeded: list[Spoiled] = field(default_factory=list)

    def through(self, graph: onnx.GraphProto) -> None:
        """Follow all nodes: onnxruntime also computes those that no output needs, and these may refuse several rows."""
        for tensor in graph.initializer:
            self.tensors[tensor.name] = initializer(tensor)
        for sparse in graph.sparse_initializer:
            self.tensors[sparse.values.name] = Value(tuple(number(size) for size in sparse.dims))
        needed = needed_names(graph)
        for node in graph.node:
            self._follow(node)
            if any(name in needed for name in node.output):
                self.count += 1
            else:
                spoiled = _worst(value for value in map(self.tensors.get, node.output) if isinstance(value, Spoiled))
                self.unneeded += [] if spoiled is None else [Spoiled(Rows.UNKNOWN, f"{spoiled.reason}, for no output")]

    def _follow(self, node: onnx.NodeProto) -> None:
        answers = self._answers(node)
        for index, name in enumerate(node.output):
            if name and index < len(answers):
                self.tensors[name] = answers[index]
            elif name:
                self.tensors[name] = Spoiled(Rows.UNKNOWN, f"{_label(node)} has an output that is not followed")

    def _answers(self, node: onnx.NodeProto) -> list[Tensor]:
        """One tensor for each output of the node."""
        result = [self.tensors.get(name) for name in (*filter(None, node.input), *captured(node))]
        everywhere = len(node.output)
        if None in result:
            return [_spoiled(node, Rows.UNKNOWN, "uses a tensor that the graph has not computed")] * everywhere
        spoiled = _worst(tensor for tensor in result if isinstance(tensor, Spoiled))
        if spoiled is not None:
            return [spoiled] * everywhere
        try:
            return list(self._applied(node))
        except Mixes as reason:
            return [_spoiled(node, Rows.DEPENDENT, reason.why, reason.where)] * everywhere
        except Exception as reason:  # noqa: BLE001  a malformed node may break a rule anywhere
            if not isinstance(reason, Foreign) and all(map(_row_free, result)):
                return [Value(None)] * everywhere  # its result does not depend on the rows
            why = reason.why if isinstance(reason, Unclear) else "cannot be followed"
            return [_spoiled(node, Rows.UNKNOWN, why)] * everywhere

    def _applied(self, node: onnx.NodeProto) -> Iterator[Tensor]:
        attributes = _attributes(node)
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            yield constant_node(attributes)
            return
        if node.op_type in ("If", "Scan") and node.domain in ("", "ai.onnx"):
            yield from self._branch(node) if node.op_type == "If" else self._scan(node, attributes)
            return
        rule = self._rule(node)
        inputs = tuple(self.tensors[name] if name else None for name in node.input)
        known = tuple(value for value in inputs if not isinstance(value, Spoiled))
        operation = Operation(
            node.op_type, _label(node), attributes, known, tuple(node.output), self.opsets.get(node.domain, 1)
        )
        if not rule.counts and any(value.counts for value in operation.given):
            raise Mixes("computes with the number of rows")
        if not rule.numbered and any(value.numbered for value in operation.given):
            raise Mixes("computes with a row's place in the batch")
        if not rule.filled and any(value.filler is not None for value in operation.given):
            raise Mixes("sees how long other rows are")
        answer = rule.apply(operation)
        for value in [answer] if isinstance(answer, Value) else answer:
            yield _checked(value)

    def _rule(self, node: onnx.NodeProto) -> Rule:
        table = _TABLES.get(node.domain)
        if table is _ONNX and not _as_today(node.op_type, self.opsets[""]):
            raise Unclear(f"is of opset {self.opsets['']}, and this operator is followed from opset {_OLDEST_OPSET} on")
        rule = None if table is None else table.get(node.op_type)
        if rule is not None:
            return rule
        if table is None:
            raise Foreign(f"belongs to {node.domain!r}, whose operators are not known")
        if node.op_type in _CONTROL_FLOW:
            raise Foreign("is control flow, which is not followed")
        if table is not _ONNX and table is not rules_ml.RULES:
            raise Foreign("is an operator without a rule")
        raise Unclear("is an operator without a rule")

    def _branch(self, node: onnx.NodeProto) -> list[Tensor]:
        """Follow the branch that an If takes, if its condition is the same for every request."""
        condition = self.tensors[node.input[0]]
        item = condition.items.flat[0] if isinstance(condition, Value) and condition.items is not None else None
        if item is None or item.number is None:
            raise Foreign("is control flow, which is not followed")
        wanted = "then_branch" if item.number else "else_branch"
        graph = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
        self.through(graph)
        return [self.tensors[output.name] for output in graph.output]

    def _scan(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> list[Tensor]:
        """Follow a Scan along an axis other than the rows', whose states keep shape and rows: all turns are alike."""
        body, scanned = attributes["body"], int(attributes["num_scan_inputs"])
        axes = list(attributes.get("scan_input_axes", [0] * scanned))
        axes += attributes.get("scan_output_axes", [0] * (len(node.output) - len(node.input) + scanned))
        given = [self.tensors[name] for name in node.input]
        values = [value for value in given if isinstance(value, Value)]
        if any(axes) or self.opsets[""] < _OLDEST_SCAN or any(value.counts or value.impure for value in values):
            raise Foreign("is a loop that is not followed")
        states, tables = values[: len(values) - scanned], values[len(values) - scanned :]
        if any(table.rows is not None and table.rows.axis == 0 for table in tables):
            raise Mixes("goes from row to row")
        turns = [Value(state.sizes, state.rows) for state in states]
        turns += [Value(table.sizes[1:], table.rows and table.rows.at(table.rows.axis - 1)) for table in tables]
        self.tensors.update(zip((value.name for value in body.input), turns, strict=True))
        self.through(body)
        answers = [self.tensors[output.name] for output in body.output]
        spoiled = _worst(answer for answer in answers if isinstance(answer, Spoiled))
        if spoiled is not None:  # the next iteration begins with it
            return [spoiled] * len(node.output)
        for state, answer in zip(turns[: len(states)], answers, strict=False):
            if not isinstance(answer, Value) or answer.counts or answer.impure:
                raise Foreign("is a loop whose state cannot be followed")
            if (answer.sizes, answer.rows) != (state.sizes, state.rows):
                raise Foreign("is a loop whose state cannot be followed")
        return [*turns[: len(states)], *(_stacked(answer, tables[0].sizes[0]) for answer in answers[len(states) :])]


def _stacked(tensor: Tensor, count: Size) -> Tensor:
    """What a loop collects: the tensor with a new first axis."""
    if not isinstance(tensor, Value) or tensor.counts or tensor.impure:
        raise Foreign("is a loop that is not followed")
    return Value((count, *tensor.sizes), tensor.rows and tensor.rows.at(tensor.rows.axis + 1))


def _as_today(kind: str, opset: int) -> bool:
    """Whether an ONNX operator in this opset is already the one that the rules describe."""
    if opset >= _OLDEST_OPSET:
        return True
    try:
        return bool(onnx.defs.get_schema(kind, _OLDEST_OPSET).since_version <= opset)
    except onnx.defs.SchemaError:
        return False


def _row_free(tensor: Tensor | None) -> bool:
    return isinstance(tensor, Value) and tensor.rows is None and not tensor.counts


def _checked(value: Tensor) -> Tensor:
    """A rule's result; raises Unclear if its shape depends on the number of rows anywhere but on the row axis."""
    if isinstance(value, Spoiled):
        return value
    if value.rows is None:
        lies = value.shape is not None and any(size.rows for size in value.shape)
    else:
        sizes = value.sizes
        lies = sizes[value.rows.axis] != value.rows.size or sum(size.rows for size in sizes) > 1
    if lies:
        raise Unclear("has a result whose rows cannot be followed")
    return value


def _spoiled(node: onnx.NodeProto, verdict: Rows, why: str, where: str = "") -> Spoiled:
    name = f"{node.op_type} {where}".rstrip()
    return Spoiled(verdict, f"{name} (node {_name(node)!r}) {why}")


def _name(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "?")


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} (node {_name(node)!r})"


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes as Python values; tensors as arrays, except large or external ones, whose shape alone is read."""
    attributes = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.TENSOR:
            small = value.data_location != TensorProto.EXTERNAL and prod(value.dims) <= ITEMS
            value = numpy_helper.to_array(value) if small else initializer(value)
        elif attribute.type == AttributeProto.STRING:
            value = value.decode(errors="replace")
        elif attribute.type == AttributeProto.STRINGS:
            value = [text.decode(errors="replace") for text in value]
        attributes[attribute.name] = value
    return attributes
