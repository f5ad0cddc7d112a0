"""Whatever is packed is found again, and nothing that is not a layout is read past its end."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tailcut.errors import EngineError
from tailcut.pipelines.layout import TensorLayout, rows_of, split_rows
from tailcut.pipelines.tensors import parse_tensors
from tests.effort import runs

ON_A_BUSY_MACHINE = settings(max_examples=runs(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
LAYOUT = TensorLayout(parse_tensors("s", "inputs", {"x": "FP32[-1]", "text": "BYTES", "flag": "BOOL[2]"}))


@st.composite
def requests(draw):
    rows = draw(st.integers(1, 4))
    text = np.empty(rows, object)
    text[:] = draw(st.lists(st.binary(max_size=70), min_size=rows, max_size=rows))
    x = draw(arrays(np.float32, (rows, draw(st.integers(0, 5)))))
    return [x, text, draw(arrays(np.bool_, (rows, 2)))]


def written(packed):
    region = np.full(packed.size, 255, np.uint8)
    packed.write(region)
    return LAYOUT.unpack(region)


def assert_same(result, parts):
    assert len(result) == len(parts)
    for got, want in zip(result, parts, strict=True):
        for item, other in zip(got, want, strict=True):
            assert item.dtype == other.dtype
            assert item.shape == other.shape
            assert item.tolist() == other.tolist() if item.dtype == object else item.tobytes() == other.tobytes()


@ON_A_BUSY_MACHINE
@given(st.lists(requests(), min_size=1, max_size=4))
def test_there_and_back(parts):
    """Shapes, dtypes and every byte."""
    result = written(LAYOUT.pack(parts))
    assert_same(result.parts, parts)
    assert result.rows == rows_of(parts)


def test_requests_of_fixed_rows_are_found_again_whatever_came_before():
    """Heads of single requests are remembered by the number of rows: each request has its own bytes and no others'."""
    tensors = parse_tensors("s", "inputs", {"x": "FP32[3]", "flag": "BOOL"})
    writer, reader = TensorLayout(tensors), TensorLayout(tensors)
    random = np.random.default_rng(0)
    for rows in [1, 2, 1, 2, 5, 1, 2] * 3 + list(range(1, 300)) + [1, 299, 2]:
        parts = [[random.random((rows, 3)).astype(np.float32)[:, ::-1], random.random(rows) > 0.5]]
        packed = writer.pack_together(parts) if rows % 2 else writer.pack(parts)
        region = np.full(packed.size, 255, np.uint8)
        packed.write(region)
        result = reader.unpack(region)
        assert result.rows == [rows]
        assert_same(result.parts, parts)
        with pytest.raises(EngineError):
            reader.unpack(region[:-64])


@ON_A_BUSY_MACHINE
@given(st.lists(requests(), min_size=1, max_size=4))
def test_all_rows_together(parts):
    """One part, where the rows of all requests have the same sizes; which request has how many is told either way."""
    result = written(LAYOUT.pack_together(parts))
    assert result.rows == rows_of(parts)
    if len({arrays[0].shape[1] for arrays in parts}) > 1:
        assert_same(result.parts, parts)
        return
    assert_same(result.parts, [LAYOUT.together(parts)])
    assert_same(split_rows(result.parts[0], result.rows), parts)
    assert_same(written(LAYOUT.pack_together(result.parts, result.rows)).parts, result.parts)


@ON_A_BUSY_MACHINE
@given(st.binary(min_size=8, max_size=400))
def test_other_bytes_are_refused_or_read_within_their_region(data):
    """The other side of a region is the user's own code, which may write anywhere in it."""
    region = np.frombuffer(data[: len(data) // 8 * 8], np.uint8)
    with suppress(EngineError):
        assert all(len(arrays) == 3 for arrays in LAYOUT.unpack(region).parts)
