"""Large answers in steps: the same as at once."""

import numpy as np
import pytest
from tests.wire.v2.test_steps import WORDS, finish

from tailcut.errors import InvalidInputError
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2 import InferRequest, WantedOutput, encode_response
from tailcut.wire.v2.response_steps import response_in_steps


@pytest.mark.parametrize("binary", [True, False])
def test_answers(binary: bool) -> None:
    """The bytes of a large answer are those that it has at once."""
    both = ModelSpec("m", (), (TensorSpec("y", DType.FP32, (None,)), TensorSpec("w", DType.BYTES, (None,))))
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    values[:2] = np.nan, np.inf
    words = np.array([b"a", "é", b'"'] * 3000, object)
    for wanted in ("y", "w"), ("w",), ("y",):
        request = InferRequest('i"d', {}, tuple(WantedOutput(name, binary) for name in wanted), {})
        outputs = {"y": values, "w": words}
        at_once = encode_response(both, "1", request, outputs)
        response, steps = finish(response_in_steps(both, "1", request, outputs))
        assert b"".join(response.body_parts) == b"".join(at_once.body_parts)
        assert response.json_size == at_once.json_size
        assert steps > 3 or (binary and wanted == ("y",))


def test_an_answer_that_is_not_utf8() -> None:
    """Is refused as JSON, as at once."""
    request = InferRequest(None, {}, (WantedOutput("y", False),), {})
    with pytest.raises(InvalidInputError, match="binary"):
        finish(response_in_steps(WORDS, "1", request, {"y": np.array([b"\xff"] * 3000, object)}))
