"""Messages of a joint tune: events of one model's search with its name, and descriptions of combinations and scores."""

from collections.abc import Callable, Sequence

from tailcut.runtime.settings import Settings
from tailcut.tuner.events import Event, ExpectedTime, Phase

LEAST_SCORE = 1e-9  # a score of 0 has no ratio


class NamedEvents:
    """Passes on the events of one model's search, with the model's name."""

    def __init__(self, name: str, tell: Callable[[Event], None]) -> None:
        self._name = name
        self._tell = tell

    def __call__(self, event: Event) -> None:
        """Pass an event on, except `ExpectedTime`, which is not that of the whole tune."""
        if isinstance(event, Phase):
            event = Phase(f"{self._name}: {event.text}")
        elif isinstance(event, ExpectedTime):
            return
        self._tell(event)


def describe(names: Sequence[str], combination: Sequence[Settings]) -> str:
    """A combination in one line."""
    parts = [f"{name}: {settings.describe() or 'defaults'}" for name, settings in zip(names, combination, strict=True)]
    return "; ".join(parts)


def fits(worst: float) -> str:
    """A score as text."""
    return f"p99 x{1 / worst:.2f} of its limit for the worst model" if worst > LEAST_SCORE else "requests failed"
