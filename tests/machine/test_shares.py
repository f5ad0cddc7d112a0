"""CPUs shared out on machines that we do not have."""

import pytest

from tailcut.errors import InvalidInputError
from tailcut.machine.shares import Share, shares
from tailcut.machine.topology import Core, Node, Topology


def machine(cores: list[tuple[int, ...]], nodes: list[tuple[int, ...]]) -> Topology:
    return Topology(
        tuple(Core(0, cpus) for cpus in cores), (), tuple(Node(number, cpus) for number, cpus in enumerate(nodes))
    )


PLAIN = machine([(0,), (1,), (2,), (3,)], [(0, 1, 2, 3)])
TWO_NODES = machine([(0, 4), (1, 5), (2, 6), (3, 7)], [(0, 2, 4, 6), (1, 3, 5, 7)])


def test_every_cpu_goes_to_exactly_one_process() -> None:
    """The parts are disjoint, cover all that is allowed, and differ by one CPU at most."""
    for count in (1, 2, 3, 4):
        parts = shares(PLAIN, {0, 1, 2, 3}, 4, count)
        assert sorted(cpu for part in parts for cpu in part.pin) == [0, 1, 2, 3]
        assert all(part.cpus == len(part.pin) for part in parts)
        assert max(part.cpus for part in parts) - min(part.cpus for part in parts) <= 1


def test_threads_of_a_core_and_cpus_of_a_node_stay_together() -> None:
    """On two nodes of two cores of two threads, four processes get a core each, and memory on that core's node."""
    assert shares(TWO_NODES, range(8), 8, 4) == [
        Share(2, (0, 4), 0),
        Share(2, (2, 6), 0),
        Share(2, (1, 5), 1),
        Share(2, (3, 7), 1),
    ]


def test_a_part_across_nodes_is_bound_to_none() -> None:
    """One process on all CPUs of two nodes keeps the kernel's own choice of memory; one node leaves no choice."""
    assert shares(TWO_NODES, range(8), 8, 1)[0].node is None
    assert shares(PLAIN, range(4), 4, 2)[0].node is None


def test_only_allowed_cpus_are_given() -> None:
    """An affinity mask is respected, also for CPUs that the machine's files do not list."""
    assert [part.pin for part in shares(PLAIN, {1, 3, 9}, 3, 3)] == [(1,), (3,), (9,)]


def test_a_quota_binds_nobody() -> None:
    """Two CPUs' worth of time on a mask of four: two processes of one CPU each, on any of the four."""
    assert shares(PLAIN, range(4), 2, 2) == [Share(1), Share(1)]


def test_more_processes_than_cpus() -> None:
    """No process is bound, and each may use one CPU."""
    assert shares(PLAIN, {0, 1}, 2, 5) == [Share(1)] * 5


def test_no_process() -> None:
    """Sharing among nobody is refused."""
    with pytest.raises(InvalidInputError, match="among 0 processes"):
        shares(PLAIN, {0}, 1, 0)
