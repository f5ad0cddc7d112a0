"""What all gRPC calls have in common, from the first byte to the status, and the base of those with one message.

The calls that infer are in `infer_calls.py`, the others in `query_calls.py`. A call knows its connection only as a
`Link`, and sees no socket or frame.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from typing import Protocol

from tailcut.errors import Code, QueueFullError, ReleasedError, TailcutError
from tailcut.server.access_log import log_grpc, trace_of, with_trace
from tailcut.server.account import Account
from tailcut.server.faults import fault, public_message
from tailcut.server.grpc.infer import GrpcInference, sampled_call
from tailcut.server.grpc.templates import Plans
from tailcut.server.limits import largest_body
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.server.step_runner import Job
from tailcut.wire.grpc.framing import (
    ANSWER_END,
    ANSWER_HEAD,
    PREFIX_BYTES,
    CallError,
    CallHead,
    Messages,
    Status,
    error_end,
    prefixed,
)

STATUS_OF: Mapping[Code, Status] = {
    Code.INVALID: Status.INVALID_ARGUMENT,
    Code.NOT_FOUND: Status.NOT_FOUND,
    Code.TOO_LARGE: Status.RESOURCE_EXHAUSTED,
    Code.UNSUPPORTED: Status.INVALID_ARGUMENT,
    Code.UNAVAILABLE: Status.UNAVAILABLE,
    Code.DEADLINE: Status.DEADLINE_EXCEEDED,
    Code.INTERNAL: Status.INTERNAL,
}
_NAMES = tuple(status.name for status in Status)  # looking up `Status(...).name` is slow
_log = logging.getLogger("tailcut.grpc")
_HEAD_BYTES = 64 << 10  # room for the names and shapes around the tensors of a message


class Link(Protocol):
    """What calls need of their connection; `GrpcConnection` documents the methods."""

    state: ServerState
    plans: Plans
    account: Account

    def send(  # noqa: D102
        self, call: "GrpcCall", head: bytes | None, data: bytes | memoryview, end: bytes | None = None
    ) -> None: ...
    def waits(self, call: "GrpcCall") -> bool: ...  # noqa: D102
    def later(self, call: "GrpcCall") -> None: ...  # noqa: D102
    def taken(self, call: "GrpcCall", size: int) -> None: ...  # noqa: D102
    def answer(self, call: "GrpcCall", message: bytes, inference: GrpcInference) -> None: ...  # noqa: D102
    def record(self, inference: GrpcInference) -> None: ...  # noqa: D102


class GrpcCall(ABC):
    """One call: receives messages, and ends with a status."""

    charged = 0  # bytes that this call holds of the limit for buffers
    over = False
    _begun = False  # the response headers have been sent
    infers = False  # whether calls of this kind are traced
    _served: ServedModel | None = None  # the model that the last request was for
    _messages: Messages | None = None
    _job: Job | None = None  # inflates a message

    def __init__(self, link: Link, stream: int, head: CallHead, name: str) -> None:
        self.link = link
        self.stream = stream
        self.name = name
        self.began_ns = time.monotonic_ns()
        self.waits_since_ns = self.began_ns  # the start of the wait for its message, or for the rest; 0: no wait
        self._head = head

    @property
    def in_hand(self) -> bool:
        """Whether the client waits for an answer."""
        return not self.over

    @abstractmethod
    def receive(self, data: bytes, size: int, *, ended: bool) -> None:
        """Take bytes of the request, which used `size` bytes of the stream's flow-control window.

        Raises:
            CallError: they are not a message, or exceed a limit.
        """

    def cancel(self) -> None:
        """End a call that the client has cancelled, or whose client has disconnected."""
        if not self.over:
            if self.in_hand:
                self._trace_failure(Status.CANCELLED, "ClientDisconnected", "", self.began_ns)
            self._leave(Status.CANCELLED)
            self._abandon()

    def fail(self, error: TailcutError | CallError, retry_after_s: float | None = None) -> None:
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
        self._trace_failure(status, type(error).__name__, message, self.began_ns)
        self._leave(status)
        self._abandon()
        self.link.send(self, None, b"", error_end(status, message, retry_after_s, begun=self._begun))

    def give_up(self, error: Exception) -> None:
        """End with an error that `receive` or a later step raised; whatever it is, it affects only this call."""
        if isinstance(error, CallError):
            self.fail(error, 1 if error.status is Status.UNAVAILABLE else None)
        else:
            self.fail(CallError(Status.INTERNAL, fault(error)))

    def _hold(self, size: int) -> None:
        """Note that buffers now hold `size` bytes of its messages.

        Raises:
            CallError: the limit for all connections together is reached.
        """
        account, more = self.link.account, size - self.charged
        if more > 0 and not account.has_room(more):
            raise CallError(Status.UNAVAILABLE, "too many messages are being received")
        account.charge(more)
        self.charged = size

    def _abandon(self) -> None:  # noqa: B027  most calls have nothing to abandon
        """Cancel what the call has started."""

    def _collect(self, data: bytes) -> Messages:
        if self._messages is None:
            most = self.link.state.limits.buffered_bytes - PREFIX_BYTES  # there would never be room for a larger one
            self._messages = Messages(min(self._limit() + _HEAD_BYTES, most), self._head.plan.encoding)
        self._messages.feed(data)
        return self._messages

    def _limit(self) -> int:
        """The largest size of a message's tensors, in bytes: that of the largest request to any of the models."""
        state = self.link.state
        most = state.limits.body_bytes
        return max((largest_body(served.entry, most) for served in state.context.models), default=most)

    def _inflate(self, messages: Messages) -> None:
        """Have a complete compressed message inflated, a step at a time; then `_inflated` is called."""
        self._job = self.link.state.steps.start(self._inflate_in_steps(messages), self._inflate_done)

    def _inflate_in_steps(self, messages: Messages) -> Generator[None, None, bytes | memoryview]:
        steps = messages.inflate()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                message: bytes | memoryview = end.value
                return message
            self._hold(messages.held)
            yield

    def _inflate_done(self, message: bytes | memoryview | None, error: Exception | None) -> None:
        self._job = None
        if error is None:
            try:
                self._inflated(message or b"")
            except Exception as wrong:  # noqa: BLE001  whatever one message causes must affect its client only
                error = wrong
        if error is not None:
            self.give_up(error)

    @abstractmethod
    def _inflated(self, message: bytes | memoryview) -> None:
        """Go on with a message that was compressed.

        Raises:
            CallError: as in `receive`.
        """

    def _give_up_job(self) -> None:
        if self._job is not None:
            self._job.cancel()
            self._job = None

    def _send(self, message: bytes, *, end: bool) -> None:
        head = None if self._begun else ANSWER_HEAD
        self._begun = True
        self.link.send(self, head, prefixed(message), ANSWER_END if end else None)

    def _send_parts(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send a message in parts, and end the call."""
        size = sum(map(len, parts))
        self.link.send(self, ANSWER_HEAD, b"\0" + size.to_bytes(4, "big"))
        for part in parts[:-1]:
            self.link.send(self, None, part)
        self.link.send(self, None, parts[-1], ANSWER_END)

    def _leave(self, status: Status, size: int = 0) -> None:
        """Note the final status: count and log it, and give back what the call held."""
        self.over = True
        if self._job is not None:
            self._give_up_job()
        if self.charged:
            self._hold(0)
        self._tell(status, size, self.began_ns)

    def _tell(self, status: Status, size: int, began_ns: int) -> None:
        state = self.link.state
        state.context.counts.grpc_replies[_NAMES[status]] += 1
        if state.access:
            log_grpc(self.name, status.name, size, time.monotonic_ns() - began_ns, self._trace())

    def _trace(self) -> dict[str, str]:
        return trace_of(self._head.traceparent)

    def _trace_failure(self, status: Status, kind: str, message: str, began_ns: int) -> None:
        """Keep the trace of a failed inference, where it is sampled."""
        tracer = self.link.state.tracer
        asked = sampled_call(tracer, self._head) if tracer is not None and self.infers else None
        if tracer is not None and asked is not None:
            tracer.failed(asked, self._served, began_ns, status=status.name, kind=kind, message=message)

    def _left_ns(self) -> int:
        """The nanoseconds left until the call's own deadline, at least 1; 0 where it has none."""
        timeout_ns = self._head.timeout_ns
        return timeout_ns and max(1, timeout_ns - (time.monotonic_ns() - self.began_ns))


class OneMessageCall(GrpcCall):
    """A call whose request is a single message."""

    _message: bytes | memoryview | None = None
    _ended = False

    def receive(self, data: bytes, size: int, *, ended: bool) -> None:
        """Take bytes of the request, which used `size` bytes of the stream's flow-control window.

        Raises:
            CallError: they are not a message, more than one, or exceed a limit.
        """
        if ended and self._messages is None and data[:1] == b"\0" and int.from_bytes(data[1:5], "big") == len(data) - 5:
            self.waits_since_ns = 0
            self._start(data[5:])
            return
        messages = self._collect(data)
        self.link.taken(self, size)
        self._ended = ended
        self._go_on(messages)

    def _inflated(self, message: bytes | memoryview) -> None:
        self._message = message
        if self._messages is not None:
            self._go_on(self._messages)

    def _go_on(self, messages: Messages) -> None:
        if self._message is None and not messages.inflating:
            self._message = messages.take()
        if messages.inflating:
            self._hold(messages.held)
            if self._ended:
                self.waits_since_ns = 0
            if self._job is None:
                self._inflate(messages)
            return
        message = self._message
        if (message is not None and not messages.empty) or (message is None and self._ended):
            raise CallError(Status.UNIMPLEMENTED, "this call takes exactly one complete message")
        self._hold(messages.held + (0 if message is None else len(message)))
        if self._ended and message is not None:
            self._message = None
            self.waits_since_ns = 0
            self._start(message)

    @abstractmethod
    def _start(self, message: bytes | memoryview) -> None:
        """The request is complete."""
