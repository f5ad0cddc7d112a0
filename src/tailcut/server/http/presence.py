"""Whether a client that sends nothing more is still there to read its answer.

A client that has shut down its sending half looks like one that has closed the connection. Without a check, clients
that give up under load would leave the queue full of work that nobody needs.
"""

import asyncio
import select

from tailcut.wire.http1.response import CONTINUE

WAITS_S = 1.0  # how long such a client waits for an answer before the first check


class Presence:
    """Checks now and then whether one client is still there, while its message is being served."""

    __slots__ = ("_asked",)

    def __init__(self) -> None:
        self._asked = False

    def look(self, transport: asyncio.Transport, now_s: float, *, interim: bool) -> float:
        """Abort the connection of a client that has closed; returns when to check again otherwise.

        Over TCP, only sending reveals that: an interim response is sent, which every HTTP/1.1 client skips, and to
        which a closed socket replies with a reset.

        Args:
            transport: of the client.
            now_s: the time on the loop's clock, in seconds.
            interim: whether an interim response may be sent: not over HTTP/1.0.
        """
        if is_gone(transport):
            transport.abort()
            return 0.0
        self._asked = not self._asked and interim
        if self._asked:
            transport.write(CONTINUE)
        return now_s + (0.0 if self._asked else WAITS_S)


def is_gone(transport: asyncio.Transport) -> bool:
    """Whether Linux knows that the client does not read either: it closed a Unix socket, or reset the connection."""
    if not hasattr(select, "epoll"):
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)  # POLLHUP and POLLERR are always reported
    return bool(poll.poll(0))
