"""A model's inputs and outputs: which ones rule out independent rows, and where their rows are."""

from collections import Counter

import onnx

from tailcut.engines.rows.sizes import ROWS, Size, number, symbol
from tailcut.engines.rows.values import RowAxis, Spoiled, Value
from tailcut.spec import RowEvidence, Rows


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def excluded(graph: onnx.GraphProto) -> RowEvidence | None:
    """Evidence against independent rows from the inputs and outputs alone; None if there is none."""
    inputs = real_inputs(graph)
    if not inputs:
        return RowEvidence(Rows.DEPENDENT, "the model has no inputs")
    for kind, value in [("input", value) for value in inputs] + [("output", value) for value in graph.output]:
        name = f"{kind} {value.name!r}"
        if value.type.WhichOneof("value") != "tensor_type":
            if kind == "input":
                return RowEvidence(Rows.UNKNOWN, f"{name} is not a tensor")
            continue
        if not value.type.tensor_type.HasField("shape"):
            if kind == "input":
                return RowEvidence(Rows.UNKNOWN, f"{name} has no shape")
            continue
        dims = value.type.tensor_type.shape.dim
        if not dims:
            return RowEvidence(Rows.DEPENDENT, f"{name} is a single value without a first axis")
        if dims[0].HasField("dim_value") and dims[0].dim_value >= 0:
            return RowEvidence(Rows.DEPENDENT, f"the first axis of {name} has the fixed length {dims[0].dim_value}")
    return None


def input_values(graph: onnx.GraphProto) -> dict[str, Value]:
    """The values of all inputs, with rows on axis 0 whatever the name of that axis.

    Axes of different inputs with the same name have equal lengths. Names that occur twice in one input or that are also
    the name of a first axis (such as `None` or `?`) are ignored.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in real_inputs(graph)}
    vague = {
        name for dims in shapes.values() for name, times in Counter(d.dim_param for d in dims).items() if times > 1
    }
    vague.update(dims[0].dim_param for dims in shapes.values())
    vague.update(("?", "None", "-1", "unk", "dynamic"))
    values = {}
    for name, dims in shapes.items():
        sizes: list[Size] = [ROWS]
        for axis, dim in enumerate(dims[1:], start=1):
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                sizes.append(number(dim.dim_value))
            elif dim.dim_param and dim.dim_param not in vague:
                sizes.append(symbol("axis", dim.dim_param))
            else:
                sizes.append(symbol("input", name, axis))
        values[name] = Value(tuple(sizes), RowAxis(0))
    return values


def judged(name: str, tensor: Value | Spoiled | None) -> Value | Spoiled:
    """An output; Spoiled if its rows are not the inputs' rows on the first axis."""
    if tensor is None:
        return Spoiled(Rows.UNKNOWN, f"output {name!r} is not computed by the graph")
    if isinstance(tensor, Spoiled):
        return tensor
    why = _unlike_inputs(tensor)
    return tensor if why is None else Spoiled(Rows.DEPENDENT, f"output {name!r} {why}")


def _unlike_inputs(tensor: Value) -> str | None:
    """How an output's rows differ from one row per input row on the first axis, as words; None if they do not."""
    rows = tensor.rows
    if tensor.numbered or tensor.counts:
        return "tells the number of rows or their places in the batch"
    if tensor.filler is not None:
        return "has rows as long as the longest"
    if rows is None:
        return "does not follow the rows of the inputs"
    if rows.axis != 0:
        return f"has its rows on axis {rows.axis}, not on the first"
    return None if rows == RowAxis(0) else f"has {rows.outer * rows.inner} rows for each row of the inputs"
