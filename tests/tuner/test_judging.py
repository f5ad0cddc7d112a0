"""The first configuration of each engine and precision is asked; the others of its kind go by what it answered."""

import pytest

from tailcut.engines import EngineOptions
from tailcut.tuner.judging import EstimateError, Judging, Wrong

BF16 = EngineOptions(name="openvino", precision="bf16")
REQUESTS = [[], []]


def test_one_of_a_kind_is_asked() -> None:
    """And none of the kind whose answers are the reference."""
    asked: list[float] = []
    judging = Judging(REQUESTS, lambda options, answers: None, {("onnxruntime", "f32")})

    def ask(requests, seconds):
        asked.append(seconds)
        return [{}] * len(requests)

    for options in (EngineOptions(), BF16, EngineOptions(name="openvino", precision="bf16", threads=2)):
        judging.check(options, ask)
    assert len(asked) == 1
    assert judging.reason(BF16) is None


@pytest.mark.parametrize("measured", [True, False])
def test_what_is_wrong_is_known_of_its_kind(measured: bool) -> None:
    """One configuration is measured where a looser bound would accept it; no other is loaded."""
    judging = Judging(REQUESTS, lambda options, answers: Wrong("too far off", measured))
    if measured:
        judging.check(BF16, lambda requests, seconds: [])
    else:
        with pytest.raises(EstimateError, match="too far off"):
            judging.check(BF16, lambda requests, seconds: [])
    assert judging.reason(BF16) == "too far off"
    with pytest.raises(EstimateError, match="too far off"):
        judging.check(BF16, lambda requests, seconds: [])
