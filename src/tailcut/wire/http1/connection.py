"""The server's end of an HTTP/1.1 connection, without a socket: bytes in, events out, bytes to send.

The caller passes in received bytes, and asks for events until there are none. The event of a request has as much of its
body as has arrived. For the rest of the body, the caller chooses: receive it into memory of its own (`wants`), such as
a row of the slab; have it collected (`chunks`, `waits_for`); or refuse it. One message is served at a time, and what a
client sends after it waits here until the message is answered.

This module does not know what a head means: the `interpret` function does. A head like the previous one has the same
meaning.
"""

from collections.abc import Callable
from typing import Generic

from tailcut.errors import IllegalMoveError
from tailcut.wire.http1.chunked import ChunkedBody
from tailcut.wire.http1.events import Body, Broken, H, RequestReceived
from tailcut.wire.http1.grammar import ProtocolError
from tailcut.wire.http1.head import Head, check_partial
from tailcut.wire.http1.outlines import Interpretation, Outline
from tailcut.wire.http1.response import CONTINUE
from tailcut.wire.http1.states import MOVES, ConnectionState, Step, moved

KEPT_HEAD_BYTES = 2048  # longer heads are not kept after their message
SKIP_BYTES = 1 << 20  # of a refused body, which are skipped so that the connection can go on
LINGER_BYTES = 64 << 20  # discarded after the last answer, at most
_CR = 0x0D
_EMPTY_LINES = 8  # skipped before a request line: some clients send one after a body


_IDLE, _HEAD, _PART, _CHUNKS, _SKIP, _REQUEST, _BODY, _ANSWER, _LINGER, _CLOSED = ConnectionState
_WHOLE, _ANSWERED = MOVES[Step.WHOLE], MOVES[Step.ANSWERED]  # the steps of every message
_NOTHING = memoryview(b"")


