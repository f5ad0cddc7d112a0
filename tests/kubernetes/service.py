"""A Kubernetes Service, one address for the ready pods, and clients that keep their connections."""

import asyncio
import itertools
import socket
import threading
import time
from dataclasses import dataclass
from typing import Self

import numpy as np
import tritonclient.grpc
from tests.asking import AskingThreads
from tests.kubernetes.manifests import Container
from tests.servers import TIMEOUT_S, Wire

PROBE_S = 0.1
NOTICE_S = 1.0  # from a pod's deletion until nodes no longer send it new connections
PAUSE_S = 0.01  # between two requests of a client


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection that was given to a pod."""

    pod: int  # the id of its process
    port: str
    at_s: float


class Service:
    """An address for each port of the pods, as kube-proxy makes it.

    A new connection goes to the pods in turn, of those whose readiness probe succeeds and that are not deleted. A
    connection stays where it is until one end closes it.
    """

    def __init__(self, *ports: str) -> None:
        self.ports: dict[str, int] = {}
        self.opened: list[Opened] = []
        self.endpoints: list[Container] = []
        self._names = ports
        self._turns = {name: itertools.count() for name in ports}
        self._pods: list[Container] = []
        self._started = threading.Event()
        self._over = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(TIMEOUT_S)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    def add(self, pod: Container) -> None:
        """Add a pod, which gets connections once it is ready; returns when it is."""
        self._pods.append(pod)
        end = time.monotonic() + TIMEOUT_S
        while pod not in self.endpoints:
            assert time.monotonic() < end
            time.sleep(PROBE_S)

    def delete(self, pod: Container) -> None:
        """Delete a pod, which gets no new connections once the nodes have noticed."""
        self._loop.call_soon_threadsafe(self._loop.call_later, NOTICE_S, self._pods.remove, pod)

    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.ports["http"]), TIMEOUT_S))

    def opened_to(self, pod: Container, port: str = "", since_s: float = 0.0) -> int:
        """The number of connections that a pod was given."""
        return sum(
            item.pod == pod.process.pid and port in {"", item.port} and item.at_s >= since_s for item in self.opened
        )

    async def _run(self) -> None:
        servers = []
        for name in self._names:
            server = await asyncio.start_server(self._forwarded_to(name), "127.0.0.1", 0)
            self.ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
        self._started.set()
        while not self._over.is_set():
            pods = list(self._pods)
            result = [await asyncio.to_thread(pod.probe, "readinessProbe") for pod in pods]
            self.endpoints[:] = [pod for pod, status in zip(pods, result, strict=True) if status == 200]
            await asyncio.sleep(PROBE_S)
        for server in servers:
            server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _forwarded_to(self, name: str) -> "asyncio.streams._ClientConnectedCallback":
        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            pods = list(self.endpoints)
            if not pods:
                writer.close()
                return
            pod = pods[next(self._turns[name]) % len(pods)]
            self.opened.append(Opened(pod.process.pid, name, time.monotonic()))
            try:
                theirs = await asyncio.open_connection("127.0.0.1", pod.ports[name])
            except OSError:
                writer.close()
            else:
                await asyncio.gather(_copy(reader, theirs[1]), _copy(theirs[0], writer))

        return forward


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class GrpcClients(AskingThreads):
    """NVIDIA's clients of gRPC, each with one channel that it keeps, and which connects anew when it has to."""

    def __init__(self, service: Service, truth: np.ndarray, count: int = 2) -> None:
        super().__init__(count)
        self.answered = 0
        self._address = f"127.0.0.1:{service.ports['grpc']}"
        self._truth = truth

    def wait_for(self, more: int) -> None:
        """Wait until this many more requests are answered."""
        wanted, end = self.answered + more, time.monotonic() + TIMEOUT_S
        while self.answered < wanted:
            assert time.monotonic() < end, self.failed
            self._over.wait(PAUSE_S)

    def _ask(self, number: int) -> None:
        own = [("grpc.use_local_subchannel_pool", 1)]  # or channels to one address share a connection
        tensor = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
        with tritonclient.grpc.InferenceServerClient(self._address, channel_args=own) as client:
            while not self._over.wait(PAUSE_S):
                try:
                    answer = client.infer("model", [tensor], client_timeout=TIMEOUT_S).as_numpy("y")
                except tritonclient.grpc.InferenceServerException as error:
                    self.failed.append(error)
                    continue
                if not np.array_equal(answer, self._truth):
                    self.failed.append(answer)
                with self._lock:
                    self.answered += 1
