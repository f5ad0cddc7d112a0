"""Answers: owned bytes, ids, and a head that is made once."""

import numpy as np
import orjson
import pytest

from tailcut.errors import InvalidInputError
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2 import InferRequest, WantedOutput, encode_response
from tailcut.wire.v2 import response as v2_response

Y = TensorSpec("y", DType.FP32, (None, 2))
SPEC = ModelSpec("m", (Y,), (Y,))


def asking(*outputs: WantedOutput, request_id: str | None = None) -> InferRequest:
    return InferRequest(request_id, {}, outputs or (WantedOutput("y", True),), {})


def test_bytes_are_owned():
    """Changing the model's rows after the answer was encoded does not change the answer."""
    rows = np.ones((2, 2), np.float32)
    for wanted in (WantedOutput("y", True), WantedOutput("y", False)):
        response = encode_response(SPEC, "1", asking(wanted), {"y": rows})
        before = [bytes(part) for part in response.body_parts]
        rows += 1
        assert response.body_parts == before
        assert all(type(part) is bytes for part in response.body_parts)


def test_a_remembered_head_has_each_request_s_own_id(monkeypatch: pytest.MonkeyPatch):
    """The JSON head of a shape is made once; ids, hostile ones too, are put in each time."""
    rows = np.zeros((3, 2), np.float32)
    encode_response(SPEC, "5", asking(), {"y": rows})
    monkeypatch.setattr(v2_response, "_make_head", lambda *_: pytest.fail("made again"))
    for request_id in (None, "", "a", 'quo"te\n', "ü", "b" * 3000):
        response = encode_response(SPEC, "5", asking(request_id=request_id), {"y": rows})
        head = orjson.loads(response.body_parts[0])
        assert head.get("id") == request_id
        assert response.json_size == len(response.body_parts[0])
        assert head["model_version"] == "5"
        assert head["outputs"] == [
            {"name": "y", "datatype": "FP32", "shape": [3, 2], "parameters": {"binary_data_size": 24}}
        ]


def test_another_shape_version_or_model_has_another_head():
    """Nothing of one answer's head shows in another's."""
    other = ModelSpec("other", (Y,), (Y,))
    heads = {
        encode_response(spec, version, asking(), {"y": np.zeros((rows, 2), np.float32)}).body_parts[0]
        for spec in (SPEC, other)
        for version in ("1", "2")
        for rows in (1, 2)
    }
    assert len(heads) == 8


def test_remembered_heads_are_bounded():
    """Shapes that differ each time do not grow memory."""
    for rows in range(1, v2_response._HEADS_KEPT + 50):
        encode_response(SPEC, "1", asking(), {"y": np.zeros((rows, 2), np.float32)})
    assert len(v2_response._heads) <= v2_response._HEADS_KEPT


def test_special_floats_are_null_in_json_and_exact_in_binary():
    """JSON has no word for NaN and infinity: they become null there."""
    rows = np.array([[np.nan, -np.inf]], np.float32)
    as_json = encode_response(SPEC, "1", asking(WantedOutput("y", False)), {"y": rows})
    assert orjson.loads(as_json.body_parts[0])["outputs"][0]["data"] == [None, None]
    assert as_json.json_size is None
    assert encode_response(SPEC, "1", asking(), {"y": rows}).body_parts[1] == rows.tobytes()


def test_bytes_outputs_both_ways():
    """Text is a list of strings in JSON and length-prefixed in binary."""
    spec = ModelSpec("m", (Y,), (TensorSpec("t", DType.BYTES, (None,)),))
    texts = {"t": np.array(["ab", b"c"], object)}
    as_json = encode_response(spec, "1", asking(WantedOutput("t", False)), texts)
    assert orjson.loads(as_json.body_parts[0])["outputs"][0]["data"] == ["ab", "c"]
    as_binary = encode_response(spec, "1", asking(WantedOutput("t", True)), texts)
    assert as_binary.body_parts[1] == b"\2\0\0\0ab\1\0\0\0c"
    assert orjson.loads(as_binary.body_parts[0])["outputs"][0]["parameters"] == {"binary_data_size": 11}
    with pytest.raises(InvalidInputError, match="binary"):
        encode_response(spec, "1", asking(WantedOutput("t", False)), {"t": np.array([b"\xff"], object)})


def test_a_row_range_of_a_slab_is_written_as_its_rows():
    """Strided and transposed views are written row-major."""
    slab = np.arange(12, dtype=np.float32).reshape(3, 4)
    response = encode_response(SPEC, "1", asking(), {"y": slab[1:, :2]})
    assert response.body_parts[1] == np.array([[4, 5], [8, 9]], np.float32).tobytes()
