"""The calls of gRPC, each from its first byte to its status: inference, a stream of it, health, and questions.

A call knows its connection only as a `Link`; nothing here sees a socket or a frame.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from tailcut.errors import Code, InvalidInputError, QueueFullError, ReleasedError, TailcutError
from tailcut.server.access import log_grpc, trace_of, with_trace
from tailcut.server.grpc_inference import Inference
from tailcut.server.grpc_plans import Plans
from tailcut.server.hub import Hub
from tailcut.server.replies import public_message
from tailcut.wire.grpc_framing import (
    ANSWER_END,
    ANSWER_HEAD,
    CallError,
    CallHead,
    Messages,
    Status,
    error_end,
    prefixed,
)
from tailcut.wire.messages import HEALTH, MESSAGES
from tailcut.wire.v2_grpc_form import stream_answer

STATUS_OF: Mapping[Code, Status] = {
    Code.INVALID: Status.INVALID_ARGUMENT,
    Code.NOT_FOUND: Status.NOT_FOUND,
    Code.TOO_LARGE: Status.RESOURCE_EXHAUSTED,
    Code.UNSUPPORTED: Status.INVALID_ARGUMENT,
    Code.UNAVAILABLE: Status.UNAVAILABLE,
    Code.DEADLINE: Status.DEADLINE_EXCEEDED,
    Code.INTERNAL: Status.INTERNAL,
}
_NAMES = tuple(status.name for status in Status)  # which a status itself takes a while to say
_log = logging.getLogger("tailcut.grpc")
_IN_HAND = 64  # of one stream: read ahead, so that they share batches
_HEAD_BYTES = 64 << 10  # names and shapes around the tensors of a message


class Link(Protocol):
    """A connection, as far as its calls are concerned."""

    hub: Hub

    def send(self, call: "Call", head: bytes | None, data: bytes, end: bytes | None = None) -> None: ...  # noqa: D102
    def waits(self, call: "Call") -> bool: ...  # noqa: D102
    def taken(self, call: "Call", size: int) -> None: ...  # noqa: D102
    def charge(self, call: "Call", size: int) -> None: ...  # noqa: D102
    def record(self, inference: Inference) -> None: ...  # noqa: D102


class Call(ABC):
    """What all calls have in common: messages in, and an end."""

    charged = 0  # bytes of the server's buffers that are this call's
    over = False
    _begun = False  # its answer's head has been sent
    _messages: Messages | None = None

    def __init__(self, link: Link, stream: int, head: CallHead, name: str) -> None:
        self.link = link
        self.stream = stream
        self.name = name
        self.began_ns = time.monotonic_ns()
        self.waits_since_ns = self.began_ns  # for its message, or the rest of it; 0: for nothing
        self._head = head

    @property
    def in_hand(self) -> bool:
        """Whether an answer is owed."""
        return not self.over

    @abstractmethod
    def receive(self, data: bytes, size: int, *, ended: bool) -> None:
        """Bytes of the request, which took `size` of its window.

        Raises:
            CallError: they are no message, or over a bound.
        """

    def cancel(self) -> None:
        """The client does not want it any more, or is gone."""
        if not self.over:
            self._leave(Status.CANCELLED)
            self._abandon()

    def fail(self, error: TailcutError | CallError, retry_after_s: int | None = None) -> None:
        """End with an error."""
        if self.over:
            return
        if isinstance(error, CallError):
            status, message = error.status, str(error)
        else:
            released = isinstance(error, ReleasedError)  # unloaded meanwhile
            status = Status.UNAVAILABLE if released else STATUS_OF[error.code]
            message = "the model was unloaded" if released else public_message(error)
            retry_after_s = error.retry_after_s if isinstance(error, QueueFullError) else retry_after_s
            if error.code is Code.INTERNAL:
                _log.warning("%s", with_trace(str(error), self._trace()))
        self._leave(status)
        self._abandon()
        self.link.send(self, None, b"", error_end(status, message, retry_after_s, begun=self._begun))

    def _abandon(self) -> None:  # noqa: B027  most have nothing to give up
        """Give up what has been started."""

    def _collect(self, data: bytes) -> Messages:
        if self._messages is None:
            self._messages = Messages(self.link.hub.limits.body_bytes + _HEAD_BYTES, self._head.encoding)
        self._messages.feed(data)
        return self._messages

    def _send(self, message: bytes, *, end: bool) -> None:
        head = None if self._begun else ANSWER_HEAD
        self._begun = True
        self.link.send(self, head, prefixed(message), ANSWER_END if end else None)

    def _leave(self, status: Status, size: int = 0) -> None:
        """It has its status: count it, and give back what it held."""
        self.over = True
        self.link.charge(self, 0)
        self._tell(status, size, self.began_ns)

    def _tell(self, status: Status, size: int, began_ns: int) -> None:
        hub = self.link.hub
        hub.site.counts.grpc_replies[_NAMES[status]] += 1
        if hub.access:
            log_grpc(self.name, status.name, size, time.monotonic_ns() - began_ns, self._trace())

    def _trace(self) -> dict[str, str]:
        return trace_of(self._head.traceparent)

    def _left_ns(self) -> int:
        """What is left of the call's own deadline; 0 where it has none."""
        timeout_ns = self._head.timeout_ns
        return timeout_ns and max(1, timeout_ns - (time.monotonic_ns() - self.began_ns))


