"""Models whose instances are bound to NUMA nodes: of this machine, and of one that its files are made to describe."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.machine import cuda_stand_in

from tailcut.engines import open_engine
from tailcut.engines.base import CudaOptions, EngineOptions
from tailcut.machine.cuda_driver import Driver
from tailcut.machine.gpu import node_of_bus
from tailcut.machine.nodes import NumaNode, made_on
from tailcut.machine.quota import affinity_mask
from tailcut.machine.topology import Core, Node, Topology
from tailcut.runtime import placement
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

CPUS = sorted(affinity_mask())


def opened(path: Path) -> Model:
    engine = EngineOptions(threads=1, instances=2, numa=True)
    return Model.open(Profile.of_model(path, Settings(engine=engine, batching=BatchingSettings(max_batch_size=4))))


def masks(name: str) -> list[set[int]]:
    """The CPUs of each worker thread of a model."""
    workers = [item for item in threading.enumerate() if item.name.startswith(f"{name}-") and item.name[-1].isdigit()]
    return [os.sched_getaffinity(worker.native_id or 0) for worker in workers]


def check_answers(model: Model, path: Path) -> None:
    alone = open_engine(path, EngineOptions(threads=1))
    for rows in (1, 3, 9):
        x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        np.testing.assert_allclose(model.infer_sync({"x": x})["y"], alone.run({"x": x})["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU makes one node")
def test_workers_are_bound_to_nodes_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of a node for each of two CPUs: a worker on each, whatever the memory of nodes that are not there."""
    nodes = tuple(Node(number, (cpu,)) for number, cpu in enumerate(CPUS[:2]))
    two = Topology(tuple(Core(0, (cpu,)) for cpu in CPUS), (), nodes)
    monkeypatch.setattr(placement, "topology", lambda: two)
    path = perceptron([4, 8, 3], tmp_path / "nodes.onnx")
    with opened(path) as model:
        assert sorted(masks("nodes"), key=min) == [{cpu} for cpu in CPUS[:2]]
        check_answers(model, path)
    assert not masks("nodes")
    assert affinity_mask() == set(CPUS)


def test_one_node_binds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile of a larger machine is served as if it did not ask."""
    item = Topology(tuple(Core(0, (cpu,)) for cpu in CPUS), (), (Node(0, tuple(CPUS)),))
    monkeypatch.setattr(placement, "topology", lambda: item)
    path = perceptron([4, 8, 3], tmp_path / "plain.onnx")
    with opened(path) as model:
        assert all(mask == set(CPUS) for mask in masks("plain"))
        check_answers(model, path)


def device_settings(index: int, *, numa: bool = True) -> Settings:
    return Settings(engine=EngineOptions(device="cuda", cuda=CudaOptions(index=index), instances=2, numa=numa))


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU makes one node")
def test_what_launches_is_on_the_node_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver tells the place on the bus, and the kernel that place's node; the engine is opened there, too."""
    nodes = tuple(Node(number, (cpu,)) for number, cpu in enumerate(CPUS[:2]))
    two = Topology(tuple(Core(0, (cpu,)) for cpu in CPUS), (), nodes)
    stand_in = Driver(str(cuda_stand_in.library(tmp_path)))
    for bus, node in (("0000:3b:00.0", "1"), ("0000:af:00.0", "-1")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "numa_node").write_text(f"{node}\n")
    monkeypatch.setattr(placement, "topology", lambda: two)
    monkeypatch.setattr(placement, "driver", lambda: stand_in)
    monkeypatch.setattr(placement, "node_of_bus", lambda bus: node_of_bus(bus, tmp_path))
    near = NumaNode(1, (CPUS[1],))
    assert placement.instance_places(device_settings(0)) == (near, near)
    assert placement.instance_places(device_settings(1)) == (None, None)  # the kernel does not say
    assert placement.instance_places(device_settings(2)) == (None, None)  # there is no such device
    assert placement.instance_places(device_settings(0, numa=False)) == (None, None)
    mask: list[set[int]] = []
    made_on(near, lambda: mask.append(set(affinity_mask())))
    assert mask == [{CPUS[1]}]


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU makes one node")
def test_without_a_driver_nothing_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the engine says what is missing."""
    nodes = tuple(Node(number, (cpu,)) for number, cpu in enumerate(CPUS[:2]))
    monkeypatch.setattr(placement, "topology", lambda: Topology((), (), nodes))

    def missing() -> Driver:
        return Driver("libcuda-that-is-not-there.so")

    monkeypatch.setattr(placement, "driver", missing)
    assert placement.instance_places(device_settings(0)) == (None, None)
