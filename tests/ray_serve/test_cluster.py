"""Applications on a real Ray: two nodes on this machine, real servers, and what happens when some of it goes.

Every answer is compared with onnxruntime's. The cluster is started once: Ray takes its time.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.ray_serve.load import WIDTH, Load, truth

import tailcut
import tailcut.ray
from tailcut.client import Retries
from tailcut.errors import InvalidInputError, NotFoundError, UnreachableError
from tailcut.ray.plan import Replicas

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray Serve is not installed: make test-ray"),
]
SOURCE = Path(__file__).parents[2] / "src"
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_memory_monitor_refresh_ms": "0",  # other tests may fill the memory of this machine
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCE), str(SOURCE.parent), os.environ.get("PYTHONPATH", "")])),
}
NODE = {"num_cpus": 4, "object_store_memory": 80 << 20, "include_dashboard": False}
LIMIT_S = 180.0
QUICK: dict[str, Any] = {"host": "127.0.0.1", "options": ("--no-auto",)}  # nothing is measured at the start


def until(true: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of four CPUs; Serve's controller and proxy are on the first."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        try:
            cluster.add_node(**NODE)
            patch.setenv("RAY_ADDRESS", cluster.address)
            ray.init(address=cluster.address, log_to_driver=False)
            with pytest.raises(UnreachableError, match="Ray Serve does not run on this cluster"):
                tailcut.Client("ray://app")
            serve.start(http_options={"host": "127.0.0.1", "port": free_port()}, proxy_location="HeadOnly")
            yield cluster
        finally:
            serve.shutdown()
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of the same form with other weights."""
    folder = tmp_path_factory.mktemp("models")
    return [perceptron([WIDTH, hidden, 3], folder / f"{hidden}.onnx") for hidden in (8, 9)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def running(application: Any, name: str = "app") -> Iterator[Any]:
    """Run an application; give a handle to it."""
    from ray import serve

    try:
        yield serve.run(application, name=name, route_prefix=f"/{name}")
    finally:
        serve.delete(name)


def test_every_way_in_gives_the_same_answer(cluster: Any, models: list[Path]) -> None:
    """Directly, by a handle, by another deployment, and by Serve's proxy, in JSON and as metadata."""
    from ray import serve

    @serve.deployment
    class Caller:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def ask(self, x: np.ndarray) -> np.ndarray:
            return (await self.inner.infer.remote({"x": x}))["y"]

    x = np.random.default_rng(1).standard_normal((2, WIDTH)).astype(np.float32)
    expected = truth(models[0], x)
    part = tailcut.ray.deployment(f"m={models[0]}", replicas=2, cpus=0.5, **QUICK)
    with running(Caller.bind(part)) as handle:
        np.testing.assert_allclose(handle.ask.remote(x).result(), expected, rtol=1e-4)
        with tailcut.Client("ray://app/tailcut") as client:
            assert len(client.servers) == 2
            np.testing.assert_allclose(client.infer("m", {"x": x})["y"], expected, rtol=1e-4)
        with tailcut.Client("ray://app") as client, pytest.raises(UnreachableError, match="no server that is ready"):
            client.infer("m", {"x": x})  # the caller's replicas have no server of ours
        with pytest.raises(NotFoundError, match=r"has no deployment 'other': it has Caller, tailcut"):
            tailcut.Client("ray://app/other")
    with running(tailcut.ray.deployment(f"m={models[0]}", cpus=0.5, **QUICK)) as handle:
        np.testing.assert_allclose(handle.infer.remote({"x": x}).result()["y"], expected, rtol=1e-4)
        with pytest.raises(InvalidInputError, match="x"):
            handle.infer.remote({"x": x[:, :3]}).result()
        with pytest.raises(InvalidInputError, match="is not a W3C traceparent"):
            handle.infer.remote({"x": x}, traceparent="00-12-34").result()
        url = serve.status().proxies and f"http://127.0.0.1:{proxy_port()}/app/v2/models/m"
        entry = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
        request = urllib.request.Request(f"{url}/infer", json.dumps({"inputs": [entry]}).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=20) as answer:
            (output,) = json.load(answer)["outputs"]
        np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), expected, rtol=1e-4)
        with urllib.request.urlopen(f"{url}/ready", timeout=20) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy_port()}/app", timeout=20) as answer:
            assert answer.url.endswith("/app/")  # redirected
        with urllib.request.urlopen(f"http://127.0.0.1:{proxy_port()}/app/live", timeout=20) as answer:
            assert answer.readline() == b"event: about\n"
            watched = open_connections()
        until(lambda: open_connections() < watched)
        with tailcut.Client("ray://app") as client:
            np.testing.assert_allclose(client.infer("m", {"x": x})["y"], expected, rtol=1e-4)
    with pytest.raises(NotFoundError, match="Ray Serve has no application 'gone'"):
        tailcut.Client("ray://gone")


