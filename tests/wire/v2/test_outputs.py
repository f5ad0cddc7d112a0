"""Outputs of answers, as a client reads them."""

import numpy as np
import pytest

from tailcut.errors import UnreachableError
from tailcut.wire.v2.outputs import decode_outputs

BINARY = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"parameters":{"binary_data_size":8}}]}'


def test_binary_outputs_are_views() -> None:
    """Writable ones, of the answer's own memory, and the same when the layout is known."""
    for values in ([1, 2], [3, 4]):
        body = bytearray(BINARY + np.float32(values).tobytes())
        y = decode_outputs(body, len(BINARY))["y"]
        np.testing.assert_array_equal(y, np.float32(values))
        y[:] = 0
        assert not any(body[len(BINARY) :])


def test_json_outputs() -> None:
    """An answer without a binary part; a null is NaN."""
    body = (
        b'{"outputs":[{"name":"y","datatype":"INT8","shape":[2,1],"data":[1,2]},'
        b'{"name":"z","datatype":"FP32","shape":[2],"data":[1.5,null]}]}'
    )
    outputs = decode_outputs(body, None)
    np.testing.assert_array_equal(outputs["y"], np.int8([[1], [2]]))
    np.testing.assert_array_equal(outputs["z"], np.float32([1.5, np.nan]))


def test_outputs_in_both_forms() -> None:
    """Values in the JSON beside binary tensors: in the answer's order, and not remembered by the JSON."""
    for value in (b"7", b"8"):
        lead = (
            b'{"outputs":[{"name":"a","datatype":"INT8","shape":[1],"data":[' + value + b"]},"
            b'{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}'
        )
        outputs = decode_outputs(lead + np.float32([2.5]).tobytes(), len(lead))
        assert list(outputs) == ["a", "y"]
        assert outputs["a"].tolist() == [int(value)]
        assert outputs["y"].tolist() == [2.5]


def test_outputs_in_shared_memory() -> None:
    """They are copied out of the region, which is used again."""
    lead = (
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":'
        b'{"shared_memory_region":"r","shared_memory_offset":4,"shared_memory_byte_size":4,"binary_data_size":0}}]}'
    )
    memory = bytearray(np.float32([1, 2]).tobytes())
    y = decode_outputs(lead, None, memoryview(memory))["y"]
    memory[:] = bytes(8)
    assert y.tolist() == [2.0]
    with pytest.raises(UnreachableError):
        decode_outputs(lead, None)


@pytest.mark.parametrize(
    "lead",
    [
        b"{",
        b"{}",
        b'{"outputs":[{"name":"y","datatype":"FP31","shape":[1],"parameters":{"binary_data_size":4}}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1000],"parameters":{"binary_data_size":4}}]}',
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1]}]}',
        b'{"outputs":[{"name":"y","datatype":"INT8","shape":[3],"data":[1]}]}',
        b'{"outputs":[1]}',
    ],
)
def test_outputs_that_do_not_fit(lead: bytes) -> None:
    """Outputs that are not described, or not by the bytes that came, raise no error but ours."""
    with pytest.raises(UnreachableError):
        decode_outputs(lead + bytes(4), len(lead))
