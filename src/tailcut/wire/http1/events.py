"""The events of a connection, and the interface of the meaning of a head."""

from typing import Generic, Protocol, TypeVar

import msgspec

from tailcut.wire.http1.head import Head


class Edition:
    """The state on which meanings depend beside the bytes of a head; `valid` until it changes."""

    __slots__ = ("valid",)

    def __init__(self, *, valid: bool = True) -> None:
        self.valid = valid


class Meaning(Protocol):
    """What a connection needs of the meaning of a head."""

    head: Head
    length: int  # of the body; 0 where it is chunked
    edition: Edition  # while it is valid, an equal head has the same meaning


H = TypeVar("H", bound=Meaning)


class RequestReceived(msgspec.Struct, Generic[H], gc=False):
    """A head was read. `body` is what has arrived of the body: all of a `whole` one, nothing of a chunked one."""

    meaning: H
    body: memoryview
    whole: bool


class Body(msgspec.Struct, gc=False):
    """A collected body: `whole`, or at least as many bytes as the reader waited for."""

    data: bytes | bytearray | memoryview
    whole: bool


class Broken(msgspec.Struct, gc=False):
    """The message is malformed: answer `status`, which is the last answer on this connection."""

    status: int
    message: str
