"""What the manifests promise, on processes that have the manifests' own arguments and are asked by their probes."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from tests.asking import AskingThreads
from tests.engines.models import perceptron
from tests.kubernetes.manifests import (
    DEPLOY,
    Container,
    documents,
    hook_seconds,
    manifest,
    pod_of,
    running,
    seconds,
)
from tests.kubernetes.service import NOTICE_S, PAUSE_S, GrpcClients, Service
from tests.servers import TIMEOUT_S, Wire, raw_request

from tailcut.runtime.profile import Profile

ROW = bytes(16)
# A file system of which only the folders of the volumes can be written, then the user of the manifest, without rights.
CONFINED = """
set -e
for folder in "$CACHE" "$TMPDIR"; do mount --bind "$folder" "$folder"; done
mount -o remount,bind,ro /
exec setpriv --reuid="$USER_ID" --regid="$GROUP_ID" --clear-groups \\
    --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """What the volume of models holds: a model and its profile."""
    folder = tmp_path / "models"
    folder.mkdir()
    Profile.of_model(perceptron([4, 3], folder / "model.onnx")).save(folder / "model.profile.toml")
    return folder


class Clients(AskingThreads):
    """Clients that ask the servers in turn all the time, twenty requests on a connection or until it is closed."""

    def __init__(self, servers: list[Container | Service], count: int = 2) -> None:
        super().__init__(count)
        self.servers = servers  # those that a Service would send a new connection to
        self.answered: dict[int, int] = {}

    def wait_for(self, server: Container | Service, more: int = 10) -> None:
        """Until so many more requests are answered by that server."""
        wanted = self.count(server) + more
        end = time.monotonic() + TIMEOUT_S
        while self.count(server) < wanted:
            assert time.monotonic() < end, self.failed
            self._over.wait(PAUSE_S)

    def count(self, server: Container | Service) -> int:
        return self.answered.get(server.ports["http"], 0)

    def _ask(self, number: int) -> None:
        turns = itertools.count(number)
        while not self._over.is_set():
            servers = list(self.servers)
            server = servers[next(turns) % len(servers)]
            try:
                with server.connect() as wire:
                    self._use(server, wire)
            except OSError as error:
                self.failed.append(error)

    def _use(self, server: Container | Service, wire: Wire) -> None:
        """One connection, until the server closes it, or it is no longer one of those to use."""
        for _ in range(20):
            answer = wire.ask(raw_request("model", ROW))
            if answer.status != 200:
                self.failed.append(answer.status)
            with self._lock:
                self.answered[server.ports["http"]] = self.count(server) + 1
            if answer.headers.get("connection") == "close" or self._over.wait(PAUSE_S):
                return


@pytest.mark.slow
def test_a_rolling_restart_fails_no_request(models: Path, tmp_path: Path) -> None:
    """Both pods are replaced in turn while HTTP and gRPC clients ask: nothing fails.

    As the Deployment has it, a new pod is ready before an old one is deleted. A deleted pod gets no new connections
    once the nodes have noticed, and SIGTERM after its hook. A client that does not notice is answered in the drain.
    """
    deployment = manifest("kubernetes/deployment.yaml")
    pod = pod_of(deployment)
    (spec,) = pod["containers"]
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    hook_s, drain_s, grace_s = (
        hook_seconds(spec),
        seconds(spec["args"], "--drain"),
        pod["terminationGracePeriodSeconds"],
    )
    assert hook_s > NOTICE_S
    assert drain_s >= 10
    with ExitStack() as stack:
        olds = [stack.enter_context(running(spec, {"/models": models}, tmp_path)) for _ in range(2)]
        service = stack.enter_context(Service("http", "grpc"))
        for old in olds:
            old.wait_until_started()
            service.add(old)
        truth = _infer(tritonclient.grpc, f"127.0.0.1:{olds[0].ports['grpc']}", "model")
        calls = stack.enter_context(GrpcClients(service, truth))
        clients = stack.enter_context(Clients([service]))
        clients.wait_for(service, 100)
        calls.wait_for(100)
        assert [service.opened_to(old, port) > 0 for old in olds for port in service.ports] == [True] * 4

        stops, news = [], []
        for old in olds:
            new = stack.enter_context(running(spec, {"/models": models}, tmp_path))
            new.wait_until_started()
            service.add(new)
            news.append(new)
            assert len(service.endpoints) >= 2
            stops.append(stack.enter_context(_Stop(service, old, hook_s)))
        first, unaware = olds[0], stack.enter_context(Clients([olds[0]], 1))
        message = stops[0].wait()
        while first.probe("readinessProbe") != 503:
            assert time.monotonic() < message + TIMEOUT_S
        assert first.probe("livenessProbe") == 200
        before = unaware.count(first)
        while time.monotonic() < message + drain_s - 0.5:  # all that time, it makes new connections to it
            unaware.wait_for(first, 1)
        unaware.servers[:] = [service]
        assert unaware.count(first) > before + 100

        for old, stop in zip(olds, stops, strict=True):
            message = stop.wait()
            assert old.process.wait(grace_s) == 0
            assert drain_s <= time.monotonic() - message < grace_s - hook_s
            assert service.opened_to(old, since_s=message) == 0  # what had to connect anew did so elsewhere
        clients.wait_for(service, 100)
        calls.wait_for(100)
        assert all(service.opened_to(new, "http") for new in news)
        assert any(service.opened_to(new, "grpc") for new in news)
        assert clients.failed + unaware.failed + calls.failed == []


