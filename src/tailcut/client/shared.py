"""Calls with tensors in shared memory: the region, its layout, and when it can be reused. No socket.

A call is a generator that yields what to send and receives the responses, so that the blocking and the asyncio client
run the same code. Each concurrent call has its own region, created and registered if no idle one is large enough.

- *Outputs.* Their sizes are known only from a response. The first call of its kind (model, names, datatypes and shapes
  of the inputs) gets its outputs in the body; from the second on they are written to the region. Strings, whose sizes
  change with their values, are always in the body, and so are outputs that once did not fit.
- *Reuse.* A region is reused only after every copy of the request was answered. After a timeout, a broken connection
  or an abandoned second copy, the server may still read inputs or write outputs there: the region is unlinked and
  another is created.
- *A restarted server* knows none of the regions and answers 400. Calls on a region that was used before, or with
  outputs in the region, are therefore repeated once on a new region and with outputs in the body.
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from tailcut.client.answers import outputs_of
from tailcut.client.requests import Encoder, InferenceCall, OutgoingRequest, ServerAddress, with_trace
from tailcut.errors import (
    DeadlineExceededError,
    InvalidInputError,
    QueueFullError,
    TailcutError,
    UnreachableError,
    UnsupportedError,
)
from tailcut.memory.region import OwnRegion, check_prefix, sweep
from tailcut.wire.http1.answers import HttpAnswer
from tailcut.wire.memo import BytesMemo
from tailcut.wire.v2.call import Described, Parts, describe, encode, entry, model_path, parameters

Outputs = dict[str, np.ndarray]
Talk = Generator[OutgoingRequest, HttpAnswer, Outputs]
Steps = Generator[OutgoingRequest, HttpAnswer, None]

_ALIGNED = 64
_SMALLEST = 64 * 1024
_KEPT = 256
_ROOT = "/v2/systemsharedmemory"
_NOT_ITS_FAULT = (DeadlineExceededError, QueueFullError, UnreachableError)  # say nothing about shared memory


@dataclass(frozen=True, slots=True)
class _Output:
    """What is known about an output; `size` is 0 where it is in the body."""

    name: str
    size: int


@dataclass(slots=True)
class _Slot:
    """A registered region, and the requests that were encoded for it."""

    region: OwnRegion
    heads: BytesMemo[object, Parts] = field(default_factory=lambda: BytesMemo(_KEPT))


class SharedTensors:
    """The regions of one client. Any number of calls may run at the same time, also in several threads.

    Args:
        address: of the server, for messages.
        encoder: encodes requests to it.
        prefix: of the keys of regions.
        kept: how many unused regions are kept, at most.
    """

    def __init__(self, address: ServerAddress, encoder: Encoder, prefix: str, kept: int) -> None:
        self._address = address
        self._encoder = encoder
        self._prefix = check_prefix(prefix)
        self._kept = kept
        self._idle: deque[_Slot] = deque()
        self._gone: deque[str] = deque()  # unlinked regions that are still registered with the server
        self._outputs: BytesMemo[object, tuple[_Output, ...] | None] = BytesMemo(_KEPT)
        self._closed = False
        sweep(prefix)

    def infer(self, call: InferenceCall) -> Talk:
        """The requests of one inference."""
        described, data = describe(call.inputs)
        kind = (call.model, call.version, None if call.outputs is None else tuple(call.outputs), described)
        known = self._outputs.get(kind)
        slot = self._take(_room(described, known))
        if slot is None and known is None:
            outputs = yield from self._attempt(slot, call, described, data, known)
        else:
            try:
                outputs = yield from self._attempt(slot, call, described, data, known)
            except InvalidInputError:
                self._outputs.keep(kind, None)
                outputs = yield from self._attempt(None, call, described, data, None)
                known = _with_room(known, outputs)
        if known is None:
            known = tuple(_Output(name, _fixed_size(array)) for name, array in outputs.items())
        if self._outputs.get(kind) is None:
            self._outputs.keep(kind, known)
        return outputs

    def farewell(self) -> Steps:
        """Unlink all regions, then unregister them. Those in use follow when their calls end."""
        self._closed = True
        while self._idle:
            self._retire(self._idle.pop())
        yield from self._unregister()

    def forked(self) -> None:
        """In a forked child, forget the regions, which the parent will unregister."""
        self._idle.clear()
        self._gone.clear()

    def _attempt(
        self,
        slot: _Slot | None,
        call: InferenceCall,
        described: tuple[Described, ...],
        data: Sequence[bytes | memoryview],
        known: tuple[_Output, ...] | None,
    ) -> Talk:
        if slot is None:
            slot = yield from self._make(_room(described, known))
        request, good = OutgoingRequest([]), False
        try:
            at = 0
            for part in data:
                slot.region.view[at : at + len(part)] = part
                at += _aligned(len(part))
            request.parts = with_trace(self._encoded(slot, call, described, known), call.trace)
            try:
                outputs = outputs_of((yield request), slot.region.view)
                good = True
            except QueueFullError:  # the server has not begun
                good = True
                raise
        finally:
            if good and request.settled and not self._closed and len(self._idle) < self._kept:
                self._idle.append(slot)
            else:
                self._retire(slot)
        return outputs

    def _take(self, size: int) -> _Slot | None:
        """The idle region that was used last, where it is large enough; otherwise, it is removed for a larger one."""
        try:
            slot = self._idle.pop()
        except IndexError:
            return None
        if slot.region.size >= size:
            return slot
        self._retire(slot)
        return None

    def _make(self, size: int) -> Generator[OutgoingRequest, HttpAnswer, _Slot]:
        yield from self._unregister()
        region = OwnRegion(self._prefix, max(_SMALLEST, 1 << (size - 1).bit_length()))
        try:
            body = orjson.dumps({"key": region.key, "offset": 0, "byte_size": region.size})
            yield OutgoingRequest(self._encoder.post(f"{_ROOT}/region/{region.name}/register", body))
        except BaseException as error:
            region.close()
            if not isinstance(error, TailcutError) or isinstance(error, _NOT_ITS_FAULT):
                raise
            raise UnsupportedError(
                f"{self._address} does not accept shared memory whose name starts with {self._prefix!r}: {error}"
            ) from None
        return _Slot(region)

    def _retire(self, slot: _Slot) -> None:
        slot.region.close()
        self._gone.append(slot.region.name)

    def _unregister(self) -> Steps:
        while self._gone:
            try:
                name = self._gone.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                yield OutgoingRequest(self._encoder.post(f"{_ROOT}/region/{name}/unregister", b""))
            except _NOT_ITS_FAULT:
                raise
            except TailcutError:  # the server does not know it any more
                continue

    def _encoded(
        self, slot: _Slot, call: InferenceCall, described: tuple[Described, ...], known: tuple[_Output, ...] | None
    ) -> Parts:
        names = None if call.outputs is None else tuple(call.outputs)
        key = (call.model, call.version, call.timeout_us, names, described, known)
        kept = slot.heads.get(key)
        if kept is None:
            kept = slot.heads.keep(key, self._encode(slot.region.name, call, described, known))
        return kept

    def _encode(
        self, region: str, call: InferenceCall, described: Sequence[Described], known: Sequence[_Output] | None
    ) -> Parts:
        inputs, outputs, at = [], [], 0
        for tensor in described:
            inputs.append(entry(tensor, _place(region, at, tensor.size)))
            at += _aligned(tensor.size)
        if known is None:
            outputs = [{"name": name, "parameters": {"binary_data": True}} for name in call.outputs or ()]
        for output in known or ():
            placement = _place(region, at, output.size) if output.size else {"binary_data": True}
            outputs.append({"name": output.name, "parameters": placement})
            at += _aligned(output.size)
        request: dict[str, object] = {"inputs": inputs, "parameters": parameters(call.timeout_us)}
        if outputs:
            request["outputs"] = outputs
        return self._encoder.post(f"{model_path(call.model, call.version)}/infer", encode(request))


def _place(region: str, offset: int, size: int) -> dict[str, object]:
    return {"shared_memory_region": region, "shared_memory_offset": offset, "shared_memory_byte_size": size}


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _room(described: Sequence[Described], known: Sequence[_Output] | None) -> int:
    sizes = [tensor.size for tensor in described] + [tensor.size for tensor in known or ()]
    return sum(_aligned(size) for size in sizes) or 1


def _fixed_size(array: np.ndarray) -> int:
    return 0 if array.dtype.hasobject else array.nbytes


def _with_room(known: Sequence[_Output] | None, outputs: Outputs) -> tuple[_Output, ...] | None:
    """What is known about outputs, without room for those that did not fit; None where there are other outputs now."""
    if known is None or {output.name for output in known} != set(outputs):
        return None
    return tuple(
        _Output(output.name, output.size if _fixed_size(outputs[output.name]) <= output.size else 0) for output in known
    )
