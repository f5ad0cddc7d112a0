"""Follows the stream of a running server's figures (`GET /live`), record by record."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec

from tailcut.errors import UnreachableError, UsageError
from tailcut.lab.blocking import BlockingConnection
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import encode
from tailcut.lab.tls import reason
from tailcut.live.records import PATH, Record, from_data

_SILENCE_S = 30.0  # tolerated in a stream with one event per second
_LINE_BYTES = 16 << 20
_DATA = b"data: "


def follow(target: LoadTarget, prefix: str = "", token_file: str | None = None) -> Iterator[Record]:
    """Yield the records of a server until its stream ends.

    Args:
        target: the server.
        prefix: the path under which a proxy has the server.
        token_file: the file of the target's token, for messages.

    Raises:
        UsageError: no server answers there, or it has no such stream, or refuses it.
        UnreachableError: the connection broke.
    """
    where = target.uds or target.authority
    path = prefix.rstrip("/") + PATH
    connection = _asked(target, path, where, token_file)
    try:
        try:
            for line in _lines(connection.pieces(_SILENCE_S)):
                if line.startswith(_DATA):
                    yield from_data(line[len(_DATA) :])
        except TimeoutError:
            raise UnreachableError(f"the server at {where} has sent nothing for {_SILENCE_S:g} s") from None
        except OSError as error:
            raise UnreachableError(f"the connection to {where} broke: {reason(error)}") from None
        except msgspec.DecodeError:
            raise UsageError(f"{where}{path} sends records that this version of Tailcut cannot read") from None
    finally:
        connection.close()


def _asked(target: LoadTarget, path: str, where: str, token_file: str | None) -> BlockingConnection:
    """Open a connection on which the stream has begun."""
    connection = None
    try:
        connection = BlockingConnection(target)
        connection.send(encode(target, "GET", path).request)
        head = connection.head()
        if head.status == 200 and head.content_type == "text/event-stream":
            return connection
        answer = connection.answer()
    except OSError as error:
        if connection is not None:
            connection.close()
        raise UsageError(f"no server answers at {where}: {reason(error)}") from None
    connection.close()
    if answer.status == 401 and target.token is not None:
        raise UsageError(f"{where} does not accept the token in {token_file or '--token-file'}")
    if answer.status == 401:
        raise UsageError(f"{where} requires a token: add --token-file FILE with the server's token")
    message = ""
    with suppress(ValueError, AttributeError):
        message = f": {json.loads(answer.body).get('error')}"
    if answer.status == 503:
        raise UsageError(f"{where} accepts no more viewers{message}")
    raise UsageError(f"{where}{path} answers {answer.status}{message}: not a Tailcut server with a live stream")


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        if len(rest) > _LINE_BYTES:
            raise UnreachableError(f"a line of the stream is longer than {_LINE_BYTES} bytes")
