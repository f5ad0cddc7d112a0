"""What a connection says: inferences queued and answered, questions answered, refusals, and how a connection ends.

`http.py` builds on it with how a connection listens.
"""

import asyncio
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto

import numpy as np

from tailcut.errors import EngineError, QueueFullError, TailcutError
from tailcut.runtime.entry import Entry
from tailcut.runtime.inputs import check_inputs, check_inputs_in_steps
from tailcut.runtime.request import Batch, Lease, Request
from tailcut.server.access_log import trace_of_head, with_trace
from tailcut.server.fastpath.fastpath import Group
from tailcut.server.http.plan import QUESTION_BYTES, Kind, Plan
from tailcut.server.http.replies import CLOSE, END, Refusal, dated, error_reply, failure_reply, response_head
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.server.step_runner import LITTLE_BYTES, Job
from tailcut.wire.http1.chunked import ChunkedBody
from tailcut.wire.http1.head import Head
from tailcut.wire.inflate import AUTO, inflate, inflate_in_steps
from tailcut.wire.v2 import (
    InferRequest,
    Response,
    Schedule,
    encode_response,
    parse_request,
    schedule_of,
    shared_outputs,
)
from tailcut.wire.v2.steps import AT_ONCE_BYTES, STEP_ELEMENTS, request_in_steps, response_in_steps
from tailcut.wire.v2.tensors import STEP_STRINGS

WAITS_S = 1.0  # how long a client that sends nothing more waits before it is asked whether it is there
LONG_WAY = 64  # messages before one that came back from the fast path tries it again
NO_PLAN = Plan(Kind.ANSWER, Head(b"", "", True, None, False, False, {}), 0)

_log = logging.getLogger("tailcut.http")
_now_ns = time.monotonic_ns  # one name to look up, thrice a request
_JOIN_BYTES = 64 * 1024  # parts of an answer from this size on go to the kernel as they are
_WBITS = {"gzip": AUTO, "deflate": zlib.MAX_WBITS}
_LOOK_BYTES = 256 * 1024  # looked through between two pauses
_SKIP_BYTES = 1 << 20  # of a refused body, read away so that the connection lives


class Stage(Enum):
    """What the next bytes are."""

    HEAD = auto()
    ROWS = auto()  # a body, into rows of the slab
    LEAD = auto()  # the JSON before a large tensor, which tells where the tensor may go
    BUFFER = auto()  # a body, into a buffer of its own
    CHUNKED = auto()
    ANSWER = auto()  # none expected: an answer is on its way
    SKIP = auto()  # the rest of a body that was refused, small enough to go on behind it
    LINGER = auto()  # whatever comes is read away, so that the refusal before it arrives


