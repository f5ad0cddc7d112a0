"""What may go on beside each other: launches, warm-ups and captures, and both values of a switch."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tailcut.engines.cuda.turns import CaptureGate, Switch


class Held:
    """A thread that holds something until it is stopped."""

    def __init__(self, hold: Callable[[], AbstractContextManager[object]]) -> None:
        self.got, self._end = threading.Event(), threading.Event()
        self._hold = hold
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._hold():
            self.got.set()
            self._end.wait(10)

    def there(self) -> bool:
        return self.got.wait(10)

    def waits(self) -> bool:
        return not self.got.wait(0.05)

    def end(self) -> None:
        self._end.set()
        self._thread.join(10)


@pytest.mark.parametrize("kind", ["launching", "warming", "capturing"])
def test_a_capture_is_alone(kind: str) -> None:
    """Whatever comes meanwhile waits for its end."""
    gate = CaptureGate()
    capture = Held(gate.capturing)
    assert capture.there()
    other = Held(getattr(gate, kind))
    assert other.waits()
    capture.end()
    assert other.there()
    other.end()


def test_a_capture_waits_for_launches_and_is_not_starved() -> None:
    """Launches run beside each other; those that come while a capture waits come after it."""
    gate = CaptureGate()
    first, second = Held(gate.launching), Held(gate.launching)
    assert first.there()
    assert second.there()
    capture = Held(gate.capturing)
    assert capture.waits()
    third = Held(gate.launching)
    first.end()
    assert third.waits()
    second.end()
    assert capture.there()
    assert third.waits()
    capture.end()
    assert third.there()
    third.end()


def test_nothing_waits_for_what_is_compiled() -> None:
    """Launches go on, and a capture is refused at once."""
    gate = CaptureGate()
    compiled = Held(gate.warming)
    assert compiled.there()
    assert gate.is_warming
    with gate.launching(), gate.capturing() as alone:
        assert not alone
    compiled.end()
    assert not gate.is_warming
    with gate.capturing() as alone:
        assert alone


def test_a_switch_is_shared_by_those_that_want_the_same() -> None:
    """The other value waits, and gets its turn before more of the same; then all is as it was."""
    seen: list[object] = []
    switch = Switch(seen.append, lambda: seen.append("back"))
    first, second = (Held(lambda: switch.held(value=False)) for _ in range(2))
    assert first.there()
    assert second.there()
    other = Held(lambda: switch.held(value=True))
    assert other.waits()
    third = Held(lambda: switch.held(value=False))
    assert third.waits()
    first.end()
    assert other.waits()
    second.end()
    waiting = [other, third]
    for _ in range(2):
        held = next(item for item in waiting if item.got.wait(1))
        waiting.remove(held)
        held.end()
    assert seen[:2] == [False, "back"]
    assert sorted(map(str, seen[2:])) == ["False", "True", "back", "back"]
