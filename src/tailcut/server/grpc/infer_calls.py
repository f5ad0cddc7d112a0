"""The gRPC calls that infer: one request, or a stream of them."""

import time
from collections import deque

from tailcut.errors import TailcutError
from tailcut.server.faults import public_message
from tailcut.server.grpc.calls import STATUS_OF, GrpcCall, Link, OneMessageCall
from tailcut.server.grpc.infer import GrpcInference
from tailcut.wire.grpc.form import stream_answer
from tailcut.wire.grpc.framing import ANSWER_END, ANSWER_HEAD, CallError, CallHead, Status
from tailcut.wire.grpc.messages import MESSAGES

_IN_HAND = 64  # requests of one stream that are read ahead, so that they share batches


class InferCall(OneMessageCall):
    """ModelInfer."""

    _inference: GrpcInference | None = None
    infers = True

    def receive(self, data: bytes, size: int, *, ended: bool) -> None:
        """As for any call, but a whole message that resembles the last one of its length is not parsed.

        Raises:
            CallError: as for any call.
        """
        known = self.link.plans.known(len(data)) if ended and self._messages is None else None
        if known is not None:
            inference = GrpcInference(self.link.plans, self._head, self.began_ns, self._done)
            if inference.begin_known(data, known, self._head.timeout_ns):
                self._inference = inference
                self.waits_since_ns = 0
                return
        super().receive(data, size, ended=ended)

    def _start(self, message: bytes | memoryview) -> None:
        self._inference = inference = GrpcInference(self.link.plans, self._head, self.began_ns, self._done)
        try:
            inference.begin(message, self._left_ns())
        except TailcutError as error:
            self._inference, self._served = None, inference.served
            self.fail(error)

    def _done(self, inference: GrpcInference) -> None:
        self._inference, self._served = None, inference.served
        if self.over:
            return
        if inference.error is not None:
            self.fail(inference.error)
            return
        answer = inference.answer or b""
        if isinstance(answer, bytes):
            self._leave(Status.OK, len(answer))
            self.link.answer(self, answer, inference)
        else:
            self._leave(Status.OK, sum(map(len, answer)))
            self._send_parts(answer)
            self.link.record(inference)

    def _abandon(self) -> None:
        if self._inference is not None:
            self._inference.cancel()
            self._inference = None


class StreamCall(GrpcCall):
    """ModelStreamInfer: answers in the order of the requests; a failed request does not affect the others."""

    infers = True

    def __init__(self, link: Link, stream: int, head: CallHead, name: str) -> None:
        super().__init__(link, stream, head, name)
        self.waits_since_ns = 0  # between messages, the client may wait as long as it likes
        self._parts: deque[GrpcInference] = deque()
        self._owed = 0  # bytes received for which the window has not been opened again
        self._ended = False
        self.stalled = False  # it goes on once the client's window allows more answers, or there are some
        self._waits = False  # for its turn to process what has been received

    @property
    def in_hand(self) -> bool:
        """Whether the client waits for an answer."""
        return bool(self._parts)

    def receive(self, data: bytes, size: int, *, ended: bool) -> None:
        """Take bytes of requests, which used `size` bytes of the stream's flow-control window.

        Raises:
            CallError: they are not messages, or exceed a limit.
        """
        messages = self._collect(data)
        self._owed += size
        self._ended |= ended
        self._hold(messages.held)
        self.go_on()

    def go_on(self) -> None:
        """Send the answers that are ready and begin further requests, while there is time; the rest in another turn.

        Raises:
            CallError: a message exceeds a limit.
        """
        messages = self._messages
        if self.over or messages is None or self._waits or self._job is not None:
            return
        self.stalled = False
        has_time = self.link.state.steps.has_time
        while has_time():
            if self._answer():
                continue
            if len(self._parts) >= _IN_HAND or self.link.waits(self):
                self.stalled = True
                return  # meanwhile the client can send no more than its window allows
            message = messages.take()
            if messages.inflating:
                self._hold(messages.held)
                self._inflate(messages)
                return
            if message is None:
                break
            self.waits_since_ns = 0
            self._begin(message)
        else:
            self._waits = True
            self.link.later(self)
            return
        self.waits_since_ns = 0 if messages.empty else self.waits_since_ns or time.monotonic_ns()
        self._hold(messages.held)
        self.link.taken(self, self._owed)
        self._owed = 0
        if self._ended and not self._parts:
            self._finish(whole=messages.empty)

    def _inflated(self, message: bytes | memoryview) -> None:
        self._begin(message)
        self.go_on()
        self.link.send(self, None, b"")

    def has_its_turn(self) -> None:
        """Note that its turn has come: `receive` is called next."""
        self._waits = False

    def _begin(self, message: bytes | memoryview) -> None:
        inference = GrpcInference(self.link.plans, self._head, time.monotonic_ns(), self._done, final=True)
        self._parts.append(inference)
        try:
            inference.begin(message, self._left_ns())
        except TailcutError as error:
            inference.error = error.without_frames()

    def _done(self, _inference: GrpcInference) -> None:
        try:
            self.go_on()
        except CallError as error:
            self.fail(error)

    def _answer(self) -> bool:
        """Send the next answer, if it is ready; returns whether it was."""
        parts = self._parts
        if not parts or (parts[0].error is None and parts[0].answer is None):
            return False
        part = parts.popleft()
        if part.error is None:
            status = Status.OK
            message = stream_answer(_whole(part.answer))
            self.link.record(part)
        else:
            status = STATUS_OF[part.error.code]
            answer = MESSAGES["ModelStreamInferResponse"](error_message=public_message(part.error))
            answer.infer_response.id = part.id.decode()
            message = answer.SerializeToString()
            self._served = part.served
            self._trace_failure(status, type(part.error).__name__, public_message(part.error), part.began_ns)
        self._tell(status, len(message), part.began_ns)
        self._send(message, end=False)
        return True

    def _finish(self, *, whole: bool) -> None:
        if not whole:
            raise CallError(Status.INTERNAL, "the last message is cut short")
        self.over = True
        self._hold(0)
        self.link.send(self, None if self._begun else ANSWER_HEAD, b"", ANSWER_END)

    def _leave(self, status: Status, size: int = 0) -> None:
        self.over = True
        self._give_up_job()
        self._hold(0)

    def _abandon(self) -> None:
        for part in self._parts:
            part.cancel()
        self._parts.clear()


def _whole(answer: bytes | list[bytes | memoryview] | None) -> bytes:
    return answer if isinstance(answer, bytes) else b"".join(answer or ())
