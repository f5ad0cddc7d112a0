"""The common parts of both clients: their settings, and the idle connections."""

from collections import deque
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

from tailcut import forks
from tailcut.client.answers import Answer
from tailcut.client.policy import Hedge, HedgeClock, Retries
from tailcut.client.requests import Address, Encoder
from tailcut.client.shared import SharedTensors
from tailcut.client.tls import client_context
from tailcut.errors import ReleasedError

GOOD = 200
FAREWELL_S = 2.0  # the server is told of removed memory for so long, and no longer
ONCE = Retries(limit=0)


class _Connection(Protocol):
    used: bool  # by a call before this one

    def close(self) -> None:
        """Give up what is in hand."""

    def abandon(self) -> None:
        """Let go of the socket in a forked child, without a word to the server or to an event loop."""


C = TypeVar("C", bound=_Connection)


class Pool(Generic[C]):
    """A connection pool to one server.

    In a forked child it is as if made anew: connections and regions of shared memory stay the parent's.

    Args:
        url: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
        timeout_s: for a whole call, connecting, tries and pauses included. The server drops work that it cannot finish
            in this time.
        retries: how failed calls are tried again (`tailcut.client.policy` states the rule).
        hedge: whether slow calls are sent a second time, and when.
        connections: kept open at most while they are idle.
        shared_memory: pass tensors through shared memory whose names begin so; the server must run on this machine and
            have been started with `--shared-memory` and this prefix, or a shorter one that begins it.
        ca: with `https://`, a file of certificates (PEM) whose servers are trusted; None: the system's authorities.
        verify: whether the server's certificate and name are checked. Without that, anyone between client and server
            can read and change everything.
        token: sent with each request, as `Authorization: Bearer TOKEN`.

    Raises:
        InvalidInputError: no such address, no name of shared memory can begin so, `ca` cannot be read, or the token
            cannot stand in a header.
    """

    def __init__(  # noqa: PLR0913  the settings are its purpose, all but the first by name
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout_s: float = 30.0,
        retries: Retries | None = None,
        hedge: Hedge | None = None,
        connections: int = 64,
        shared_memory: str | None = None,
        ca: str | Path | None = None,
        verify: bool = True,
        token: str | None = None,
    ) -> None:
        self._address = Address.parse(url)
        self._encoder = Encoder(self._address, token)
        self._tls = client_context(ca, verify=verify) if self._address.tls else None
        self._timeout_s = timeout_s
        self._retries = retries or Retries()
        self._clock = None if hedge is None else HedgeClock(hedge)
        self._open: WeakSet[C] = WeakSet()  # also those in use, by threads that a forked child does not have
        self._idle: deque[C] = deque()  # the last used in front: others age, and fewer stay open
        self._kept = connections
        self._shared: SharedTensors | None = None
        self._closed = False
        if shared_memory is not None:
            self._shared = SharedTensors(self._address, self._encoder, shared_memory, connections)
        forks.watch(self)

    def forked(self) -> None:
        """In a forked child: forget what is the parent's; the next call opens a connection of its own."""
        self._idle.clear()
        for connection in list(self._open):
            connection.abandon()
        self._open.clear()
        if self._shared is not None:
            self._shared.forked()

    def _check_open(self) -> None:
        if self._closed:
            raise ReleasedError("this client is closed")

    def _put_back(self, connection: C, answer: Answer) -> None:
        if answer.closes or self._closed or len(self._idle) >= self._kept:
            connection.close()
        else:
            connection.used = True
            self._idle.append(connection)
