"""The machine as sysfs tells it, on made-up machines and on this one."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.machine.trees import cpu_files, plant

from tailcut.machine.topology import Cache, Core, Node, parse_cpu_list, topology


@pytest.fixture
def two_sockets(tmp_path: Path) -> Path:
    """Two packages of two cores with two threads each; siblings are neighbours; two nodes."""
    files = {"cpu/online": "0-7", "node/node0/cpulist": "0-3", "node/node1/cpulist": "4-7"}
    for cpu in range(8):
        first = cpu - cpu % 2
        files |= cpu_files(cpu, f"{first}-{first + 1}", package=cpu // 4)
    return plant(tmp_path, files)


def test_two_sockets(two_sockets: Path) -> None:
    """Cores know their siblings and package, caches their size and sharers, nodes their CPUs."""
    machine = topology(two_sockets)
    assert machine.cpus == tuple(range(8))
    assert machine.cores == (Core(0, (0, 1)), Core(0, (2, 3)), Core(1, (4, 5)), Core(1, (6, 7)))
    assert machine.cores[0].siblings == (1,)
    assert any(core.siblings for core in machine.cores)
    assert machine.nodes == (Node(0, (0, 1, 2, 3)), Node(1, (4, 5, 6, 7)))
    assert Cache(1, "Data", 48 << 10, (6, 7)) in machine.caches
    assert [cache for cache in machine.caches if cache.level == 3] == [
        Cache(3, "Unified", 36 << 20, (0, 1, 2, 3)),
        Cache(3, "Unified", 36 << 20, (4, 5, 6, 7)),
    ]
    assert len(machine.caches) == 4 + 4 + 2


def test_offline_cpus_do_not_count(two_sockets: Path) -> None:
    """A CPU that is switched off belongs to no core, core list or node."""
    plant(two_sockets, {"cpu/online": "0,2-3,5"})
    machine = topology(two_sockets)
    assert machine.cpus == (0, 2, 3, 5)
    assert [core.cpus for core in machine.cores] == [(0,), (2, 3), (5,)]
    assert [node.cpus for node in machine.nodes] == [(0, 2, 3), (5,)]


def test_threads_split_by_an_offset(tmp_path: Path) -> None:
    """Siblings need not be neighbours: most Intel servers number them half the machine apart."""
    files = {"cpu/online": "0-3"}
    for cpu in range(4):
        files |= cpu_files(cpu, f"{cpu % 2},{cpu % 2 + 2}")
    machine = topology(plant(tmp_path, files))
    assert [core.cpus for core in machine.cores] == [(0, 2), (1, 3)]


def test_node_order_is_by_number(tmp_path: Path) -> None:
    """Node 10 comes after node 2, and a node may have memory only."""
    files = {"cpu/online": "0-1", "node/node10/cpulist": "1", "node/node2/cpulist": "0", "node/node3/cpulist": ""}
    assert topology(plant(tmp_path, files)).nodes == (Node(2, (0,)), Node(3, ()), Node(10, (1,)))


def test_without_sysfs(tmp_path: Path) -> None:
    """Where nothing can be read, every CPU is a core of its own on one node, and no cache is known."""
    machine = topology(tmp_path / "nowhere")
    assert machine.cpus == tuple(range(os.cpu_count() or 1))
    assert all(not core.siblings for core in machine.cores)
    assert machine.nodes == (Node(0, machine.cpus),)
    assert machine.caches == ()
    assert not any(core.siblings for core in machine.cores)


def test_torn_files(tmp_path: Path) -> None:
    """Files that hold something else are as good as missing."""
    files = {
        "cpu/online": "0-1",
        "cpu/cpu0/topology/thread_siblings_list": "rubbish",
        "cpu/cpu0/topology/physical_package_id": "-1",
        "cpu/cpu0/cache/index0/level": "one",
        "cpu/cpu1/cache/index0/level": "2",
        "cpu/cpu1/cache/index0/size": "huge",
    }
    machine = topology(plant(tmp_path, files))
    assert machine.cores == (Core(0, (0,)), Core(0, (1,)))
    assert machine.caches == (Cache(2, "", 0, (1,)),)


def test_this_machine() -> None:
    """Here, every CPU that may be used belongs to exactly one core and to one node."""
    machine = topology()
    assert len(set(machine.cpus)) == len(machine.cpus) >= 1
    assert sorted(cpu for node in machine.nodes for cpu in node.cpus) == list(machine.cpus)


@given(st.sets(st.integers(0, 300)))
def test_cpu_lists(cpus: set[int]) -> None:
    """Single numbers and ranges read back as the same CPUs."""
    assert parse_cpu_list(",".join(map(str, sorted(cpus)))) == tuple(sorted(cpus))
    assert parse_cpu_list("0-3,8,10-11\n") == (0, 1, 2, 3, 8, 10, 11)
