"""Requests of a load test with tensors in shared memory: two regions, made before the load and removed after it.

Inputs are written once before the load, just as request bodies are encoded before it. Outputs are written to a region
with a place for each request in flight; that memory is not reserved, so it takes no more than the places that are used.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import numpy as np
import orjson

from tailcut.errors import TailcutError
from tailcut.lab.client import OPEN_CONNECTIONS
from tailcut.lab.load import LoadTarget, Payload
from tailcut.lab.payload import ask, encode, infer_once
from tailcut.memory.region import OwnRegion, sweep
from tailcut.wire.v2.call import describe, entry, model_path

_ALIGNED = 64
_PAGE = 4096

Arrays = Mapping[str, np.ndarray]
Place = dict[str, str | int]


class SharedLoad:
    """The regions of one load test, a context manager that removes them at the end.

    Args:
        target: the server with which they are registered.
        prefix: of their names.
    """

    def __init__(self, target: LoadTarget, prefix: str) -> None:
        self._target = target
        self._prefix = prefix
        self._regions: list[OwnRegion] = []
        sweep(prefix)

    def __enter__(self) -> Self:
        """Return the object; regions are made later."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it; see `close`."""
        self.close()

    def close(self) -> None:
        """Unlink the regions, and unregister them."""
        while self._regions:
            region = self._regions.pop()
            region.close()
            with suppress(TailcutError):  # the server may have ended
                self._tell("unregister", region.name)

    def payloads(self, model: str, requests: Sequence[Arrays]) -> list[Payload]:
        """One payload for the inputs of each request, with variants for all connections.

        Raises:
            UsageError: no server answers, or the server does not accept shared memory with that prefix.
            TailcutError: its answers in shared memory differ from those in the body.
        """
        answers = [self._asked(model, inputs) for inputs in requests]
        data = [describe(inputs) for inputs in requests]
        source = self._make(sum(_aligned(tensor.size) for described, _ in data for tensor in described))
        sizes = {name: max(_fixed_size(answer[name]) for answer in answers) for name in answers[0]}
        width = -(-max(1, sum(map(_aligned, sizes.values()))) // _PAGE) * _PAGE
        sink = self._make(width * OPEN_CONNECTIONS, reserve=False)
        payloads, at = [], 0
        for described, parts in data:
            entries = []
            for tensor, part in zip(described, parts, strict=True):
                source.view[at : at + tensor.size] = part
                entries.append(entry(tensor, _place(source, at, tensor.size)))
                at += _aligned(tensor.size)
            places = [_outputs(sink, sizes, number * width) for number in range(OPEN_CONNECTIONS)]
            encoded = tuple(self._encode(model, entries, outputs) for outputs in places)
            payloads.append(Payload(encoded[0], places=encoded))
        for payload, answer in zip(payloads, answers, strict=True):
            self._check(payload, answer, sizes, sink)
        return payloads

    def _make(self, size: int, *, reserve: bool = True) -> OwnRegion:
        region = OwnRegion(self._prefix, max(_PAGE, size), reserve=reserve)
        self._regions.append(region)
        self._tell("register", region.name, key=region.key, offset=0, byte_size=region.size)
        return region

    def _tell(self, what: str, name: str, **fields: str | int) -> None:
        if self._target.grpc:
            from tailcut.lab.grpc_connection import ask_grpc  # noqa: PLC0415  grpc is heavy, and few load it

            ask_grpc(self._target, f"SystemSharedMemory{what.capitalize()}", name=name, **fields)
            return
        body = orjson.dumps(fields) if fields else b""
        ask(self._target, "POST", f"/v2/systemsharedmemory/region/{name}/{what}", body)

    def _asked(self, model: str, inputs: Arrays) -> Arrays:
        """The outputs in the body of an answer."""
        if self._target.grpc:
            from tailcut.lab.grpc_connection import infer_once_grpc  # noqa: PLC0415  as above

            return infer_once_grpc(self._target, model, inputs)
        return infer_once(self._target, model, inputs)

    def _encode(self, model: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> bytes:
        if self._target.grpc:
            from tailcut.lab.grpc_connection import shared_call  # noqa: PLC0415  as above

            return shared_call(model, inputs, outputs)
        body = orjson.dumps({"inputs": inputs, "outputs": outputs})
        headers = {"Content-Type": "application/json"}
        return encode(self._target, "POST", f"{model_path(model)}/infer", body, headers).request

    def _check(self, payload: Payload, answer: Arrays, sizes: Mapping[str, int], sink: OwnRegion) -> None:
        """Send a request once, and compare its outputs with those in the body of an answer."""
        if self._target.grpc:
            from tailcut.lab.grpc_connection import call_once  # noqa: PLC0415  as above

            call_once(self._target, payload.request)
        else:
            head, _, body = payload.request.partition(b"\r\n\r\n")
            ask(self._target, "POST", head.split(b" ", 2)[1].decode("latin-1"), body)
        at = 0
        for name, size in sizes.items():
            if size:
                want = answer[name]
                got = np.frombuffer(bytes(sink.view[at : at + want.nbytes]), want.dtype).reshape(want.shape)
                if not _alike(got, want):
                    raise TailcutError(f"output {name!r} differs between shared memory and the response body")
            at += _aligned(size)


def _outputs(sink: OwnRegion, sizes: Mapping[str, int], start: int) -> list[dict[str, Any]]:
    """The outputs of a request, with their places; strings, whose sizes vary, are in the body of the answer."""
    entries: list[dict[str, Any]] = []
    for name, size in sizes.items():
        placement = _place(sink, start, size) if size else {"binary_data": True}
        entries.append({"name": name, "parameters": placement})
        start += _aligned(size)
    return entries


def _place(region: OwnRegion, offset: int, size: int) -> Place:
    where: Place = {"shared_memory_region": region.name, "shared_memory_byte_size": size}
    return where | ({"shared_memory_offset": offset} if offset else {})


def _alike(got: np.ndarray, want: np.ndarray) -> bool:
    """Whether arrays are equal except for rounding, because one of the requests may have shared a batch with others."""
    if want.dtype.kind in "fV":  # V: bfloat16
        return bool(np.allclose(got.astype(np.float64), want.astype(np.float64), 1e-2, 1e-3, equal_nan=True))
    return bool(np.array_equal(got, want))


def _fixed_size(array: np.ndarray) -> int:
    return 0 if array.dtype.hasobject else array.nbytes


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
