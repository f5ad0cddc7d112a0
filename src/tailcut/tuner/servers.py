"""The servers that a tune has running: one for each configuration, as a user would start it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tailcut.lab.load import Payload
from tailcut.lab.payload import Wire, infer_payload
from tailcut.lab.trial import Arm, ServedProfile
from tailcut.runtime.profile import Profile, Settings
from tailcut.spec import ModelSpec
from tailcut.tuner.space import changed

_PAYLOADS = 32  # distinct requests sent in turn


class Servers:
    """Started when they are first wanted, and stopped when they are not.

    Args:
        model: an ONNX file.
        spec: its signature.
        requests: what clients send.
    """

    def __init__(self, model: Path, spec: ModelSpec, requests: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._model = model
        self._spec = spec
        self._requests = requests[:_PAYLOADS]
        self._running: dict[Settings, ServedProfile] = {}
        self.copies: Mapping[str, Path] = {}  # for precision int8_static, by engine
        self._payloads: dict[Wire, list[Payload]] = {}

    def of(self, settings: Settings) -> ServedProfile:
        """A running server of these settings; those that differ only in what clients send share one.

        Raises:
            ServeError: it does not start.
        """
        key = _key(settings)
        server = self._running.get(key)
        if server is None:
            server = ServedProfile(self._profile(key))
            server.start()
            self._running[key] = server
        return server

    def _profile(self, settings: Settings) -> Profile:
        profile = Profile.of_model(self._model, settings, self._spec.name)
        copy = self.copies.get(settings.engine.name) if settings.engine.precision == "int8_static" else None
        return profile if copy is None else profile.with_quantized(copy)

    def arm(self, settings: Settings) -> Arm:
        """The server of these settings with what is sent to it."""
        server, wire = self.of(settings), settings.io.wire
        if wire not in self._payloads:
            self._payloads[wire] = [
                infer_payload(server.target, self._spec.name, request, wire) for request in self._requests
            ]
        return Arm(server.target, self._payloads[wire], server.pid)

    def keep(self, *settings: Settings) -> None:
        """Stop all others."""
        keys = {_key(one) for one in settings}
        for key in [key for key in self._running if key not in keys]:
            self._running.pop(key).stop()


def _key(settings: Settings) -> Settings:
    return changed(settings, io={"wire": "binary"})
