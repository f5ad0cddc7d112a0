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
    ("datatype", "data", "values"),
    [
        ("INT64", b"[1.0,2]", [1, 2]),
        ("UINT64", b"[18446744073709551615,0]", [2**64 - 1, 0]),
        ("BOOL", b"[true,false]", [True, False]),
        ("BOOL", b"[1,0]", [True, False]),
        ("BYTES", '["\u00fc",""]'.encode(), ["\u00fc".encode(), b""]),
        ("FP16", b"[65504,-1]", [65504.0, -1.0]),
    ],
)
def test_json_values_of_every_kind(datatype: str, data: bytes, values: list) -> None:
    """They are what the binary form gives: strings are bytes, and a whole number may be written as a float."""
    body = b'{"outputs":[{"name":"y","datatype":"%s","shape":[2],"data":%s,"parameters":null}]}'
    assert decode_outputs(body % (datatype.encode(), data), None)["y"].tolist() == values


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT64", b"[1.5,2.0]"),
        ("INT64", b"[null,2]"),
        ("INT64", b"[9223372036854775808,0]"),
        ("INT32", b"[1099511627776,0]"),
        ("INT8", b"[300,0]"),
        ("INT8", b"[1e300,0]"),
        ("INT8", b"[true,0]"),
        ("UINT8", b"[-1,0]"),
        ("BOOL", b'["false","true"]'),
        ("BOOL", b"[2,0]"),
        ("BOOL", b"[1.0,0.0]"),
        ("FP16", b"[70000,0]"),
        ("FP16", b"[70000,null]"),
        ("FP32", b'["1","2"]'),
        ("BYTES", b'[{"b64":"AA=="},"a"]'),
        ("BYTES", b"[1,2]"),
        ("FP32", b"[[1,2]]"),
        ("FP32", b"[1,[2]]"),
        ("FP32", b'{"a":1}'),
    ],
)
@pytest.mark.filterwarnings("error")
def test_json_values_that_are_not_of_their_datatype(datatype: str, data: bytes) -> None:
    """They are refused, and never rounded, wrapped or made numbers."""
    body = b'{"outputs":[{"name":"y","datatype":"%s","shape":[2],"data":%s}]}' % (datatype.encode(), data)
    with pytest.raises(UnreachableError, match="does not follow the protocol"):
        decode_outputs(body, None)


def _described(shape: bytes, size: bytes, datatype: bytes = b"FP32", name: bytes = b'"y"') -> bytes:
    return b'{"name":%s,"datatype":"%s","shape":%s,"parameters":{"binary_data_size":%s}}' % (
        name,
        datatype,
        shape,
        size,
    )


@pytest.mark.parametrize(
    ("outputs", "size"),
    [
        (_described(b"[4]", b"8") + b"," + _described(b"[2]", b"8", name=b'"z"'), 16),
        (_described(b"[2]", b"12"), 12),
        (_described(b"[2]", b"8"), 9),
        (_described(b"[2]", b"8"), 7),
        (_described(b"[-1]", b"8"), 8),
        (_described(b"[-1,-2]", b"8"), 8),
        (_described(b"[2.0]", b"8"), 8),
        (_described(b"[true]", b"4"), 4),
        (_described(b'"2"', b"8"), 8),
        (_described(b"[2]", b"8.0"), 8),
        (_described(b"[2]", b"-8"), 0),
        (_described(b"[0,9999999999999999999]", b"0"), 0),
        (_described(b"[1]", b"4.0", b"BYTES"), 4),
        (_described(b"[1]", b"4", name=b"1"), 4),
        (_described(b"[1]", b"4", name=b"[]"), 4),
        (_described(b"[1]", b"4") + b"," + _described(b"[1]", b"4"), 8),
        (b'{"name":"y","datatype":"FP32","shape":[1],"parameters":"shared_memory_region"}', 4),
        (b'{"name":"y","datatype":"FP32","shape":[1],"data":[1]}', 4),
    ],
)
def test_binary_outputs_whose_sizes_do_not_fit(outputs: bytes, size: int) -> None:
    """No output has bytes of another one, none is left over, and the second answer like it is refused, too."""
    lead = b'{"outputs":[%s]}' % outputs
    for _ in range(2):
        with pytest.raises(UnreachableError, match="does not follow the protocol"):
            decode_outputs(lead + bytes(size), len(lead))


def test_a_known_layout_holds_for_bodies_of_its_size() -> None:
    """An answer with the same JSON and fewer or more bytes behind it is refused."""
    decode_outputs(BINARY + bytes(8), len(BINARY))
    for size in (0, 7, 12):
        with pytest.raises(UnreachableError):
            decode_outputs(BINARY + bytes(size), len(BINARY))
    with pytest.raises(UnreachableError):
        decode_outputs(b'{"outputs":[]}', 100)


@pytest.mark.parametrize("start", [b"8", b"-4", b'"0"'])
def test_outputs_outside_of_the_shared_memory(start: bytes) -> None:
    """They are refused."""
    lead = (
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":'
        b'{"shared_memory_region":"r","shared_memory_offset":%s,"shared_memory_byte_size":4}}]}' % start
    )
    with pytest.raises(UnreachableError):
        decode_outputs(lead, None, memoryview(bytearray(8)))


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
