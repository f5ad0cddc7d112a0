"""Several models in one real server: whose threads spin, as models come and go, and what an idle one costs."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.servers import Server, serving

from tailcut.client.sync import Client
from tailcut.engines.base import EngineOptions
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import ask
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.profile import Neighbour, Profile, Together
from tailcut.runtime.settings import Settings

WAIT_S = 20.0
ROW = {"x": np.ones((1, 1024), np.float32)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neighbours")
    for name in ("first", "second"):
        perceptron([1024, 1024, 1024, 8], folder / f"{name}.onnx")
    return folder


@pytest.fixture
def server(models: Path, tmp_path: Path) -> Iterator[Server]:
    sources = (models / "first.onnx", models / "second.onnx")
    with serving(tmp_path, *sources, "--allow-model-control", "--no-auto") as running:
        yield running


def logged(server: Server, words: str) -> str:
    """The first line of the log with these words, when it is there."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        lines = [line for line in server.stderr.read_text().splitlines() if words in line]
        if lines:
            return lines[0]
        time.sleep(0.01)  # a log tells nobody that it has grown
    raise AssertionError(f"never logged: {words}")


def cpu_s(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_threads_spin_only_while_a_model_is_alone(server: Server) -> None:
    """Both sleep beside each other; the one that stays spins when the other goes, and sleeps when it is back."""
    target = LoadTarget(server.host, server.port)
    for name in ("first", "second"):
        assert "they do not spin because other models are loaded" in logged(server, f"{name}: engine threads: ")
    with Client(server.url) as client:
        before = client.infer("second", ROW)
        ask(target, "POST", "/v2/repository/models/first/unload")
        logged(server, "second: 1 model loaded: engine threads spin")
        ask(target, "POST", "/v2/repository/models/first/load")
        logged(server, "second: 2 models loaded: engine threads do not spin")
        after = client.infer("second", ROW)
    assert "first: 1 model loaded" not in server.stderr.read_text()
    assert np.allclose(before["y"], after["y"])


def test_measured_settings_follow_the_number_of_models(tmp_path: Path) -> None:
    """One that stays gets those for a model alone, is asked all the time, and gets its own back with the other."""
    sources = (perceptron([512, 1024, 512], tmp_path / "first.onnx"), perceptron([16, 4], tmp_path / "second.onnx"))
    row = {"x": np.ones((1, 512), np.float32)}
    with serving(tmp_path, *sources, "--allow-model-control") as server, Client(server.url) as client:
        target, asked = LoadTarget(server.host, server.port), 0
        before = client.infer("first", row)

        def answers_until(words: str, times: int = 1) -> str:
            nonlocal asked
            end = time.monotonic() + WAIT_S
            while time.monotonic() < end:
                lines = [line for line in server.stderr.read_text().splitlines() if words in line]
                if len(lines) >= times:
                    return lines[-1]
                assert np.allclose(client.infer("first", row)["y"], before["y"])
                asked += 1
            raise AssertionError(f"never logged: {words}")

        assert "too long for an event loop shared with others" in answers_until("first: threads=")
        for times in (1, 2):
            ask(target, "POST", "/v2/repository/models/second/unload")
            assert "dispatch=adaptive" in answers_until("first: 1 model loaded: ", times)
            ask(target, "POST", "/v2/repository/models/second/load")
            assert "dispatch=worker" in answers_until("first: 2 models loaded: ", times)
        assert asked
        assert server.stop() == 0
        log = server.stderr.read_text()
    assert "not loaded" not in log
    assert not re.search(r"second: \d+ models? loaded", log)


@pytest.mark.skipif(not Path("/proc/self/stat").exists() or usable_cpus() < 2, reason="needs /proc and threads to spin")
def test_an_idle_model_uses_no_cpu_after_a_call(server: Server) -> None:
    """A spinning thread would use 40 ms after each of these calls, and so keep a core from the other model."""
    with Client(server.url) as client:
        for _ in range(5):  # the first calls load code
            client.infer("first", ROW)
        time.sleep(0.2)
        began = cpu_s(server)
        for _ in range(10):
            client.infer("first", ROW)
            time.sleep(0.06)
        assert cpu_s(server) - began < 0.25


def test_a_profile_keeps_its_settings_and_the_log_says_what_they_cost(models: Path, tmp_path: Path) -> None:
    """Spinning in a profile is the user's word; a line names the models that spin."""
    for name in ("first", "second"):
        settings = Settings(engine=EngineOptions(threads=2))
        Profile.of_model(models / f"{name}.onnx", settings).save(tmp_path / f"{name}.toml")
    with serving(tmp_path, tmp_path / "first.toml", tmp_path / "second.toml") as server:
        config = ask(LoadTarget(server.host, server.port), "GET", "/v2/models/first/config")
        server.stop()
        log = server.stderr.read_text()
    assert config["name"] == "first"
    assert usable_cpus() < 2 or "first, second: engine threads spin after each call" in log
    assert usable_cpus() != 2 or "the profiles have 4 engine threads together, and this process may use 2 CPUs" in log


def measured_beside_each_other(models: Path, tmp_path: Path) -> None:
    """Writes first.toml and second.toml, profiles of models that were measured together."""
    paths = {"first": models / "first.onnx", "second": perceptron([1024, 8], tmp_path / "second.onnx")}
    profiles = {name: Profile.of_model(path, Settings(engine=EngineOptions(threads=1))) for name, path in paths.items()}
    for name, other in (("first", "second"), ("second", "first")):
        beside = Neighbour(name=other, sha256=profiles[other].model.sha256, rate=1.0, limit_ms=1.0)
        together = Together(rate=1.0, limit_ms=1.0, neighbours=(beside,))
        msgspec.structs.replace(profiles[name], together=together).save(tmp_path / f"{name}.toml")


@pytest.mark.slow
def test_neighbours_are_checked_again_when_models_come_and_go(models: Path, tmp_path: Path) -> None:
    """A profile that was measured beside another model: a line when that is unloaded, none when it is back."""
    measured_beside_each_other(models, tmp_path)
    sources = [tmp_path / f"{name}.toml" for name in ("first", "second")]
    with serving(tmp_path, *sources, "--allow-model-control") as server:
        target = LoadTarget(server.host, server.port)
        assert "measured together" not in server.stderr.read_text()
        for _ in range(2):
            ask(target, "POST", "/v2/repository/models/second/unload")
            logged(server, "first: measured together with second, but served without second")
            ask(target, "POST", "/v2/repository/models/second/load")
            ask(target, "POST", "/v2/repository/models/second/load")
        server.stop()
        log = server.stderr.read_text()
    assert log.count("first: measured together with second, but served without second") == 2
    assert "second: measured together" not in log


def test_a_pipelines_models_are_neighbours(models: Path, tmp_path: Path) -> None:
    """Beside a pipeline that runs the other model nothing is said; without it, and of the pipeline's models, it is."""
    measured_beside_each_other(models, tmp_path)
    (tmp_path / "p.py").write_text("from tailcut import Pipeline\n\npipeline = Pipeline('p', ['first.toml'])\n")
    sources = [f"{tmp_path}/p.py:pipeline", tmp_path / "second.toml"]
    with serving(tmp_path, *sources, "--allow-model-control") as server:
        target = LoadTarget(server.host, server.port)
        assert "measured together" not in server.stderr.read_text()
        ask(target, "POST", "/v2/repository/models/second/unload")
        logged(server, "first: measured together with second, but served without second")
