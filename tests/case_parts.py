"""Building blocks of the cases, and the comparison of an answer with the truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper, numpy_helper

Arrays = dict[str, np.ndarray]
Dims = list[int | str | None]
node = helper.make_node


@dataclass(frozen=True)
class Case:
    """A model, and requests of different sizes for it."""

    model: onnx.ModelProto
    requests: list[Arrays]
    batched: bool = False
    openvino: str = ""  # why openvino cannot compute it; "" if it can

    def truths(self) -> list[Arrays | None]:
        """onnxruntime's answer to each request alone; None if it refuses the request."""
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(self.model.SerializeToString(), options, ["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        answers: list[Arrays | None] = []
        for request in self.requests:
            try:
                answers.append(dict(zip(names, map(np.asarray, session.run(names, request)), strict=True)))
            except Exception:  # noqa: BLE001  onnxruntime's errors share no base
                answers.append(None)
        return answers


def check_same(got: Arrays, want: Arrays) -> None:
    """Check that two answers are equal except for rounding, shapes and dtypes included."""
    assert set(got) == set(want)
    for name, array in want.items():
        assert got[name].shape == array.shape
        if array.dtype.kind == "f":
            assert got[name].dtype == array.dtype
            np.testing.assert_allclose(got[name], array, rtol=1e-3, atol=1e-4)
        elif array.dtype == object:
            text = [item.decode() if isinstance(item, bytes) else item for item in got[name].reshape(-1).tolist()]
            assert text == array.reshape(-1).tolist()
        else:
            assert got[name].dtype == array.dtype
            assert np.array_equal(got[name], array)


def save_all(folder: Path, cases: dict[str, Case]) -> None:
    """Save each case as NAME.onnx."""
    for name, case in cases.items():
        onnx.save(case.model, folder / f"{name}.onnx")


def value_info(name: str, kind: int, *dims: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def made_model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: Arrays | None = None,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "case", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def floats(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dense(name: str, x: Dims, y: Dims) -> onnx.ModelProto:
    weights = {"w": floats(1, 4, 3), "b": floats(2, 3)}
    return made_model(
        [node("Gemm", [name, "w", "b"], ["y"])],
        [value_info(name, T.FLOAT, *x)],
        [value_info("y", T.FLOAT, *y)],
        weights,
    )


def independent(name: str, x: Dims, y: Dims) -> Case:
    return Case(dense(name, x, y), [{name: floats(n, n, 4)} for n in (1, 2, 1, 3, 11, 1)], batched=True)