class Answering(asyncio.BufferedProtocol):
    """An accepted socket's side that speaks; its own handler of the answer to the message in hand."""

    _next: Callable[[], None]  # go on with what the client has sent meanwhile

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._view = state.receive_view
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any other callback
        self._stage = Stage.HEAD
        self._target: memoryview | None = None  # where a body's next bytes go, when not to the shared buffer
        self._held = b""
        self._ended = False  # the client sends nothing more, and may still read
        self._asked = False  # whether it does
        self._empty_lines = 0  # read past since the message that began at `_empty_since_ns`
        self._empty_since_ns = 0
        self._plan = NO_PLAN  # of the message in hand
        self._head = b""  # the bytes that it was planned from: the next message's head is mostly the same
        self._edition = -1  # of the hub's plans, when it was
        self._work: asyncio.Task[None] | None = None  # an answer that takes a while
        self._lease: Lease | None = None  # of rows that a body is received into
        self._body: np.ndarray | None = None
        self._lead = b""
        self._charged = 0  # bytes of `hub.site.counts.buffered_bytes` that are this connection's
        self._chunked: ChunkedBody | None = None
        self._ticket: Request | None = None
        self._request: InferRequest | None = None
        self._schedule = Schedule()  # of a request whose body is being received into rows
        self._began_ns = 0  # when the message in hand had its head
        self._encoded_ns = 0  # when its answer was ready to be written
        self._job: Job | None = None  # a large body is being read, or a large answer written
        self._trail: tuple[int, ...] = ()  # of an answer that the client has not read yet
        self._unread = 0  # bytes of answers that wait for the client to read, charged like bodies
        self._lingered = 0
        self._skip = 0
        self._paused = False
        self._pipelines = False  # and waits for time behind those who do not
        self._queued = False  # for time on the loop, with the messages in `_held`
        self.due = 0.0  # when patience with this client ends; 0: no limit runs
        self._idle_since = state.now
        self.fd = -1  # of its socket while it takes the fast path
        self._repeats = 0  # messages whose head was the one before's; far below 0 where the fast path is not for it
        self._awaited: tuple[Group, int] | None = None  # the answer that it had not yet when it came back from there

    @property
    def busy(self) -> bool:
        """Whether a message is in hand, its body still arriving or its answer being computed."""
        if self.fd >= 0 and self._state.fast_path is not None:
            return self._state.fast_path.busy(self.fd)
        return self._stage is not Stage.HEAD or bool(self._held)

    @property
    def idle_since(self) -> float:
        """When the client was last heard or answered, in the loop's seconds; what counts only while it is not busy."""
        if self.fd >= 0 and self._state.fast_path is not None:
            return self._state.fast_path.seen(self.fd)
        return self._idle_since

    @property
    def fresh(self) -> bool:
        """Whether the client came just now and has not said anything yet."""
        return self._plan is NO_PLAN and self._idle_since > self._state.now - 1

    # A message in hand.

    def _infer(self, plan: Plan, body: bytes | bytearray | memoryview) -> None:
        """Parse a whole body, check it against the model and queue it."""
        served = plan.served
        if served is None:
            return
        if plan.encoding or len(body) > AT_ONCE_BYTES or not self._state.steps.has_time():
            if isinstance(body, memoryview) and body.obj is self._state.receive:
                body = bytes(body)  # others are received there before it is read
            self._stage = Stage.ANSWER
            self._charge(len(body))
            begun = self._pipelines or len(body) > LITTLE_BYTES or plan.encoding is not None
            self._job = self._state.steps.start(self._infer_in_steps(plan, body), self._infer_ready, begun=begun)
            return
        try:
            self._knock(served.entry, plan, body)
            request = parse_request(served.model.spec, body, plan.json_size, self._state.context.regions)
            schedule = schedule_of(request.parameters, plan.schedule)
            deadline = self._state.deadline(schedule.timeout_ns)
            self._request = request
            self._stage = Stage.ANSWER
            self._ticket = self._start(served, request, deadline, schedule.priority)
        except TailcutError as error:
            self._fail(error)
        else:
            self._state.delivery.notify_soon(served.entry)

    def _start(self, served: ServedModel, request: InferRequest, deadline_ns: int, priority: int) -> Request:
        """Queue what has passed the protocol's checks: the rows of an only input go to their place as bytes.

        Raises:
            TailcutError: as `Entry.start`.
        """
        spec, entry, delivery = served.model.spec, served.entry, self._state.delivery
        if len(request.inputs) == 1 and entry.slab is not None:
            array = next(iter(request.inputs.values()))
            rows = len(array) if spec.batched else 1
            if rows <= entry.max_batch_size:
                ticket = Request(self, delivery, rows, deadline_ns, priority)
                entry.submit(ticket, array.reshape(-1).view(np.uint8).data)
                return ticket
        arrays, rows = check_inputs(spec, request.inputs)
        return entry.start(arrays, rows, self, delivery, deadline_ns, priority=priority)

    def _knock(self, entry: Entry, plan: Plan, body: bytes | bytearray | memoryview) -> None:
        """Refuse what will be refused before its body is parsed, except where the body may name a time of its own.

        Raises:
            QueueFullError: too much is waiting already, or the deadline cannot be met.
        """
        if entry.waiting_rows:
            lead = bytes(body[: plan.json_size])
            named = b"timeout" in lead or b"priority" in lead or b"\\" in lead
            entry.admit(1, 0 if named else self._state.deadline(plan.schedule.timeout_ns), plan.schedule.priority)

    def _infer_in_steps(
        self, plan: Plan, body: bytes | bytearray | memoryview
    ) -> Generator[None, None, tuple[InferRequest, Request]]:
        """The same for a body that is large, or of which nobody knows how large it is."""
        served: ServedModel = plan.served  # type: ignore[assignment]  # only plans that have one come here
        model, entry, state = served.model, served.entry, self._state
        if plan.encoding:
            most = min(plan.limit, state.limits.buffered_bytes)
            body = yield from inflate_in_steps(body, most, self._charge_more, wbits=_WBITS[plan.encoding])
        if entry.waiting_rows:
            named = yield from _names_its_time(memoryview(body)[: plan.json_size])
            entry.admit(1, 0 if named else state.deadline(plan.schedule.timeout_ns), plan.schedule.priority)
        request = yield from request_in_steps(model.spec, body, plan.json_size, state.context.regions)
        arrays, rows = yield from check_inputs_in_steps(model.spec, request.inputs)
        schedule = schedule_of(request.parameters, plan.schedule)
        deadline = state.deadline(schedule.timeout_ns)
        ticket = yield from entry.start_in_steps(
            arrays, rows, self, state.delivery, deadline, priority=schedule.priority
        )
        return request, ticket

    def _infer_ready(self, result: tuple[InferRequest, Request] | None, error: Exception | None) -> None:
        """A large body has been read, and its request queued; or not."""
        self._job = None
        self._charge(-self._charged)
        if result is not None:
            self._request, self._ticket = result
            self._state.delivery.notify_soon(self._plan.served.entry)  # type: ignore[union-attr]  # as above
            return
        self._fail(_known(error))
        self._next()

    def complete(self, ticket: Request, batch: Batch, index: int) -> None:
        """The engine has answered."""
        handed_ns = self._encoded_ns = _now_ns()
        self._ticket = None
        state = self._state
        plan = self._plan
        began_ns = self._began_ns
        state.count_latency(batch.ended_ns - ticket.ready_ns)
        if plan.kind is Kind.ROWS:
            if plan.date is not state.date:
                plan.renew(state.date)
            start = plan.reply_head if plan.head.keep_alive and not state.draining else plan.reply_head_close
            if len(batch.outputs) == 1:
                blob = batch.blob(index)
                if len(blob) < _JOIN_BYTES:
                    self._reply(start + blob, 200)
                else:
                    self._reply(start, 200, [blob])
            else:
                self._reply(start, 200, [batch.blob(index, output) for output in range(len(batch.outputs))])
        else:
            self._encode(plan, batch, index)
        if self._paused or self._job is not None:  # when its answer is out is seen later
            moments = (began_ns, ticket.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns)
            self._trail = (*moments, handed_ns, self._encoded_ns, ticket.count, batch.rows, plan.length)
        else:
            plan.served.timeline.record(  # type: ignore[union-attr]  # who asked a model has one
                began_ns,
                ticket.ready_ns,
                batch.formed_ns,
                batch.began_ns,
                batch.ended_ns,
                handed_ns,
                self._encoded_ns,
                _now_ns(),
                ticket.count,
                batch.rows,
                plan.length,
                200,
            )
        if state.busy_poll_ns:
            state.stay_awake(batch.ended_ns)
        if self._held:
            self._next()

    def fail(self, ticket: Request, error: TailcutError) -> None:
        """There will be no answer."""
        self._ticket = self._awaited = None
        self._fail(error)
        self._next()

    def answer_row(self, batch: Batch, row: int) -> None:
        """The answer that it waited for when it came back from the fast path."""
        self._awaited = None
        plan = self._plan
        plan.renew(self._state.date)
        rows = [array[row : row + 1].tobytes() for array in batch.outputs]
        self._reply(plan.reply_head_close if self._closing() else plan.reply_head, 200, rows)
        self._next()

    def _encode(self, plan: Plan, batch: Batch, index: int) -> None:
        served, request, self._request = plan.served, self._request, None
        if served is None or request is None:
            return
        spec = served.model.spec
        outputs = dict(zip(spec.output_names, batch.arrays(index), strict=True))
        try:
            for place, data in shared_outputs(spec, request, outputs):
                self._state.context.regions.write(place, data)
            if _takes_long(request, outputs):
                if served.entry.slab is not None:  # whose rows are others' soon
                    outputs = {wanted.name: outputs[wanted.name].copy() for wanted in request.outputs}
                steps = response_in_steps(spec, served.version, request, outputs)
                self._charge(sum(array.nbytes for array in outputs.values()))
                self._job = self._state.steps.start(steps, self._answer_ready)
                return
            response = encode_response(spec, served.version, request, outputs)
            self._encoded_ns = _now_ns()
        except TailcutError as error:
            self._fail(error)
            return
        except Exception:  # noqa: BLE001  the client must not wait for ever for an answer that nobody can write
            _log.exception("the answer of model %r could not be written", spec.name)
            self._say(error_reply(500, "the answer could not be written", close=self._closing()))
            return
        self._reply_with(response)

    def _reply_with(self, response: Response) -> None:
        length = sum(len(part) for part in response.body_parts)
        start = response_head(length, response.json_size, self._state.date, close=self._closing())
        self._reply(start, 200, response.body_parts)

    def _answer_ready(self, response: Response | None, error: Exception | None) -> None:
        """A large answer has been put into words; or not."""
        self._job = None
        self._charge(-self._charged)
        trail, self._trail = self._trail, ()
        if response is None:
            self._fail(_known(error))
        else:
            trail = (*trail[:6], _now_ns(), *trail[7:])
            self._reply_with(response)
            if self._paused:
                self._trail = trail
            elif self._plan.served is not None:
                self._plan.served.timeline.record(*trail[:7], _now_ns(), *trail[7:], 200)
        self._next()

    def _answer(self, plan: Plan, body: bytes) -> None:
        try:
            if plan.encoding:
                body = inflate(body, QUESTION_BYTES, wbits=_WBITS[plan.encoding])
            arguments = (body, *plan.arguments) if plan.takes_body else plan.arguments
            answer = plan.handler(self._state.context, *arguments)  # type: ignore[misc]  # ANSWER plans have one
        except (Refusal, TailcutError) as error:
            answer = _refused(error)
        if isinstance(answer, bytes):
            self._tell(plan, answer)
            return
        self._stage = Stage.ANSWER
        self._work = self._state.loop.create_task(self._answer_later(plan, answer))

    async def _answer_later(self, plan: Plan, coming: Awaitable[bytes]) -> None:
        """The answer of work that takes a while: it goes on where the client leaves."""
        try:
            answer = await coming
        except (Refusal, TailcutError) as error:
            answer = _refused(error)
        if not self.transport.is_closing():
            self._tell(plan, answer)
            self._next()

    def _tell(self, plan: Plan, answer: bytes) -> None:
        if plan.head.method == b"HEAD":
            answer = answer[: answer.index(END) + len(END)]
        if self._closing():
            answer = answer.replace(END, CLOSE, 1)
        self._say(answer)

    # What is written.

    def _closing(self) -> bool:
        return self._state.draining or not self._plan.head.keep_alive

    def _fail(self, error: TailcutError) -> None:
        answer = failure_reply(error, close=self._closing())
        if answer[9:10] == b"5":
            _log.warning("%s", with_trace(str(error), trace_of_head(self._head)))
        self._say(answer)

    def _say(self, answer: bytes) -> None:
        """Write a whole answer that has no date yet."""
        self._reply(dated(answer, self._state.date), int(answer[9:12]))

    def _reply(self, answer: bytes, status: int, parts: Sequence[bytes] = ()) -> None:
        """Write a whole answer, whose parts are joined where that is cheaper; the message is out of hand."""
        state = self._state
        size = len(answer)
        if parts:
            size += sum(map(len, parts))
            if size < _JOIN_BYTES:
                self.transport.write(b"".join([answer, *parts]))
            else:
                self.transport.writelines([answer, *parts])
        else:
            self.transport.write(answer)
        if state.access:
            state.count_reply(self._plan.head, self._head, status, size, self._began_ns)
        else:
            state.context.counts.replies[status] += 1
        self._stage = Stage.HEAD
        self._idle_since = state.now
        if state.draining or not self._plan.head.keep_alive:
            self.close()

    def _turn_away(self, why: Refusal | TailcutError, length: int, end: int, size: int) -> int:
        """Answer without the body: go on behind it where it is all here, else read it away and close."""
        over = length < 0 or end + length > size + _SKIP_BYTES or self._closing() or self._plan.head.expects_continue
        if isinstance(why, Refusal):
            answer = error_reply(why.status, why.message, close=over, headers=why.headers)
        else:
            answer = failure_reply(why, close=over)
        answer = dated(answer, self._state.date)
        if over:
            self._last_word(answer)
            return size
        self._state.count_reply(self._plan.head, self._head, int(answer[9:12]), len(answer), self._began_ns)
        self.transport.write(answer)
        self._skip = max(0, end + length - size)
        if self._skip:
            self._stage = Stage.SKIP
            self.due = self._state.now + self._state.limits.body_timeout_s
        return min(end + length, size)

    def _refuse(self, status: int, message: str) -> None:
        """The framing is broken or out of time: one answer, and no more is understood on this connection."""
        self._last_word(dated(error_reply(status, message, close=True), self._state.date))

    def _last_word(self, answer: bytes) -> None:
        self._drop_body()
        self._held = b""
        self._stage = Stage.LINGER
        self.due = self._state.now + self._state.limits.linger_s
        self._state.count_reply(self._plan.head, self._head, int(answer[9:12]), len(answer), self._began_ns)
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _finish(self) -> None:
        """Bring what the client has asked for to its end, and the connection with it: nothing more will come."""
        if self.transport.is_closing() or self._queued:
            return
        if self._stage is Stage.ANSWER:
            if not self._held:  # the answer to this message is the last
                self._plan = replace(self._plan, head=replace(self._plan.head, keep_alive=False))
            self.due = self.due or self._state.now + WAITS_S
        elif self._stage is not Stage.HEAD or not self._paused:
            self._drop_body()  # of a message that will not become whole
            self._held = b""
            self.close()

    def close(self) -> None:
        """Close after what has been written, which the client has so long to read."""
        self._leave_fast_path()
        self._stage = Stage.LINGER
        self.due = self._state.now + self._state.limits.write_s(self.transport.get_write_buffer_size())
        self.transport.close()

    def returned(self, group: Group | None, number: int, head: bytes) -> None:
        """It no longer takes the fast path; its answer may still be on it, as the `number`-th of a group."""
        self._repeats = -LONG_WAY
        self._head = head  # which means what the plan's does
        self._idle_since = self._state.now
        if group is not None:
            self._stage = Stage.ANSWER
            self._awaited = group, number

    def _leave_fast_path(self) -> None:
        if self.fd >= 0 and self._state.fast_path is not None:
            self._state.fast_path.leave(self)

    def _charge(self, size: int) -> None:
        self._charged += size
        self._state.context.counts.buffered_bytes += size

    def _hold_unread(self, size: int) -> None:
        self._state.context.counts.buffered_bytes += size - self._unread
        self._unread = size

    def _charge_more(self, size: int) -> None:
        """Charge what has been inflated.

        Raises:
            QueueFullError: all connections together hold as much as they may.
        """
        if self._state.context.counts.buffered_bytes + size > self._state.limits.buffered_bytes:
            raise QueueFullError("too many bodies are arriving now")
        self._charge(size)

    def _drop_body(self) -> None:
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self._target = None
        self._chunked = None
        self._body = None
        self._lead = b""
        self._charge(-self._charged)
        if self._lease is not None:
            self._plan.served.entry.settle(self._lease, 0, None)  # type: ignore[union-attr]
            self._lease = None