class Http1Connection(Generic[H]):
    """One connection; `interpret` returns the meaning of a head from its bytes, or raises ProtocolError."""

    __slots__ = (
        "_at",
        "_chunked",
        "_data",
        "_empty_lines",
        "_interpret",
        "_left",
        "_need",
        "_size",
        "_view",
        "ended",
        "head",
        "held",
        "is_read",
        "lingered",
        "meaning",
        "outline",
        "repeats",
        "state",
    )

    def __init__(self, interpret: Callable[[bytes], Interpretation[H]]) -> None:
        self._interpret = interpret
        self.state: ConnectionState = _IDLE
        self.meaning: H | None = None  # of the current message, or of the last one
        self.head = b""  # the bytes of its head; empty where it is long
        self.outline: Outline[H] | None = None  # of other heads with that meaning
        self.repeats = 0  # messages in a row whose head had the same meaning as the one before
        self.held = b""  # bytes received and not processed
        self.is_read = False  # the message is whole, and `hold` has nothing to keep or release
        self.ended = False  # the client sends nothing more, and may still read
        self.lingered = 0  # bytes discarded after the last answer
        self._data: bytes | bytearray = b""  # passed in last
        self._view = _NOTHING  # of these bytes
        self._at = self._size = 0
        self._left = 0  # bytes of the body that have not arrived
        self._need = 0  # bytes of the body that the reader waits for
        self._empty_lines = 0  # since the last message
        self._chunked: ChunkedBody | None = None

    def _move(self, step: Step) -> None:
        self.state = moved(self.state, step)

    # Bytes in, events out.

    @property
    def unread(self) -> bool:
        """Whether `next_event` has bytes to process."""
        return self._at < self._size and self.state <= _SKIP

    @property
    def more(self) -> bool:
        """Whether there are bytes after the last event."""
        return self._at < self._size

    @property
    def busy(self) -> bool:
        """Whether a message is being served, or has begun."""
        return self.state is not _IDLE or bool(self.held)

    def receive(self, data: bytes | bytearray, size: int) -> bool:
        """Take data[:size], which must stay unchanged until the next `hold`; returns whether to call `next_event`."""
        if self.state >= _LINGER:
            self.lingered += size
            return False
        if self.held:
            data, self.held = self.held + bytes(memoryview(data)[:size]), b""
            size = len(data)
        self._at, self._size = 0, size
        if data is not self._data:
            self._data, self._view = data, memoryview(data)
        return self.state <= _SKIP

    def receive_alike(self, data: bytearray, size: int) -> memoryview | None:
        """Take data[:size] if it is one whole message whose head has the meaning of the last one; returns its body.

        None: it is something else, and nothing is taken. Most messages are of this kind, and take three quarters of the
        time of `receive` and `next_event`.
        """
        meaning = self.meaning
        if meaning is None or self.state is not _IDLE or self.held or meaning.head.chunked:
            return None
        if data is not self._data:
            self._data, self._view = data, memoryview(data)
        end = self._end_alike(meaning, 0, size)
        if not end or end + meaning.length != size:
            return None
        self.repeats += 1
        self._empty_lines = 0
        self._at = self._size = size
        self.state, self.is_read = _WHOLE[_IDLE], True
        return self._view[end:size]

    def received_alike(self, head: bytes) -> bool:
        """Note that a whole message was received that has the meaning of the last one, and nothing behind it.

        Returns whether that is possible now; if not, nothing has changed.
        """
        if self.state is not _IDLE or self.held:
            return False
        self.head = head
        self.repeats += 1
        self.state, self.is_read = _WHOLE[_IDLE], True
        return True

    def hold(self) -> int:
        """Keep the bytes not processed yet, and release those passed in; returns how many are kept."""
        if self._at < self._size:
            self.held = bytes(self._view[self._at : self._size])
            self._at = self._size
        if type(self._data) is bytes:
            self._data, self._view = b"", _NOTHING
        return len(self.held)

    def next_event(self) -> RequestReceived[H] | Body | Broken | None:
        """The next event in the unprocessed bytes; None where they have none yet."""
        state = self.state
        try:
            if state <= _HEAD:
                return self._next_head()
            if state is _SKIP:
                skipped = min(self._left, self._size - self._at)
                self._at += skipped
                self._left -= skipped
                if self._left:
                    return None
                self._move(Step.SKIPPED)
                return self._next_head()
            if state is _PART:
                return self._next_part()
            return self._next_chunks() if state is _CHUNKS else None
        except ProtocolError as error:
            self.linger()
            return Broken(error.status, error.message)

    def _next_head(self) -> RequestReceived[H] | None:
        data, at, size = self._data, self._at, self._size
        meaning = self.meaning
        end = self._end_alike(meaning, at, size) if meaning is not None else 0
        if meaning is not None and end:
            self.repeats += 1
        else:
            while at < size and data[at] == _CR:
                if not self._skip_empty_line(data, at, size):
                    return None
                at = self._at
            end = data.find(b"\r\n\r\n", at, size) + 4
            if end < 4:
                if at < size:
                    check_partial(bytes(self._view[at:size]))
                    self._move(Step.BEGUN)
                return None
            before, self.meaning, self.head = meaning, None, b""
            meaning = self._read_head(self._view[at:end].tobytes())
            self.repeats = self.repeats + 1 if meaning is before else min(self.repeats, 0)
        self._empty_lines = 0
        stop = end + meaning.length
        if stop <= size and not meaning.head.chunked:
            self.state = _WHOLE[self.state]
            self._at = stop
            self.is_read = stop == size and type(data) is bytearray
            return RequestReceived(meaning, self._view[end:stop], True)
        self._move(Step.READ)
        self.is_read = False
        self._at = end
        self._left = stop - size
        return RequestReceived(meaning, self._view[end : end if meaning.head.chunked else size], False)

    def _end_alike(self, meaning: H, at: int, size: int) -> int:
        """The end of a head at `at` that is known to have the meaning of the last one; else 0."""
        if meaning.edition.valid:
            data, head, outline = self._data, self.head, self.outline
            if head and data.startswith(head, at, size):
                return at + len(head)
            if outline is not None and at + outline.length <= size and outline.fits(data, at):
                end = at + outline.length
                self.head = self._view[at:end].tobytes()
                return end
        return 0

    def _read_head(self, head: bytes) -> H:
        result = self._interpret(head)
        self.meaning, self.outline = result.meaning, result.outline
        self.head = head if len(head) <= KEPT_HEAD_BYTES else b""
        return result.meaning

    def _skip_empty_line(self, data: bytes | bytearray, at: int, size: int) -> bool:
        """Skip an empty line before a request line (RFC 9112 section 2.2); returns whether it is complete.

        It does not count as activity: no time limit begins again.
        """
        if size - at == 1:
            self._move(Step.BEGUN)
            return False
        self._empty_lines += 1
        if data[at + 1] != 0x0A or self._empty_lines > _EMPTY_LINES:
            raise ProtocolError(400, "not an HTTP request")
        self._at = at + 2
        if self._at == size:
            self._move(Step.BLANK)
        return True

    def _next_part(self) -> Body | None:
        here = self._size - self._at
        length = self.meaning.length if self.meaning is not None else 0
        if here < min(self._need, length):
            return None
        begun = self._view[self._at : self._at + min(here, length)]
        whole = here >= length
        self._left = length - len(begun)
        self._move(Step.WHOLE if whole else Step.PARTIAL)
        if whole:
            self._at += length
        return Body(begun, whole)

    def _next_chunks(self) -> Body | None:
        chunked = self._chunked
        if chunked is None:
            return None
        rest = chunked.feed(bytes(self._view[self._at : self._size]))
        self._at = self._size - len(rest)
        if not chunked.done:
            return None
        self._chunked = None
        self._move(Step.WHOLE)
        return Body(chunked.body, True)

    # A body that has not arrived completely.

    def wants(self) -> int:
        """Receive the rest of the body into the reader's memory; returns its size, from which `received` counts down.

        The part of the body that has arrived was in the last event.
        """
        self._move(Step.WANTED)
        self._at = self._size
        return self._left

    def received(self, size: int) -> int:
        """Note that `size` bytes of the body were received into the reader's memory; returns how many are missing.

        Raises:
            IllegalMoveError: no body is being received, or fewer bytes are missing.
        """
        self._move(Step.RECEIVED)
        if not 0 <= size <= self._left:
            raise IllegalMoveError(f"{size} bytes were received, but only {self._left} are missing")
        self._left -= size
        if not self._left:
            self._move(Step.WHOLE)
        return self._left

    def waits_for(self, size: int) -> None:
        """Collect the body here until `size` bytes of it have arrived; then a `Body` event has them."""
        self._move(Step.AWAITED)
        self._need = size

    def chunks(self, limit_bytes: int) -> None:
        """Collect a chunked body here; a `Body` event has it, or a `Broken` event says that it is over the limit."""
        self._move(Step.COLLECTED)
        self._chunked = ChunkedBody(limit_bytes)

    @property
    def collected(self) -> int:
        """The bytes of a chunked body that have been collected."""
        return len(self._chunked.body) if self._chunked is not None else 0

    def refuse(self, *, last: bool = False) -> bool:
        """Refuse the current message; returns whether its answer is the last one, because its body is not read.

        `last`: the answer is the last one in any case.
        """
        meaning, closes = self.meaning, last or self.closes
        has_rest = self.state is _REQUEST
        self._move(Step.REFUSED)
        too_much = has_rest and self._left > SKIP_BYTES
        if meaning is None or closes or too_much or not _is_skippable(meaning.head):
            self.linger()
            return True
        if has_rest:
            self._at = self._size
        return False

    # The answer, and the end.

    @property
    def interim(self) -> bytes:
        """The interim response for a client that waits for it before sending its body; empty for others."""
        return CONTINUE if self.meaning is not None and self.meaning.head.expects_continue else b""

    @property
    def closes(self) -> bool:
        """Whether the connection ends after the answer to the current message."""
        meaning = self.meaning
        if meaning is None or not meaning.head.keep_alive:
            return True
        return self.ended and not self.held and self._at >= self._size

    def answered(self) -> None:
        """Note that the current message is answered: the next one may come."""
        try:
            self.state = _ANSWERED[self.state]
        except KeyError:
            self._move(Step.ANSWERED)  # raises the error

    def resume(self, head: bytes) -> None:
        """Go on after messages that were received elsewhere; `head` is the valid head of the last one."""
        self._move(Step.RESUMED)
        if head != self.head:
            self._read_head(head)

    def owes(self) -> None:
        """Note that a message with the meaning of the last one was received elsewhere, and its answer is pending."""
        self._move(Step.OWED)

    def linger(self) -> None:
        """Discard everything that comes after the last answer."""
        self._drop()
        self._move(Step.LAST)

    def close(self) -> None:
        """Read nothing more."""
        self._drop()
        self._move(Step.CLOSE)

    def _drop(self) -> None:
        self.held = b""
        self._data, self._view, self._at, self._size = b"", _NOTHING, 0, 0
        self._chunked = None


def _is_skippable(head: Head) -> bool:
    """Whether the end of a refused message is known, and its client will send its body."""
    return head.method != b"HEAD" and not head.chunked and not head.expects_continue
