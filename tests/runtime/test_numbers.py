"""Numbers become another dtype exactly, or not at all."""

import numpy as np
import pytest

from tailcut.runtime.numbers import array_of, as_dtype
from tailcut.spec import DType


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (DType.FP32, [1e300]),
        (DType.FP16, [0.5, -70000.0]),
        (DType.FP16, [70000]),
        (DType.BF16, [1e39]),
        (DType.FP32, [np.inf, 1e39]),
    ],
)
def test_a_float_beyond_its_dtype_does_not_become_infinite(dtype, values):
    """It is out of range, as whole numbers are."""
    assert as_dtype(np.asarray(values), dtype.numpy) is None


@pytest.mark.parametrize("dtype", [DType.FP16, DType.BF16, DType.FP32, DType.FP64])
@pytest.mark.parametrize("values", [[np.inf, -np.inf, np.nan, 1.5], [True, False], [3, -4], []])
def test_what_a_float_can_be_stays(dtype, values):
    """Infinities and NaN that were given, too."""
    result = as_dtype(np.asarray(values), dtype.numpy)
    assert result.dtype == dtype.numpy
    assert np.array_equal(result.astype(float), np.asarray(values, float), equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (DType.INT64, [1.0]),
        (DType.INT8, [128]),
        (DType.UINT8, [-1]),
        (DType.UINT64, [2**63, 0.5]),
        (DType.BOOL, [2]),
        (DType.FP32, ["1"]),
        (DType.FP32, [None]),
        (DType.FP32, [1j]),
    ],
)
def test_what_is_not_of_the_kind_or_in_the_range_is_refused(dtype, values):
    """Numpy itself would cut, wrap or parse it."""
    assert as_dtype(array_of(values, dtype.numpy), dtype.numpy) is None


def test_large_whole_numbers_stay_whole():
    """Numpy makes floats of those over 2**63 beside smaller ones, and objects of those over 2**64."""
    values = [[2**64 - 1, 1], [0, 2**63 + 1]]
    assert as_dtype(array_of(values, DType.UINT64.numpy), DType.UINT64.numpy).tolist() == values
    for dtype, value in ((DType.UINT64, 2**64), (DType.INT64, -(2**63) - 1)):
        with pytest.raises(OverflowError):
            array_of([value], dtype.numpy)


def test_an_array_of_the_dtype_is_itself():
    """Bfloat16, which is of no kind to numpy, too."""
    for dtype in (DType.BF16, DType.INT8, DType.BOOL):
        array = np.ones(2, dtype.numpy)
        assert as_dtype(array, dtype.numpy) is array
