"""The common parts of both clients: their settings, their servers, and idle connections to them."""

import random
import select
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from weakref import WeakMethod, WeakSet, finalize

from tailcut import forks
from tailcut.client.directory import find_servers
from tailcut.client.lists import ListConverter
from tailcut.client.members import Members, ServerMember
from tailcut.client.policy import Hedge, HedgeClock, Retries, Tries
from tailcut.client.requests import Encoder, ServerAddress
from tailcut.client.shared import SharedTensors
from tailcut.durations import seconds_of
from tailcut.errors import ArgumentTypeError, InvalidInputError, ReleasedError, TailcutError
from tailcut.tls import client_context
from tailcut.wire.http1.answers import HttpAnswer

if TYPE_CHECKING:
    import ssl

GOOD = 200
FAREWELL_S = 2.0  # the time limit for telling the server about removed memory
CONNECT_S = 1.0  # to one of several servers, before another one is asked
ONCE = Retries(limit=0)


class _PooledConnection(Protocol):
    used: bool  # whether an earlier call used it

    def close(self) -> None:
        """Close the connection, and abandon the current call."""

    def abandon(self) -> None:
        """Give up the socket in a forked child, without notifying the server or an event loop."""


C = TypeVar("C", bound=_PooledConnection)


class Watch:
    """Checks the socket of an idle connection, because bytes there would be taken for the next call's answer.

    Proxies send a 408 before they close such a connection, and a faulty server may answer a request twice.
    """

    def __init__(self, descriptor: int) -> None:
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def is_quiet(self) -> bool:
        """Whether nothing has arrived: neither bytes nor the end of the connection."""
        return not self._poll.poll(0)


