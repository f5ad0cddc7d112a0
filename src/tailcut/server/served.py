"""A model under the name and version that clients know it by."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tailcut.runtime.model import Model
from tailcut.runtime.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Served:
    """One entry of the server's repository; `reload` reads its file anew, where that may be asked for."""

    model: Model
    name: str
    version: str = "1"
    reload: Callable[[], Model] | None = None
    timeline: Timeline = field(default_factory=Timeline)
    timelines: tuple[Timeline, ...] = ()  # of all workers, where there are several

    @property
    def trails(self) -> tuple[Timeline, ...]:
        """Everybody's timelines."""
        return self.timelines or (self.timeline,)
