"""Whether a graph computes each row apart from the others. A stand-in: only what is never so is known."""

import onnx

from tailcut.spec import RowEvidence, Rows

_UNKNOWN = {"If", "Loop", "Scan"}
_DEPENDENT = {"DynamicQuantizeLinear", "NonZero", "RandomNormalLike"}


def analyse_rows(model: onnx.ModelProto) -> RowEvidence:
    """The evidence of a graph's operators."""
    for node in model.graph.node:
        if node.op_type in _UNKNOWN:
            return RowEvidence(Rows.UNKNOWN, f"operator {node.op_type} is not known")
        if node.op_type in _DEPENDENT:
            return RowEvidence(Rows.DEPENDENT, f"operator {node.op_type} looks at all rows")
    return RowEvidence(Rows.INDEPENDENT, "every operator computes each row apart")
