"""Whether a client that sends nothing more is still there to read its answer.

A client that has shut down its sending half looks like one that has closed the connection. Without a check, clients
that give up under load would fill the queue with work that no client waits for.
"""

import asyncio
import select

from tailcut.wire.http1.response import CONTINUE

WAITS_S = 1.0  # how long such a client waits before it is asked whether it is there


class Presence:
    """Looks now and then whether one client is there, as long as its message is being served."""

    __slots__ = ("_asked",)

    def __init__(self) -> None:
        self._asked = False

    def look(self, transport: asyncio.Transport, now_s: float, *, interim: bool) -> float:
        """Drop a client that has closed; when to look again, where it may be there.

        Over TCP, only what is sent to it brings out whether it has: an interim answer is sent, which every client of
        HTTP/1.1 reads past, and which a closed socket answers by a reset.

        Args:
            transport: of the client.
            now_s: in the loop's seconds.
            interim: whether it may be sent one: not over HTTP/1.0.
        """
        if is_gone(transport):
            transport.abort()
            return 0.0
        self._asked = not self._asked and interim
        if self._asked:
            transport.write(CONTINUE)
        return now_s + (0.0 if self._asked else WAITS_S)


def is_gone(transport: asyncio.Transport) -> bool:
    """Whether the client does not read either, where Linux knows: it closed a Unix socket, or reset the connection."""
    if not hasattr(select, "epoll"):
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)  # POLLHUP and POLLERR are always told
    return bool(poll.poll(0))
