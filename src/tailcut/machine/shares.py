"""How the CPUs of a machine are divided among processes that must not disturb each other. Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from tailcut.errors import InvalidInputError
from tailcut.machine.topology import Topology


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part. `pin` is empty if it is not to be bound; `node` is None if no single node holds the part."""

    cpus: int  # how many to size thread pools for
    pin: tuple[int, ...] = ()
    node: int | None = None


def shares(machine: Topology, allowed: Collection[int], usable: int, count: int) -> list[Share]:
    """Cut the allowed CPUs into `count` parts that differ by one CPU at most: whole cores and nodes stay together.

    Args:
        machine: its cores and nodes.
        allowed: the affinity mask.
        usable: `usable_cpus()`. Fewer than allowed: a quota limits, and then no process is bound, because the kernel
            hands out the quota's time on whichever CPUs it likes.
        count: of processes. With more processes than CPUs none is bound either.

    Raises:
        InvalidInputError: `count` is below 1.
    """
    if count < 1:
        raise InvalidInputError(f"the CPUs cannot be shared among {count} processes")
    if usable < len(allowed) or count > len(allowed):
        return [Share(max(1, usable // count))] * count
    near = {cpu: node.number for node in machine.nodes for cpu in node.cpus}
    cores = sorted(machine.cores, key=lambda core: (near.get(core.cpus[0], 0), core.package, core.cpus))
    ordered = [cpu for core in cores for cpu in core.cpus if cpu in allowed]
    ordered += sorted(set(allowed) - set(ordered))  # CPUs that sysfs does not list
    bounds = [len(ordered) * number // count for number in range(count + 1)]
    parts = [tuple(ordered[bounds[number] : bounds[number + 1]]) for number in range(count)]
    return [Share(len(part), part, _only_node(part, near) if len(machine.nodes) > 1 else None) for part in parts]


def _only_node(part: tuple[int, ...], near: dict[int, int]) -> int | None:
    nodes = {near.get(cpu) for cpu in part}
    return nodes.pop() if len(nodes) == 1 else None
