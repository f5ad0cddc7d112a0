"""Finds the servers that a URL means: one address, several, or an application of Ray Serve."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

from tailcut.client.requests import ServerAddress
from tailcut.errors import ArgumentTypeError, InvalidInputError

RAY = "ray://"


class Directory(Protocol):
    """Knows the servers of an application, and reports changes."""

    def follow(self, changed: Callable[[Sequence[ServerAddress]], None]) -> None:
        """Call `changed` with the current servers before this returns, and later, on any thread, whenever they change.

        Raises:
            TailcutError: the application is unknown.
        """

    def close(self) -> None:
        """Stop calling it."""


@dataclass(frozen=True, slots=True)
class ListedServers:
    """The servers that a URL means.

    Args:
        name: of the servers, for messages.
        addresses: of the servers; empty where the directory knows them.
        directory: for servers that change; None: they do not.
    """

    name: str
    addresses: tuple[ServerAddress, ...]
    directory: Directory | None = None

    @property
    def host(self) -> str:
        """The Host header of requests, which is the same for all of several servers.

        So a request that is sent again consists of the same bytes, whichever server gets it.
        """
        return self.addresses[0].authority if len(self.addresses) == 1 and self.directory is None else "tailcut"

    @property
    def tls(self) -> bool:
        """Whether connections use TLS."""
        return any(address.tls for address in self.addresses)


def find_servers(url: str | Sequence[str]) -> ListedServers:
    """The servers of one URL, of several, or of `ray://APP` or `ray://APP/DEPLOYMENT`.

    Raises:
        InvalidInputError: a URL is not an address, or there is none.
        ArgumentTypeError: `url` is neither a str nor a sequence of them.
        UsageError: Ray is not installed.
    """
    if isinstance(url, str) and url.startswith(RAY):
        # Imported by name: the part for Ray Serve is built on clients, and not the other way round.
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
