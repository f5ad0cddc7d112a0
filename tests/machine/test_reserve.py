"""A core for the event loop on machines that we do not have."""

import pytest

from tailcut.machine.reserve import Reservation, reserve
from tailcut.machine.topology import Core, Node, Topology


def machine(*cores: tuple[int, ...]) -> Topology:
    cpus = tuple(cpu for core in cores for cpu in core)
    return Topology(tuple(Core(0, core) for core in cores), (), (Node(0, cpus),))


TWO, TWINS = machine((0,), (1,)), machine((0, 4), (1, 5), (2, 6), (3, 7))


@pytest.mark.parametrize(
    ("there", "allowed", "usable", "expected"),
    [
        (TWO, {0, 1}, 2, Reservation((0,), (1,))),
        (TWINS, set(range(8)), 8, Reservation((0, 4), (1, 2, 3, 5, 6, 7))),
        (TWINS, {1, 5, 2}, 3, Reservation((1, 5), (2,))),
        (TWINS, {4, 3}, 2, Reservation((3,), (4,))),
        (TWO, {1}, 1, None),
        (TWINS, {2, 6}, 2, None),  # one core's two threads
        (TWO, {0, 1}, 1, None),  # a quota
    ],
)
def test_the_loop_has_the_first_core(
    there: Topology, allowed: set[int], usable: int, expected: Reservation | None
) -> None:
    """Whole, with both of its CPUs; none where it would be the only one, or a quota decides who runs."""
    assert reserve(there, allowed, usable) == expected
