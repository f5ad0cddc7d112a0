"""The configuration of haproxy; the real program checks it where it is installed."""

import http.client
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tailcut.client.requests import ServerAddress
from tailcut.errors import UsageError
from tailcut.ray.haproxy import Front, haproxy_config

REPLICAS = [ServerAddress("127.0.0.1", 4001), ServerAddress("10.0.0.2", 4002), ServerAddress("fd00::1", 4003)]
PROGRAM = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


def test_one_line_for_each_replica() -> None:
    """Each has a name of its own that stays the same when others come and go."""
    text = haproxy_config(REPLICAS, Front("127.0.0.1:80", "/s.sock"))
    servers = [line.split() for line in text.splitlines() if line.strip().startswith("server ")]
    assert servers == [
        ["server", "r-127.0.0.1-4001", "127.0.0.1:4001"],
        ["server", "r-10.0.0.2-4002", "10.0.0.2:4002"],
        ["server", "r-fd00--1-4003", "[fd00::1]:4003"],
    ]
    assert "balance random(2)" in text
    assert haproxy_config(REPLICAS[1:], Front("127.0.0.1:80", "/s.sock")).splitlines()[-2:] == text.splitlines()[-2:]


def test_replicas_with_tls_are_checked() -> None:
    """Against a file that has to be named."""
    secure = [ServerAddress("h", 1, tls=True)]
    with pytest.raises(UsageError, match=r"h:1 uses TLS.*--ca FILE"):
        haproxy_config(secure, Front("127.0.0.1:80", "/s.sock"))
    text = haproxy_config(secure, Front("127.0.0.1:80", "/s.sock", ca="/ca.pem"))
    assert "server r-h-1 h:1 ssl verify required ca-file /ca.pem" in text


@pytest.mark.parametrize("bind", ["127.0.0.1:80\n    bind :22", "a b", 'x"', "x#"])
def test_nothing_else_comes_into_the_file(bind: str) -> None:
    """An address with a space or a line's end would be more than one word."""
    with pytest.raises(UsageError, match="cannot be used in haproxy's configuration"):
        Front(bind, "/s.sock")


def replica(*, dies: bool) -> socket.socket:
    """A server that answers what it has received, or closes the connection instead, as a process that is killed."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with suppress(ConnectionError), connection, connection.makefile("rb") as stream:
            while (line := stream.readline()) and (dies is False or b"health" in line):
                size = 0
                while (field := stream.readline().lower()).strip():
                    size = int(field.split(b":")[1]) if field.startswith(b"content-length") else size
                stream.read(size)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


@pytest.mark.skipif(PROGRAM is None, reason="haproxy is not installed")
@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_request_whose_replica_dies_goes_to_another(tmp_path: Path, size: int) -> None:
    """A body in a segment of its own, too, and one of 100 KB."""
    with replica(dies=True) as bad, replica(dies=False) as good, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        addresses = [ServerAddress(*item.getsockname()) for item in (bad, good)]
        text = haproxy_config(addresses, Front(f"127.0.0.1:{port}", str(tmp_path / "s.sock")))
        config = tmp_path / "haproxy.cfg"
        # Without its observation of the replica that fails, which would be asked no more.
        config.write_text(text.replace(" observe layer4 error-limit 2 on-error mark-down", ""))
        with subprocess.Popen([PROGRAM, "-db", "-f", config]) as process:
            try:
                end = time.monotonic() + 30
                while socket.socket().connect_ex(("127.0.0.1", port)):
                    assert time.monotonic() < end
                    time.sleep(0.05)
                for _ in range(20):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                    connection.request("POST", "/v2/models/m/infer", bytes(size))
                    assert connection.getresponse().status == 200
                    connection.close()
            finally:
                process.terminate()


@pytest.mark.skipif(PROGRAM is None, reason="haproxy is not installed")
@pytest.mark.parametrize("replicas", [[], REPLICAS], ids=["none", "some"])
def test_haproxy_takes_it(tmp_path: Path, replicas: list[ServerAddress]) -> None:
    """Without a word of warning."""
    config = tmp_path / "haproxy.cfg"
    config.write_text(haproxy_config(replicas, Front("127.0.0.1:18080", str(tmp_path / "s.sock"))))
    result = subprocess.run([PROGRAM, "-c", "-f", config], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr.lower()
