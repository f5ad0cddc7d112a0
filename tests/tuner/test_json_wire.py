"""Data that JSON cannot represent: the baseline is sent binary tensors; clients that send only JSON are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron

from tailcut.errors import UsageError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner import json_wire
from tailcut.tuner.claims import carry
from tailcut.tuner.compare import compare
from tailcut.tuner.events import Event, Phase
from tailcut.tuner.json_wire import json_bytes, not_json
from tailcut.tuner.pipelines.search import open_pipeline
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.servers import sent_in_turn
from tailcut.tuner.session import open_session
from tailcut.tuner.space import changed
from tailcut.wire.v2.call import json_body

PIPELINE = """import numpy as np
import tailcut
@tailcut.stage(inputs={"a": "FP32[4]"}, outputs={"b": "FP32[4]"})
def double(a: np.ndarray) -> np.ndarray:
    return 2 * a
pipeline = tailcut.Pipeline("p", [double])
"""


def wanted_of(folder: Path) -> TuneRequest:
    """With a NaN in every fifth row."""
    x = np.zeros((40, 16), np.float32)
    x[::5, 3] = np.nan
    return TuneRequest(perceptron([16, 4], folder / "m.onnx"), {"x": x}, budget_s=5.0)


def test_the_baseline_is_asked_in_binary(tmp_path: Path) -> None:
    """All its requests are answered, one line says so, and nothing is measured a second time behind that wire."""
    events: list[Event] = []
    session = open_session(wanted_of(tmp_path), events.append)
    try:
        assert session.base.io.wire == "binary"
        assert list(session.compared) == ["baseline"]
        carry(session)
    finally:
        session.servers.keep()
    assert session.outcome.capacity
    reason = "input 'x' has NaN or infinity in the data, which JSON cannot represent"
    words = f"{reason}: the baseline is sent binary tensors"
    assert [event.text for event in events if isinstance(event, Phase)].count(words) == 1


def test_clients_that_speak_only_json_are_refused(tmp_path: Path) -> None:
    """In one line with the input's name: of models and of pipelines."""
    wanted = replace(wanted_of(tmp_path), wire="json")
    with pytest.raises(UsageError, match=r"--wire json: input 'x' has NaN .*: use --wire binary"):
        open_session(wanted, lambda event: None)
    (tmp_path / "p.py").write_text(PIPELINE)
    other = TuneRequest(tmp_path / "p.py:pipeline", {"a": np.full((9, 4), np.inf, np.float32)}, wire="json")
    with pytest.raises(UsageError, match=r"--wire json: input 'a' has NaN or infinity"):
        open_pipeline(other, lambda event: None)


def test_a_profile_for_json_is_checked_again_in_binary(tmp_path: Path) -> None:
    """And compared with others it is refused, because profiles are measured as they are."""
    wanted = wanted_of(tmp_path)
    profile = Profile.of_model(wanted.model, changed(Settings(), io={"wire": "json"}))
    settings = open_session(replace(wanted, previous=profile), lambda event: None).wanted.previous_settings
    assert settings is not None
    assert settings.io.wire == "binary"
    with pytest.raises(UsageError, match=r"b\.toml is for clients that send JSON: input 'x' has NaN"):
        compare(wanted, {"a.toml": Profile.of_model(wanted.model), "b.toml": profile}, lambda event: None)


def test_what_json_can_represent() -> None:
    """Finite numbers, and text; not bytes that are no text."""
    assert not not_json([{"x": np.ones(3, np.float16), "t": np.array(["a", b"b"], object)}])
    assert "input 't' has bytes that are not UTF-8" in not_json([{"t": np.array([b"\xff"], object)}])


def test_the_length_of_a_request_is_known_by_some_of_its_values() -> None:
    """Of numbers and of strings, in a moment where there are millions."""
    random = np.random.default_rng(1)
    for array in (random.standard_normal((1, 90_000)).astype(np.float32), np.array([b"ab", "cde"] * 3000, object)):
        assert json_bytes({"x": array}) == pytest.approx(len(json_body({"x": array})), rel=0.01)
    large = random.standard_normal((1, 3, 1200, 1200)).astype(np.float32)
    assert "a request is 8" in not_json([{"x": large}])


def test_what_is_too_long_as_json_is_asked_in_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is that of a server, to the byte."""
    x = np.zeros((1, 16), np.float32)
    length = len(json_body({"x": x}))
    monkeypatch.setattr(json_wire, "BODY_BYTES", length)
    assert not not_json([{"x": x}])
    monkeypatch.setattr(json_wire, "BODY_BYTES", length - 1)
    events: list[Event] = []
    wanted = TuneRequest(perceptron([16, 4], tmp_path / "m.onnx"), {"x": x}, budget_s=5.0)
    assert open_session(wanted, events.append).base.io.wire == "binary"
    words = "a request is 0 MiB as JSON, over the 0 MiB that a server accepts: the baseline is sent binary tensors"
    assert Phase(words) in events


def test_the_length_of_bytes_that_json_cannot_represent_is_estimated() -> None:
    """A pipeline that decodes images is tuned with some of them: their number depends on their length."""
    images = np.array([bytes(range(256)) * 40, b"\xff" * 10240, b"x" * 10240], object)
    assert 10240 * 3 <= json_bytes({"image": images}) < 10240 * 10
    requests = [{"image": images[:1]}] * 3
    assert sent_in_turn(requests) == requests


def test_a_pipeline_whose_inputs_are_not_text_is_opened(tmp_path: Path) -> None:
    """Its requests are binary."""
    file = tmp_path / "p.py"
    file.write_text(PIPELINE.replace('"a": "FP32[4]"', '"a": "BYTES"').replace('"b": "FP32[4]"', '"b": "BYTES"'))
    wanted = TuneRequest(Path(f"{file}:pipeline"), {"a": np.array([b"\x89PNG\xff"] * 9, object)}, budget_s=5.0)
    session, _ = open_pipeline(wanted, lambda event: None)
    session.servers.keep()
    assert session.base.io.wire == "binary"
