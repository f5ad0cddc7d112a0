"""The servers that a tune has running: one for each configuration, as a user would start it."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from tailcut.lab.load import Payload
from tailcut.lab.payload import Wire, infer_payload
from tailcut.lab.trial import Arm, ServedProfile, ServeError
from tailcut.runtime.profile import Profile, Settings
from tailcut.runtime.samples import SampleRequest
from tailcut.spec import ModelSpec
from tailcut.tuner.space import changed

_PAYLOADS = 32  # distinct requests sent in turn
_AT_ONCE = 2  # servers that get ready together


class Servers:
    """Started when they are first wanted, and stopped when they are not.

    Args:
        model: an ONNX file.
        spec: its signature.
        requests: what clients send.
        samples: kinds of requests in the data, with which servers warm up.
    """

    def __init__(
        self,
        model: Path,
        spec: ModelSpec,
        requests: Sequence[Mapping[str, np.ndarray]],
        samples: tuple[SampleRequest, ...] = (),
    ) -> None:
        self.samples = samples
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
            server = self._server(key)
            server.start()
            self._running[key] = server
        return server

    def start(self, wanted: Iterable[Settings]) -> None:
        """Start those that are not running, a few at a time; what does not start says so when it is asked for."""
        missing = [key for key in dict.fromkeys(map(_key, wanted)) if key not in self._running]
        for at in range(0, len(missing), _AT_ONCE):
            begun = {key: self._server(key) for key in missing[at : at + _AT_ONCE]}
            for server in begun.values():
                server.begin()
            for key, server in begun.items():
                with suppress(ServeError):
                    server.wait_ready()
                    self._running[key] = server

    def _server(self, key: Settings) -> ServedProfile:
        profile = msgspec.structs.replace(Profile.of_model(self._model, key, self._spec.name), samples=self.samples)
        copy = self.copies.get(key.engine.name) if key.engine.precision == "int8_static" else None
        return ServedProfile(profile if copy is None else profile.with_quantized(copy))

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
