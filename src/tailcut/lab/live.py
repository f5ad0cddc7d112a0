"""Follows the stream of a running server's figures: `GET /live`, record by record."""

import http.client
import json
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from tailcut.errors import UnreachableError, UsageError
from tailcut.lab.load import Target
from tailcut.lab.payload import BlockingConnection
from tailcut.lab.tls import reason
from tailcut.live.records import PATH, Record, from_data

_SILENCE_S = 30.0  # of a stream that has an event a second
_LINE_BYTES = 16 << 20
_DATA = b"data: "


def follow(target: Target, prefix: str = "") -> Iterator[Record]:
    """The records of a server until its stream ends; `prefix` is the path that a proxy has the server under.

    Raises:
        UsageError: no server answers there, or it has no such stream, or it refuses.
        UnreachableError: the connection broke.
    """
    where = target.uds or target.authority
    path = prefix.rstrip("/") + PATH
    connection = BlockingConnection(target)
    try:
        answer = _ask(connection, target, path, where)
        if connection.sock is not None:
            connection.sock.settimeout(_SILENCE_S)
        try:
            while line := answer.readline(_LINE_BYTES):
                if line.startswith(_DATA):
                    yield from_data(line[len(_DATA) :])
        except TimeoutError:
            raise UnreachableError(f"the server at {where} has sent nothing for {_SILENCE_S:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"the connection to {where} broke: {reason(error)}") from None
        except msgspec.DecodeError:
            raise UsageError(f"{where}{path} sends what this version of Tailcut does not know") from None
    finally:
        connection.close()


def _ask(connection: BlockingConnection, target: Target, path: str, where: str) -> http.client.HTTPResponse:
    try:
        connection.request("GET", path, headers=target.fields)
        answer = connection.getresponse()
        if answer.status == 200 and answer.headers.get_content_type() == "text/event-stream":
            return answer
        content = answer.read(_LINE_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(f"no server answers at {where}: {reason(error)}") from None
    if answer.status == 401:
        raise UsageError(f"{where} needs its token: add --token-file FILE with the one of tailcut serve")
    message = ""
    with suppress(ValueError, AttributeError):
        message = f": {json.loads(content).get('error')}"
    if answer.status == 503:
        raise UsageError(f"{where} has no room{message}")
    raise UsageError(f"{where}{path} answers {answer.status}{message}; the figures come from a server of Tailcut")
