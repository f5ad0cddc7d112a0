"""Standard streams that survive being closed, readers that exit, and narrow encodings.

A process may be started with any of its three standard descriptors closed. The next file it opens gets that number,
so a library that prints would write into that file or socket. When the reader of a pipe exits (`| head`), writing to it
fails, but a server must go on serving, and a tune must still write its profile.
"""

import codecs
import errno
import io
import os
import sys
from typing import TextIO

_GONE = {errno.EPIPE, errno.EIO}  # the reader has ended; the terminal has hung up


def secure_streams() -> None:
    """Open /dev/null for closed descriptors, and keep output working after its reader is gone."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115  for as long as the process lives
    sys.stdout = _lasting(sys.stdout, 1)
    sys.stderr = _lasting(sys.stderr, 2)


def keep_for_result() -> TextIO:
    """A stream to standard output for the command's result only: all other output goes to standard error from now on.

    Functions of a pipeline may print, and so may C libraries.
    """
    if not isinstance(getattr(getattr(sys.stdout, "buffer", None), "raw", None), _Lasting):
        return sys.stdout  # called from Python code with its own streams
    sys.stdout.flush()
    result = _lasting(sys.stdout, os.dup(1))
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return result


def print_json(data: bytes | str, file: TextIO | None = None, *, flush: bool = False) -> None:
    """Write a line of JSON, which is UTF-8 whatever the stream's encoding."""
    stream = sys.stdout if file is None else file
    binary = getattr(stream, "buffer", None)
    if binary is None:  # a text stream without a binary one
        print(data if isinstance(data, str) else data.decode(), file=stream, flush=flush)
        return
    stream.flush()
    binary.write((data.encode() if isinstance(data, str) else data) + b"\n")
    if flush or stream.line_buffering:
        stream.flush()


class _Lasting(io.FileIO):
    """Discards output that no longer has a reader; on standard error, all output that cannot be written."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]  # a buffer of the BufferedWriter
        except OSError as error:
            if error.errno in _GONE:
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, self.fileno())
                os.close(nothing)
            elif self.fileno() != 2:
                raise
            return memoryview(data).nbytes  # type: ignore[arg-type]


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    errors = getattr(stream, "errors", None) or "strict"
    if errors == "strict" or (errors == "surrogateescape" and codecs.lookup(encoding).name != "utf-8"):
        errors = "backslashreplace"  # for characters that the encoding does not have
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(number)),
        encoding=encoding,
        errors=errors,
        line_buffering=number == 2 or os.isatty(number),
        write_through=bool(getattr(stream, "write_through", False)),
    )
