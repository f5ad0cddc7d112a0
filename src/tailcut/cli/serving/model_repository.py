"""The models of `tailcut serve --model-repository`: those loaded at the start, and those loaded later."""

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
    from tailcut.triton.library import Library, Overrides

_log = logging.getLogger("tailcut")


class ControlMode(StrEnum):
    """When models of a repository are loaded."""

    NONE = "none"
    EXPLICIT = "explicit"
    POLL = "poll"


@dataclass(frozen=True, slots=True)
class ServedLibrary:
    """A model repository whose models are served; `limit_ns` is the limit of `--slo`, or 0."""

    library: "Library"
    limit_ns: int = 0

    def names(self) -> list[str]:
        """See `tailcut.server.repository.ModelSource`."""
        from tailcut.errors import MissingFileError, UsageError

        try:
            return self.library.names()
        except (MissingFileError, UsageError):  # its folder is missing; it is checked again later, and that is logged
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
    """The command-line options of a model repository.

    Args:
        repository: its folder; None without one.
        mode: when models are loaded.
        wanted: names of the models that mode explicit loads at the start.
        poll_s: seconds between two checks, with mode poll.
        limit_ns: the limit of `--slo`; 0 without one.
    """

    repository: Path | None
    mode: ControlMode
    wanted: Sequence[str]
    poll_s: float
    limit_ns: int = 0


@dataclass(frozen=True, slots=True)
class RepositoryStarted:
    """The models that are served at the start, and those that could not be loaded."""

    library: ServedLibrary | None = None
    models: "Sequence[ServedModel]" = ()
    failed: "Mapping[str, FailedModel]" = field(default_factory=dict)
    control: bool = False
    poll_s: float = 0.0


def start_library(start: RepositoryStart, overrides: "Callable[[], Overrides]") -> RepositoryStarted:
    """Load the models to serve at the start: all of them, or with mode explicit those that are named.

    Args:
        start: the options of the repository.
        overrides: returns the options that apply to all models; called only if there is a repository.

    Raises:
        UsageError: the folder is not a repository, it does not have a named model, or no model could be loaded.
    """
    from tailcut.errors import UsageError

    if start.repository is None:
        return RepositoryStarted()
    _need_protobuf()
    from tailcut.server.load_failures import log_failure
    from tailcut.triton.library import Library

    library = ServedLibrary(Library(start.repository.absolute(), overrides()), start.limit_ns)
    names = _names(start, library.names())
    models: list[ServedModel] = []
    failed: dict[str, FailedModel] = {}
    for name in names:
        try:
            models += library.load(name, len(names))
        except Exception as error:  # noqa: BLE001  the other models are served, whatever is wrong with this one
            log_failure(name, error)
            failed[name] = library.failed(name, error)
    if not models and start.mode is ControlMode.NONE:
        raise UsageError(f"{start.repository}: none of its models could be loaded")
    poll_s = start.poll_s if start.mode is ControlMode.POLL else 0.0
    return RepositoryStarted(library, models, failed, start.mode is ControlMode.EXPLICIT, poll_s)


def overrides_of(reader: "SourceReader", limits: "Limits", *, queue: int | None, measures: bool) -> "Overrides":
    """The command-line options that apply to every model of a repository, as to every SOURCE."""
    from tailcut.triton.library import Overrides

    return Overrides(
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