class OneMessageCall(Call):
    """A call of which the request is one message."""

    _message: bytes | None = None

    def receive(self, data: bytes, size: int, *, ended: bool) -> None:
        """Bytes of the request, which took `size` of its window.

        Raises:
            CallError: they are no message, more than one, or over a bound.
        """
        if ended and self._messages is None and data[:1] == b"\0" and int.from_bytes(data[1:5], "big") == len(data) - 5:
            self.waits_since_ns = 0
            self._start(data[5:])
            return
        messages = self._collect(data)
        self.link.taken(self, size)
        if self._message is None:
            self._message = messages.take()
        message = self._message
        if (message is not None and not messages.empty) or (message is None and ended):
            raise CallError(Status.UNIMPLEMENTED, "this call takes one message, whole")
        self.link.charge(self, messages.held + (0 if message is None else len(message)))
        if ended and message is not None:
            self._message = None
            self.waits_since_ns = 0
            self._start(message)

    @abstractmethod
    def _start(self, message: bytes) -> None:
        """The request is complete."""


class InferCall(OneMessageCall):
    """ModelInfer."""

    _inference: Inference | None = None

    def __init__(self, link: Link, stream: int, head: CallHead, name: str, plans: Plans) -> None:
        super().__init__(link, stream, head, name)
        self._plans = plans

    def _start(self, message: bytes) -> None:
        self._inference = inference = Inference(self._plans, self.began_ns, self._done)
        try:
            inference.begin(message, self._left_ns())
        except TailcutError as error:
            self._inference = None
            self.fail(error)

    def _done(self, inference: Inference) -> None:
        self._inference = None
        if self.over:
            return
        if inference.error is not None:
            self.fail(inference.error)
            return
        message = inference.answer or b""
        self._leave(Status.OK, len(message))
        self._send(message, end=True)
        self.link.record(inference)

    def _abandon(self) -> None:
        if self._inference is not None:
            self._inference.cancel()
            self._inference = None


