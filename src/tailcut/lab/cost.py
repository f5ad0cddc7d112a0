"""What a server on this machine spent on a load, a request: looked up in /proc before the load and after it.

Never during it: a look reads some files for each thread of the server. So connecting and the warm-up are in the cost,
and the requests of the warm-up are among those that it is divided by.
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

_Load = TypeVar("_Load")  # what came of it: a result, or one for each model


@dataclass(slots=True)
class Spent:
    """Costs of one server under several loads, added up."""

    requests: int = 0
    costs: list[ProcessCost] = field(default_factory=list)
    whole: bool = True  # whether every load had its cost
    cpu_ns_by_block: list[float] = field(default_factory=list)  # CPU time per request, of each load with a cost

    def add(self, result: LoadResult, cost: ProcessCost | None) -> None:
        """Count a load in; one without a cost leaves all unknown."""
        if cost is None:
            self.whole = False
        else:
            self.requests += result.answered
            self.costs.append(cost)
            if result.answered:
                self.cpu_ns_by_block.append(cost.cpu_ns / result.answered)

    def per_request(self) -> Cost | None:
        """The cost of a request; None where it is unknown, or nothing was answered."""
        if not self.whole or not self.requests or not self.costs:
            return None
        fields: dict[str, float | None] = {}
        for name in self.costs[0].values():
            values = [cost.values()[name] for cost in self.costs]
            known = [value for value in values if value is not None]
            fields[name] = round(sum(known) / self.requests, 3) if len(known) == len(values) else None
        return Cost(**fields)


def watched(pid: int | None, run: Callable[[], _Load]) -> tuple[_Load, ProcessCost | None]:
    """A load, and what a process and its children spent meanwhile; None where it is not known or ended."""
    before = _look(pid)
    result = run()
    after = _look(pid) if before is not None else None
    return result, None if before is None or after is None else after.since(before)


def server_process(target: LoadTarget) -> int | None:
    """The process behind a port of this machine; None for any other target, and for a server in this very process."""
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
