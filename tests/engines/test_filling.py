"""Made-up inputs."""

import numpy as np
import pytest

from tailcut.engines.filling import ROWS, SampleInput, Values, fill
from tailcut.spec import DType, TensorSpec


def filled(values: Values, dtype: DType = DType.INT64, shape: tuple[int, ...] = (ROWS, 5), **bounds: int) -> np.ndarray:
    tensor = TensorSpec("x", dtype, tuple(None if dim == ROWS else dim for dim in shape))
    return fill(tensor, SampleInput(shape=shape, values=values, **bounds), 3, np.random.default_rng(0))


@pytest.mark.parametrize("values", ["normal", "integers", "constant", "mask", "positions"])
@pytest.mark.parametrize("dtype", [DType.FP16, DType.FP32, DType.INT32, DType.INT64])
def test_dtype_and_rows(values: Values, dtype: DType) -> None:
    """The tensor's own, and as many rows as the request."""
    result = filled(values, dtype, high=9)
    assert (result.dtype, result.shape, result.flags.c_contiguous) == (dtype.numpy, (3, 5), True)


def test_what_stands_in_them() -> None:
    """Within the bounds; a mask is ones and then zeros; positions count."""
    assert set(filled("integers", low=2, high=4, shape=(ROWS, 100)).reshape(-1).tolist()) == {2, 3}
    assert set(filled("constant", low=7).reshape(-1).tolist()) == {7}
    assert filled("positions", high=3)[0].tolist() == [0, 1, 2, 0, 1]
    mask = filled("mask")
    assert (mask[:, 0] == 1).all()
    assert (np.diff(mask, axis=1) <= 0).all()


@pytest.mark.parametrize(("values", "first"), [("text", "text 0"), ("numerals", "0")])
def test_strings(values: Values, first: str) -> None:
    """Each another one."""
    result = filled(values, DType.BYTES)
    assert result[0, 0] == first
    assert len(set(result.reshape(-1).tolist())) == 15