def _refused(error: Refusal | TailcutError) -> bytes:
    """The answer to a question that is not answered."""
    if isinstance(error, Refusal):
        return error_reply(error.status, error.message, headers=error.headers)
    return failure_reply(error)


def _takes_long(request: InferRequest, outputs: Mapping[str, np.ndarray]) -> bool:
    """Whether an answer has so many elements that are written one by one, that it is written in steps."""
    for wanted in request.outputs:
        array = outputs[wanted.name]
        strings = array.dtype.kind == "O"
        one_by_one = wanted.place is None and (strings or not wanted.binary)
        if one_by_one and array.size > (STEP_STRINGS if strings else STEP_ELEMENTS):
            return True
    return False


def _names_its_time(lead: memoryview) -> Generator[None, None, bool]:
    """Whether a large body may name a timeout or priority of its own, looked for in steps."""
    for at in range(0, len(lead), _LOOK_BYTES):
        window = bytes(lead[at : at + _LOOK_BYTES + 8])
        if b"timeout" in window or b"priority" in window or b"\\" in window:
            return True
        yield
    return False


def _known(error: Exception | None) -> TailcutError:
    """An error that a client can be told; what is a fault of ours goes to the log."""
    if isinstance(error, TailcutError):
        return error
    _log.error("a message was not understood", exc_info=error)
    return EngineError("the server failed on this message")
