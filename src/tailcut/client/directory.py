"""From what a user writes to the servers that a client asks: one address, several, or an application of Ray Serve."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from tailcut.client.requests import ServerAddress
from tailcut.errors import ArgumentTypeError, InvalidInputError

RAY = "ray://"


class Directory(Protocol):
    """Knows the servers of a name, and says when they change."""

    def follow(self, changed: Callable[[Sequence[ServerAddress]], None]) -> None:
        """Call `changed` with the servers as they are now, before this returns, and from any thread when they change.

        Raises:
            TailcutError: nothing is known by that name.
        """

    def close(self) -> None:
        """Call it no more."""


@dataclass(frozen=True, slots=True)
class ListedServers:
    """What a user wrote.

    Args:
        name: for messages.
        addresses: of the servers; none where the directory knows them.
        directory: of servers that change.
    """

    name: str
    addresses: tuple[ServerAddress, ...]
    directory: Directory | None = None

    @property
    def host(self) -> str:
        """What the Host header of requests says: with several servers, the same for all of them.

        A request that is sent again is then the same bytes, whichever server gets it.
        """
        return self.addresses[0].authority if len(self.addresses) == 1 and self.directory is None else "tailcut"

    @property
    def tls(self) -> bool:
        """Whether connections are by TLS."""
        return any(address.tls for address in self.addresses)


def find_servers(url: str | Sequence[str]) -> ListedServers:
    """Read one URL, several, or `ray://APP` and `ray://APP/DEPLOYMENT`.

    Raises:
        InvalidInputError: one of them is not an address, or there is none.
        ArgumentTypeError: it is not a URL, and no sequence of them.
        UsageError: Ray is not installed.
    """
    if isinstance(url, str) and url.startswith(RAY):
        # By name: Ray Serve's side is built on clients, and not the other way round.
        directory: Directory = import_module("tailcut.ray.membership").ReplicaDirectory.parse(url)
        return ListedServers(url, (), directory)
    urls = [url] if isinstance(url, str) or not isinstance(url, Iterable) else list(url)
    if not all(isinstance(item, str) for item in urls):
        raise ArgumentTypeError(
            f"the URL of a server is a str such as 'http://HOST:PORT', or a list of them, got {url!r}"
        )
    if not urls:
        raise InvalidInputError("a client needs the URL of a server")
    addresses = tuple(dict.fromkeys(map(ServerAddress.parse, urls)))
    return ListedServers(", ".join(map(str, addresses)), addresses)
