"""What a stage's author writes about tensors is read exactly, and everything else is one clear line."""

import pytest

from tailcut.errors import UsageError
from tailcut.pipelines.tensors import parse_tensors
from tailcut.spec import DType


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("BYTES", DType.BYTES, (None,)),
        ("INT64[-1]", DType.INT64, (None, None)),
        ("UINT8[224, 224,3]", DType.UINT8, (None, 224, 224, 3)),
        (" FP32 [] ", DType.FP32, (None,)),
    ],
)
def test_a_row_is_read(text, dtype, shape):
    """The batch is before what is written."""
    (tensor,) = parse_tensors("s", "inputs", {"x": text})
    assert (tensor.name, tensor.dtype, tensor.shape, tensor.text) == ("x", dtype, shape, False)


@pytest.mark.parametrize(
    "text", ["", "INT64[", "INT64[0]", "INT64[-2]", "INT64[a]", "INT64[1]]", "INT64[1,,2]", 7, None]
)
def test_what_is_no_tensor_is_refused(text):
    """The message names the stage and the tensor."""
    with pytest.raises(UsageError, match="stage 's': tensor 'x'"):
        parse_tensors("s", "inputs", {"x": text})


def test_an_unknown_dtype_names_the_known_ones():
    """float32 is what newcomers write."""
    with pytest.raises(UsageError, match=r"unknown dtype 'float32'; the dtypes are BOOL, .*FP32"):
        parse_tensors("s", "outputs", {"x": "float32[3]"})


@pytest.mark.parametrize("wanted", [{}, None, ["x"]])
def test_tensors_are_a_dict(wanted):
    """With at least one."""
    with pytest.raises(UsageError, match="inputs must be a dict"):
        parse_tensors("s", "inputs", wanted)
