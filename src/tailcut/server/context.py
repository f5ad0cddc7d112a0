"""What the handlers of all protocols share: the models, shared memory, the counts, and whether the server is ready."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tailcut.errors import NotFoundError, TailcutError
from tailcut.live.counts import ProcessSnapshot
from tailcut.machine.nvml import DeviceUse, Nvml
from tailcut.memory.shared import SharedRegions
from tailcut.runtime.tracing.timeline import EVENTS_KEPT, Events, ProcessEvent
from tailcut.server.metrics import Counted, ServerCounts
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.wire.bearer import carries_token

_log = logging.getLogger("tailcut")


@dataclass(slots=True)
class Context:
    """What the handlers of all protocols share."""

    models: ModelRepository
    regions: SharedRegions = field(default_factory=SharedRegions)
    counts: ServerCounts = field(default_factory=ServerCounts)
    events: Sequence[Events] = ()  # of every serving process
    ready: bool = False  # from the end of the start until draining
    token: str | None = None
    require_token: bool = False  # for every request except health checks
    read_token: Callable[[], str] | None = None  # reads the token again
    nvml: Nvml | None = None  # opened at the start: the first call may take seconds
    ui: bool = True  # whether there is a page at /
    processes: Callable[[], list[ProcessSnapshot]] = list  # the counts of each serving process
    everywhere: Callable[[], tuple[ServerCounts, Iterable[Counted]]] | None = None  # sums of all workers, if any

    @property
    def is_live(self) -> bool:
        """Whether the process can go on: no model has lost its device, which only a restart would bring back."""
        return not any(model.entry.is_lost for model in self.models)

    @property
    def is_ready(self) -> bool:
        """Whether the server wants requests: all models are loaded and compute, and it is not draining."""
        return self.ready and self.is_live

    def devices(self) -> list[DeviceUse]:
        """The present use of the CUDA devices, where a model runs on one."""
        if self.nvml is None or all(model.model.profile.settings.engine.device == "cpu" for model in self.models):
            return []
        return self.nvml.read()

    def renew_token(self) -> None:
        """Read the token again from its file; where that fails, the old one is kept and an error is logged."""
        try:
            if self.read_token is not None:
                token = self.read_token()
                if token != self.token:
                    self.token = token
                    self.models.tell_changed()  # cached plans still accept the old token
        except (TailcutError, OSError) as error:
            _log.error("keeping the old token: %s", error)

    def counted(self) -> tuple[ServerCounts, Iterable[Counted]]:
        """The counts of the whole service."""
        return (self.counts, self.models) if self.everywhere is None else self.everywhere()

    def events_since(self, start_ns: int, most: int = EVENTS_KEPT) -> list[ProcessEvent]:
        """The events of all serving processes that ended after `start_ns` (monotonic): of each, the last `most`."""
        return [event for events in self.events for event in events.since(start_ns, most)]

    def served(self, name: str, version: str = "") -> ServedModel:
        """The model of that name; its newest version where none is asked for.

        Raises:
            NotFoundError: there is none.
        """
        return self.models.find(name, version)

    def admits(self, authorization: str) -> bool:
        """Whether the value of an Authorization header carries the server's token, or none is needed."""
        return self.token is None or carries_token(authorization, self.token)

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether that model can compute and the server is ready."""
        with suppress(NotFoundError):
            return self.ready and not self.models.find(name, version).entry.is_lost
        return False

    def counted_of(self, name: str = "", version: str = "") -> list[Counted]:
        """The counts of the model of that name, or of all of them where none is named, over all workers.

        Raises:
            NotFoundError: there is no such model.
        """
        wanted = {(model.name, model.version) for model in ([self.models.find(name, version)] if name else self.models)}
        return [counted for counted in self.counted()[1] if (counted.name, counted.version) in wanted]
