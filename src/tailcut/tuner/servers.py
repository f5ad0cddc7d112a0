"""The servers that a tune has running: one for each configuration, as a user would start it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from tailcut.engines.base import U8Input
from tailcut.lab.load import Payload, Target
from tailcut.lab.payload import Wire, infer_payload
from tailcut.lab.trial import Arm, ServedProfile
from tailcut.runtime.profile import Profile
from tailcut.runtime.samples import SampleRequest
from tailcut.runtime.settings import Settings
from tailcut.spec import ModelSpec
from tailcut.tuner.pixels import as_pixels
from tailcut.tuner.space import changed

_PAYLOADS = 32  # distinct requests sent in turn


class Servers:
    """Started when they are first wanted, and stopped when they are not.

    Args:
        model: a model file.
        spec: its signature.
        requests: what clients send.
        samples: kinds of requests in the data, with which servers warm up.
        base: the profile of a pipeline as it is written; None for a model.
    """

    def __init__(
        self,
        model: Path,
        spec: ModelSpec,
        requests: Sequence[Mapping[str, np.ndarray]],
        samples: tuple[SampleRequest, ...] = (),
        base: Profile | None = None,
    ) -> None:
        self.samples = samples
        self._base = base
        self._model = model
        self._spec = spec
        self._requests = requests[:_PAYLOADS]
        self._running: dict[Settings, ServedProfile] = {}
        self._launched: set[Settings] = set()  # of these, those that were not waited for yet
        self._started, self._waited_s = 0, 0.0
        self.copies: Mapping[str, Path] = {}  # for precision int8_static, by engine
        self._payloads: dict[tuple[Wire, U8Input | None, str], list[Payload]] = {}

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
        return server

    def launch(self, *settings: Settings) -> None:
        """Have servers start while something else is done; `of` waits for them."""
        for key in map(_key, settings):
            if key not in self._running:
                server = ServedProfile(self.profile(key))
                server.begin()
                self._running[key] = server
                self._launched.add(key)

    @property
    def start_s(self) -> float:
        """How long a start was waited for on average; 0 before the first."""
        return self._waited_s / max(1, self._started)

    def count_new(self, settings: Iterable[Settings]) -> int:
        """How many of these have no server yet."""
        return len({_key(one) for one in settings} - set(self._running))

    def profile(self, settings: Settings) -> Profile:
        """A profile of the model, or the pipeline, with these settings."""
        if self._base is not None:
            return msgspec.structs.replace(self._base, settings=settings)
        profile = Profile.of_model(self._model, settings, self._spec.name)
        profile = msgspec.structs.replace(profile, samples=self.samples)
        copy = self.copies.get(settings.engine.name) if settings.engine.precision == "int8_static" else None
        return profile if copy is None else profile.with_quantized(copy)

    def payloads(self, target: Target, settings: Settings) -> list[Payload]:
        """What a server of these settings is sent; encoded once for all of them, whose addresses no server looks at."""
        wire, fold = settings.io.wire, settings.engine.u8_input
        key = (wire, fold, settings.io.socket)
        if key not in self._payloads:
            sent = self._requests if fold is None else [as_pixels(fold, self._spec, one) for one in self._requests]
            self._payloads[key] = [infer_payload(target, self._spec.name, one, wire) for one in sent]
        return self._payloads[key]

    def arm(self, settings: Settings) -> Arm:
        """The server of these settings with what is sent to it."""
        server = self.of(settings)
        return Arm(server.target, self.payloads(server.target, settings), server.pid)

    def keep(self, *settings: Settings) -> None:
        """Stop all others."""
        keys = {_key(one) for one in settings}
        for key in [key for key in self._running if key not in keys]:
            self._launched.discard(key)
            self._running.pop(key).stop()


def _key(settings: Settings) -> Settings:
    return changed(settings, io={"wire": "binary"})
