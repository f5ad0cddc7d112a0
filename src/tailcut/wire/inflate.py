"""Inflates compressed bodies in steps: gzip and deflate, bytes in and bytes out. Pure."""

import zlib
from collections.abc import Callable, Generator

from tailcut.errors import InvalidInputError, TooLargeError

_STEP_BYTES = 128 * 1024  # inflated between two pauses: a third of a millisecond
_FREED_BYTES = 2 << 20
_INPUT_BYTES = 16 * 1024  # zlib returns unused input as a copy, so it is given little at a time
_GZIP = b"\x1f\x8b"
_GZIP_WBITS = 31
_MOST_MEMBERS = 1 << 16  # of a gzip stream: empty ones take some microseconds each
AUTO = 47  # `wbits` for gzip or zlib, by the first bytes
WBITS = {"gzip": AUTO, "deflate": zlib.MAX_WBITS}  # by the content codings of HTTP


def inflate_in_steps(
    body: bytes | bytearray | memoryview, limit_bytes: int, charge: Callable[[int], None], *, wbits: int = AUTO
) -> Generator[None, None, bytearray]:
    """Inflate a gzip or zlib stream; `charge` is called with the size of every piece, and may raise to refuse it.

    A gzip stream may have several members, one after the other (RFC 1952, section 2.2), and zeros after the last.

    Raises:
        TooLargeError: the result exceeds `limit_bytes`.
        InvalidInputError: the stream is invalid or truncated, or other data follow it.
    """
    inflater = zlib.decompressobj(wbits=wbits)
    members = 1
    plain = bytearray()
    view = memoryview(body)
    more = bytes(view[:2]) == _GZIP
    for at in range(0, len(view), _INPUT_BYTES):
        data = bytes(view[at : at + _INPUT_BYTES])
        while data:
            if inflater.eof:
                data = data.lstrip(b"\0") if more else data
                if not data:
                    break
                members += 1
                if not more or members > _MOST_MEMBERS:
                    raise InvalidInputError("the body has data after its compressed stream")
                inflater = zlib.decompressobj(wbits=_GZIP_WBITS)
            try:
                piece = inflater.decompress(data, _STEP_BYTES)
            except zlib.error:
                raise InvalidInputError("the body is not valid gzip or deflate") from None
            if len(plain) + len(piece) > limit_bytes:
                while plain:  # freeing 64 MB at once takes 25 ms
                    del plain[-_FREED_BYTES:]
                    yield
                raise TooLargeError(f"the inflated body is over the limit of {limit_bytes} bytes")
            charge(len(piece))
            plain += piece
            data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            yield
    if not inflater.eof:
        raise InvalidInputError("the compressed body is cut short")
    return plain


def inflate(body: bytes | bytearray | memoryview, limit_bytes: int, *, wbits: int = AUTO) -> bytes:
    """As `inflate_in_steps`, without pauses, for bodies that are known to be small.

    Raises:
        TooLargeError: the result exceeds `limit_bytes`.
        InvalidInputError: as in `inflate_in_steps`.
    """
    steps = inflate_in_steps(body, limit_bytes, lambda _: None, wbits=wbits)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bytes(end.value)
