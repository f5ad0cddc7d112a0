"""The requests of one pass over the fast path that wait as one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tailcut.errors import TailcutError
from tailcut.runtime.request import Batch, Request

if TYPE_CHECKING:
    from tailcut.server.fastpath.tables import RowTarget
    from tailcut.server.tracing.records import TracedRequest

UNTRACED: "Mapping[int, TracedRequest]" = MappingProxyType({})


class Answerer(Protocol):
    """The fast path's way back, as far as its groups are concerned."""

    def answer(self, group: "TargetGroup", request: Request, batch: Batch, index: int) -> None:
        """Answer those of a request, each with its row of the batch's outputs."""

    def fail(self, group: "TargetGroup", request: Request, error: TailcutError) -> None:
        """Tell the connections of a request that there will be no answer."""


class TargetGroup:
    """The requests of one pass for one target; handler of the requests that they wait as."""

    __slots__ = ("_answerer", "left", "members", "target", "traced")

    def __init__(
        self,
        answerer: Answerer,
        target: "RowTarget",
        members: np.ndarray,
        traced: "Mapping[int, TracedRequest]" = UNTRACED,
    ) -> None:
        self._answerer = answerer
        self.target = target
        self.members = members  # int64 [requests, 5]: descriptor, generation, arrival, length, trace context
        self.traced = traced  # those that are sampled, by their place among the members
        self.left = len(members)  # not answered yet

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """The engine has answered those of the request."""
        self._answerer.answer(self, request, batch, index)

    def fail(self, request: Request, error: TailcutError) -> None:
        """There will be no answer for those of the request."""
        self._answerer.fail(self, request, error)


class WaitingGroups:
    """The groups that have not been told everything yet."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[TargetGroup, None] = {}

    def add(self, group: TargetGroup) -> None:
        """A group was queued; its members stand in memory of its own."""
        self._groups[group] = None

    def answered(self, group: TargetGroup, count: int) -> None:
        """`count` of a group have their answer, or know that there is none."""
        group.left -= count
        if not group.left:
            self._groups.pop(group, None)

    def find(self, generation: int) -> tuple[TargetGroup, int]:
        """Where a connection's request waits: its group, and its place there.

        Raises:
            LookupError: nowhere.
        """
        for group in self._groups:
            places = np.flatnonzero(group.members[:, 1] == generation)
            if len(places):
                return group, int(places[0])
        raise LookupError(generation)
