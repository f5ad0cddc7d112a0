"""systemd is notified when a server is ready, so that `systemctl start` can wait for it."""

import socket
from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.servers import TIMEOUT_S, serving

from tailcut.cli.serving.readiness import tell_systemd


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_systemd_is_notified_when_the_server_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    """Once, by the process that it started, with one process and with several."""
    perceptron([4, 3], tmp_path / "m.onnx")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(TIMEOUT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with serving(tmp_path, tmp_path / "m.onnx", "--workers", workers) as server:
            assert systemd.recv(100) == b"READY=1"
            with server.connect() as wire:
                assert wire.ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
            assert server.stop() == 0
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            systemd.recv(100)


def test_warming_up_delays_readiness_no_longer_than_asked_for(tmp_path: Path) -> None:
    """The log says for which batch sizes there was no time, and requests are answered."""
    path = perceptron([4, 3], tmp_path / "m.onnx")
    with serving(tmp_path, path, "--no-auto", "--warm-up", "1us") as server:
        with server.connect() as wire:
            body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}'
            head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            assert wire.ask(head.encode() + body).status == 200
        assert server.stop() == 0
    assert "m: warm-up took over 0 s and ended before 6 of its 6 batch sizes" in server.stderr.read_text()


def test_an_abstract_socket_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd may name a socket that is in no file system; without a name, or with a strange one, nothing happens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")  # the kernel chooses a name
        name = systemd.getsockname()
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name[1:].decode())
        tell_systemd()
        assert systemd.recv(100) == b"READY=1"
    for name in ("", "relative", "/missing/socket"):
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        tell_systemd()