def open_connections() -> int:
    """Of the only server of the application `app`."""
    with tailcut.Client("ray://app") as client:
        (server,) = client.servers
    with urllib.request.urlopen(f"http://{server}/metrics", timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    return next(int(float(line.split()[-1])) for line in lines if line.startswith("tailcut_connections "))


def proxy_port() -> int:
    from ray.serve.context import _get_global_client

    return int(_get_global_client().http_config.port)


def test_models_are_loaded_on_demand(cluster: Any, models: list[Path]) -> None:
    """By the id of a request; the one that was used longest ago makes room."""
    x = np.random.default_rng(2).standard_normal((1, WIDTH)).astype(np.float32)
    named = {"a": models[0], "b": models[1]}
    with running(tailcut.ray.deployment(named, models_per_replica=1, cpus=0.5, **QUICK)) as handle:
        for name in ("a", "b", "a"):
            answer = handle.options(multiplexed_model_id=name).infer.remote({"x": x}).result()
            np.testing.assert_allclose(answer["y"], truth(named[name], x), rtol=1e-4)
        with pytest.raises(NotFoundError, match="no model has the id 'c'"):
            handle.options(multiplexed_model_id="c").infer.remote({"x": x}).result()


def test_replicas_follow_the_load(cluster: Any, models: list[Path]) -> None:
    """More under load, fewer when it ends, and no call fails on the way."""
    scaled = Replicas(least=1, most=2, up_s=0.0, down_s=2.0, window_s=2.0)
    application = tailcut.ray.deployment(
        f"m={models[0]}", replicas=scaled, target_ongoing_requests=0.001, cpus=0.5, drain_s=1.0, **QUICK
    )
    with running(application), tailcut.Client("ray://app") as client:
        assert len(client.servers) == 1
        with Load(client, [models[0]]) as load:
            until(lambda: len(client.servers) == 2)
            load.more(200)
        with Load(client, [models[0]], threads=1, pause_s=2.0) as light:
            until(lambda: len(client.servers) == 1)
            light.more(1)
    assert (load.wrong, load.failed, light.wrong, light.failed) == ([], [], [], [])


def test_replicas_of_models_on_demand_follow_the_load(cluster: Any, models: list[Path]) -> None:
    """By what the servers of all loaded models report: the load is on one of them, past all that Serve counts."""
    from ray import serve

    def are_running() -> int:
        deployment = serve.status().applications["app"].deployments["tailcut"]
        return int(deployment.replica_states.get("RUNNING", 0))

    x = np.random.default_rng(3).standard_normal((1, WIDTH)).astype(np.float32)
    named = {"a": models[0], "b": models[1]}
    scaled = Replicas(least=1, most=2, up_s=2.0, down_s=2.0, window_s=2.0)
    application = tailcut.ray.deployment(
        named, replicas=scaled, target_ongoing_requests=0.001, cpus=0.5, drain_s=0.0, **QUICK
    )
    with running(application) as handle:
        for name, model in named.items():
            answer = handle.options(multiplexed_model_id=name).infer.remote({"x": x}).result()
            np.testing.assert_allclose(answer["y"], truth(model, x), rtol=1e-4)
        until(lambda: are_running() == 1)
        with tailcut.Client(f"http://127.0.0.1:{port_of(models[0])}") as client:

            def ask() -> bool:
                client.infer("a", {"x": x})
                return are_running() == 2

            until(ask)
        until(lambda: are_running() == 1)


def port_of(model: Path) -> int:
    """The port of the server of a model on this machine."""
    import psutil

    return next(
        int(item.laddr.port)
        for item in psutil.net_connections("tcp")
        if item.status == psutil.CONN_LISTEN and item.pid and f"a={model}" in psutil.Process(item.pid).cmdline()
    )


def test_a_killed_replica_and_a_lost_node(cluster: Any, models: list[Path]) -> None:
    """At most the calls that were in flight there fail; Serve starts others where there is room."""
    # Three of four CPUs: each node has room for one.
    application = tailcut.ray.deployment(f"m={models[0]}", replicas=2, cpus=3.0, **QUICK)
    with running(application), tailcut.Client("ray://app", retries=Retries(limit=8)) as client:
        before = set(client.servers)
        assert len(before) == 2
        with Load(client, [models[0]]) as load:
            load.more(100)
            os.kill(listener(next(iter(before))), signal.SIGKILL)
            until(lambda: len(client.servers) == 2 and set(client.servers) != before)
            load.more(100)
            killed = len(load.failed)
            (far,) = cluster.worker_nodes
            cluster.remove_node(far, allow_graceful=False)
            until(lambda: len(client.servers) == 1)
            load.more(100)
            cluster.add_node(**NODE)
            until(lambda: len(client.servers) == 2)
            load.more(100)
        assert load.wrong == []
        assert killed <= load.threads
        assert len(load.failed) - killed <= load.threads


def listener(address: str) -> int:
    """The process that listens on a port of this machine."""
    import psutil

    port = int(address.rpartition(":")[2])
    return next(
        item.pid
        for item in psutil.net_connections("tcp")
        if item.status == psutil.CONN_LISTEN and item.laddr.port == port and item.pid
    )


SESSIONS = """
import sys, time, ray, tailcut
ray.init(log_to_driver=False)
client = tailcut.Client("ray://again")
first = client.servers
ray.shutdown()
time.sleep(2)
assert client.servers == first and not ray.is_initialized()
ray.init(log_to_driver=False)
print("back", flush=True)
sys.stdin.readline()
end = time.monotonic() + 60
while client.servers == first:
    assert time.monotonic() < end
    time.sleep(0.1)
client.close()
print(*client.servers)
"""


def test_a_client_follows_after_another_session(cluster: Any, models: list[Path]) -> None:
    """Of `ray.shutdown()` and `ray.init()`: replicas that come after that are known to it."""
    program = [sys.executable, "-c", SESSIONS]
    with running(tailcut.ray.deployment(f"m={models[0]}", cpus=0.5, drain_s=0.0, **QUICK), "again"):
        process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "back\n"
            with tailcut.Client("ray://again") as client:
                before = set(client.servers)
                os.kill(listener(client.servers[0]), signal.SIGKILL)
                until(lambda: len(client.servers) == 1 and not before & set(client.servers))
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() not in before
            assert process.wait(LIMIT_S) == 0


def test_a_rolling_update_loses_nothing(cluster: Any, models: list[Path], tmp_path: Path) -> None:
    """By the file that `tailcut ray config` writes: other weights at the same path, deployed while calls go on."""
    import yaml
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    model = tmp_path / "m.onnx"

    def deploy(content: Path) -> None:
        model.write_bytes(content.read_bytes())
        output = tmp_path / "serve.yaml"
        config = ["config", str(model), "--name", "rolled", "--route", "/rolled", "--replicas", "2"]
        command = [sys.executable, "-m", "tailcut", "ray", *config, "--cpus", "0.5", "--drain", "1s", "-o", str(output)]
        command += ["--host", "127.0.0.1"]
        subprocess.run(command, check=True)
        # What `serve deploy` sends to the dashboard, which hands it on to the controller like this.
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(yaml.safe_load(output.read_text())))

    def is_running() -> bool:
        application = serve.status().applications.get("rolled")
        return application is not None and application.status == "RUNNING"

    try:
        deploy(models[0])
        until(is_running)
        with tailcut.Client("ray://rolled") as client, Load(client, models) as load:
            before = set(client.servers)
            load.more(100)
            assert load.by_model[1] == 0
            deploy(models[1])
            until(lambda: len(client.servers) == 2 and not before & set(client.servers))
            old = load.by_model[0]
            load.more(100)
            assert load.by_model[0] <= old + load.threads
        assert (load.wrong, load.failed) == ([], [])
        assert load.by_model[1] > 0
    finally:
        serve.delete("rolled")
