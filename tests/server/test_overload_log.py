"""What the log says of refused and dropped requests: a line a second for each model, and none without news."""

from types import SimpleNamespace
from typing import Any

import pytest

from tailcut.server.overload_log import OverloadLog


class Counting:
    """A model that has counted so much."""

    def __init__(self) -> None:
        self.counts = {"refused": 0, "expired": 0}
        self.refusal = "no room"

    def statistics(self) -> dict[str, int]:
        return dict(self.counts)


def test_only_what_is_new_is_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """With the newest reason; a look within the second after one says nothing, and loses nothing."""
    model = Counting()
    served: Any = SimpleNamespace(model=model, name="m")
    log = OverloadLog()
    log.look([served], 0.0)
    assert caplog.messages == []
    model.counts |= {"refused": 3}
    log.look([served], 0.5)
    assert caplog.messages == []
    log.look([served], 1.0)
    assert caplog.messages == ["m: refused 3 requests: no room"]
    caplog.clear()
    model.counts |= {"refused": 4, "expired": 2}
    log.look([served], 2.0)
    assert caplog.messages == [
        "m: refused 1 request: no room",
        "m: dropped 2 requests from the queue: their deadlines could no longer be met",
    ]
    caplog.clear()
    log.look([served], 9.0)
    assert caplog.messages == []
    model.counts |= {"expired": 3}
    log.look([served], 10.0)
    assert caplog.messages == ["m: dropped 1 request from the queue: its deadline could no longer be met"]
