"""The states of the server's end of an HTTP/1.1 connection, and the table of moves between them."""

from enum import IntEnum

from tailcut.errors import IllegalMoveError


class ConnectionState(IntEnum):
    """What the next bytes belong to."""

    IDLE = 0  # the next message, of which nothing has arrived
    HEAD = 1  # the rest of a head
    PART = 2  # a body, of which the reader waits for a number of bytes
    CHUNKS = 3  # a chunked body
    SKIP = 4  # the rest of a body that was refused
    REQUEST = 5  # a body: the reader has its head, and decides what to do with it
    BODY = 6  # a body that is received into the reader's memory
    ANSWER = 7  # after a whole message: they wait until it is answered
    LINGER = 8  # after the last answer: they are discarded, so that it arrives
    CLOSED = 9


class Step(IntEnum):
    """The steps between states: what the bytes contain, and what the reader does."""

    BEGUN = 0  # part of a head has arrived
    BLANK = 1  # an empty line before a head, and nothing after it
    READ = 2  # a head is complete, but not its body
    WHOLE = 3  # the last byte of a message has arrived
    PARTIAL = 4  # as much of a body has arrived as the reader waits for
    SKIPPED = 5  # the last byte of a refused body has arrived
    WANTED = 6  # the reader has memory for the rest of a body
    RECEIVED = 7  # a part of it was received there
    AWAITED = 8  # the reader waits for a number of bytes of a body
    COLLECTED = 9  # the reader has a chunked body collected
    REFUSED = 10  # the reader refuses the current message
    ANSWERED = 11  # the reader has answered it
    RESUMED = 12  # messages were received elsewhere
    OWED = 13  # the answer to the last of these is pending
    LAST = 14  # the last answer is being sent
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
    """The state after a step.

    Raises:
        IllegalMoveError: the table has no such step from there.
    """
    try:
        return MOVES[step][state]
    except KeyError:
        raise IllegalMoveError(f"{step.name} is illegal for a connection in state {state.name}") from None
