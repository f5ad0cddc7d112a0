"""Overload in the log: a line a second for each model that refuses requests, with how many and the newest reason.

The hot path counts; the sweep, which runs a few times a second anyway, looks at the counts.
"""

import logging
from collections.abc import Iterable

from tailcut.runtime.model import Model
from tailcut.server.served_model import ServedModel

_log = logging.getLogger("tailcut")
_EVERY_S = 1.0


class OverloadLog:
    """Remembers what it has told of each model."""

    def __init__(self) -> None:
        self._counts: dict[Model, tuple[int, int]] = {}
        self._next = 0.0

    def look(self, models: Iterable[ServedModel], now: float) -> None:
        """Log what was refused and dropped since the last look, a second after it at the earliest; `now` in seconds."""
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
