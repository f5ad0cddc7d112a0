"""What the fast path deals with: connections, and the requests of one pass that wait as one."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tailcut.errors import TailcutError
from tailcut.runtime.request import Batch, Request
from tailcut.wire.v2 import Response

if TYPE_CHECKING:
    from tailcut.server.fastpath.tables import Target
    from tailcut.server.tracing.records import Asked

UNTRACED: "Mapping[int, Asked]" = MappingProxyType({})


class FastConnection(Protocol):
    """A connection, as far as this way is concerned."""

    transport: asyncio.Transport
    fd: int  # of its socket while it is here, else -1

    def returned(self, owed: int | None, head: bytes) -> None:
        """It is here no more; `owed` names the answer that is on its way, for `FastPath.forget`; `head` is its last."""

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of it are in the shared receive buffer."""

    def take_up(self, data: bytes) -> None:
        """It has sent this, the beginning of a message."""

    def answer_owed(self, answer: Response) -> None:
        """The answer that it was waiting for when it returned."""

    def failed(self, error: TailcutError) -> None:
        """There will be none."""


class Answerer(Protocol):
    """The fast path, as far as its groups are concerned."""

    def answer(self, group: "Group", request: Request, batch: Batch, index: int) -> None:
        """Answer those of a request, each with its row of the batch's outputs."""

    def fail(self, group: "Group", request: Request, error: TailcutError) -> None:
        """Tell the connections of a request that there will be no answer."""


class Group:
    """The requests of one pass for one target; handler of the requests that they wait as."""

    __slots__ = ("_fast_path", "left", "members", "target", "traced")

    def __init__(
        self, fast_path: Answerer, target: "Target", members: np.ndarray, traced: "Mapping[int, Asked]" = UNTRACED
    ) -> None:
        self._fast_path = fast_path
        self.target = target
        self.members = members  # int64 [requests, 5]: descriptor, generation, arrival, length, trace context
        self.traced = traced  # those that are sampled, by their place among the members
        self.left = len(members)  # not answered yet

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """The engine has answered those of the request."""
        self._fast_path.answer(self, request, batch, index)

    def fail(self, request: Request, error: TailcutError) -> None:
        """There will be no answer for those of the request."""
        self._fast_path.fail(self, request, error)
