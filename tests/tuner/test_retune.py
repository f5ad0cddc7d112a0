"""A profile that is checked again: with its own copy of the model, and for the clients that it has."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.engines.models import perceptron, quantised, two_in_two_out
from tests.tuner.results import printed

from tailcut.engines.base import U8Input
from tailcut.report.tune_words import retune_words
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.claims import arms_verified, carry
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.selection import Selection
from tailcut.tuner.session import open_session
from tailcut.tuner.space import changed, engine_choices

STATIC = changed(Settings(), engine={"precision": "int8_static", "threads": 1})
FIGURES = {"engine": "onnxruntime", "method": "minmax", "requests": 20, "operators": 3, "in_float": ["a"]}


def of_copy(folder: Path) -> tuple[Path, Profile]:
    path = perceptron([64, 32, 4], folder / "m.onnx")
    copy = quantised(path, folder / "m.int8.onnx")
    profile = Profile.of_model(path).with_copy(copy, STATIC)
    return path, msgspec.structs.replace(profile, evidence={"quantized": FIGURES})


@pytest.mark.slow
@pytest.mark.parametrize("rows", [0, 64])
def test_its_own_copy_is_measured(tmp_path: Path, rows: int) -> None:
    """With data or without it: the copy races, it answers rightly, and the new profile has it with its figures."""
    path, profile = of_copy(tmp_path)
    data = {"x": np.random.default_rng(0).standard_normal((rows, 64)).astype(np.float32)} if rows else None
    session = open_session(TuneRequest(path, data, slo_ms=100.0, budget_s=20.0, previous=profile), lambda event: None)
    space = ModelSpace(session)
    try:
        carry(session)
        space.calibrate()
        assert "onnxruntime" not in space.copies
        if rows:
            assert any(engine_choice.precision == "int8_static" for engine_choice in engine_choices(space.facts))
        won = Selection(session, space).race([STATIC])
        assert won == STATIC
        assert not session.outcome.previous_wrong
        assert session.servers.profile(STATIC).model.quantized == profile.model.quantized
        space.take(session.outcome)
    finally:
        session.servers.keep()
        space.close()
    assert session.outcome.copy_bytes == (tmp_path / "m.int8.onnx").read_bytes()
    assert session.outcome.copy is not None
    assert session.outcome.copy.operators == 3


def test_its_clients_stay_what_they_are(tmp_path: Path) -> None:
    """Pixels, chosen outputs, fixed dimensions and the declaration of rows are the profile's by default."""
    path = two_in_two_out(tmp_path / "m.onnx")
    fold = U8Input(scale=(1 / 255,), offset=(-0.5,))
    settings = changed(
        Settings(), engine={"u8_input": fold, "outputs": ("total",)}, batching={"rows": "independent", "bind": False}
    )
    profile = Profile.of_model(path, settings)
    session = open_session(TuneRequest(path, budget_s=5.0, previous=profile), lambda event: None)
    space = ModelSpace(session)
    space.close()
    assert all(
        (engine_choice.u8_input, engine_choice.outputs) == (fold, ("total",))
        for engine_choice in engine_choices(space.facts)
    )
    assert session.base.batching.rows == "independent"
    steps = [value * 255 + 127.5 for request in session.requests for value in request["a"].ravel()]
    assert np.allclose(steps, np.rint(steps), atol=1e-2)
    other = TuneRequest(path, previous=profile, outputs=("difference",)).inherited()
    assert other.outputs == ("difference",)


def test_what_cannot_be_served_is_not_called_wrong(tmp_path: Path) -> None:
    """The reason is kept apart, and the settings are not verified."""
    path, profile = of_copy(tmp_path)
    session = open_session(TuneRequest(path, slo_ms=100.0, budget_s=5.0, previous=profile), lambda event: None)
    space = ModelSpace(session)
    (tmp_path / "m.int8.onnx").write_bytes(b"no model")
    try:
        carry(session)
        Selection(session, space).race([STATIC, session.with_wire("binary")])
    finally:
        session.servers.keep()
        space.close()
    outcome = session.outcome
    assert not outcome.previous_wrong
    assert outcome.previous_unserved
    assert "previous" not in arms_verified(session)
    result = printed(outcome)
    assert result.retune is not None
    assert (result.retune.wrong, result.retune.unserved) == (None, outcome.previous_unserved)
    assert "was not measured" in retune_words(result)
