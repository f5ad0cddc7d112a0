"""Templates: what stands around the data of a request, and of an answer that is JSON throughout."""

import json

import ml_dtypes
import numpy as np
import pytest

from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2 import InferRequest, encode_response, parse_request
from tailcut.wire.v2.template import Template, answer_frame, rows_as_lists, template_of

X = TensorSpec("x", DType.FP32, (None, 3))
OUTPUTS = (
    TensorSpec("y", DType.FP32, (None, 2)),
    TensorSpec("n", DType.INT64, (None,)),
    TensorSpec("b", DType.BF16, (None, 2, 2)),
)
SPEC = ModelSpec("m", (X,), OUTPUTS)
AROUND = '{"id":"q","inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":%s}],"parameters":{"priority":1}}'


def test_any_list_between_the_parts_is_the_same_request() -> None:
    """What is read of another list behind the same bytes differs in its numbers alone."""
    result = template_of(SPEC, (AROUND % "[1, 2.5, 3]").encode(), None)
    assert result is not None
    assert (result.before + b"[1, 2.5, 3]" + result.behind).decode() == AROUND % "[1, 2.5, 3]"
    assert result.form.size == 3
    other = parse_request(SPEC, result.before + b"[[7,8,9]]" + result.behind, None)
    assert other.inputs["x"].tolist() == [[7, 8, 9]]
    assert (other.id, other.outputs, other.parameters) == (
        result.request.id,
        result.request.outputs,
        result.request.parameters,
    )
    assert (result.rows, result.request.inputs) == (1, {})


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        AROUND % "3",
        AROUND % '[1,2,3],"data":[4,5,6]',
        (AROUND % "[1,2,3]").replace('{"priority":1}', '{"data":[1]}'),
        (AROUND % "[1,2,3]").replace("x", "z"),
        (AROUND % "[1,2,3]").replace("FP32", "INT32"),
    ],
)
def test_what_has_other_lists_or_errors_has_no_template(text: str) -> None:
    """One list, which is the data of the input, and nothing else."""
    assert template_of(SPEC, text.encode(), None) is None


def test_only_lists_that_compiled_code_reads_have_one() -> None:
    """Whole numbers are read by others."""
    spec = ModelSpec("m", (TensorSpec("x", DType.INT32, (None, 3)),), OUTPUTS)
    assert template_of(spec, (AROUND % "[1,2,3]").replace("FP32", "INT32").encode(), None) is None


def test_rows_behind_a_json_head_have_one() -> None:
    """The JSON is all that stands before them."""
    entry = '{"name":"x","datatype":"FP32","shape":[2,3],"parameters":{"binary_data_size":24}}'
    head = f'{{"inputs":[{entry}]}}'.encode()
    result = template_of(SPEC, head + bytes(24), len(head))
    assert result == Template(result.request, 2, head)
    assert template_of(SPEC, head + bytes(20), len(head)) is None


@pytest.mark.parametrize("order", [("y", "n", "b"), ("b", "y")])
def test_a_frame_and_lists_are_the_answer(order: tuple[str, ...]) -> None:
    """Put together, they are what `encode_response` writes, for each row of a batch."""
    text = json.loads(AROUND % "[1,2,3]") | {"outputs": [{"name": name} for name in order]}
    request = parse_request(SPEC, json.dumps(text).encode(), None)
    frame = answer_frame(SPEC, "1", request)
    arrays = {
        "y": np.array([[1.5, np.nan], [-0.0, 3e38]], np.float32),
        "n": np.array([5, -(2**63)]),
        "b": np.arange(8).reshape(2, 2, 2).astype(ml_dtypes.bfloat16),
    }
    dtypes = {tensor.name: tensor.dtype for tensor in OUTPUTS}
    lists = [rows_as_lists(arrays[name], dtypes[name])[1:-1].replace(b"],[", b"]|[").split(b"|") for name in order]
    for row in range(2):
        item = {name: array[row : row + 1] for name, array in arrays.items()}
        parts = [frame[0]]
        for number, behind in enumerate(frame[1:]):
            parts += (lists[number][row], behind)
        assert b"".join(parts) == b"".join(encode_response(SPEC, "1", request, item).body_parts)


def test_binary_answers_have_no_frame() -> None:
    """Nor have those of which a part is binary."""
    assert answer_frame(SPEC, "1", InferRequest.raw(SPEC)) is None
