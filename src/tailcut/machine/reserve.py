"""A core that the event loop has for itself: engines compute on the others (`io.own_core`). Pure."""

from collections.abc import Collection
from dataclasses import dataclass

from tailcut.machine.topology import Topology


@dataclass(frozen=True, slots=True)
class Reservation:
    """The CPUs of the event loop, and those of everything else."""

    loop: tuple[int, ...]
    others: tuple[int, ...]


def reserve(machine: Topology, allowed: Collection[int], usable: int) -> Reservation | None:
    """The first core for the event loop, where interrupts usually arrive; None where there is no second one.

    Args:
        machine: its cores. Both CPUs of a core go together, because they share its arithmetic units.
        allowed: the affinity mask.
        usable: `usable_cpus()`. Fewer than allowed: a quota limits, and then nothing is bound, because the kernel hands
            out the quota's time on whichever CPUs it likes.
    """
    cores = [tuple(cpu for cpu in core.cpus if cpu in allowed) for core in machine.cores]
    cores = sorted(cpus for cpus in cores if cpus)
    if len(cores) < 2 or usable < len(allowed):
        return None
    loop = cores[0]
    return Reservation(loop, tuple(sorted(set(allowed) - set(loop))))