class _Stop:
    """A pod that is deleted: the hook begins at once, and SIGTERM comes after it."""

    def __init__(self, service: Service, pod: Container, hook_s: float) -> None:
        self._pod = pod
        self._told = threading.Event()
        self._told_s = 0.0
        self._timer = threading.Timer(hook_s, self._tell)
        service.delete(pod)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        self._timer.join(TIMEOUT_S)

    def wait(self) -> float:
        """When SIGTERM was sent."""
        assert self._told.wait(TIMEOUT_S)
        return self._told_s

    def _tell(self) -> None:
        self._told_s = time.monotonic()
        self._pod.process.send_signal(signal.SIGTERM)
        self._told.set()


def test_a_pod_is_ready_when_it_is_warm(models: Path, tmp_path: Path) -> None:
    """Until the startup probe succeeds nothing listens; from the first success on, inference is answered."""
    (spec,) = pod_of(manifest("kubernetes/deployment.yaml"))["containers"]
    with running(spec, {"/models": models}, tmp_path) as pod:
        seen = [pod.probe("startupProbe")]
        while seen[-1] != 200:
            assert pod.process.poll() is None, pod.log.read_text()
            time.sleep(PAUSE_S)  # it needs the CPUs to start
            seen.append(pod.probe("startupProbe"))
        with pod.connect() as wire:
            assert wire.ask(raw_request("model", ROW)).status == 200
        assert pod.probe("livenessProbe") == pod.probe("readinessProbe") == 200
        assert set(seen) == {0, 200}  # never an answer that says it is not ready, and never ready too early
        pod.process.send_signal(signal.SIGINT)
        assert pod.process.wait(TIMEOUT_S) == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter: pytest closes its own ones to others whenever a session starts."""
    with tempfile.TemporaryDirectory(prefix="tailcut-pod-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
def test_a_pod_writes_only_where_a_volume_is(models: Path, tmp_path: Path, place: Path) -> None:
    """With everything else read-only, no rights and the manifest's user, it starts without a warning and answers."""
    pod = pod_of(manifest("kubernetes/deployment.yaml"))
    (spec,) = pod["containers"]
    assert spec["securityContext"]["readOnlyRootFilesystem"]
    volumes = {item["name"]: item for item in pod["volumes"]}
    empty = [item["mountPath"] for item in spec["volumeMounts"] if "emptyDir" in volumes[item["name"]]]
    assert sorted(empty) == ["/tmp", "/var/cache/tailcut"]
    user = pod["securityContext"]
    folders = {mount: place / mount.replace("/", "_") for mount in empty}
    for folder in folders.values():
        folder.mkdir()
        shutil.chown(folder, user["runAsUser"], user["runAsGroup"])
    folders["/models"] = shutil.copytree(models, place / "models")
    for item in (folders["/models"], *folders["/models"].iterdir()):
        item.chmod(0o755)
    settings = [f"CACHE={folders['/var/cache/tailcut']}", f"TMPDIR={folders['/tmp']}", f"USER_ID={user['runAsUser']}"]
    before = ["env", *settings, f"GROUP_ID={user['runAsGroup']}", "unshare", "--mount", "sh", "-c", CONFINED, "sh"]
    try:
        check = [*before, sys.executable, "-c", "import tailcut"]
        if subprocess.run(check, capture_output=True, check=False).returncode:
            pytest.skip("no mounts can be made here, or another user cannot use this Python")
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    with running(spec, folders, tmp_path, before) as server:
        server.wait_until_started()
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert f"Uid:\t{user['runAsUser']}" in status
        assert "CapEff:\t0000000000000000" in status
        with server.connect() as wire:
            assert wire.ask(raw_request("model", ROW)).status == 200
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(TIMEOUT_S) == 0
        assert "WARNING" not in server.log.read_text().upper()
    assert any(folders["/var/cache/tailcut"].iterdir())  # the compiled kernels


