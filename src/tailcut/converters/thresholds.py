"""The thresholds of the trees in an ONNX model whose input is the model's input."""

from pathlib import Path

import numpy as np

from tailcut.converters.original import need

_SAME = {"Cast", "Identity"}  # operators that keep the values of their input


def thresholds_of(path: Path) -> dict[int, np.ndarray]:
    """The thresholds of all trees by column, sorted; empty where no tree reads the model's input directly."""
    graph = need("onnx", "onnx").load(path).graph
    raw = {tensor.name for tensor in graph.input}
    result: dict[int, set[float]] = {}
    for node in graph.node:
        if node.op_type in _SAME and node.input[0] in raw:
            raw.update(node.output)
        if not node.op_type.startswith("TreeEnsemble") or node.input[0] not in raw:
            continue
        fields = {field.name: field for field in node.attribute}
        if "nodes_featureids" not in fields or "nodes_values" not in fields:
            continue
        columns, modes = fields["nodes_featureids"].ints, fields["nodes_modes"].strings
        for column, mode, value in zip(columns, modes, fields["nodes_values"].floats, strict=True):
            if mode != b"LEAF":
                result.setdefault(column, set()).add(value)
    return {column: np.array(sorted(values), np.float32) for column, values in result.items()}
