"""A request is looked at as closely as its numbers make it necessary, and refused alone."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.openvino_values.graphs import answers_together, opened, save

from tailcut.engines.openvino_values.widths import Width
from tailcut.errors import InvalidInputError

TIMES_31 = "(int64[n] i) => (int64[n] y) <int64 k = {31}> { y = Mul(i, k) }"


def test_numbers_are_computed_where_their_interval_is_too_wide(tmp_path: Path) -> None:
    """The largest of one input never meets that of the other here."""
    path = save(tmp_path / "model.onnx", "(int64[n] a, int64[n] b) => (int64[n] y) { y = Mul(a, b) }")
    engine = opened(path)
    a = np.array([2**20, 1])
    assert engine.run({"a": a, "b": a[::-1].copy()})["y"].tolist() == [2**20, 2**20]
    with pytest.raises(InvalidInputError, match=r"^inputs 'a', 'b': .* the Multiply of this model exactly from -214"):
        engine.run({"a": a, "b": a})
    engine.close()


def test_a_request_between_the_numbers_of_others_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "model.onnx", TIMES_31)
    engine = opened(path)
    for numbers in ([-5, 10], [3, 1000]):
        engine.run({"i": np.array(numbers)})
    looks: list[Width] = []

    def holds_in(width: Width, *_: object) -> bool:
        looks.append(width)
        return True

    monkeypatch.setattr(Width, "holds_in", holds_in)
    engine.run({"i": np.array([-4, 999])})
    assert not looks
    engine.run({"i": np.array([-4, 1001])})
    assert looks
    engine.close()


def test_no_numbers_at_all_are_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", TIMES_31)
    engine = opened(path)
    assert engine.run({"i": np.zeros(0, np.int64)})["y"].tolist() == []
    engine.close()


def test_a_request_with_large_numbers_fails_alone(tmp_path: Path) -> None:
    """Its neighbours in a batch have their answers."""
    path = save(tmp_path / "model.onnx", TIMES_31)
    requests = [{"i": np.array([number])} for number in (10**9, 1, 2, 3)]
    for bad, *good in answers_together(path, requests, 3):
        assert [np.asarray(answer).tolist() for answer in good] == [[31], [62], [93]]
        assert isinstance(bad, str)
        assert bad.startswith("input 'i': a value is out of bounds: openvino computes the Multiply")
