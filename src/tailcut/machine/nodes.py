"""On which NUMA nodes the instances of a model compute, and how a thread is bound to one.

A thread that is bound to a node has the threads that it starts bound there, too, and its memory: an engine that is
opened by such a thread has weights and a pool of the node's own.
"""

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from tailcut.errors import TailcutError
from tailcut.machine.affinity import bind_memory, pin_thread
from tailcut.machine.topology import Topology

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A node, and those of its CPUs that may be used."""

    node: int
    cpus: tuple[int, ...]


def usable_nodes(machine: Topology, allowed: Collection[int], usable: int) -> tuple[NumaNode, ...]:
    """The nodes whose CPUs may be used; none if there is only one. Pure.

    Args:
        machine: its nodes.
        allowed: the affinity mask.
        usable: `usable_cpus()`. Fewer than allowed: a quota limits, and then nothing is bound, because the kernel hands
            out the quota's time on whichever CPUs it likes.
    """
    places = [NumaNode(node.number, tuple(cpu for cpu in node.cpus if cpu in allowed)) for node in machine.nodes]
    places = [node for node in places if node.cpus]
    return tuple(places) if len(places) > 1 and usable >= len(allowed) else ()


def places_of_instances(nodes: tuple[NumaNode, ...], instances: int) -> tuple[NumaNode | None, ...]:
    """A node for each instance, in turn; all None if `nodes` is empty or outnumbers the instances. Pure."""
    if len(nodes) < 2 or instances < len(nodes):
        return (None,) * instances
    return tuple(nodes[number % len(nodes)] for number in range(instances))


def places_near(nodes: tuple[NumaNode, ...], node: int | None, instances: int) -> tuple[NumaNode | None, ...]:
    """The node of a device, for each thread that launches on it; all None if `node` is unknown or not in `nodes`."""
    near = next((candidate for candidate in nodes if candidate.node == node), None)
    return (near,) * instances


def settle(node: NumaNode | None) -> None:
    """Bind the calling thread, and the memory that it allocates from now on; a container may forbid either."""
    if node is None:
        return
    with suppress(TailcutError):
        pin_thread(node.cpus)
    with suppress(TailcutError):
        bind_memory(node.node)


def made_on(node: NumaNode | None, make: Callable[[], Made]) -> Made:
    """Call `make` in a thread bound to the node, and return its result."""
    if node is None:
        return make()
    with ThreadPoolExecutor(1, initializer=settle, initargs=(node,)) as pool:
        return pool.submit(make).result()
