"""A peer that does on each connection what a test has written down, well-behaved or not."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import orjson

TIMEOUT_S = 20.0
HOLD = b"hold"  # answer nothing and wait for the client to go
X = {"x": np.arange(4, dtype=np.float32)}


def reply(status: int, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def good(value: float = 1.0) -> bytes:
    """An answer with one output `y` of one number."""
    lead = orjson.dumps(
        {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}]}
    )
    body = lead + np.float32([value]).tobytes()
    return reply(200, body, f"Inference-Header-Content-Length: {len(lead)}")


class Unasked(bytes):
    """Sent between two requests, when the test calls `Peer.send_unasked`."""


BUSY = reply(503, b'{"error": "full"}', "Retry-After: 0")


@dataclass
class Peer:
    url: str
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    gone: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))  # released when a client has left
    wanted: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    sent: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def send_unasked(self) -> None:
        """Have the next `Unasked` bytes sent, and wait until they are."""
        self.wanted.release()
        assert self.sent.acquire(timeout=TIMEOUT_S)


@contextmanager
def peer(*connections: Sequence[bytes]) -> Iterator[Peer]:
    """Listen; on the n-th connection, answer each request by the next of its entries, and close behind the last.

    `Unasked` entries answer none.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        result = Peer(f"http://127.0.0.1:{listener.getsockname()[1]}")

        def run() -> None:
            threads = []
            for answers in connections:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    break
                result.connections += 1
                threads.append(threading.Thread(target=_talk, args=(sock, answers, result)))
                threads[-1].start()
            for thread in threads:
                thread.join(TIMEOUT_S)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield result
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT_S)


def _talk(sock: socket.socket, answers: Sequence[bytes], result: Peer) -> None:
    with sock:
        sock.settimeout(TIMEOUT_S)
        for answer in answers:
            if isinstance(answer, Unasked):
                assert result.wanted.acquire(timeout=TIMEOUT_S)
                sock.sendall(answer)
                result.sent.release()
                continue
            try:
                request = _read(sock)
            except ConnectionResetError:  # it left without having read all
                request = b""
            if not request:  # the client has left
                result.gone.release()
                return
            result.requests.append(request)
            if answer == HOLD:
                while sock.recv(1 << 16):
                    pass
                result.gone.release()
                return
            sock.sendall(answer)


def _read(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(1 << 16)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    left = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
    while left > 0:
        piece = sock.recv(left)
        data += piece
        left -= len(piece)
    return data
