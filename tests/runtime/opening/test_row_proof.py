"""The run-time proof, on real engines: it alone, without what the graph says."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.cases import CASES
from tests.effort import some
from tests.engines.models import gather_rows, identity, masked_mean, perceptron, save, value

from tailcut.engines import open_engine
from tailcut.engines.base import Engine, EngineOptions
from tailcut.machine.fingerprint import isa_flags
from tailcut.runtime.model import Model
from tailcut.runtime.opening import row_proof
from tailcut.runtime.opening.row_proof import prove_rows
from tailcut.runtime.profile import Profile
from tailcut.spec import DType, ModelSpec, RowEvidence, Rows, TensorSpec

ENGINES = ("onnxruntime", "openvino")
# Their made-up rows alone are refused, or are all alike; and branches take the sum of random rows.
NOT_FOR_THE_PROOF = {"branches", "detector", "distinct", "found"}
BATCHABLE = [name for name, case in CASES.items() if name not in {"mean_of_all", "largest_rows"} | NOT_FOR_THE_PROOF]


class Numbers:
    """An engine of one input [batch, 4] and one output, which a function computes."""

    options = EngineOptions()

    def __init__(self, compute: object, dtype: DType = DType.FP32, x_dtype: DType = DType.FP32) -> None:
        x, y = TensorSpec("x", x_dtype, (None, 4)), TensorSpec("y", dtype, (None, 1))
        self.spec = ModelSpec("m", (x,), (y,))
        self._compute = compute
        self.calls = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"y": np.asarray(self._compute(inputs["x"]), self.spec.outputs[0].dtype.numpy)}  # type: ignore[operator]


def proof_of(path: Path, engine: str = "onnxruntime", precision: str = "f32") -> RowEvidence:
    opened: Engine = open_engine(path, EngineOptions(name=engine, precision=precision, threads=1))  # type: ignore[arg-type]
    try:
        return prove_rows(opened, 10.0)
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("engine", "name"),
    [("onnxruntime", name) for name in BATCHABLE] + [("openvino", name) for name in some(dict.fromkeys(BATCHABLE))],
)
def test_it_tells_dependent_rows_from_independent_ones(tmp_path: Path, engine: str, name: str) -> None:
    """By what an engine computes, whatever the operators are; with openvino every third, and all in `make test-all`."""
    case = CASES[name]
    if engine == "openvino" and case.openvino:
        pytest.skip(case.openvino)
    path = tmp_path / "m.onnx"
    onnx.save(case.model, path)
    assert proof_of(path, engine).rows is (Rows.INDEPENDENT if case.batched else Rows.DEPENDENT)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("width", [1, 10])
def test_rounding_is_no_difference(tmp_path: Path, engine: str, width: int) -> None:
    """Kernels for one row and for many sum in another order, over a thousand products."""
    assert proof_of(perceptron([2048, 1024, width], tmp_path / "m.onnx"), engine).rows is Rows.INDEPENDENT


def test_half_precision_is_compared_as_such(tmp_path: Path) -> None:
    """bfloat16 keeps eight bits, and each layer rounds anew."""
    if not {"avx512_bf16", "amx_bf16", "bf16"} & isa_flags():
        pytest.skip("this processor has no bfloat16 instructions")
    path = perceptron([512, 512, 512, 10], tmp_path / "m.onnx")
    assert proof_of(path, "openvino", "bf16").rows is Rows.INDEPENDENT
    onnx.save(CASES["statistics_of_the_batch"].model, path)
    assert proof_of(path, "openvino", "bf16").rows is Rows.DEPENDENT


@pytest.mark.parametrize("make", [gather_rows, masked_mean])
def test_numbers_that_choose_rows_of_a_table(tmp_path: Path, make: object) -> None:
    """Made-up ids and masks are ones that the model takes."""
    assert proof_of(make(tmp_path / "m.onnx")).rows is Rows.INDEPENDENT  # type: ignore[operator]


def test_strings(tmp_path: Path) -> None:
    """They are compared as they are."""
    assert proof_of(identity(DType.BYTES, (None, 2), tmp_path / "m.onnx")).rows is Rows.INDEPENDENT


def test_sums_that_nearly_cancel() -> None:
    """What is left is mostly rounding, in another order of summing other rounding: it moves by itself."""

    def cancelling(x: np.ndarray) -> np.ndarray:
        a, b, c, d = (x[:, index : index + 1] for index in range(4))
        total = ((a + b) + c) + d if len(x) == 1 else ((d + c) + b) + a
        return total - (a + c + b + d) + np.float32(3e-5) * a

    assert prove_rows(Numbers(cancelling), 10.0).rows is Rows.INDEPENDENT


def test_rounding_that_whole_numbers_lead_to() -> None:
    """Ids cannot be off by a little: what a row differs by among copies of itself is rounding, where that is small."""
    table = np.random.default_rng(3).standard_normal((2, 4)).astype(np.float32)

    def looked_up(ids: np.ndarray) -> list[np.ndarray]:
        return [table[ids[:, index], index : index + 1][:, 0][:, None] for index in range(4)]

    def cancelling(ids: np.ndarray) -> np.ndarray:
        a, b, c, d = looked_up(ids)
        total = ((a + b) + c) + d if len(ids) == 1 else ((d + c) + b) + a
        return total - (a + c + b + d) + np.float32(6e-5) * (1 + np.abs(a))

    def leaning(ids: np.ndarray) -> np.ndarray:
        a, *_ = looked_up(ids)
        return a + np.float32(0.01) * a.mean()

    assert prove_rows(Numbers(cancelling, x_dtype=DType.INT64), 10.0).rows is Rows.INDEPENDENT
    assert prove_rows(Numbers(leaning, x_dtype=DType.INT64), 10.0).rows is Rows.DEPENDENT


def test_every_output_is_judged(tmp_path: Path) -> None:
    """One that differs by rounding does not excuse the next."""
    engine = Numbers(lambda x: x[:, :1])
    engine.spec = ModelSpec("m", engine.spec.inputs, (*engine.spec.outputs, TensorSpec("z", DType.FP32, (None, 1))))

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = inputs["x"]
        a, b, c, d = (x[:, index : index + 1] for index in range(4))
        total = ((a + b) + c) + d if len(x) == 1 else ((d + c) + b) + a
        return {"y": total - (a + c + b + d) + np.float32(3e-5) * a, "z": x[:, :1] - x[:, :1].mean(dtype=np.float32)}

    engine.run = run  # type: ignore[method-assign]
    result = prove_rows(engine, 10.0)
    assert result.rows is Rows.DEPENDENT
    assert "'z'" in result.reason


def test_ties_that_rounding_breaks() -> None:
    """A choice between sums that differ by rounding alone may change with the batch; one that is firm may not."""

    def tied(x: np.ndarray) -> np.ndarray:
        a, b, c = x[:, :1], x[:, 1:2], x[:, 2:3]
        first, second = a + b + c, a + (b + c)
        return first > second if len(x) == 1 else second > first

    def firm(x: np.ndarray) -> np.ndarray:
        return (x[:, :1] > 0) == (len(x) == 1)

    assert prove_rows(Numbers(tied, DType.BOOL), 10.0).rows is Rows.INDEPENDENT
    assert prove_rows(Numbers(firm, DType.BOOL), 10.0).rows is Rows.DEPENDENT
    assert prove_rows(Numbers(lambda x: np.arange(len(x))[:, None], DType.INT64), 10.0).rows is Rows.DEPENDENT


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_equals_itself(fill: float) -> None:
    """Whether a row's answer is NaN or infinite depends on the row alone, and is compared as such."""
    always = Numbers(lambda x: np.full((len(x), 1), fill))
    assert prove_rows(always, 10.0).rows is Rows.INDEPENDENT
    together = Numbers(lambda x: np.full((len(x), 1), fill if len(x) > 1 else 1.0))
    assert prove_rows(together, 10.0).rows is Rows.DEPENDENT


