"""The inputs of a call fit the model as they are, or are refused in one line: nothing is altered to fit."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import identity

from tailcut.errors import InputTypeError, InvalidInputError
from tailcut.runtime.inputs import check_inputs
from tailcut.runtime.model import Model
from tailcut.spec import DType, ModelSpec, TensorSpec


def spec_of(dtype: DType, shape: tuple[int | None, ...] = (None, 2), *, text: bool = True) -> ModelSpec:
    return ModelSpec("m", (TensorSpec("x", dtype, shape, text=text),), (TensorSpec("y", dtype, shape),))


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        (DType.INT64, [[1.9, 2.9]], "expected INT64 [-1, 2], got FP64"),
        (DType.INT64, [[1.0, 2.0]], "expected INT64 [-1, 2], got FP64"),
        (DType.INT64, [["1", "2"]], "expected INT64 [-1, 2], got strings"),
        (DType.INT64, [np.array([1.9, 2.9])], "expected INT64 [-1, 2], got FP64"),
        (DType.BOOL, [[0, 2]], "expected BOOL [-1, 2], got INT64"),
        (DType.FP32, [[None, 1.0]], "expected FP32 [-1, 2], got values that are not numbers"),
        (DType.FP32, {1.0, 2.0}, "expected FP32 [-1, 2], got set"),
        (DType.FP32, [[1j, 2j]], "expected FP32 [-1, 2], got complex128"),
    ],
)
def test_a_list_of_another_kind_is_refused(dtype: DType, value: object, words: str) -> None:
    """Numpy would cut the fractions, parse the strings, and take 2 for True."""
    with pytest.raises(InputTypeError) as caught:
        check_inputs(spec_of(dtype), {"x": value})
    assert str(caught.value) == f"input 'x': {words}"


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (DType.UINT8, [[300, 1]]),
        (DType.INT8, [np.array([128, 0])]),
        (DType.INT64, [[2**63, -1]]),
        (DType.UINT64, [[2**64, 1]]),
        (DType.FP16, [[70000.0, 1.0]]),
    ],
)
def test_a_list_out_of_range_is_refused(dtype: DType, value: object) -> None:
    """The message has no value of the request."""
    with pytest.raises(InvalidInputError) as caught:
        check_inputs(spec_of(dtype), {"x": value})
    assert str(caught.value) == f"input 'x': expected {dtype} [-1, 2]: a value is out of the range of {dtype}"


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (DType.FP32, [[1, 2.5], [True, -3]]),
        (DType.UINT64, [[2**63, 1]]),
        (DType.BOOL, [[True, False]]),
        (DType.INT8, [np.array([-128, 127])]),
        (DType.BF16, [np.ones(2, DType.BF16.numpy)]),
        (DType.FP32, np.ones((2, 1, 2), np.float32)[:, 0].tolist()),
    ],
)
def test_a_list_of_the_kind_becomes_the_dtype(dtype: DType, value: list) -> None:
    """With the values that it has."""
    arrays, rows = check_inputs(spec_of(dtype), {"x": value})
    assert arrays["x"].dtype == dtype.numpy
    assert arrays["x"].tolist() == [list(row) for row in value]
    assert rows == len(value)


def test_lists_that_differ_in_length() -> None:
    """As a JSON body may have them."""
    with pytest.raises(InvalidInputError, match=r"expected FP32 \[-1, 2\], got lists that differ in length$"):
        check_inputs(spec_of(DType.FP32), {"x": [[1.0, 2.0], [3.0]]})


def test_what_cannot_become_an_array() -> None:
    """What its own conversion says, such as that of a tensor with a gradient."""

    class Tensor:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise RuntimeError("use detach()")

    with pytest.raises(InvalidInputError, match=r"input 'x': expected FP32 \[-1, 2\]: use detach\(\)"):
        check_inputs(spec_of(DType.FP32), {"x": Tensor()})


def test_a_model_refuses_a_list_that_it_would_alter(tmp_path: Path) -> None:
    """And computes one that it need not."""
    with Model.open(identity(DType.INT64, (None, 2), tmp_path / "m.onnx"), auto=False) as model:
        assert model.infer_sync({"x": [[1, 2]]})["y"].tolist() == [[1, 2]]
        for wrong in ([[1.9, 2.9]], [["1", "2"]]):
            with pytest.raises(InputTypeError, match="expected INT64"):
                model.infer_sync({"x": wrong})


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("value", [["\ud800"], ["a", "\udc00", b"b"], np.array(["a", "\ud800"]), ["\ud83d", "\ude00"]])
def test_half_of_a_surrogate_pair_is_no_text(value: object, *, text: bool) -> None:
    """JSON may hold one; two halves in two elements are no pair either."""
    with pytest.raises(InvalidInputError, match=r"^input 'x': a str has half of a surrogate pair$"):
        check_inputs(spec_of(DType.BYTES, (None,), text=text), {"x": value})


def test_strings_of_each_kind() -> None:
    """Text and bytes in one request, as the tensor takes them."""
    value = ["\U0001f600", b"\xc3\xbc", ""]
    arrays, _ = check_inputs(spec_of(DType.BYTES, (None,)), {"x": value})
    assert arrays["x"].tolist() == ["\U0001f600", "\u00fc", ""]
    arrays, _ = check_inputs(spec_of(DType.BYTES, (None,), text=False), {"x": value})
    assert arrays["x"].tolist() == [b"\xf0\x9f\x98\x80", b"\xc3\xbc", b""]
    for wrong in ([1], ["a", None], [["a"], ["b", "c"]]):
        with pytest.raises(InputTypeError, match="expected strings or bytes"):
            check_inputs(spec_of(DType.BYTES, (None,)), {"x": wrong})


def test_a_model_of_strings_refuses_half_of_a_surrogate_pair(tmp_path: Path) -> None:
    """Before its engine has it, and the other requests of the batch with it."""
    with Model.open(identity(DType.BYTES, (None,), tmp_path / "m.onnx"), auto=False) as model:
        with pytest.raises(InvalidInputError, match="surrogate"):
            model.infer_sync({"x": ["\ud800"]})
        assert model.infer_sync({"x": ["a"]})["y"].tolist() == [b"a"]
