"""What a joint tune says: a model's name before what its own search tells, combinations and scores in words."""

from collections.abc import Callable, Sequence

from tailcut.runtime.settings import Settings
from tailcut.tuner.events import Event, ExpectedTime, Phase

LEAST_SCORE = 1e-9  # a score of 0 has no ratio


class NamedEvents:
    """Passes on what one model's search tells, with the model's name."""

    def __init__(self, name: str, tell: Callable[[Event], None]) -> None:
        self._name = name
        self._tell = tell

    def __call__(self, event: Event) -> None:
        """Pass it on, but for how long this search will take: that is not the whole tune's time."""
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
    """A score in words."""
    return (
        f"p99 x{1 / worst:.2f} of the limit, of the model that is worst off"
        if worst > LEAST_SCORE
        else "requests failed"
    )
