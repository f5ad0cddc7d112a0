"""The models of a server by name and version: found, listed, and, where the server allows it, loaded and unloaded.

Nothing that a request says names a file: what can be loaded is what the command line named, read anew from there.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tailcut.errors import InvalidInputError, NotFoundError, TailcutError
from tailcut.runtime.model import Model
from tailcut.runtime.thread_budget import beside_others
from tailcut.server.served_model import ServedModel

_log = logging.getLogger("tailcut")
_IDLE_STEP_S = 0.01
_ABSOLUTE = re.compile(r"(?<![\w.])/(?:[^\s/:]+/)*(?=[^\s/])")  # the folders of a path


class ModelRepository:
    """The models that are served now, and those that were unloaded. All methods are for the loop's thread."""

    def __init__(self, models: Sequence[ServedModel], *, control: bool = False, patience_s: float = 30.0) -> None:
        self._known = {(served.name, served.version): served for served in models}
        self._gone: dict[tuple[str, str], str] = {}  # of those not served now: why
        self._control = control
        self._failed: dict[tuple[str, str], str] = {}  # of those that could not be loaded last: why
        self._patience_s = patience_s
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.changed: list[Callable[[], Any]] = []  # called when a model came or went

    def __iter__(self) -> Iterator[ServedModel]:
        return iter([served for key, served in self._known.items() if key not in self._gone])

    def find(self, name: str, version: str = "") -> ServedModel:
        """The model of that name; its newest version where none is asked for.

        Raises:
            NotFoundError: there is no such model or version now; the message names those that there are. It begins as
                Triton's does: programs written for Triton look for those words.
        """
        versions = [served for served in self if served.name == name]
        for served in versions:
            if served.version == version:
                return served
        if not versions:
            names = ", ".join(sorted({served.name for served in self})) or "none"
            raise NotFoundError(f"Request for unknown model: {name[:64]!r} is not found; this server has {names}")
        if version:
            has = ", ".join(repr(served.version) for served in versions)
            raise NotFoundError(f"Request for unknown model: {name!r} has no version {version[:64]!r}; it has {has}")
        return max(versions, key=lambda served: int(served.version))

    def versions(self, name: str) -> list[str]:
        """The versions of a model that are served now, oldest first."""
        return sorted([served.version for served in self if served.name == name], key=int)

    def index(self, *, ready: bool) -> list[dict[str, str]]:
        """Every model with its state, as the repository extension lists them."""
        entries = []
        for name, version in self._known:
            reason = self._gone.get((name, version))
            state = "READY" if ready and reason is None else "UNAVAILABLE"
            entries.append({"name": name, "version": version, "state": state, "reason": reason or ""})
        return entries

    async def load(self, name: str) -> None:
        """Read all versions of a model anew from their files; the old ones answer until the new ones are warm.

        Raises:
            InvalidInputError: this server does not let clients load models, or the file cannot be loaded.
            NotFoundError: the command line named no such model.
        """
        async with self._turn:
            keys = self._keys(name, "load")
            models = len({*keys, *(key for key in self._known if key not in self._gone)})
            for key in keys:
                served = self._known[key]
                if served.reload is None:
                    raise InvalidInputError(f"failed to load {name[:64]!r}: it cannot be loaded again")
                if not await self._try_replace(key, partial(served.reload, models)):
                    raise InvalidInputError(f"failed to load {name[:64]!r}: {self._failed[key]}")
        self._share_soon()

    async def unload(self, name: str) -> None:
        """Take all versions of a model out of service; what is in hand is answered first.

        Raises:
            InvalidInputError: this server does not let clients unload models.
            NotFoundError: the command line named no such model.
        """
        async with self._turn:
            for key in self._keys(name, "unload"):
                if key not in self._gone:
                    self._gone[key] = "unloaded"
                    self._tell()
                    await self._retire(self._known[key].model)
                    _log.info("%s: unloaded", _title(key))
        self._share_soon()

    async def renew(self) -> None:
        """Read all models that are served anew, one after the other; one that does not load stays as it was."""
        async with self._turn:
            self._tell()  # heads that were admitted may not be any more
            models = len(list(self))
            for key, served in list(self._known.items()):
                if served.reload is not None and key not in self._gone:
                    await self._try_replace(key, partial(served.reload, models))

    async def _try_replace(self, key: tuple[str, str], reload: Callable[[], Model]) -> bool:
        """Load a model anew and log what came of it; whether it was loaded. `_failed` has the reason if not."""
        served = self._known[key]
        before = served.model.profile.model.sha256
        after = "it stays unloaded" if key in self._gone else "the old version still answers"
        try:
            await self._replace(key, reload)
        except (TailcutError, OSError) as error:
            self._failed[key] = f"{_without_folders(str(error), served)}; {after}"
            _log.error("%s: not loaded: %s; %s", _title(key), error, after)
            return False
        same = self._known[key].model.profile.model.sha256 == before
        _log.info("%s: loaded: %s", _title(key), "the file is as it was" if same else "another file than before")
        return True

    def _share_soon(self) -> None:
        """Have models loaded anew whose engine options depend on how many there are; no request waits for it."""
        task = asyncio.get_running_loop().create_task(self._share())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _share(self) -> None:
        async with self._turn:
            models = len(list(self))
            for key, served in list(self._known.items()):
                if served.reload is None or served.alone is None or key in self._gone:
                    continue
                wanted = beside_others(served.alone, models)
                if served.model.profile.settings.engine == wanted:
                    continue
                try:
                    await self._replace(key, partial(served.reload, models))
                except (TailcutError, OSError) as error:
                    _log.error("model %r could not be loaded anew: it keeps its threads: %s", served.name, error)
                else:
                    what = "spin" if wanted.spinning else "do not spin"
                    _log.info("%s: engine threads %s: models here: %d", served.name, what, models)

    async def _replace(self, key: tuple[str, str], reload: Callable[[], Model]) -> None:
        model = await asyncio.to_thread(reload)
        old = None if key in self._gone else self._known[key].model
        self._known[key] = replace(self._known[key], model=model)
        self._gone.pop(key, None)
        self._tell()
        if old is not None:
            await self._retire(old)

    def close(self) -> None:
        """Close every model."""
        for served in self._known.values():
            served.model.close()

    def _keys(self, name: str, action: str) -> list[tuple[str, str]]:
        if not self._control:
            raise InvalidInputError("models are not loaded or unloaded here: start with --allow-model-control")
        keys = [key for key in self._known if key[0] == name]
        if not keys:
            raise NotFoundError(
                f"failed to {action} {name[:64]!r}: unknown model; only models of the command line can be loaded"
            )
        return keys

    def _tell(self) -> None:
        for callback in self.changed:
            callback()

    async def _retire(self, model: Model) -> None:
        """Close a model that gets no new requests any more, when the last one has been answered."""

        async def idle() -> None:
            while any(model.statistics()[count] for count in ("queued_rows", "computing", "rows_in_use")):  # noqa: ASYNC110  rare, and rows tell nobody when they are free
                await asyncio.sleep(_IDLE_STEP_S)

        with suppress(TimeoutError):
            await asyncio.wait_for(idle(), self._patience_s)
        await asyncio.to_thread(model.close)


def _title(key: tuple[str, str]) -> str:
    """A model as a log line names it; with its version where it is not the first."""
    name, version = key
    return name if version == "1" else f"{name}:{version}"


def _without_folders(message: str, served: ServedModel) -> str:
    """What is wrong with a file, with its name, and not where it lies: clients are told this."""
    files = {served.source, served.model.profile.model.path, str(served.model.profile.engine_file)}
    for folder in sorted({*_folders(files)}, key=len, reverse=True):
        message = message.replace(f"{folder}/", "")
    message = _ABSOLUTE.sub("", message)
    start, _, rest = message.partition(": ")
    return rest if start in {Path(file).name for file in files} and start in rest else message


def _folders(files: Iterable[str]) -> Iterator[str]:
    """The folders of files, as they are named and as they are."""
    for file in files:
        folder = Path(file).parent
        yield from {str(folder), str(folder.resolve())} - {".", "/"}
