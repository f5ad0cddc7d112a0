"""The servers that a tune has running, one for each configuration: what is claimed comes from executed ones.

Those of the verification are executed as a user's is. Those before them, of which there are many, are forked, which
leaves out the imports (docs/decisions/068-servers-of-a-tune-are-forked.md).
"""

import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from tailcut.engines.base import EngineOptions, U8Input
from tailcut.engines.files import ENGINES_OF, FileKind
from tailcut.lab.data import evenly
from tailcut.lab.fork_server import imported_s
from tailcut.lab.load import LoadTarget, Payload
from tailcut.lab.payload import Wire, encoded, infer_payload
from tailcut.lab.shared import SharedLoad
from tailcut.lab.trial import Arm, ServedProfile, modules_of
from tailcut.machine.process import peak_bytes
from tailcut.machine.quota import affinity_mask, free_bytes, usable_cpus
from tailcut.runtime.profile import Profile
from tailcut.runtime.samples import SampleRequest
from tailcut.runtime.settings import IoSettings, Settings
from tailcut.spec import ModelSpec
from tailcut.tuner.json_wire import json_bytes
from tailcut.tuner.pixels import as_pixels
from tailcut.tuner.space import changed

_PAYLOADS, _MIXED_PAYLOADS = 32, 64  # distinct requests sent in turn: of one shape, and of several
_FEWEST, _FEWEST_MIXED = 4, 8  # of large ones: encoding them takes about 15 ms for each MB of JSON
_PAYLOAD_BYTES = 128 << 20  # of all, as JSON
_FILLED = 0.8  # of the free memory, by servers


