"""The running servers of a tune, one for each configuration.

Servers of the verification are started as a user's are, as new processes (fork and exec). All earlier ones, which are
many, are only forked, which saves the imports (docs/decisions/068-servers-of-a-tune-are-forked.md).
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
_FEWEST, _FEWEST_MIXED = 4, 8  # if they are large: encoding takes about 15 ms per MB of JSON
_PAYLOAD_BYTES = 128 << 20  # of all, as JSON
_FILLED = 0.8  # of the free memory may be used by servers
_EXECUTED = 4  # times as long to warm up


class TrialServers:
    """Servers by their settings, started on first use.

    Args:
        model: a model file.
        spec: its signature.
        requests: what clients send.
        samples: kinds of requests in the data, with which servers warm up.
        base: the profile whose settings are replaced: a pipeline's, or one to compare; None for one of the model.
        cpus: the CPUs that servers run on; None for all that this process may use.
        warm_up_s: how long a server may take to warm up, and four times as long for the verification: many servers of
            a slow model would use up a short budget with it.
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
        warm_up_s: float = 10.0,
    ) -> None:
        self._cpus = cpus
        self._warm_up_s = warm_up_s
        self.samples = samples
        self._base = base
        self._model = model
        self._spec = spec
        self.requests = sent_in_turn(requests)
        self._running: dict[Settings, ServedProfile] = {}
        self._launched: set[Settings] = set()  # those of `_running` that were not waited for yet
        self._forks = True
        self._modules: tuple[str, ...] = ()  # imported by the server that was started last
        self._started, self._waited_s = 0, 0.0
        self._begun: dict[Settings, float] = {}
        self._took_s: dict[Settings, float] = {}  # until ready, whether or not others started meanwhile
        self.copies: Mapping[str, Path] = {}  # of the model for precision int8_static, by engine
        self.converted: Path | None = None  # the ONNX copy of a PyTorch program
        self._payloads: dict[tuple[Wire, U8Input | None, str], list[Payload]] = {}
        # A region belongs to one server, which may be sent requests with several encodings and sockets.
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
        """Start servers without waiting for them, which `of` does; one that has exited is started anew."""
        for key in map(_key, settings):
            if self.has_ended(key):
                self._stop(key)
            if key not in self._running:
                profile = self.profile(key)
                arguments = ["--warm-up", f"{self._warm_up_s if self._forks else _EXECUTED * self._warm_up_s:.3g}s"]
                server = ServedProfile(profile, arguments, cpus=self._cpus, forked=self._forks)
                self._begun[key], self._modules = time.monotonic(), modules_of(profile)
                server.begin()
                self._running[key] = server
                self._launched.add(key)

    def has_ended(self, settings: Settings) -> bool:
        """Whether a server has exited after it was ready, for example killed by the kernel for its memory."""
        key = _key(settings)
        return key in self._running and key not in self._launched and self._running[key].ended

    def execute(self) -> None:
        """Start servers as new processes from now on, and stop those that were only forked."""
        self._forks = False
        self.keep(*(key for key, server in self._running.items() if not server.is_forked))

    def executing_s(self, count: int) -> float:
        """Seconds to start this many servers as new processes at the same time; 0 before the first start."""
        if not self._started:
            return 0.0
        return (self.start_s + imported_s(self._modules)) * max(1.0, count / usable_cpus())

    @property
    def start_s(self) -> float:
        """The mean seconds that a start was waited for; 0 before the first start."""
        return self._waited_s / max(1, self._started)

    def compared(self, settings: Settings, other: Settings) -> str:
        """A message with the start-up time and peak memory of two running servers; empty if these cannot be read."""
        words = []
        for key in map(_key, (settings, other)):
            pid = self._running[key].pid
            memory = None if pid is None else peak_bytes(pid)
            if memory is None or key not in self._took_s:
                return ""
            words.append(f"{self._took_s[key]:.1f} s to start and {memory / 1e6:,.0f} MB")
        return f" ({words[0]}; before {words[1]})"

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
        """The copy of the model that an engine loads; None if it loads the model itself."""
        if engine.precision == "int8_static":
            return self.copies.get(engine.name)
        return self.converted if engine.name in ENGINES_OF[FileKind.ONNX] else None

    def payloads(self, target: LoadTarget, settings: Settings) -> list[Payload]:
        """The requests for a server of these settings; encoded once for all servers, which ignore the `Host` header."""
        wire, fold = settings.io.wire, settings.engine.u8_input
        key = (encoded(wire), fold, settings.io.socket)
        if key not in self._payloads:
            self._payloads[key] = [
                infer_payload(target, self._spec.name, request, encoded(wire)) for request in self._sent(fold)
            ]
        return self._payloads[key]

    def arm(self, settings: Settings, asked: IoSettings | None = None) -> Arm:
        """The server of these settings with the requests for it.

        Args:
            settings: of the server.
            asked: the encoding and socket to use; None for those of `settings`.

        Raises:
            ServeError: the server does not start.
            CapacityError: shared memory has no room for the requests.
            TailcutError: answers in shared memory differ from those in response bodies.
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
        """Stop all servers except those of these settings."""
        keys = {_key(setting) for setting in settings}
        for key in [key for key in self._running if key not in keys]:
            self._stop(key)

    def stop(self, settings: Settings, but: Iterable[Settings]) -> None:
        """Stop the server of these settings, unless some settings of `but` use it as well."""
        key = _key(settings)
        if key in self._running and key not in set(map(_key, but)):
            self._stop(key)

    def _stop(self, key: Settings) -> None:
        self._launched.discard(key)
        for shared in [item for item in self._shared if item[0] == key]:
            self._shared.pop(shared)[0].close()
        self._running.pop(key).stop()


def sent_in_turn(requests: Sequence[Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
    """Distinct requests from all parts of the data; the larger they are, the fewer.

    If they differ in shape, they are shuffled, because a block may send only some of them.
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
    """The CPUs for servers that may use `cpus` of those that this process may use; None for all."""
    if cpus is None or cpus >= usable_cpus() or not hasattr(os, "sched_setaffinity"):
        return None
    return tuple(sorted(affinity_mask())[:cpus])


def room_beside(pids: Iterable[int | None], most: int) -> int:
    """How many more servers there is memory for, each as large as the largest of these; at most `most`."""
    sizes = [size for pid in pids if pid is not None and (size := peak_bytes(pid)) is not None]
    free = free_bytes()
    if not sizes or free is None:
        return most
    return min(most, int(_FILLED * free / max(sizes)))


def _key(settings: Settings) -> Settings:
    return changed(settings, io={"wire": "shared" if settings.io.wire == "shared" else "binary"})
