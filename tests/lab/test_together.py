"""Two models of one real server under load at the same time."""

import numpy as np
import pytest

from tailcut.errors import UsageError
from tailcut.lab.arrivals import Poisson, RecordingWindow
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_payload
from tailcut.lab.together import Stream, open_together

PAIR = {"a": np.ones((1, 2), np.float32), "b": np.ones((1, 3), np.float32)}


def streams(target: LoadTarget, *arrivals: object) -> list[Stream]:
    mlp = infer_payload(target, "mlp", {"x": np.ones((1, 4), np.float32)}, "binary")
    return [Stream([mlp], arrival) for arrival in arrivals]  # type: ignore[arg-type]


def test_both_are_asked_at_their_rates(target: LoadTarget) -> None:
    """Each stream has its own arrivals, drawn independently, and every request is answered."""
    first, second = open_together(target, streams(target, Poisson(200.0), Poisson(50.0)), duration_s=1.0, seed=3)
    assert first.samples == len(Poisson(200.0).times(1.0, 6))
    assert second.samples == len(Poisson(50.0).times(1.0, 7))
    assert (first.errors, second.errors) == ({}, {})
    assert (first.rate_offered, second.rate_offered) == (200.0, 50.0)


def test_recorded_models_have_one_window(target: LoadTarget) -> None:
    """What came together in the recording comes together again, whatever the seed."""
    recorded = RecordingWindow(np.arange(10) / 10, 1.0)
    result = open_together(target, streams(target, recorded, recorded), duration_s=0.5, seed=4)
    assert result[0].samples == result[1].samples == 5


def test_a_stream_without_arrivals_holds_nobody_up(target: LoadTarget) -> None:
    """A rare model has none in a short block."""
    first, second = open_together(target, streams(target, Poisson(100.0), Poisson(0.01)), duration_s=0.3, seed=1)
    assert first.samples > 10
    assert second.samples == 0


def test_nobody_listens() -> None:
    """One error, and no thread that waits for the others."""
    target = LoadTarget(port=1)
    with pytest.raises(UsageError, match="no server"):
        open_together(target, streams(target, Poisson(10.0), Poisson(10.0)), duration_s=0.2, seed=1)
