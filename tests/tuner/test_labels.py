"""Accuracy by labels: of the request that each belongs to, in the form that clients send."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.engines.models import masked_mean, perceptron
from tests.tuner.test_gate import model

from tailcut.cli import tune_wanted
from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import U8Input
from tailcut.errors import UsageError
from tailcut.lab.describe import labels_of_data, rows_of_data
from tailcut.tuner.accuracy import labelled
from tailcut.tuner.claims import prove
from tailcut.tuner.labels import by_labels
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.session import open_session
from tailcut.tuner.space import changed

FOLD = U8Input(scale=(1 / 255,), offset=(-0.5,))


def answers(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    engine = open_engine(path, EngineOptions(threads=1))
    try:
        return engine.run(inputs)["y"]
    finally:
        engine.close()


@pytest.mark.slow
def test_a_server_of_pixels_is_sent_pixels(tmp_path: Path) -> None:
    """The labels are the model's own answers: both servers find nearly all of them, given as a column."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 16)).astype(np.uint8)
    labels = answers(path, {"x": (pixels / 255 - 0.5).astype(np.float32)}).argmax(axis=1)[:, None]
    wanted = TuneRequest(path, {"x": pixels}, labels, rate=200.0, slo_ms=100.0, budget_s=5.0, normalize=FOLD)
    session = open_session(wanted, lambda event: None)
    session.outcome.settings = changed(session.with_wire("binary"), engine={"u8_input": FOLD, "threads": 1})
    session.outcome.rate, session.outcome.capacity = 200.0, 1000.0
    try:
        prove(session)
    finally:
        session.servers.keep()
    result = session.outcome.labels
    assert result is not None
    assert min(result.shares["baseline"], result.shares["tuned"]) > 0.95
    assert 16 <= result.requests <= 64
    assert session.outcome.arms


def test_labels_take_a_share_of_the_budget(tmp_path: Path) -> None:
    """Of a model with many labels, or a slow one, both servers are asked the same sample, which is spread over them."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((2000, 16)).astype(np.float32)}
    labels = answers(path, data).argmax(axis=1)
    labels[:1000] = (labels[:1000] + 1) % 4  # the first half is wrong
    session = open_session(TuneRequest(path, data, labels[:, None], budget_s=5.0), lambda event: None)
    session.outcome.capacity, arms = 1000.0, {"baseline": session.base, "tuned": session.with_wire("binary")}
    session.plan.budget_s = 0.5
    try:
        for settings in arms.values():
            session.servers.of(settings)
        assert session.wanted.labels is not None
        result = by_labels(session, arms, session.wanted.labels)
    finally:
        session.servers.keep()
    assert result is not None
    assert 0 < result.requests < 1500
    assert result.shares["baseline"] == result.shares["tuned"]
    assert result.requests < 50 or 0.2 < result.shares["tuned"] < 0.8


def test_labels_follow_requests_of_several_lengths(tmp_path: Path) -> None:
    """Groups are spread over one another; each request keeps its label."""
    path = masked_mean(tmp_path / "m.onnx")
    engine = open_engine(path, EngineOptions(threads=1))
    spec = engine.spec
    engine.close()
    data = {"ids/0": np.full((6, 3), 1), "ids/1": np.full((2, 5), 2)}
    data |= {name.replace("ids", "mask"): np.ones_like(ids) for name, ids in data.items()}
    labels = np.array([1] * 6 + [2] * 2)
    for limit in (8, 4):
        requests = rows_of_data(spec, data, limit)
        result = labels_of_data(spec, data, labels, limit)
        assert [int(request["ids"].flat[0]) for request in requests] == result[:, 0].tolist()
    with pytest.raises(UsageError, match="7 labels for 8 requests: give one for each"):
        labels_of_data(spec, data, labels[:7], 8)
    with pytest.raises(UsageError, match="whole numbers from 0"):
        labels_of_data(spec, data, np.array(["a"] * 8), 8)
    with pytest.raises(UsageError, match="whole numbers from 0: those of the data have -1"):
        labels_of_data(spec, data, np.array([0] * 7 + [-1]), 8)
    with pytest.raises(UsageError, match=r"32 labels for 8 requests: give one for each, .* of one-hot labels"):
        labels_of_data(spec, data, np.eye(4)[labels], 8)


def test_rows_of_one_request_have_a_label_each_or_one_for_all() -> None:
    """Others say nothing."""
    outputs = [{"y": np.eye(3)[:2]}, {"y": np.eye(3)[1:]}]
    assert labelled(outputs, np.array([[0, 1], [1, 0]])) == 0.75
    assert labelled(outputs, np.array([[0], [1]])) == 0.5
    assert labelled(outputs, np.array([[0, 1, 2], [0, 1, 2]])) is None


def test_too_few_labels_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """In one line that counts both."""
    path = perceptron([16, 4], tmp_path / "m.onnx")
    data = {"x": np.ones((8, 16), np.float32)}
    with pytest.raises(UsageError, match="3 labels for 8 requests"):
        open_session(TuneRequest(path, data, np.arange(3), budget_s=5.0), lambda event: None)


def test_an_input_may_be_called_labels(tmp_path: Path) -> None:
    """It is what the model takes, and no class of each request; beside another input it is the classes."""
    nodes = [helper.make_node("MatMul", ["labels", "w"], ["y"])]
    path = model(tmp_path / "m.onnx", nodes, {"labels": (None, 16)}, {"y": (None, 4)}, w=np.ones((16, 4), np.float32))
    rows = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    np.savez(tmp_path / "d.npz", labels=rows)
    session = open_session(wanted_of(path, tmp_path / "d.npz"), lambda event: None)
    assert session.wanted.labels is None
    np.testing.assert_array_equal(session.requests[3]["labels"], rows[3:4])
    np.savez(tmp_path / "e.npz", x=rows, labels=np.arange(8) % 4)
    other = perceptron([16, 4], tmp_path / "other.onnx")
    session = open_session(wanted_of(other, tmp_path / "e.npz"), lambda event: None)
    assert session.wanted.labels is not None
    assert session.wanted.labels.tolist() == [[number % 4] for number in range(8)]


def wanted_of(model_path: Path, data: Path) -> TuneRequest:
    """The request for a tune, as the command line makes it."""
    return tune_wanted.wanted_of(model_path, data, None, "5s", "0.999", None, "any", 0)
