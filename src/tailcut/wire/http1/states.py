"""The states of the server's end of an HTTP/1.1 connection, and the table of moves between them."""

from enum import IntEnum

from tailcut.errors import IllegalMoveError


class ConnectionState(IntEnum):
    """What the next bytes are."""

    IDLE = 0  # the next message, of which nothing is here
    HEAD = 1  # the rest of a head
    PART = 2  # a body, of which the reader waits for this many bytes
    CHUNKS = 3  # a chunked body
    SKIP = 4  # the rest of a body that was refused
    REQUEST = 5  # a body: the reader has its head, and says what becomes of it
    BODY = 6  # a body, which the kernel writes into the reader's memory
    ANSWER = 7  # behind a message that is whole: they wait until it is answered
    LINGER = 8  # behind the last answer: they are discarded, so that it arrives
    CLOSED = 9


class Step(IntEnum):
    """What takes a connection from one state to the next: what its bytes say, and what its reader does."""

    BEGUN = 0  # a part of a head is here
    BLANK = 1  # an empty line stands before a head, and nothing behind it
    READ = 2  # a head is here, and its body is not, or not all of it
    WHOLE = 3  # the last byte of a message is here
    PARTIAL = 4  # as much of a body is here as the reader waits for
    SKIPPED = 5  # the last byte of a refused body is here
    WANTED = 6  # the reader has memory for the rest of a body
    RECEIVED = 7  # the kernel wrote some of it there
    AWAITED = 8  # the reader waits for this many bytes of a body
    COLLECTED = 9  # a chunked body is to be collected
    REFUSED = 10  # the reader refuses the current message
    ANSWERED = 11  # the reader has answered it
    RESUMED = 12  # messages were received elsewhere
    OWED = 13  # the answer to the last one of those is owed
    LAST = 14  # the last answer is on its way
    CLOSE = 15


_IDLE, _HEAD, _PART, _CHUNKS, _SKIP, _REQUEST, _BODY, _ANSWER, _LINGER, _CLOSED = ConnectionState
_OPEN = tuple(state for state in ConnectionState if state < _LINGER)
MOVES: dict[Step, dict[ConnectionState, ConnectionState]] = {
    Step.BEGUN: {_IDLE: _HEAD, _HEAD: _HEAD},
    Step.BLANK: {_IDLE: _IDLE, _HEAD: _IDLE},
    Step.READ: {_IDLE: _REQUEST, _HEAD: _REQUEST},
    Step.WHOLE: {_IDLE: _ANSWER, _HEAD: _ANSWER, _PART: _ANSWER, _CHUNKS: _ANSWER, _BODY: _ANSWER},
    Step.PARTIAL: {_PART: _REQUEST},
    Step.SKIPPED: {_SKIP: _IDLE},
    Step.WANTED: {_REQUEST: _BODY},
    Step.RECEIVED: {_BODY: _BODY},
    Step.AWAITED: {_REQUEST: _PART},
    Step.COLLECTED: {_REQUEST: _CHUNKS},
    Step.REFUSED: {_REQUEST: _SKIP, _ANSWER: _IDLE},
    Step.ANSWERED: {_ANSWER: _IDLE},
    Step.RESUMED: {_IDLE: _IDLE},
    Step.OWED: {_IDLE: _ANSWER},
    Step.LAST: dict.fromkeys(_OPEN, _LINGER) | {_LINGER: _LINGER, _CLOSED: _CLOSED},
    Step.CLOSE: dict.fromkeys(ConnectionState, _CLOSED),
}


def moved(state: ConnectionState, step: Step) -> ConnectionState:
    """The state behind a step.

    Raises:
        IllegalMoveError: the table has no such step from there.
    """
    try:
        return MOVES[step][state]
    except KeyError:
        raise IllegalMoveError(f"{step.name} is illegal for a connection in state {state.name}") from None
