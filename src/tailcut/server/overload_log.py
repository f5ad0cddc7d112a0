"""Overload in the log: one line per second for each model that refuses requests, with their number and newest reason.

The hot path only counts; the sweep, which runs a few times a second anyway, compares the counts.
"""

import logging
from collections.abc import Iterable

from tailcut.runtime.model import Model
from tailcut.server.served_model import ServedModel

_log = logging.getLogger("tailcut")
_EVERY_S = 1.0


class OverloadLog:
    """Logs refused and expired requests, and remembers the counts that it has logged."""

    def __init__(self) -> None:
        self._counts: dict[Model, tuple[int, int]] = {}
        self._next = 0.0

    def look(self, models: Iterable[ServedModel], now: float) -> None:
        """Log what was refused and dropped since the last call, at most once a second; `now` is in seconds."""
        if now < self._next:
            return
        self._next = now + _EVERY_S
        before, self._counts = self._counts, {}
        for served in models:
            counts = served.model.statistics()
            self._counts[served.model] = refused, dropped = int(counts["refused"]), int(counts["expired"])
            refused_before, dropped_before = before.get(served.model, (0, 0))
            if refused > refused_before:
                _log.warning("%s: refused %s: %s", served.name, _count(refused - refused_before), served.model.refusal)
            if dropped > dropped_before:
                number = dropped - dropped_before
                whose = "its deadline" if number == 1 else "their deadlines"
                text = "%s: dropped %s from the queue: %s could no longer be met"
                _log.warning(text, served.name, _count(number), whose)


def _count(requests: int) -> str:
    return "1 request" if requests == 1 else f"{requests} requests"
