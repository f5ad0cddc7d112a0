"""The models of a server by name and version: found, listed, and, where the server allows it, loaded and unloaded.

Nothing that a request says names a file: what can be loaded is what the command line named, read anew from there, or
what lies in the model repository that it named.
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
    """Where models come from by their names, beside those of the command line."""

    def names(self) -> Sequence[str]:
        """All that there are now; none where their folder cannot be read."""

    def load(self, name: str, models: int) -> Sequence[ServedModel]:
        """Open all versions of a model that are to be served, among this many models; a TailcutError where it fails."""

    def changes(self) -> Mapping[str, bool]:
        """Those whose files have changed since the last call; False where they are gone."""

    def failed(self, name: str, error: Exception) -> FailedModel:
        """What clients are told of a model that could not be loaded."""


class ModelRepository:
    """The models that are served now, and those that were unloaded. All methods are for the loop's thread.

    Args:
        models: that are served.
        control: whether clients may load and unload.
        patience_s: for a model that was unloaded to answer what it has.
        library: where further models come from.
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
        self._gone: dict[tuple[str, str], str] = {}  # of those not served now: why
        self._control = control
        self._patience_s = patience_s
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned: Sequence[str] = self._mismatches()  # which were logged at the start
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

    def current(self, served: ServedModel) -> ServedModel:
        """The model in the place of one that was found before: itself, unless another was loaded there."""
        return self._known.get((served.name, served.version), served)

    def versions(self, name: str) -> list[str]:
        """The versions of a model that are served now, oldest first."""
        return sorted([served.version for served in self if served.name == name], key=int)

    def index(self, *, ready: bool) -> list[dict[str, str]]:
        """Every version with its state, as the repository extension lists them, and a reason where there is one.

        As in Triton's own index (`TRITONSERVER_ServerModelIndex`), versions that could not be loaded are listed like
        all others, and a model that was never loaded has its name alone.
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
            elif name not in names:  # which versions it would have is not known
                yield {"name": name, **state}

    async def load(self, name: str) -> None:
        """Read all versions of a model anew from their files; the old ones answer until the new ones are warm.

        Raises:
            InvalidInputError: this server does not let clients load models, or the file cannot be loaded.
            NotFoundError: the command line named no such model.
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

        With a library, nothing is done for a model that is not loaded, or does not exist, as Triton has it.

        Raises:
            InvalidInputError: this server does not let clients unload models, or those that it depends on with it.
            NotFoundError: the command line named no such model.
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
        """Look at the library every this many seconds from now on, and load what has changed or come; 0: never."""
        if self._library is not None and period_s:
            self._watching = asyncio.get_running_loop().create_task(self._poll(self._library, period_s))

    def stop_watching(self) -> None:
        """Load nothing more by itself."""
        if self._watching is not None:
            self._watching.cancel()

    async def _poll(self, library: ModelSource, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                changes = await asyncio.to_thread(library.changes)
            except Exception as error:  # noqa: BLE001  the next look may find it mended
                _log.error("the model repository cannot be read: %s", error, exc_info=unforeseen(error))
                continue
            for name, there in changes.items():
                await self._follow(library, name, there=there)
            if changes:
                self._share_soon()

    async def _follow(self, library: ModelSource, name: str, *, there: bool) -> None:
        """Load a model whose files have changed, or take it out of service; whatever goes wrong costs it alone."""
        async with self._turn:
            try:
                await (self._load_from(library, name) if there else self._drop(name))
            except (InvalidInputError, NotFoundError):
                pass  # which is logged
            except Exception:  # noqa: BLE001  the others are looked at all the same
                _log.exception("%s: its files have changed, and that could not be followed", name)

    async def _load_from(self, library: ModelSource, name: str) -> None:
        """Have the versions that the library gives take the place of those there are."""
        models = len({*(served.name for served in self), name})
        try:
            loaded = await _load_apart(partial(library.load, name, models))
        except NotFoundError:
            raise NotFoundError(f"failed to load {name[:64]!r}: the model repository has no such model") from None
        except Exception as error:  # whatever is wrong with a model, the others are served
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
        """Take a model out of service whose folder is gone."""
        self._failed.pop(name, None)
        gone = [served for served in self if served.name == name]
        self._gone |= {(served.name, served.version): "its folder was removed" for served in gone}
        self.tell_changed()
        for served in gone:
            _log.info("%s: unloaded: its folder was removed", name)
            await self._retire(served.model)

    async def renew(self) -> bool:
        """Read all models anew, one after the other; whether all were loaded. What does not load stays as it was."""
        async with self._turn:
            self.tell_changed()  # heads that were admitted may not be any more
            models = len(list(self))
            all_loaded = True
            if self._library is not None:
                for name in dict.fromkeys(served.name for served in self):
                    try:
                        await self._load_from(self._library, name)
                    except (InvalidInputError, NotFoundError):  # which is logged
                        all_loaded = False
                return all_loaded
            for key, served in list(self._known.items()):
                if served.reload is not None and key not in self._gone:
                    all_loaded &= not await self._try_replace(key, partial(served.reload, models))
            return all_loaded

    async def _try_replace(self, key: tuple[str, str], reload: Callable[[], Model]) -> str:
        """Load a model anew and log what came of it; why it could not be loaded, for a client, or nothing."""
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
        """Have models loaded anew whose settings depend on how many there are, and say what does not go together.

        No request waits for it.
        """
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
        """Log what does not go together any more, now that models came or went."""
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
            served.model.close()  # a second time does nothing

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
        """What requests mean may have changed: have nothing be used that was kept of them."""
        for callback in self.changed:
            callback()

    async def _retire(self, model: Model) -> None:
        """Close a model that gets no new requests any more, when the last one has been answered."""

        async def idle() -> None:
            while any(model.statistics()[count] for count in ("queued_rows", "computing", "rows_in_use")):  # noqa: ASYNC110  rare, and rows do not notify when they are free
                await asyncio.sleep(_IDLE_STEP_S)

        with suppress(TimeoutError):
            await asyncio.wait_for(idle(), self._patience_s)
        await asyncio.to_thread(model.close)


async def _load_apart(load: Callable[[], T]) -> T:
    """What it returns, computed on a thread that the end of the server does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():
            outcome()

    def run() -> None:
        try:
            outcome = partial(future.set_result, load())
        except BaseException as error:  # noqa: BLE001  it is raised where it is awaited
            outcome = partial(future.set_exception, error)
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name="tailcut-load", daemon=True).start()
    return await future


def _title(key: tuple[str, str]) -> str:
    """A model as a log line names it; with its version where it is not the first."""
    name, version = key
    return name if version == "1" else f"{name}:{version}"


def _what_changed(before: ServedModel, after: Profile) -> str:
    """What has changed of a model that was read anew, for the log; nothing of a pipeline, whose parts are many."""
    if after.is_of_pipeline:
        return ""
    profile = before.model.profile
    if (profile.model.sha256, profile.model.weights) != (after.model.sha256, after.model.weights):
        return ": file changed"
    return ": profile changed" if is_profile(Path(before.source)) and profile != after else ": file unchanged"
