"""The requests of one pass over the fast path, which are queued as one."""

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
    """What sends the answers of a group."""

    def answer(self, group: "TargetGroup", request: Request, batch: Batch, index: int) -> None:
        """Answer the members that `request` stands for, each with its row of the batch's outputs."""

    def fail(self, group: "TargetGroup", request: Request, error: TailcutError) -> None:
        """Answer the members that `request` stands for with an error."""


class TargetGroup:
    """The requests of one pass for one target, and the response handler of what they are queued as."""

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
        self.traced = traced  # those that are sampled, by their index among the members
        self.left = len(members)  # not answered yet

    def complete(self, request: Request, batch: Batch, index: int) -> None:
        """Answer the members that `request` stands for."""
        self._answerer.answer(self, request, batch, index)

    def fail(self, request: Request, error: TailcutError) -> None:
        """Answer the members that `request` stands for with an error."""
        self._answerer.fail(self, request, error)


class WaitingGroups:
    """The groups with members that are not answered yet."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[TargetGroup, None] = {}

    def add(self, group: TargetGroup) -> None:
        """Add a group that was queued; its members must not be in memory that the next pass overwrites."""
        self._groups[group] = None

    def answered(self, group: TargetGroup, count: int) -> None:
        """Note that `count` members of a group have been answered or failed."""
        group.left -= count
        if not group.left:
            self._groups.pop(group, None)

    def find(self, generation: int) -> tuple[TargetGroup, int]:
        """Find the waiting request of a connection: its group, and its index among the members.

        Raises:
            LookupError: no request of that generation waits.
        """
        for group in self._groups:
            indices = np.flatnonzero(group.members[:, 1] == generation)
            if len(indices):
                return group, int(indices[0])
        raise LookupError(generation)
