"""The grammar that heads, chunks and trailers of HTTP/1.1 share (RFC 9110 and 9112), and the error for violations."""

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"


class ProtocolError(Exception):
    """A message violates the framing or its limits: answer `status`, then close."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