# Takes 8 MiB for each line that it reads.
GROWING = "import sys\nkept = []\nfor line in sys.stdin:\n    kept.append(b'1' * (8 << 20))\n    print(flush=True)"


@contextmanager
def in_a_memory_group(*processes: int) -> Iterator[None]:
    """These processes in a control group that has little more memory than they use; skips where none can be made."""
    v1 = Path("/sys/fs/cgroup/memory")
    group = (v1 if v1.is_dir() else v1.parent) / f"tailcut-pod-{os.getpid()}"
    used = sum(psutil.Process(number).memory_info().rss for number in processes)
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text(str(used + (64 << 20)))
        for number in processes:
            (group / "cgroup.procs").write_text(str(number))
    except OSError:
        with suppress(OSError):
            group.rmdir()
        pytest.skip("no control group with a memory limit can be made here")
    try:
        yield
    finally:
        for number in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(number)
        group.rmdir()


@pytest.mark.slow
def test_a_pod_over_its_memory_limit_is_restarted(models: Path, tmp_path: Path) -> None:
    """The kernel kills it; the other pod answers all the time, and the container answers again when it is restarted."""
    (spec,) = pod_of(manifest("kubernetes/deployment.yaml"))["containers"]
    mounts, command = {"/models": models}, [sys.executable, "-c", GROWING]
    with running(spec, mounts, tmp_path) as other, running(spec, mounts, tmp_path) as killed:
        other.wait_until_started()
        killed.wait_until_started()
        Path(f"/proc/{killed.process.pid}/oom_score_adj").write_text("1000")  # it, not the other one of its group
        with (
            Clients([other]) as clients,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as growing,
        ):
            with in_a_memory_group(killed.process.pid, growing.pid):
                for _ in range(64):
                    growing.stdin.write("\n")
                    growing.stdin.flush()
                    growing.stdout.readline()
                    if killed.process.poll() is not None:
                        break
                growing.kill()
                growing.wait(TIMEOUT_S)
                assert killed.process.poll() == -signal.SIGKILL
            with running(spec, mounts, tmp_path) as restarted:
                restarted.wait_until_started()
                with restarted.connect() as wire:
                    assert wire.ask(raw_request("model", ROW)).status == 200
            clients.wait_for(other)
        assert clients.failed == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "service", documents(DEPLOY / "kserve" / "inferenceservice.yaml"), ids=lambda item: item["metadata"]["name"]
)
def test_a_runtime_serves_what_an_inference_service_names(
    service: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    """A profile, a model, and a repository in /mnt/models: over HTTP and gRPC, under the name of the service."""
    (spec,) = manifest("kserve/servingruntime.yaml")["spec"]["containers"]
    spec["args"] += service["spec"]["predictor"]["model"]["args"]  # as KServe joins them
    name = service["metadata"]["name"]
    if name == "repository":  # whose models have their own names
        name = "churn"
        (models / name / "1").mkdir(parents=True)
        (models / "model.onnx").rename(models / name / "1" / "model.onnx")
        (models / "model.profile.toml").unlink()
    with running(spec, {"/mnt/models": models}, tmp_path) as server:
        server.wait_until_started()
        answers = [
            _infer(protocol, f"127.0.0.1:{server.ports[port]}", name)
            for protocol, port in ((tritonclient.http, "http1"), (tritonclient.grpc, "h2c"))
        ]
        assert np.array_equal(*answers)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(TIMEOUT_S) == 0


def _infer(protocol: ModuleType, address: str, model: str) -> np.ndarray:
    """The answer that NVIDIA's client of a protocol gets."""
    with protocol.InferenceServerClient(address) as client:
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        tensor = protocol.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
        return client.infer(model, [tensor]).as_numpy("y")