class TrialServers:
    """Started when they are first wanted, and stopped when they are not.

    Args:
        model: a model file.
        spec: its signature.
        requests: what clients send.
        samples: kinds of requests in the data, with which servers warm up.
        base: what every profile has but for its settings: that of a pipeline as it is written, or of one to compare.
        cpus: that they run on; None for all that this process may use.
    """

    def __init__(  # noqa: PLR0913  what a profile and its clients are
        self,
        model: Path,
        spec: ModelSpec,
        requests: Sequence[Mapping[str, np.ndarray]],
        samples: tuple[SampleRequest, ...] = (),
        *,
        base: Profile | None = None,
        cpus: tuple[int, ...] | None = None,
    ) -> None:
        self._cpus = cpus
        self.samples = samples
        self._base = base
        self._model = model
        self._spec = spec
        self.requests = sent_in_turn(requests)  # that are sent
        self._running: dict[Settings, ServedProfile] = {}
        self._launched: set[Settings] = set()  # of these, those that were not waited for yet
        self._forks = True
        self._modules: tuple[str, ...] = ()  # that the last one to be started imports
        self._started, self._waited_s = 0, 0.0
        self._begun: dict[Settings, float] = {}
        self._took_s: dict[Settings, float] = {}  # to start, others beside it or not
        self.copies: Mapping[str, Path] = {}  # for precision int8_static, by engine
        self.converted: Path | None = None  # a program as ONNX
        self._payloads: dict[tuple[Wire, U8Input | None, str], list[Payload]] = {}
        # Regions are a server's own, and one server may be asked by several ways.
        self._shared: dict[tuple[Settings, U8Input | None, str], tuple[SharedLoad, list[Payload]]] = {}

    def of(self, settings: Settings) -> ServedProfile:
        """A running server of these settings; those that differ only in what clients send share one.

        Raises:
            ServeError: it does not start.
        """
        key = _key(settings)
        self.launch(settings)
        server = self._running[key]
        if key in self._launched:
            self._launched.remove(key)
            began = time.monotonic()
            try:
                server.wait_ready()
            except BaseException:
                self._running.pop(key)
                raise
            self._started += 1
            self._waited_s += time.monotonic() - began
            self._took_s[key] = time.monotonic() - self._begun[key]
        return server

    def launch(self, *settings: Settings) -> None:
        """Have servers start while something else is done, anew where one has ended; `of` waits for them."""
        for key in map(_key, settings):
            if self.has_ended(key):
                self._stop(key)
            if key not in self._running:
                profile = self.profile(key)
                server = ServedProfile(profile, cpus=self._cpus, forked=self._forks)
                self._begun[key], self._modules = time.monotonic(), modules_of(profile)
                server.begin()
                self._running[key] = server
                self._launched.add(key)

    def has_ended(self, settings: Settings) -> bool:
        """Whether a server was ready and is gone, as where the kernel killed it for its memory."""
        key = _key(settings)
        return key in self._running and key not in self._launched and self._running[key].ended

    def execute(self) -> None:
        """Have servers be executed from now on, and stop those that were forked."""
        self._forks = False
        self.keep(*(key for key, server in self._running.items() if not server.is_forked))

    def executing_s(self, count: int) -> float:
        """How long it takes to execute this many at a time; 0 before the first start."""
        if not self._started:
            return 0.0
        return (self.start_s + imported_s(self._modules)) * max(1.0, count / usable_cpus())

    @property
    def start_s(self) -> float:
        """How long a start was waited for on average; 0 before the first."""
        return self._waited_s / max(1, self._started)

    def compared(self, settings: Settings, other: Settings) -> str:
        """How long each took to start, and what memory it has: both are running; nothing where that cannot be read."""
        words = []
        for key in map(_key, (settings, other)):
            pid = self._running[key].pid
            memory = None if pid is None else peak_bytes(pid)
            if memory is None or key not in self._took_s:
                return ""
            words.append(f"{self._took_s[key]:.1f} s to start and {memory / 1e6:,.0f} MB")
        return f" ({words[0]}; before it {words[1]})"

    def count_new(self, settings: Iterable[Settings]) -> int:
        """How many of these have no server yet."""
        return len({_key(setting) for setting in settings} - set(self._running))

    def room(self, most: int) -> int:
        """How many more servers there is memory for, at most this many."""
        return room_beside([server.pid for server in self._running.values()], most)

    def profile(self, settings: Settings) -> Profile:
        """A profile of the model, or the pipeline, with these settings."""
        if self._base is not None:
            return msgspec.structs.replace(self._base, settings=settings)
        profile = Profile.of_model(self._model, settings, self._spec.name)
        profile = msgspec.structs.replace(profile, samples=self.samples)
        copy = self.copy_of(settings.engine)
        return profile if copy is None else profile.with_copy(copy, settings)

    def copy_of(self, engine: EngineOptions) -> Path | None:
        """The copy of the model that an engine runs; None where it runs the model itself."""
        if engine.precision == "int8_static":
            return self.copies.get(engine.name)
        return self.converted if engine.name in ENGINES_OF[FileKind.ONNX] else None

    def payloads(self, target: LoadTarget, settings: Settings) -> list[Payload]:
        """What a server of these settings is sent; encoded once for all of them, whose addresses no server looks at."""
        wire, fold = settings.io.wire, settings.engine.u8_input
        key = (encoded(wire), fold, settings.io.socket)
        if key not in self._payloads:
            self._payloads[key] = [
                infer_payload(target, self._spec.name, request, encoded(wire)) for request in self._sent(fold)
            ]
        return self._payloads[key]

    def arm(self, settings: Settings, asked: IoSettings | None = None) -> Arm:
        """The server of these settings with what is sent to it: as they say, or as `asked` does.

        Raises:
            ServeError: it does not start.
            CapacityError: shared memory has no room for the requests.
            TailcutError: it answers otherwise over shared memory than over the wire.
        """
        server = self.of(settings)
        running = _key(settings)
        if asked is not None:
            settings = msgspec.structs.replace(settings, io=asked)
        target = server.target if settings.io.socket == "unix" else replace(server.target, uds=None)
        if settings.io.wire != "shared":
            return Arm(target, self.payloads(target, settings), server.pid)
        fold = settings.engine.u8_input
        key = (running, fold, settings.io.socket)
        if key not in self._shared:
            load = SharedLoad(target, server.shared_prefix)
            try:
                self._shared[key] = load, load.payloads(self._spec.name, self._sent(fold))
            except BaseException:
                load.close()
                raise
        return Arm(target, self._shared[key][1], server.pid)

    def _sent(self, fold: U8Input | None) -> Sequence[Mapping[str, np.ndarray]]:
        return self.requests if fold is None else [as_pixels(fold, self._spec, request) for request in self.requests]

    def keep(self, *settings: Settings) -> None:
        """Stop all others."""
        keys = {_key(setting) for setting in settings}
        for key in [key for key in self._running if key not in keys]:
            self._stop(key)

    def stop(self, settings: Settings, but: Iterable[Settings]) -> None:
        """Stop the server of these settings, unless it runs for some of those too."""
        key = _key(settings)
        if key in self._running and key not in set(map(_key, but)):
            self._stop(key)

    def _stop(self, key: Settings) -> None:
        self._launched.discard(key)
        for shared in [item for item in self._shared if item[0] == key]:
            self._shared.pop(shared)[0].close()
        self._running.pop(key).stop()


def sent_in_turn(requests: Sequence[Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
    """Distinct requests of all parts of the data, fewer where they are large.

    Those of several shapes are shuffled: a block may send only some.
    """
    mixed = len({tuple(array.shape for array in request.values()) for request in requests}) > 1
    fewest, most = (_FEWEST_MIXED, _MIXED_PAYLOADS) if mixed else (_FEWEST, _PAYLOADS)
    some = evenly(requests, most)
    mean_bytes = sum(map(json_bytes, some)) / len(some)
    chosen = evenly(requests, max(fewest, min(most, int(_PAYLOAD_BYTES / max(1, mean_bytes)))))
    if mixed:
        random.Random(0).shuffle(chosen)  # noqa: S311  an order, no secret
    return chosen


def confined_to(cpus: int | None) -> tuple[int, ...] | None:
    """The CPUs that servers run on which may use this many of those that this process may; None for all."""
    if cpus is None or cpus >= usable_cpus() or not hasattr(os, "sched_setaffinity"):
        return None
    return tuple(sorted(affinity_mask())[:cpus])


def room_beside(pids: Iterable[int | None], most: int) -> int:
    """How many more servers there is memory for, each of the size of the largest of these, at most this many."""
    sizes = [size for pid in pids if pid is not None and (size := peak_bytes(pid)) is not None]
    free = free_bytes()
    if not sizes or free is None:
        return most
    return min(most, int(_FILLED * free / max(sizes)))


def _key(settings: Settings) -> Settings:
    return changed(settings, io={"wire": "shared" if settings.io.wire == "shared" else "binary"})
