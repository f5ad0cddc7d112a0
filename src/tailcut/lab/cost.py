"""What a server on this machine spends per request, from /proc before and after a load.

/proc is not read during a load, because that takes several files for each thread of the server. So the cost includes
connecting and the warm-up, and the requests of the warm-up are among those by which it is divided.
"""

import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tailcut.errors import NotFoundError
from tailcut.lab.load import LoadResult, LoadTarget
from tailcut.lab.records import Cost
from tailcut.machine.process import ProcessCost, ProcessLook, listening_process, look

_Load = TypeVar("_Load")  # the outcome: a result, or one for each model


@dataclass(slots=True)
class Spent:
    """The total cost of a server under several loads."""

    requests: int = 0
    costs: list[ProcessCost] = field(default_factory=list)
    whole: bool = True  # whether the cost of every load is known
    cpu_ns_by_block: list[float] = field(default_factory=list)  # CPU time per request, for each load with a known cost

    def add(self, result: LoadResult, cost: ProcessCost | None) -> None:
        """Add a load; one without a cost makes the total unknown."""
        if cost is None:
            self.whole = False
        else:
            self.requests += result.answered
            self.costs.append(cost)
            if result.answered:
                self.cpu_ns_by_block.append(cost.cpu_ns / result.answered)

    def per_request(self) -> Cost | None:
        """The cost per request; None where it is unknown, or nothing was answered."""
        if not self.whole or not self.requests or not self.costs:
            return None
        fields: dict[str, float | None] = {}
        for name in self.costs[0].values():
            values = [cost.values()[name] for cost in self.costs]
            known = [value for value in values if value is not None]
            fields[name] = round(sum(known) / self.requests, 3) if len(known) == len(values) else None
        return Cost(**fields)


def watched(pid: int | None, run: Callable[[], _Load]) -> tuple[_Load, ProcessCost | None]:
    """Run a load; returns its outcome, and what a process and its children spent meanwhile (None: unknown)."""
    before = _look(pid)
    result = run()
    after = _look(pid) if before is not None else None
    return result, None if before is None or after is None else after.since(before)


def server_process(target: LoadTarget) -> int | None:
    """The process that listens on a port of this machine; None for other targets, and for a server in this process."""
    if target.uds or not _is_here(target):
        return None
    pid = listening_process(target.port)
    return None if pid == os.getpid() else pid


def _look(pid: int | None) -> ProcessLook | None:
    try:
        return None if pid is None else look(pid)
    except NotFoundError:
        return None


def _is_here(target: LoadTarget) -> bool:
    try:
        address = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return False
    return ipaddress.ip_address(address).is_loopback
