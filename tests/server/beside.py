"""Measures how long a good client waits beside hostile ones, as far as the server's event loop causes it."""

import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.server.hostile import Hostile
from tests.servers import Server

_PIECE = 256 * 1024


def loop_cpu_ns(server: Server) -> int:
    """CPU time of the server's first thread, which runs the event loop (Linux)."""
    return int(Path(f"/proc/{server.process.pid}/task/{server.process.pid}/schedstat").read_text().split()[0])


class GoodClient:
    """Repeats a request on one connection, `rate` times per second, or without pause if `rate` is 0."""

    def __init__(self, server: Server, request: bytes, rate: float = 0.0) -> None:
        self._server = server
        self._request = request
        self._gap_s = 1 / rate if rate else 0.0
        self._sock = socket.create_connection((server.host, server.port), 60)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wrong = 0  # answers with another body than the first
        with server.connect() as wire:
            self._body = wire.ask(request).body
        self._sock.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(self._body):
            answer += self._sock.recv(65536)
        self._size = len(answer)

    def close(self) -> None:
        self._sock.close()

    def longest_wait_s(self, until: threading.Event) -> float:
        """The longest wait for an answer until then, or what the loop's thread has computed meanwhile if that is less.

        Time that other processes take from either side is not the server's fault.
        """
        longest, due = 0.0, time.perf_counter()
        while True:
            cpu_ns, began = loop_cpu_ns(self._server), time.perf_counter()
            self._ask()
            waited = time.perf_counter() - began
            longest = max(longest, min(waited, (loop_cpu_ns(self._server) - cpu_ns) / 1e9))
            if until.is_set():
                return longest
            due = max(due + self._gap_s, time.perf_counter())
            until.wait(due - time.perf_counter())

    def _ask(self) -> None:
        self._sock.sendall(self._request)
        answer = b""
        while len(answer) < self._size:
            piece = self._sock.recv(65536)
            if not piece:
                raise ConnectionError("the server closed the good client's connection")
            answer += piece
        self.wrong += not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n" + self._body))


def wait_beside_s(server: Server, client: GoodClient, hostile: Hostile, *, limit_s: float, quiet_s: float) -> float:
    """The good client's longest wait while the hostile input is sent and answered, for `limit_s` at most."""
    done = threading.Event()
    sender = threading.Thread(target=_send, args=(server, hostile, done, limit_s, quiet_s))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)  # the sender must not keep the client from looking at its answer
    sender.start()
    try:
        return client.longest_wait_s(done)
    finally:
        done.set()
        sender.join()
        sys.setswitchinterval(interval)


def _send(server: Server, hostile: Hostile, done: threading.Event, limit_s: float, quiet_s: float) -> None:
    """Send, and read the answers, until the server has closed all connections or sent nothing for `quiet_s`."""
    end = time.monotonic() + limit_s
    port = server.grpc_port if hostile.grpc else server.port
    try:
        with ExitStack() as stack:
            left: dict[socket.socket, memoryview] = {}
            for _ in range(hostile.connections):
                sock = stack.enter_context(socket.create_connection((server.host, port), 5))
                sock.setblocking(False)
                left[sock] = memoryview(hostile.data)
            heard = time.monotonic()
            while left and time.monotonic() < end and not done.is_set():
                if _exchange(left):
                    heard = time.monotonic()
                elif not any(left.values()) and time.monotonic() - heard > quiet_s:
                    return
                else:
                    done.wait(0.0005)
    except OSError:
        return
    finally:
        done.set()


def _exchange(left: dict[socket.socket, memoryview]) -> bool:
    """Send part of what is `left` on each connection, and read; whether any bytes moved."""
    moved = False
    for sock, data in list(left.items()):
        try:
            with suppress(BlockingIOError):
                if data:
                    left[sock] = data[sock.send(data[:_PIECE]) :]
                    moved = True
            with suppress(BlockingIOError):
                if sock.recv(_PIECE):
                    moved = True
                else:
                    del left[sock]
        except ConnectionError:
            del left[sock]
    return moved
