"""Small graphs in ONNX's text form, and what the engine says of their rows: it shares no logic with the analysis."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper, parser

from tailcut.engines.rows import analyse_rows
from tailcut.spec import Rows

SCALES = np.array([1, 60, 0.1, 7, 300])  # the rows' magnitudes: what is shared between rows shows
OTHER_AXES = 4  # the length that free axes beside the first are given


_LITERAL = re.compile(r"[\[{]([-\d., ]*)[\]}]")


@dataclass(frozen=True)
class Case:
    """A graph and what must be found; `shows`: that rows mix is seen in the answers of random requests; `runs`:
    the engine has the operator.

    In the body, `[0, -1]` among the inputs of an operator is a tensor of one axis, and `{1}` or `{0.5}` a scalar.
    """

    rows: Rows
    signature: str
    body: str
    opset: int = 17
    high: int = 3  # integer inputs lie in 0 <= x < high
    weights: Mapping[str, tuple[int, ...] | np.ndarray] = field(default_factory=dict)
    shows: bool = True
    runs: bool = True

    def __str__(self) -> str:
        return f"{self.rows}-{self.body}".replace("\n", " ")


def build(case: Case) -> onnx.ModelProto:
    """The model, with random weights where only a shape is given."""
    domains = f'"" : {case.opset}, "ai.onnx.ml" : 3, "com.microsoft" : 1, "com.microsoft.nchwc" : 1'
    head = f"<ir_version: 9, opset_import: [{domains}]>"
    body, weights = _named(case.body)
    model = parser.parse_model(f"{head}\ngraph {case.signature}\n{{ {body} }}")
    model.ir_version = 9 if case.opset < 23 else 11
    random = np.random.default_rng(5)
    for name, given in {**weights, **case.weights}.items():
        array = given if isinstance(given, np.ndarray) else random.standard_normal(given).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for output in model.graph.output:
        if not output.type.tensor_type.shape.dim:
            output.type.tensor_type.ClearField("shape")
    return model


def _named(body: str) -> tuple[str, dict[str, np.ndarray]]:
    """The body with names in place of numbers among the inputs, and the tensors of these names."""
    weights: dict[str, np.ndarray] = {}

    def name(match: re.Match[str]) -> str:
        text = match.group(0)
        numbers = [number for number in match.group(1).split(",") if number.strip()]
        array = np.array(numbers, np.float32 if "." in text else np.int64)
        weights[f"c{len(weights)}"] = array if text.startswith("[") else array.reshape(())
        return f"c{len(weights) - 1}"

    parts = re.split(r"(<[^>]*>)", body)
    return "".join(part if part.startswith("<") else _LITERAL.sub(name, part) for part in parts), weights


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def requests(model: onnx.ModelProto, seed: int = 0, high: int = 3) -> dict[str, np.ndarray]:
    """Five rows for every input, of different magnitudes."""
    random, feeds = np.random.default_rng(seed), {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = (len(SCALES), *(dim.dim_value or OTHER_AXES for dim in kind.shape.dim[1:]))
        if kind.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE):
            scales = SCALES.reshape(-1, *[1] * (len(shape) - 1))
            array = random.standard_normal(shape) * scales
        elif kind.elem_type == TensorProto.STRING:
            array = random.choice(np.array(["a b", "b", "c a b"], object), shape)
        else:
            array = random.integers(0, 2 if kind.elem_type == TensorProto.BOOL else high, shape)
        feeds[value.name] = array.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return feeds


def rows_are_alone(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> bool:
    """Whether the engine answers each row as it does alone: together, in other orders, and in a larger batch.

    Raises:
        RuntimeError: the engine does not take one row.
    """
    session = open_session(model)
    count = len(SCALES)
    try:
        alone = [_run(session, feeds, [row]) for row in range(count)]
    except Exception as error:
        raise RuntimeError(str(error)) from error
    if any(answer.shape[:1] != (1,) for answers in alone for answer in answers):
        return False
    orders: list[Sequence[int]] = [range(count), range(count - 1, -1, -1), [2, 0], [*range(count), 3, 1, 4]]
    for order in orders:
        try:
            together = _run(session, feeds, order)
        except Exception:  # noqa: BLE001  it took one row, and does not take several
            return False
        for index, result in enumerate(together):
            if result.shape[:1] != (len(order),) or not all(
                _same(result[at], alone[row][index][0]) for at, row in enumerate(order)
            ):
                return False
    return True


def _run(session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray], order: Sequence[int]) -> list[np.ndarray]:
    answers = session.run(None, {name: array[list(order)] for name, array in feeds.items()})
    return [answer if isinstance(answer, np.ndarray) else np.array(answer, object) for answer in answers]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(np.isclose(a[key], b[key], 1e-3, 1e-6) for key in a)
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "fiub":
        return bool((a == b).all())
    a, b = a.astype(float), b.astype(float)
    near = 1e-5 * max(1.0, np.abs(b, where=np.isfinite(b), out=np.zeros_like(b)).max(initial=0))
    return bool(np.allclose(a, b, rtol=1e-3, atol=near, equal_nan=True))


def check(case: Case) -> None:
    """The analysis finds what it must, and the engine's answers agree."""
    model = build(case)
    evidence = analyse_rows(model)
    assert evidence.rows is case.rows, evidence.reason
    feeds = requests(model, high=case.high)
    if not case.runs:
        return
    if case.rows is Rows.INDEPENDENT:
        assert rows_are_alone(model, feeds)
    elif case.rows is Rows.DEPENDENT and case.shows:
        assert not _seem_alone(model, case)


def _seem_alone(model: onnx.ModelProto, case: Case) -> bool:
    try:
        return all(rows_are_alone(model, requests(model, seed, case.high)) for seed in range(3))
    except RuntimeError:
        return False
