"""The models of a server by name and version: found, listed, and, where the server allows it, loaded and unloaded.

No request can name a file: only the files that the command line names can be loaded again, and models in the model
repository that it names.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tailcut.errors import InvalidInputError, NotFoundError, TailcutError
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.model import Model
from tailcut.runtime.opening.source import is_profile
from tailcut.runtime.profile import Profile
from tailcut.runtime.thread_budget import mismatches
from tailcut.server.load_failures import FailedModel, log_failure, unforeseen, without_folders_of
from tailcut.server.served_model import ServedModel

_log = logging.getLogger("tailcut")
_IDLE_STEP_S = 0.01
T = TypeVar("T")


class ModelSource(Protocol):
    """Where models are loaded from by name, beside those of the command line."""

    def names(self) -> Sequence[str]:
        """The names of all models that exist now; none where their folder cannot be read."""

    def load(self, name: str, models: int) -> Sequence[ServedModel]:
        """Open all versions of a model that are to be served, in a server of `models` models.

        Raises:
            TailcutError: the model cannot be loaded.
        """

    def changes(self) -> Mapping[str, bool]:
        """The models whose files have changed since the last call; False for those that are gone."""

    def failed(self, name: str, error: Exception) -> FailedModel:
        """What clients are told about a model that could not be loaded."""


class ModelRepository:
    """The models that are served now, and those that were unloaded. All methods must be called on the loop's thread.

    Args:
        models: those served at first.
        control: whether clients may load and unload models.
        patience_s: how long an unloaded model may take to answer its last requests, in seconds.
        library: where further models are loaded from.
        failed: models of the library that could not be loaded.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        control: bool = False,
        patience_s: float = 30.0,
        library: ModelSource | None = None,
        failed: Mapping[str, FailedModel] | None = None,
    ) -> None:
        self._library = library
        self._failed = dict(failed or {})
        self._watching: asyncio.Task[None] | None = None
        self._known = {(served.name, served.version): served for served in models}
        self._gone: dict[tuple[str, str], str] = {}  # why a model is not served now
        self._control = control
        self._patience_s = patience_s
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned: Sequence[str] = self._mismatches()  # warnings that have been logged
        self.changed: list[Callable[[], Any]] = []  # called after a model is loaded or unloaded

    def __iter__(self) -> Iterator[ServedModel]:
        return iter([served for key, served in self._known.items() if key not in self._gone])

    def find(self, name: str, version: str = "") -> ServedModel:
        """The model of that name; its newest version where none is asked for.

        Raises:
            NotFoundError: there is no such model or version now; the message names those that exist. It begins like
                Triton's message, which programs written for Triton look for.
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

    def current(self, served: ServedModel) -> ServedModel:
        """The successor of a model that was found before, or the model itself where it has none."""
        return self._known.get((served.name, served.version), served)

    def versions(self, name: str) -> list[str]:
        """The versions of a model that are served now, oldest first."""
        return sorted([served.version for served in self if served.name == name], key=int)

    def index(self, *, ready: bool) -> list[dict[str, str]]:
        """Every version with its state, as in the repository extension, and a reason where there is one.

        As in Triton's index (`TRITONSERVER_ServerModelIndex`), versions that could not be loaded are listed like all
        others, and a model that was never loaded has only its name.
        """
        entries = []
        for name, version in self._known:
            reason = self._gone.get((name, version))
            state = "READY" if ready and reason is None else "UNAVAILABLE"
            entry = {"name": name, "version": version, "state": state}
            entries.append(entry | ({"reason": reason} if reason else {}))
        return entries if self._library is None else [*entries, *self._never_served(self._library)]

    def _never_served(self, library: ModelSource) -> Iterator[dict[str, str]]:
        """Yield the entries of models and versions that were not loaded yet, or could not be."""
        names = {name for name, _ in self._known}
        for name in library.names() or self._failed:
            failed = self._failed.get(name)
            state = {} if failed is None else {"state": "UNAVAILABLE", "reason": failed.reason}
            if failed is not None and failed.versions:
                versions = [version for version in failed.versions if (name, version) not in self._known]
                yield from ({"name": name, "version": version, **state} for version in versions)
            elif name not in names:  # its versions are not known
                yield {"name": name, **state}

    async def load(self, name: str) -> None:
        """Load all versions of a model again from their files; the old ones answer until the new ones are warm.

        Raises:
            InvalidInputError: clients may not load models in this server, or the file cannot be loaded.
            NotFoundError: there is no such model on the command line or in the library.
        """
        async with self._turn:
            if self._library is not None:
                self._check_control()
                await self._load_from(self._library, name)
            keys = self._keys(name, "load") if self._library is None else []
            models = len({*keys, *(key for key in self._known if key not in self._gone)})
            for key in keys:
                served = self._known[key]
                if served.reload is None:
                    raise InvalidInputError(f"failed to load {name[:64]!r}: it cannot be loaded again")
                reason = await self._try_replace(key, partial(served.reload, models))
                if reason:
                    raise InvalidInputError(f"failed to load {name[:64]!r}: {reason}")
        self._share_soon()

    async def unload(self, name: str, *, dependents: bool = False) -> None:
        """Take all versions of a model out of service; requests in progress are answered first.

        With a library, a model that is not loaded or does not exist is ignored, as in Triton.

        Raises:
            InvalidInputError: clients may not unload models in this server, or `dependents` is set.
            NotFoundError: there is no such model on the command line.
        """
        if dependents:
            raise InvalidInputError(
                "unload_dependents is not supported: the models of an ensemble are its own and go with it; unload "
                "others by their names"
            )
        async with self._turn:
            for key in self._keys(name, "unload"):
                if key not in self._gone:
                    self._gone[key] = "unloaded"
                    self.tell_changed()
                    await self._retire(self._known[key].model)
                    _log.info("%s: unloaded", _title(key))
        self._share_soon()

    def watch(self, period_s: float) -> None:
        """Scan the library every `period_s` seconds from now on, and load changed and new models; 0: never."""
        if self._library is not None and period_s:
            self._watching = asyncio.get_running_loop().create_task(self._poll(self._library, period_s))

    def stop_watching(self) -> None:
        """Stop scanning the library."""
        if self._watching is not None:
            self._watching.cancel()

    async def _poll(self, library: ModelSource, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                changes = await asyncio.to_thread(library.changes)
            except Exception as error:  # noqa: BLE001  it may be readable at the next scan
                _log.error("the model repository cannot be read: %s", error, exc_info=unforeseen(error))
                continue
            for name, there in changes.items():
                await self._follow(library, name, there=there)
            if changes:
                self._share_soon()

    async def _follow(self, library: ModelSource, name: str, *, there: bool) -> None:
        """Load a model whose files have changed, or unload it if they are gone; errors do not affect other models."""
        async with self._turn:
            try:
                await (self._load_from(library, name) if there else self._drop(name))
            except (InvalidInputError, NotFoundError):
                pass  # it has been logged
            except Exception:  # noqa: BLE001  the other models must still be loaded
                _log.exception("%s: failed to reload the model after its files changed", name)

    async def _load_from(self, library: ModelSource, name: str) -> None:
        """Replace a model's versions with those that the library loads."""
        models = len({*(served.name for served in self), name})
        try:
            loaded = await _load_apart(partial(library.load, name, models))
        except NotFoundError:
            raise NotFoundError(f"failed to load {name[:64]!r}: the model repository has no such model") from None
        except Exception as error:  # whatever is wrong with one model, the others are served
            log_failure(name, error, served=bool(self.versions(name)))
            failed = self._failed[name] = await asyncio.to_thread(library.failed, name, error)
            if not self.versions(name):
                self._gone |= {key: failed.reason for key in self._gone if key[0] == name}
            raise InvalidInputError(f"failed to load {name[:64]!r}: {failed.reason}") from error
        before = self._failed.pop(name, None)
        if before is not None:
            others = [key for key, reason in self._gone.items() if key[0] == name and reason == before.reason]
            self._gone |= dict.fromkeys(others, "unloaded")
        old = {key: served for key, served in self._known.items() if key[0] == name and key not in self._gone}
        for served in loaded:
            key = (served.name, served.version)
            known = self._known.get(key, served)
            self._known[key] = replace(
                known, model=served.model, config=served.config, reload=served.reload, alone=served.alone
            )
            self._gone.pop(key, None)
        kept = {(served.name, served.version) for served in loaded}
        self._gone |= dict.fromkeys(old.keys() - kept, "unloaded")
        self.tell_changed()
        _log.info("%s: loaded, version %s", name, ", ".join(served.version for served in loaded))
        for served in old.values():
            await self._retire(served.model)

    async def _drop(self, name: str) -> None:
        """Unload a model whose folder is gone."""
        self._failed.pop(name, None)
        gone = [served for served in self if served.name == name]
        self._gone |= {(served.name, served.version): "its folder was removed" for served in gone}
        self.tell_changed()
        for served in gone:
            _log.info("%s: unloaded: its folder was removed", name)
            await self._retire(served.model)

    async def renew(self) -> bool:
        """Load all models again in turn, and return whether all were loaded; one that fails keeps its old version."""
        async with self._turn:
            self.tell_changed()  # cached plans may admit what is no longer admitted
            models = len(list(self))
            all_loaded = True
            if self._library is not None:
                for name in dict.fromkeys(served.name for served in self):
                    try:
                        await self._load_from(self._library, name)
                    except (InvalidInputError, NotFoundError):  # it has been logged
                        all_loaded = False
                return all_loaded
            for key, served in list(self._known.items()):
                if served.reload is not None and key not in self._gone:
                    all_loaded &= not await self._try_replace(key, partial(served.reload, models))
            return all_loaded

    async def _try_replace(self, key: tuple[str, str], reload: Callable[[], Model]) -> str:
        """Load a model again and log the result; returns why that failed, for a client, or an empty text."""
        served = self._known[key]
        after = "the model stays unloaded" if key in self._gone else "the old version still answers"
        try:
            await self._replace(key, reload)
        except (TailcutError, OSError) as error:
            _log.error("%s: not loaded: %s; %s", _title(key), " ".join(str(error).split()), after)
            return f"{without_folders_of(served, error)}; {after}"
        _log.info("%s: loaded%s", _title(key), _what_changed(served, self._known[key].model.profile))
        return ""

    def _share_soon(self) -> None:
        """Reload the models whose settings depend on the number of models, without delaying any request."""
        task = asyncio.get_running_loop().create_task(self._share())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _share(self) -> None:
        async with self._turn:
            models = len(list(self))
            for key, served in list(self._known.items()):
                if served.reload is None or key in self._gone or served.suits(models):
                    continue
                try:
                    await self._replace(key, partial(served.reload, models))
                except (TailcutError, OSError) as error:
                    _log.error("model %r could not be reloaded: it keeps its settings: %s", served.name, error)
                else:
                    _log.info("%s: %s", served.name, self._known[key].sharing_words(models))
            await self._warn()

    async def _warn(self) -> None:
        """Log warnings about models that do not fit together, after a model was loaded or unloaded."""
        lines = await asyncio.to_thread(self._mismatches)
        for line in lines:
            if line not in self._warned:
                _log.warning("%s", line)
        self._warned = lines

    def _mismatches(self) -> list[str]:
        return mismatches([served.profiles for served in self], usable_cpus())

    async def _replace(self, key: tuple[str, str], reload: Callable[[], Model]) -> None:
        model = await _load_apart(reload)
        old = None if key in self._gone else self._known[key].model
        self._known[key] = replace(self._known[key], model=model)
        self._gone.pop(key, None)
        self.tell_changed()
        if old is not None:
            await self._retire(old)

    def close(self) -> None:
        """Close every model."""
        for served in self._known.values():
            served.model.close()  # closing twice does no harm

    def _check_control(self) -> None:
        if not self._control:
            how = "--allow-model-control" if self._library is None else "--model-control-mode explicit"
            raise InvalidInputError(f"loading and unloading models is disabled: start the server with {how}")

    def _keys(self, name: str, action: str) -> list[tuple[str, str]]:
        self._check_control()
        keys = [key for key in self._known if key[0] == name]
        if not keys and self._library is None:
            raise NotFoundError(
                f"failed to {action} {name[:64]!r}: unknown model; only models of the command line can be loaded"
            )
        return keys

    def tell_changed(self) -> None:
        """Invalidate all cached plans, because the meaning of requests may have changed."""
        for callback in self.changed:
            callback()

    async def _retire(self, model: Model) -> None:
        """Close a model that gets no new requests, when its last request has been answered."""

        async def idle() -> None:
            while any(model.statistics()[count] for count in ("queued_rows", "computing", "rows_in_use")):  # noqa: ASYNC110  rare, and nothing notifies when rows become free
                await asyncio.sleep(_IDLE_STEP_S)

        with suppress(TimeoutError):
            await asyncio.wait_for(idle(), self._patience_s)
        await asyncio.to_thread(model.close)


async def _load_apart(load: Callable[[], T]) -> T:
    """Call `load` on a thread that the end of the server does not wait for; returns its result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():
            outcome()

    def run() -> None:
        try:
            outcome = partial(future.set_result, load())
        except BaseException as error:  # noqa: BLE001  it is raised where the result is awaited
            outcome = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name="tailcut-load", daemon=True).start()
    return await future


def _title(key: tuple[str, str]) -> str:
    """The name of a model in log lines, with its version unless that is the first."""
    name, version = key
    return name if version == "1" else f"{name}:{version}"


def _what_changed(before: ServedModel, after: Profile) -> str:
    """What changed in a model that was loaded again, for the log; empty for a pipeline, which has many parts."""
    if after.is_of_pipeline:
        return ""
    profile = before.model.profile
    if (profile.model.sha256, profile.model.weights) != (after.model.sha256, after.model.weights):
        return ": file changed"
    return ": profile changed" if is_profile(Path(before.source)) and profile != after else ": file unchanged"
