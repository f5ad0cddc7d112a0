"""`tailcut serve` runs the settings of a profile, whatever they are: answers stay those of onnxruntime alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.cases import Arrays, Case, check_same
from tests.engines.models import images, masked_mean, perceptron
from tests.servers import Server, serving

from tailcut import Client
from tailcut.machine.quota import affinity_mask, cpu_quota
from tailcut.machine.topology import cores_of, topology
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import PaddedInput, PaddingSettings, Settings
from tailcut.tuner.space import changed

SENTENCES = PaddingSettings(buckets=(4, 8, 16), inputs=(PaddedInput(name="ids"), PaddedInput(name="mask")))
PICTURES = PaddingSettings(buckets=(8, 16), inputs=(PaddedInput(name="image"),), second_buckets=(16, 32))
BATCHES = {"max_batch_size": 8}
SETTINGS = {
    "static_onnxruntime": {"engine": {"static_buckets": True}, "batching": BATCHES | {"padding": SENTENCES}},
    "static_openvino": {
        "engine": {"name": "openvino", "static_buckets": True},
        "batching": BATCHES | {"padding": SENTENCES},
    },
    "static_pictures": {
        "engine": {"static_buckets": True, "instances": 2},
        "batching": BATCHES | {"padding": PICTURES},
    },
    "pictures": {"engine": {"name": "openvino"}, "batching": BATCHES | {"padding": PICTURES}},
    "grown": {"engine": {"arena_growth": "as_requested"}, "batching": BATCHES},
    "grown_too": {"engine": {"arena_growth": "as_requested"}, "batching": {"padding": SENTENCES}},
    "nodes": {"engine": {"numa": True, "instances": 2}, "batching": BATCHES},
}
CORES = cores_of(topology(), affinity_mask())


def requests_of(name: str) -> list[Arrays]:
    random = np.random.default_rng(0)
    if "pictures" in name:
        sizes = [(1, 5, 9), (2, 8, 16), (1, 13, 30), (3, 16, 4), (1, 20, 33)]
        return [{"image": random.standard_normal((n, 2, h, w)).astype(np.float32)} for n, h, w in sizes]
    if name in {"grown", "nodes"}:
        return [{"x": random.standard_normal((rows, 16)).astype(np.float32)} for rows in (1, 3, 11)]
    ids = [random.integers(0, 32, (rows, length)) for rows, length in ((1, 3), (2, 8), (11, 5), (1, 16), (1, 30))]
    return [{"ids": item, "mask": np.ones_like(item)} for item in ids]


def model_of(name: str, folder: Path) -> Path:
    path = folder / f"{name}.onnx"
    if "pictures" in name:
        return images(path)
    return perceptron([16, 32, 3], path) if name in {"grown", "nodes"} else masked_mean(path)


def written(folder: Path, name: str, settings: Settings) -> Path:
    path = folder / f"{name}.profile.toml"
    Profile.of_model(model_of(name, folder), settings).save(path)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    """A server of all of them, whose event loop has a core of its own, and no fast path."""
    folder = tmp_path_factory.mktemp("settings")
    apart = {"own_core": True, "fast_path": False}
    plain = changed(Settings(), engine={"threads": 1}, io=apart)
    profiles = [written(folder, name, changed(plain, **sections)) for name, sections in SETTINGS.items()]
    with serving(folder, *profiles) as server:
        yield folder, server
        assert server.stop() == 0


@pytest.mark.parametrize("name", SETTINGS)
def test_answers(served: tuple[Path, Server], name: str) -> None:
    """Alone, and with more rows than the largest batch."""
    folder, server = served
    case = Case(onnx.load(folder / f"{name}.onnx"), requests_of(name))
    with Client(server.url) as client:
        for request, truth in zip(case.requests, case.truths(), strict=True):
            assert truth is not None
            check_same(client.infer(name, request), truth)


@pytest.mark.skipif(CORES < 2 or cpu_quota() is not None, reason="there is one core, or a quota")
def test_the_event_loop_has_a_core_of_its_own(served: tuple[Path, Server]) -> None:
    """Its thread is bound to the first one, and no thread that computes may use that."""
    pid = served[1].process.pid
    masks = {int(thread.name): os.sched_getaffinity(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()}
    loop = masks.pop(pid)
    assert min(affinity_mask()) in loop
    assert loop < affinity_mask()
    elsewhere = [mask for mask in masks.values() if not mask & loop]
    instances = sum(sections["engine"].get("instances", 1) for sections in SETTINGS.values())
    assert len(elsewhere) >= instances


def test_a_profile_of_another_way_in_says_what_it_needs(tmp_path: Path) -> None:
    """It was measured over a Unix socket with tensors in shared memory, and is served over TCP."""
    profile = written(tmp_path, "grown", changed(Settings(), io={"wire": "shared", "socket": "unix"}))
    with serving(tmp_path, profile) as server:
        text = server.stderr.read_text()
        for option in ("--uds PATH", "--shared-memory PREFIX"):
            assert f"add {option}" in text
    with serving(tmp_path, profile, "--shared-memory", "near", "--uds", tmp_path / "socket") as server:
        assert "add --" not in server.stderr.read_text()
        with Client(f"unix:{tmp_path / 'socket'}", shared_memory="near") as client:
            for request in requests_of("grown"):
                assert client.infer("grown", request)["y"].shape == (len(request["x"]), 3)
