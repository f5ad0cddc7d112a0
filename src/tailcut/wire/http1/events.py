"""The events of a connection, and the interface of what a head means."""

from typing import Generic, Protocol, TypeVar

import msgspec

from tailcut.wire.http1.head import Head


class Edition:
    """What meanings depend on beside the bytes of a head; `valid` until that changes."""

    __slots__ = ("valid",)

    def __init__(self, *, valid: bool = True) -> None:
        self.valid = valid


class Meaning(Protocol):
    """What a head means, as far as a connection is concerned."""

    head: Head
    length: int  # of the body; 0 where it is chunked
    edition: Edition  # an equal head means the same while it is valid


H = TypeVar("H", bound=Meaning)


class RequestReceived(msgspec.Struct, Generic[H], gc=False):
    """A head was read. `body` is what is here of the body: of a `whole` one all, and of a chunked one nothing."""

    meaning: H
    body: memoryview
    whole: bool


class Body(msgspec.Struct, gc=False):
    """A body that was collected: `whole`, or as many bytes as the reader waited for and perhaps more."""

    data: bytes | bytearray | memoryview
    whole: bool


class Broken(msgspec.Struct, gc=False):
    """No more is understood on this connection: answer `status`, the last answer."""

    status: int
    message: str
