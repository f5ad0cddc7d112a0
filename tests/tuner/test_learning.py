"""What a tune says of the data that it was given, and the requests that it makes up where there are none."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import masked_mean, perceptron
from tests.engines.test_openvino_files import as_ir

from tailcut.engines.samples import likely_samples
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.tuner import learning
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.learning import learn, made_up
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.session import open_session

WORDS = "the data are one request of 70 rows; for several requests, add an axis to the arrays"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing proves that its rows are independent."""
    return as_ir(perceptron([16, 4], tmp_path_factory.mktemp("models") / "m.onnx"))


def notes_on_data(wanted: TuneRequest) -> list[str]:
    events: list[Event] = []
    learned = learn(wanted, 0.05, events.append)
    assert all(request["x"].shape[-1] == 16 for request in learned.requests)
    return [event.text for event in events if isinstance(event, Phase) and event.text.startswith("the data are")]


@pytest.mark.parametrize(
    ("shape", "rows", "expected"),
    [
        ((70, 16), "auto", [f"{WORDS}, or use --batching on if rows are independent"]),
        ((70, 16), "dependent", [WORDS]),
        ((70, 16), "independent", []),
        ((70, 1, 16), "auto", []),
        ((1, 16), "auto", []),
    ],
)
def test_one_request_of_all_rows_is_noted(model: Path, shape: tuple[int, ...], rows: str, expected: list[str]) -> None:
    """They may have been meant as a request each."""
    data = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    assert notes_on_data(TuneRequest(model, data, rows=rows)) == expected  # type: ignore[arg-type]


def test_made_up_requests_are_not_noted(model: Path) -> None:
    """Nobody gave them."""
    assert notes_on_data(TuneRequest(model)) == []


@pytest.mark.parametrize(("width", "count"), [(4, 64), (1 << 10, 16), (1 << 20, 8)])
def test_large_requests_are_fewer(monkeypatch: pytest.MonkeyPatch, width: int, count: int) -> None:
    """All together are bounded in bytes; each is another one, the same for the same seed."""
    monkeypatch.setattr(learning, "_MADE_UP_BYTES", 64 << 10)
    samples = likely_samples(ModelSpec("m", (TensorSpec("x", DType.FP32, (None, width)),), ()))
    requests = made_up(samples, 7)
    assert len({request["x"].tobytes() for request in requests}) == count
    assert (requests[3]["x"] == samples.make(1, 10)["x"]).all()


def test_what_was_not_asked_is_in_no_sample(tmp_path: Path) -> None:
    """One token out of range among hundreds of requests would end the warm-up of every server with the profile."""
    path, random = masked_mean(tmp_path / "m.onnx"), np.random.default_rng(0)
    data = {f"ids/{number}": random.integers(1, 32, (1, 4 + number % 9)) for number in range(300)}
    data |= {name.replace("ids", "mask"): np.ones_like(array) for name, array in data.items()}
    requests = open_session(TuneRequest(path, data), lambda _: None)
    asked = {question.source for question in requests.learned.gate.plain}
    place = next(number for number in range(300) if number not in asked)
    requests.requests[place]["ids"][0, 0] = 5000  # in the array of the data
    assert any((array == 5000).any() for array in data.values())
    session = open_session(TuneRequest(path, data), lambda _: None)
    assert len(session.servers.samples) == 4
    assert max(sample.inputs["ids"].high for sample in session.servers.samples) <= 32