class StreamCall(Call):
    """ModelStreamInfer: answers in the order of the requests; a request that fails costs only itself."""

    def __init__(self, link: Link, stream: int, head: CallHead, name: str, plans: Plans) -> None:
        super().__init__(link, stream, head, name)
        self._plans = plans
        self.waits_since_ns = 0  # between its messages, for as long as the client likes
        self._parts: deque[Inference] = deque()
        self._owed = 0  # bytes that the client may not send again yet
        self._ended = False
        self._again: asyncio.Handle | None = None

    @property
    def in_hand(self) -> bool:
        """Whether an answer is owed."""
        return bool(self._parts)

    def receive(self, data: bytes, size: int, *, ended: bool) -> None:
        """Bytes of requests, which took `size` of the stream's window.

        Raises:
            CallError: they are no messages, or over a bound.
        """
        messages = self._collect(data)
        self._owed += size
        self._ended |= ended
        self.link.charge(self, messages.held)
        self.go_on()

    def go_on(self) -> None:
        """Answer what can be answered, and begin what may be begun: so much, that others have their turn too.

        Raises:
            CallError: a message is over a bound.
        """
        messages = self._messages
        if self.over or messages is None or self._again is not None:
            return
        for _ in range(_IN_HAND):
            self._answer()
            if len(self._parts) >= _IN_HAND or self.link.waits(self):
                return  # what the client sends meanwhile fills its window, and no more
            message = messages.take()
            if message is None:
                break
            self.waits_since_ns = 0
            self._begin(message)
        else:
            self._again = self.link.hub.loop.call_soon(self._go_on_again)
            return
        self.waits_since_ns = 0 if messages.empty else self.waits_since_ns or time.monotonic_ns()
        self.link.charge(self, messages.held)
        self.link.taken(self, self._owed)
        self._owed = 0
        if self._ended and not self._parts:
            self._finish(whole=messages.empty)

    def _go_on_again(self) -> None:
        self._again = None
        try:
            self.go_on()
        except CallError as error:
            self.fail(error)
        self.link.send(self, None, b"")

    def _begin(self, message: bytes) -> None:
        inference = Inference(self._plans, time.monotonic_ns(), self._done, final=True)
        self._parts.append(inference)
        try:
            inference.begin(message, self._left_ns())
        except TailcutError as error:
            inference.error = error

    def _done(self, _inference: Inference) -> None:
        try:
            self.go_on()
        except CallError as error:
            self.fail(error)

    def _answer(self) -> None:
        """Send the answers whose turn it is."""
        parts = self._parts
        while parts and (parts[0].error is not None or parts[0].answer is not None):
            part = parts.popleft()
            if part.error is None:
                status = Status.OK
                message = stream_answer(part.answer or b"")
                self.link.record(part)
            else:
                status = STATUS_OF[part.error.code]
                answer = MESSAGES["ModelStreamInferResponse"](error_message=public_message(part.error))
                answer.infer_response.id = part.id.decode()
                message = answer.SerializeToString()
            self._tell(status, len(message), part.began_ns)
            self._send(message, end=False)

    def _finish(self, *, whole: bool) -> None:
        if not whole:
            raise CallError(Status.INTERNAL, "the last message is cut short")
        self.over = True
        self.link.charge(self, 0)
        self.link.send(self, None if self._begun else ANSWER_HEAD, b"", ANSWER_END)

    def _leave(self, status: Status, size: int = 0) -> None:
        self.over = True
        self.link.charge(self, 0)

    def _abandon(self) -> None:
        if self._again is not None:
            self._again.cancel()
        for part in self._parts:
            part.cancel()
        self._parts.clear()


Handler = Callable[[Any], Awaitable[Any]]


class QuestionCall(OneMessageCall):
    """A call that computes nothing: a message in and a message out, at once or after a while."""

    def __init__(self, link: Link, stream: int, head: CallHead, name: str, handler: Handler, request: Any) -> None:  # noqa: PLR0913, PLR0917  bound by the table of calls
        super().__init__(link, stream, head, name)
        self._handler = handler
        self._request = request
        self._task: asyncio.Task[None] | None = None  # goes on where the client leaves

    def _start(self, message: bytes) -> None:
        try:
            request = self._request.FromString(message)
        except DecodeError:
            self.fail(InvalidInputError(f"the message is no {self._request.DESCRIPTOR.name}"))
            return
        self._task = self.link.hub.loop.create_task(self._ask(request))

    async def _ask(self, request: Any) -> None:
        try:
            answer = (await self._handler(request)).SerializeToString()
        except (TailcutError, CallError) as error:
            self.fail(error)
        except Exception:  # noqa: BLE001  a fault of ours must not leave the client waiting
            _log.exception("%s failed", self.name)
            self.fail(CallError(Status.INTERNAL, "the server failed on this call"))
        else:
            if not self.over:
                self._leave(Status.OK, len(answer))
                self._send(answer, end=True)


class AdminCall(QuestionCall):
    """A call that changes the server: it needs the token, where the server has one."""

    def _start(self, message: bytes) -> None:
        if self.link.hub.site.admits(self._head.authorization):
            super()._start(message)
        else:
            self.fail(CallError(Status.UNAUTHENTICATED, "this needs the server's token"))


class WatchCall(OneMessageCall):
    """Health.Watch: the status now, and again whenever it changes."""

    def __init__(  # noqa: PLR0913, PLR0917  bound by the table of calls
        self,
        link: Link,
        stream: int,
        head: CallHead,
        name: str,
        status_of: Callable[[str], int],
        watchers: "set[WatchCall]",
    ) -> None:
        super().__init__(link, stream, head, name)
        self._status_of = status_of
        self._watchers = watchers
        self._service = ""

    @property
    def in_hand(self) -> bool:
        """Nothing is ever owed."""
        return False

    def _start(self, message: bytes) -> None:
        try:
            self._service = HEALTH["HealthCheckRequest"].FromString(message).service
        except DecodeError:
            self.fail(InvalidInputError("the message is no HealthCheckRequest"))
            return
        self._watchers.add(self)
        self.tell()

    def tell(self) -> None:
        """Send the status as it is now."""
        self._send(HEALTH["HealthCheckResponse"](status=self._status_of(self._service)).SerializeToString(), end=False)

    def _abandon(self) -> None:
        self._watchers.discard(self)