def test_a_row_too_many() -> None:
    """An output must have one row for each row of the inputs, alone and together."""
    assert "2 rows for 1 row" in prove_rows(Numbers(lambda x: np.ones((len(x) + 1, 1))), 10.0).reason
    first = Numbers(lambda x: np.ones((1, 1)))
    assert prove_rows(first, 10.0).rows is Rows.DEPENDENT


def test_a_model_that_is_random() -> None:
    """It answers one request in two ways, so nothing can be shown of its rows."""
    random = np.random.default_rng(0)
    result = prove_rows(Numbers(lambda x: random.standard_normal((len(x), 1))), 10.0)
    assert result.rows is Rows.DEPENDENT
    assert "two calls" in result.reason


def test_a_batch_that_the_engine_refuses(tmp_path: Path) -> None:
    """A graph that says one thing and takes another: its reshape wants a single row."""
    nodes = [helper.make_node("Reshape", ["x", "one"], ["y"])]
    ends = [value("x", DType.FP32, (None, 4))], [value("y", DType.FP32, (None, 4))]
    path = save(tmp_path / "m.onnx", nodes, *ends, {"one": np.array([1, 4])})
    result = proof_of(path)
    assert result.rows is Rows.DEPENDENT
    assert "rejected together" in result.reason


def test_a_model_that_takes_nothing_made_up(tmp_path: Path) -> None:
    """It proves nothing, and the reason says so."""
    ten, table = np.array(-1000), np.arange(5, dtype=np.float32)
    nodes = [helper.make_node("Add", ["x", "ten"], ["i"]), helper.make_node("Gather", ["table", "i"], ["y"])]
    ends = [value("x", DType.INT64, (None, 1))], [value("y", DType.FP32, (None, 1))]
    result = proof_of(save(tmp_path / "m.onnx", nodes, *ends, {"table": table, "ten": ten}))
    assert result.rows is Rows.UNKNOWN
    assert result.reason


