"""Instances on the nodes of machines that we do not have, and threads that settle on one of this machine's."""

import os
import threading

import pytest

from tailcut.machine.nodes import NumaNode, made_on, places_near, places_of_instances, settle, usable_nodes
from tailcut.machine.quota import affinity_mask
from tailcut.machine.topology import Core, Node, Topology


def machine(*nodes: tuple[int, ...]) -> Topology:
    cores = tuple(Core(0, (cpu,)) for cpus in nodes for cpu in cpus)
    return Topology(cores, (), tuple(Node(number, cpus) for number, cpus in enumerate(nodes)))


ONE, TWO, FOUR = machine((0, 1, 2, 3)), machine((0, 2), (1, 3)), machine((0, 1), (2, 3), (4, 5), (6, 7))
NO_CPUS = machine((0, 1), ())  # a node of memory alone


@pytest.mark.parametrize(
    ("there", "allowed", "usable", "expected"),
    [
        (ONE, range(4), 4, ()),
        (TWO, range(4), 4, (NumaNode(0, (0, 2)), NumaNode(1, (1, 3)))),
        (TWO, {0, 1, 3}, 3, (NumaNode(0, (0,)), NumaNode(1, (1, 3)))),
        (TWO, {0, 2}, 2, ()),  # the mask leaves one of them
        (TWO, range(4), 2, ()),  # a quota
        (FOUR, {2, 3, 6, 7}, 4, (NumaNode(1, (2, 3)), NumaNode(3, (6, 7)))),
        (NO_CPUS, range(2), 2, ()),
    ],
)
def test_nodes_that_may_be_used(
    there: Topology, allowed: set[int], usable: int, expected: tuple[NumaNode, ...]
) -> None:
    """Those with CPUs of the mask, where that leaves a choice and no quota limits."""
    assert usable_nodes(there, allowed, usable) == expected


@pytest.mark.parametrize(
    ("nodes", "instances", "expected"),
    [(0, 3, (None, None, None)), (2, 1, (None,)), (2, 2, (0, 1)), (2, 3, (0, 1, 0)), (4, 2, (None, None))],
)
def test_instances_take_nodes_in_turns(nodes: int, instances: int, expected: tuple[int | None, ...]) -> None:
    """Fewer instances than nodes are not bound: each would leave nodes idle."""
    places = tuple(NumaNode(number, (number,)) for number in range(nodes))
    result = places_of_instances(places, instances)
    assert tuple(None if place is None else place.node for place in result) == expected


@pytest.mark.parametrize(
    ("node", "expected"), [(1, (1, 1)), (0, (0, 0)), (None, (None, None)), (7, (None, None)), (-1, (None, None))]
)
def test_launching_threads_are_on_the_node_of_their_device(node: int | None, expected: tuple[int | None, ...]) -> None:
    """All of them; none is bound where the node is unknown, or the mask leaves none of its CPUs."""
    places = tuple(NumaNode(number, (number,)) for number in range(2))
    result = places_near(places, node, 2)
    assert tuple(None if place is None else place.node for place in result) == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system binds no threads")
def test_a_thread_that_settles_starts_threads_there() -> None:
    """As engines do when they are opened; the thread that asked stays where it was."""
    cpu = min(affinity_mask())
    before = affinity_mask()

    def started() -> frozenset[int]:
        result: list[frozenset[int]] = []
        child = threading.Thread(target=lambda: result.append(affinity_mask()))
        child.start()
        child.join()
        return result[0]

    assert made_on(NumaNode(0, (cpu,)), started) == {cpu}
    assert affinity_mask() == before
    assert made_on(None, threading.get_ident) == threading.get_ident()


def test_a_place_that_is_not_there_binds_nothing() -> None:
    """A container may forbid both: what is opened computes wherever it is."""
    result = made_on(NumaNode(900, (900,)), affinity_mask)
    assert result == affinity_mask()
    settle(None)
