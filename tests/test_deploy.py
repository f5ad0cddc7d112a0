"""The files for deployment: units as systemd reads them, and nginx's configuration under load."""

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.asking import AskingThreads
from tests.engines.models import perceptron
from tests.servers import TIMEOUT_S, serving

DEPLOY = Path(__file__).parent.parent / "deploy"
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/tailcut.conf;
}}
"""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["tailcut.service", "tailcut@.service", "tailcut-release@.service"])
def test_systemd_finds_nothing_wrong_with_the_unit(name: str, tmp_path: Path) -> None:
    """With the command in the place where this machine has Python, there is no warning."""
    unit = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
    command = "/opt/tailcut-%i/bin/tailcut" if "@" in name else "/opt/tailcut/bin/tailcut"
    assert f"ExecStart={command} serve " in unit
    copy = tmp_path / name.replace("@", "@8001")
    copy.write_text(unit.replace(command, sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if copy.name in line] == []
    assert done.returncode == 0


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed: on Debian, apt install nginx-light")
@pytest.mark.slow
def test_a_server_behind_nginx_is_replaced_without_a_failed_request(tmp_path: Path) -> None:
    """One server stops, the other one answers, and the first returns with another model, under load throughout."""
    old, new = perceptron([4, 3], tmp_path / "mlp.onnx"), perceptron([4, 5], tmp_path / "mlp.new.onnx")
    with serving(tmp_path, old, "--drain", "500ms") as first, serving(tmp_path, old) as second:
        with _nginx(tmp_path, first.port, second.port) as port, _Clients(port) as clients:
            clients.see(3)
            first.process.send_signal(signal.SIGTERM)
            assert first.process.wait(TIMEOUT_S) == 0
            clients.see(3)
            with serving(tmp_path, new, port=first.port):
                clients.see(5)
        assert clients.failed == []
        assert second.stop() == 0


class _Clients(AskingThreads):
    """Two threads that ask through the proxy without a pause, each on a connection that it keeps open."""

    def __init__(self, port: int) -> None:
        super().__init__(2)
        self._port = port
        self._seen: list[int] = []

    def see(self, outputs: int) -> None:
        """Wait for twenty answers in a row of that width."""
        end, start = time.monotonic() + TIMEOUT_S, len(self._seen)
        while set(self._seen[-20:]) != {outputs} or len(self._seen) < start + 20:
            assert time.monotonic() < end, (self._seen[-20:], self.failed)
            self._over.wait(0.01)

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        head = {"Inference-Header-Content-Length": "0"}
        while not self._over.is_set():
            try:
                connection.request("POST", "/v2/models/mlp/infer", bytes(16), head)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(error)
                connection.close()
                continue
            if answer.status == 200:
                self._seen.append((len(body) - int(answer.headers["Inference-Header-Content-Length"])) // 4)
            else:
                self.failed.append((answer.status, body))


@contextmanager
def _nginx(folder: Path, first: int, second: int) -> Iterator[int]:
    """The repository's configuration with these servers, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = (DEPLOY / "nginx" / "tailcut.conf").read_text(encoding="utf-8")
    for usual, here in (("8001", first), ("8002", second), ("8000", port)):
        assert text.count(f"127.0.0.1:{usual}") == 1
        text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{here}")
    (folder / "tailcut.conf").write_text(text)
    main = folder / "nginx.conf"
    main.write_text(NGINX.format(folder=folder))
    command = ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(main)]
    assert subprocess.run([*command, "-t"], capture_output=True, check=False).returncode == 0
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.01)
        yield port
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(TIMEOUT_S)


def test_the_image_has_what_it_copies_and_no_root() -> None:
    """Each copied file exists and is not ignored; the last stage names its user by a number, as Kubernetes wants it."""
    root = DEPLOY.parent
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in (root / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    ]
    assert [name for name in copied if not (root / name).exists() or name not in allowed] == []
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    users = [line.split()[1] for line in last if line.startswith("USER ")]
    assert users
    assert all(user.isdecimal() and int(user) for user in users)