def test_a_slow_model_is_proven_with_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or not at all, and the reason says so; the time is kept to about a step."""
    clock = [0.0]
    monkeypatch.setattr(row_proof, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def slow(x: np.ndarray) -> np.ndarray:
        clock[0] += 0.02 * len(x)
        return x[:, :1]

    nothing = prove_rows(Numbers(slow), 0.0)
    assert nothing.rows is Rows.UNKNOWN
    assert "too long" in nothing.reason
    clock[0] = 0.0
    some = prove_rows(Numbers(slow), 0.25)
    assert some.rows is Rows.INDEPENDENT
    assert "no time for more" in some.reason
    assert clock[0] <= 0.25
    assert "among 8" in prove_rows(Numbers(slow), 60.0).reason


def test_what_could_be_rounding_is_tried_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow row is not computed again for ever: a difference counts where there is no time to see what it is."""
    clock = [0.0]
    monkeypatch.setattr(row_proof, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(row_proof, "_DISTURBED", 1000)

    def slow(x: np.ndarray) -> np.ndarray:
        clock[0] += 0.02 * len(x)
        return x[:, :1] * (1.01 if len(x) > 1 else 1.0)

    result = prove_rows(Numbers(slow), 0.25)
    assert result.rows is Rows.DEPENDENT
    assert "by 0.01 of its magnitude; a row takes 0.02 s: no time to rule out rounding" in result.reason
    assert clock[0] <= 0.5


def test_float16_rounds_coarsely(tmp_path: Path) -> None:
    """A float16 model's rows may differ by what eleven bits do not hold."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    random = np.random.default_rng(0)
    weights = {
        "w": (random.standard_normal((256, 256)) / 16).astype(np.float16),
        "v": (random.standard_normal((256, 8)) / 16).astype(np.float16),
    }
    ends = [value("x", DType.FP16, (None, 256))], [value("y", DType.FP16, (None, 8))]
    path = save(tmp_path / "m.onnx", nodes, *ends, weights)
    for engine in ENGINES:
        assert proof_of(path, engine).rows is Rows.INDEPENDENT


@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fewer_columns_declared", (None, None)),
        ("fewer_axes_declared", (None, None)),
        ("other_rows_declared", (None, None)),
        ("as_many_as_declared", (1, None)),
    ],
)
def test_sizes_that_the_file_declares_and_no_answer_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, shape: tuple, *, auto: bool
) -> None:
    """They are left open with one line of warning; the profile knows the file by what it declares."""
    path = tmp_path / "m.onnx"
    onnx.save(CASES[name].model, path)
    with Model.open(path, auto=auto) as model:
        (output,) = model.spec.outputs
        assert output.shape == shape
        assert model.entry.warm_up.warmed_up
        (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert f"other sizes than the file declares: '{output.name}' {output.written}" in warning
        Profile.of_model(path).with_signature().check_signature(model.spec)


def test_sizes_that_answers_have_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A row of a fixed size is bound, and nothing is said of it."""
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [value("x", DType.FP32, (1, 4))],
        [value("y", DType.FP32, (1, 4))],
    )
    with Model.open(path, auto=False) as model:
        assert model.entry.slab is not None
    assert not caplog.records
