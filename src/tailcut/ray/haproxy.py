"""Writes the configuration of haproxy in front of replicas, for clients other than Tailcut's own. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from tailcut.client.requests import ServerAddress
from tailcut.errors import UsageError

_BUFFER_BYTES = 256 * 1024  # how much of a request haproxy keeps: longer ones cannot be retried on another replica


@dataclass(frozen=True, slots=True)
class Front:
    """Settings of haproxy.

    Args:
        bind: addresses to listen on, as HOST:PORT.
        stats: path of a Unix socket for its runtime interface.
        threads: number of its threads.
        ca: file of the CA certificates that verify replicas with TLS; empty: none.
    """

    bind: str
    stats: str
    threads: int = 1
    ca: str = ""

    def __post_init__(self) -> None:
        """Check that no value would be read as several words or end its line."""
        for value in (self.bind, self.stats, self.ca):
            if any(character.isspace() or character in "\"'#\\" for character in value):
                raise UsageError(
                    f"{value!r} cannot be used in haproxy's configuration: it contains spaces, quotes, # or \\"
                )


def haproxy_config(replicas: Sequence[ServerAddress], front: Front) -> str:
    """The configuration for these replicas.

    Each request goes to the less loaded of two replicas drawn at random. A request that is refused, or whose connection
    is closed before an answer begins, is sent to another replica: inference changes no state, so computing it twice
    does no harm. This needs the whole request, head and body, in one buffer: longer ones fail. Readiness is checked
    twice per second; a reload takes over the listening socket and lets the old process finish.

    Raises:
        UsageError: a replica uses TLS, and no CA file is given.
    """
    lines = [
        "global",
        f"    nbthread {front.threads}",
        f"    stats socket {front.stats} mode 600 level admin expose-fd listeners",
        "    hard-stop-after 60s",
        f"    tune.bufsize {_BUFFER_BYTES}",
        "",
        "defaults",
        "    mode http",
        "    option http-buffer-request",
        "    timeout connect 1s",
        "    timeout client 300s",
        "    timeout server 60s",
        "    timeout http-keep-alive 300s",
        "    option http-keep-alive",
        "    option redispatch 1",
        "    retries 3",
        "    retry-on conn-failure empty-response",
        "    http-reuse always",
        "",
        "frontend tailcut",
        f"    bind {front.bind}",
        "    default_backend replicas",
        "",
        "backend replicas",
        "    balance random(2)",
        "    option httpchk GET /v2/health/ready",
        "    http-check expect status 200",
        "    default-server check inter 500ms fall 2 rise 1 observe layer4 error-limit 2 on-error mark-down",
    ]
    lines += [_server(replica, front.ca) for replica in replicas]
    return "\n".join([*lines, ""])


def _server(replica: ServerAddress, ca: str) -> str:
    if replica.tls and not ca:
        raise UsageError(f"the replica {replica} uses TLS: name the certificate of its CA with --ca FILE")
    name = f"r-{replica.host}-{replica.port}".replace(":", "-")
    tls = f" ssl verify required ca-file {ca}" if replica.tls else ""
    return f"    server {name} {replica}{tls}"
