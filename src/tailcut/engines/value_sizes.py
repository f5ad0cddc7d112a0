"""Finds outputs of a graph whose sizes depend on the values of its inputs, whatever sizes the file declares.

A single answer does not reveal such a size: the first request may have exactly the declared number of hits, and the
next one none. Sizes that depend only on the inputs' shapes do not count.
"""

import onnx

from tailcut.spec import Shape

# Operators that return as many elements as they find.
_FINDING = {"Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"}
# By type, the inputs whose values decide the size of the result.
_SIZED_BY = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "If": (0,),
    "MaxUnpool": (2,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}


def open_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """The shapes of these outputs, by name, with None for each size that the operators do not determine.

    Other outputs have the same sizes for all requests of the same sizes.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    valued = {value.name for value in graph.input if value.name not in weights}
    sized: set[str] = set()  # tensors whose sizes depend on values
    for node in graph.node:
        follows = valued if node.op_type not in {"Shape", "Size"} else sized
        inputs = {*node.input, *(name for attribute in node.attribute for name in _captured(attribute))}
        by_value = not inputs.isdisjoint(follows)
        if not inputs.isdisjoint(sized) or (by_value and _sets_size(node, valued)):
            sized.update(node.output)
        if by_value:
            valued.update(node.output)
    result = [value.name for value in graph.output if value.name in sized]
    known = _inferred(model) if result else {}
    return {name: known[name] for name in result if None in known[name]}


def _sets_size(node: onnx.NodeProto, valued: set[str]) -> bool:
    """Whether values of the inputs decide the sizes of the node's outputs."""
    if node.op_type in _FINDING or node.op_type == "Loop":
        return True
    places = _SIZED_BY.get(node.op_type, ())
    return any(node.input[index] in valued for index in places if index < len(node.input))


def _captured(attribute: onnx.AttributeProto) -> list[str]:
    """Names that the graphs inside a node may take from the surrounding graph."""
    graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    nodes = [node for graph in graphs for node in graph.node]
    names = [name for node in nodes for name in node.input]
    return names + [name for node in nodes for inner in node.attribute for name in _captured(inner)]


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    """The shapes of all outputs as the operators determine them, without the shapes that the file declares."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except Exception:  # noqa: BLE001  protobuf's errors have no common base that both its runtimes share
        return {value.name: (None,) * len(value.type.tensor_type.shape.dim) for value in model.graph.output}
    shapes: dict[str, Shape] = {}
    for value, inferred in zip(model.graph.output, copy.graph.output, strict=True):
        dims: Shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in inferred.type.tensor_type.shape.dim
        )
        has_rank = inferred.type.tensor_type.HasField("shape")
        shapes[value.name] = dims if has_rank else (None,) * len(value.type.tensor_type.shape.dim)
    return shapes
