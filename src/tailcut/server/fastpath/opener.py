"""The fast path before it is there: compiled code is loaded, on a thread, once a client could use it.

numba takes a quarter of a second to load and 50 MB, which a process that is idle, or has other clients, does not spend.
Until the code is there, the standard path serves all: a connection that would have joined tries it again later.
"""

import gc
import logging
import select
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from tailcut.server.fastpath.fastpath import FastPath
from tailcut.server.fastpath.suiting import loads, may_join, suits
from tailcut.server.http.plan import RequestPlan
from tailcut.wire.v2 import lists

if TYPE_CHECKING:
    from tailcut.server.fastpath.connections import FastConnection
    from tailcut.server.state import ServerState

_log = logging.getLogger("tailcut.http")
_LISTS = 16  # of floats in JSON that were read without compiled code, and it is loaded
_SWITCH_S = 0.0005  # for which loading may keep the loop from running, instead of Python's 5 ms


class FastPathOpener:
    """Stands where the fast path will be, takes no connection, and puts it there when it is loaded."""

    def __init__(self, state: "ServerState") -> None:
        self._state = state
        self._begun = False
        self._lists = 0
        lists.offer(self._count_list)

    @classmethod
    def of(cls, state: "ServerState") -> Self | None:
        """Make one where this machine can have a fast path: None elsewhere, where the standard path serves all."""
        if not hasattr(select, "epoll"):
            return None
        if find_spec("numba") is None:
            _log.warning("serving on the standard path: the fast path needs numba, which is not installed")
            return None
        return cls(state)

    def join(  # noqa: PLR0913, PLR0917  as of the fast path
        self,
        connection: "FastConnection",
        plan: RequestPlan,
        head: bytes,
        template: Any,
        row: memoryview,
        length: int,
    ) -> bool:
        """Not yet; but it is wanted now."""
        if may_join(connection, plan, self._state) and suits(plan.of_model):
            self._begin()
        return False

    def close(self) -> None:
        """Nothing is opened any more."""
        lists.offer(None)

    def _count_list(self) -> None:
        self._lists += 1
        if self._lists == _LISTS:
            self._begin()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._load, name="fast path", daemon=True).start()

    def _load(self) -> None:
        collects, switch_s = gc.isenabled(), sys.getswitchinterval()
        gc.disable()  # a collection would walk all that is being loaded, and the loop would wait for it
        sys.setswitchinterval(_SWITCH_S)
        try:
            loaded = loads()
        finally:
            sys.setswitchinterval(switch_s)
            if collects:
                gc.enable()
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._state.loop.call_soon_threadsafe(self._open if loaded else self._give_up)

    def _open(self) -> None:
        if gc.get_freeze_count():  # as the server did with all that was there when it started
            gc.freeze()
        if self._state.fast_path is self:  # the server has not ended
            self.close()
            self._state.fast_path = FastPath(self._state)

    def _give_up(self) -> None:
        if self._state.fast_path is self:
            self.close()
            self._state.fast_path = None

    # No connection is here.

    def turn(self, until_ns: int = 0) -> bool:
        """Receive nothing."""
        return False

    def leave(self, connection: "FastConnection") -> None:
        """None is here."""

    def forget(self, generation: int) -> None:
        """None is owed anything."""

    def sweep(self, now_s: float) -> None:
        """Nothing is held."""

    def dissolve(self) -> None:
        """Nothing is known."""

    def busy(self, fd: int) -> bool:
        """None is here."""
        return False

    def seen(self, fd: int) -> float:
        """None is here."""
        return 0.0
