"""Finds the nodes that the outputs of a graph need, and removes the others."""

import onnx
from onnx import AttributeProto


def captured(node: onnx.NodeProto) -> list[str]:
    """The names of tensors that a node's subgraphs read from the surrounding graph."""
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
    """The names of all tensors that the outputs depend on."""
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
    """Remove operators that no output needs, in place: onnxruntime would compute them. Returns whether there were any.

    Unneeded constants alone do not count, because they cost nothing.
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
