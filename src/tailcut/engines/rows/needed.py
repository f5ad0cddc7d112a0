"""What the outputs of a graph need."""

import onnx
from onnx import AttributeProto


def captured(node: onnx.NodeProto) -> list[str]:
    """Names that a node's subgraphs take from outside."""
    names: list[str] = []
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own.update(name for inner in graph.node for name in inner.output)
            used = [name for inner in graph.node for name in (*inner.input, *captured(inner))]
            used += [value.name for value in graph.output]
            names += [name for name in used if name and name not in own]
    return names


def needed_names(graph: onnx.GraphProto) -> set[str]:
    """Names of all tensors on the way to the outputs."""
    makers = {name: node for node in graph.node for name in node.output if name}
    open_names, needed = [value.name for value in graph.output], set[str]()
    while open_names:
        name = open_names.pop()
        if name in needed:
            continue
        needed.add(name)
        maker = makers.get(name)
        if maker is not None:
            open_names += [*(input_name for input_name in maker.input if input_name), *captured(maker)]
    return needed


def remove_unneeded(graph: onnx.GraphProto) -> bool:
    """Take out the operators that no output needs, in place: onnxruntime computes them. Whether there was any.

    Constants, which cost nothing, are no reason to edit a graph.
    """
    needed = needed_names(graph)
    kept, others = list[onnx.NodeProto](), list[onnx.NodeProto]()
    for node in graph.node:
        (kept if needed.intersection(node.output) else others).append(node)
    if all(node.op_type == "Constant" for node in others):
        return False
    del graph.node[:]
    graph.node.extend(kept)
    return True
