"""The models of `tailcut serve --model-repository`: which are loaded at the start, and how others come later."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailcut.cli.serving.sources import SourceReader
    from tailcut.runtime.limits import Limits
    from tailcut.server.load_failures import FailedModel
    from tailcut.server.served_model import ServedModel
    from tailcut.triton.library import Library, Wishes

_log = logging.getLogger("tailcut")


class ControlMode(StrEnum):
    """When models of a repository are loaded."""

    NONE = "none"
    EXPLICIT = "explicit"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class ServedLibrary:
    """A model repository whose models are served; `limit_ns` is the latency that `--slo` asks for, or 0."""

    library: "Library"
    limit_ns: int = 0

    def names(self) -> list[str]:
        """See `tailcut.server.repository.ModelSource`."""
        from tailcut.errors import MissingFileError, UsageError

        try:
            return self.library.names()
        except (MissingFileError, UsageError):  # its folder is away; the next look may find it again, and is logged
            return []

    def changes(self) -> Mapping[str, bool]:
        """See `names`."""
        return self.library.changes()

    def load(self, name: str, models: int) -> "list[ServedModel]":
        """See `names`."""
        from tailcut.server.latency import LatencyHistogram
        from tailcut.server.served_model import ServedModel

        return [
            ServedModel(
                loaded.model,
                loaded.name,
                loaded.version,
                loaded.reload,
                loaded.alone,
                config=loaded.config,
                latency=LatencyHistogram(self.limit_ns),
            )
            for loaded in self.library.load(name, models)
        ]

    def failed(self, name: str, error: Exception) -> "FailedModel":
        """See `names`."""
        from tailcut.server.load_failures import FailedModel, without_folders

        versions = map(str, self.library.versions(name))
        return FailedModel(without_folders(error, self.library.repository), tuple(versions))


@dataclass(frozen=True, slots=True)
class RepositoryStart:
    """What the command line says of a repository.

    Args:
        repository: its folder; None where there is none.
        mode: when models are loaded.
        wanted: those that mode explicit loads at the start.
        poll_s: seconds between two looks, with mode poll.
        limit_ns: the latency that `--slo` asks for; 0 where there is none.
    """

    repository: Path | None
    mode: ControlMode
    wanted: Sequence[str]
    poll_s: float
    limit_ns: int = 0


@dataclass(frozen=True, slots=True)
class RepositoryStarted:
    """What is served at the start, and what could not be loaded."""

    library: ServedLibrary | None = None
    models: "Sequence[ServedModel]" = ()
    failed: "Mapping[str, FailedModel]" = field(default_factory=dict)
    control: bool = False
    poll_s: float = 0.0


def start_library(start: RepositoryStart, wishes: "Callable[[], Wishes]") -> RepositoryStarted:
    """Load the models that are to be there at the start: all of them, or with mode explicit those that are named.

    Args:
        start: the repository.
        wishes: what holds for all models; called only where there is a repository.

    Raises:
        UsageError: it is not a repository, a model is named that it does not have, or none could be loaded.
    """
    from tailcut.errors import UsageError

    if start.repository is None:
        return RepositoryStarted()
    _need_protobuf()
    from tailcut.server.load_failures import log_failure
    from tailcut.triton.library import Library

    library = ServedLibrary(Library(start.repository.absolute(), wishes()), start.limit_ns)
    names = _names(start, library.names())
    models: list[ServedModel] = []
    failed: dict[str, FailedModel] = {}
    for name in names:
        try:
            models += library.load(name, len(names))
        except Exception as error:  # noqa: BLE001  whatever is wrong with a model, the others are served
            log_failure(name, error)
            failed[name] = library.failed(name, error)
    if not models and start.mode is ControlMode.NONE:
        raise UsageError(f"{start.repository}: no model of it could be loaded")
    poll_s = start.poll_s if start.mode is ControlMode.POLL else 0.0
    return RepositoryStarted(library, models, failed, start.mode is ControlMode.EXPLICIT, poll_s)


def wishes_of(reader: "SourceReader", limits: "Limits", *, queue: int | None, measures: bool) -> "Wishes":
    """What the command line says of every model, as it says it of every SOURCE."""
    from tailcut.triton.library import Wishes

    return Wishes(
        limits,
        None if reader.batching is None else reader.batching.value,
        measures=measures,
        device=None if reader.device is None else reader.device.value,
        also_cpu=None if reader.also_cpu is None else reader.also_cpu.value,
        max_batch_size=reader.max_batch_size,
        queue_rows=queue,
    )


def _names(start: RepositoryStart, there: list[str]) -> list[str]:
    from tailcut.errors import UsageError

    if start.wanted and start.mode is not ControlMode.EXPLICIT:
        raise UsageError("--load-model needs --model-control-mode explicit: the other modes load every model")
    unknown = next((name for name in start.wanted if name not in {*there, "*"}), None)
    if unknown is not None:
        raise UsageError(f"--load-model {unknown}: the model repository has {', '.join(there) or 'no models'}")
    return there if start.mode is not ControlMode.EXPLICIT or "*" in start.wanted else list(start.wanted)


def _need_protobuf() -> None:
    from importlib.util import find_spec

    from tailcut.errors import UsageError

    if not (find_spec("google") and find_spec("google.protobuf")):
        raise UsageError("a model repository needs protobuf, which is not installed: pip install 'tailcut[grpc]'")