class Pool(Generic[C]):
    """Connection pools to one server, or to several that serve the same models.

    In a forked child, it works like a new client: connections and regions of shared memory remain the parent's. There,
    a client of a Ray Serve application keeps the replicas known at the fork.

    Args:
        url: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`; a sequence of them; or `ray://APP`, the replicas of
            a Ray Serve application built by `tailcut.ray` (`tailcut.client.members` states which one is asked).
        timeout_s: seconds for a whole call, including connecting, retries and pauses. The server drops work that it
            cannot finish in this time.
        retries: how failed calls are retried (`tailcut.client.policy` states the rules).
        hedge: whether and when slow calls are sent a second time; with several servers, to another one.
        connections: the most idle connections that are kept open to each server.
        shared_memory: pass tensors through shared memory whose names start with this prefix; the server must run on
            this machine, and `--shared-memory` of the server must be this prefix or the beginning of it.
        ca: with `https://`, a file of trusted certificates (PEM); None: the system's authorities.
        verify: whether the server's certificate and name are checked. Without that, anyone between client and server
            can read and change everything.
        token: sent with each request, as `Authorization: Bearer TOKEN`.

    Raises:
        InvalidInputError: an address, the prefix of shared memory or the token is invalid, `ca` cannot be read, or
            shared memory is used with several servers.
        NotFoundError: Ray Serve has no such application.
        UnreachableError: there is no Ray cluster, or Ray Serve does not run on it.
        ArgumentTypeError: an argument has the wrong type.
        UsageError: Ray is not installed.
    """

    def __init__(  # noqa: PLR0913  settings, all but the first by keyword
        self,
        url: str | Sequence[str] = "http://127.0.0.1:8000",
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
        _check_type("retries", retries, Retries, "tailcut.client.Retries, such as Retries(limit=3)")
        _check_type("hedge", hedge, Hedge, "tailcut.client.Hedge, such as Hedge()")
        _check_type("shared_memory", shared_memory, str, "the prefix of its names, such as 'tailcut-'")
        _check_type("ca", ca, (str, Path), "the path of a file of certificates")
        _check_type("token", token, str, "a str")
        if not isinstance(verify, bool):
            raise ArgumentTypeError(f"verify must be True or False, got {verify!r}: a file of certificates is for ca")
        if isinstance(connections, bool) or not isinstance(connections, int) or connections < 0:
            raise ArgumentTypeError(f"connections must be a whole number, 0 or more, got {connections!r}")
        servers = find_servers(url)
        self._members: Members[C] = Members(servers.addresses, servers.name)
        self._directory = servers.directory
        self._encoder = Encoder(servers.host, token)
        self._lists = ListConverter(self._encoder)
        self._certificates = (ca, verify)
        self._tls = client_context(ca, verify=verify) if servers.tls else None
        self._timeout_s = seconds_of(timeout_s)
        self._retries = Retries() if retries is None else retries
        self._clock = None if hedge is None else HedgeClock(hedge)
        self._open: WeakSet[C] = WeakSet()  # including those that threads of the parent use
        self._kept = connections
        self._shared: SharedTensors | None = None
        self._closed = False
        if shared_memory is not None:
            if len(servers.addresses) != 1:
                raise InvalidInputError("shared_memory needs the URL of one server, on this machine")
            self._shared = SharedTensors(servers.addresses[0], self._encoder, shared_memory, connections)
        forks.watch(self)
        if self._directory is not None:
            finalize(self, self._directory.close)
            self._directory.follow(_Changed(self))

    def forked(self) -> None:
        """In a forked child, forget everything that is the parent's; the next call opens a new connection."""
        self._members.forked()
        for connection in list(self._open):
            connection.abandon()
        self._open.clear()
        if self._shared is not None:
            self._shared.forked()

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses of the current servers."""
        return tuple(map(str, self._members.addresses))

    def _check_open(self) -> None:
        if self._closed:
            raise ReleasedError("this client is closed")

    def _choose(self, now: float, tries: Tries) -> ServerMember[C]:
        """The server for the next attempt of a call, or for its second copy."""
        member = self._members.choose(now, random.random, tries.tried)
        tries.tried.append(member)
        return member

    def _pause_after(self, tries: Tries, error: TailcutError, now: float, deadline: float) -> float:
        """The seconds to wait before the next try; raises the error where there is none."""
        elsewhere = self._members.untried(tries.tried, now)
        return tries.pause_after(error, deadline - now, random.random(), elsewhere=elsewhere)  # noqa: S311  dice

    def _context(self, address: ServerAddress) -> "ssl.SSLContext | None":
        """The context that checks the certificate of a server; None for plain HTTP."""
        if address.tls and self._tls is None:  # a server of a directory
            ca, verify = self._certificates
            self._tls = client_context(ca, verify=verify)
        return self._tls if address.tls else None

    def _put_back(self, member: ServerMember[C], connection: C, answer: HttpAnswer) -> None:
        if answer.closes or self._closed or member.gone or len(member.idle) >= self._kept:
            connection.close()
        else:
            connection.used = True
            member.idle.append(connection)

    def _replaced(self, addresses: Sequence[ServerAddress]) -> None:
        """Replace the servers."""
        self._drop(self._members.update(addresses))

    def _drop(self, connections: Sequence[C]) -> None:
        """Close connections to removed servers. May be called on any thread."""
        for connection in connections:
            connection.close()

    def _end(self) -> None:
        """Close the idle connections, and stop following the directory."""
        self._closed = True
        if self._directory is not None:
            self._directory.close()
        for connection in self._members.update(()):
            connection.close()


def _check_type(name: str, value: object, kind: type | tuple[type, ...], example: str) -> None:
    """Check that an argument is None or of a type.

    Raises:
        ArgumentTypeError: it is neither.
    """
    if value is not None and not isinstance(value, kind):
        raise ArgumentTypeError(f"{name} must be None or {example}, got {type(value).__name__}")


class _Changed:
    """Replaces the servers of a client, without keeping it alive."""

    def __init__(self, pool: "Pool[C]") -> None:
        self._replaced = WeakMethod(pool._replaced)  # noqa: SLF001  a part of the pool

    def __call__(self, addresses: Sequence[ServerAddress]) -> None:
        replaced = self._replaced()
        if replaced is not None:
            replaced(addresses)
