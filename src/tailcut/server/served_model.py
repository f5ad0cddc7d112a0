"""A model under the name and version by which clients know it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailcut.engines.base import EngineOptions
from tailcut.runtime.entry import ServedEntry
from tailcut.runtime.model import Model, as_neighbour
from tailcut.runtime.profile import Profile
from tailcut.runtime.thread_budget import beside_others
from tailcut.runtime.tracing.timeline import Timeline
from tailcut.server.latency import Exemplar, LatencyHistogram


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry of the server's repository.

    Args:
        model: computes the answers.
        name, version: by which clients know it.
        reload: loads its file again, for the given number of models in the server; None where that is not possible.
        latency: counts its requests by their latency.
        batch_exemplars: the newest traced request, by the bucket of its batch's rows (`metrics.batch_bucket`).
        config: its configuration in a model repository; None for a model of the command line.
        sources: the folder of its Python files, where it is a pipeline.
        alone: the engine's options while no other model is loaded, where only they depend on that; else None.
    """

    model: Model
    name: str
    version: str = "1"
    reload: Callable[[int], Model] | None = None
    alone: EngineOptions | None = None
    source: str = ""  # the file that the command line names
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    batch_exemplars: dict[int, Exemplar] = field(default_factory=dict)
    sources: Path | None = None
    config: Mapping[str, Any] | None = None
    timeline: Timeline = field(default_factory=Timeline)
    timelines: tuple[Timeline, ...] = ()  # of all workers, where there are several

    @property
    def entry(self) -> ServedEntry:
        """Where its requests are submitted."""
        return self.model.entry

    def suits(self, models: int) -> bool:
        """Whether its settings are right for this many models in the server, where they depend on that."""
        choice = self.model.choice
        if choice is not None:
            return choice.among(models).describe() == choice.describe()
        return self.alone is None or self.model.profile.settings.engine == beside_others(self.alone, models)

    def sharing_words(self, models: int) -> str:
        """Its settings that depend on the number of models in the server, for the log."""
        loaded = "1 model loaded" if models == 1 else f"{models} models loaded"
        if self.model.choice is not None:
            return f"{loaded}: {self.model.choice.line()}"
        what = "spin" if self.model.profile.settings.engine.spinning else "do not spin"
        return f"{loaded}: engine threads {what}"

    @property
    def profiles(self) -> list[Profile]:
        """The profiles that it is served with: its own, or those of a pipeline's models."""
        steps = self.entry.step_profiles()
        return [as_neighbour(self.model)] if steps is None else steps

    @property
    def all_timelines(self) -> tuple[Timeline, ...]:
        """The timelines of all workers."""
        return self.timelines or (self.timeline,)
