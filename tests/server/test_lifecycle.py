"""From start to stop: what SIGTERM does, what a taken port or bad file is told, and what a client that leaves costs."""

import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.servers import TIMEOUT_S, completed, raw_request, serving

from tailcut.engines.base import EngineOptions
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

ROW = np.arange(4, dtype=np.float32).tobytes()
READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"


def test_sigterm_drains(models: Path, tmp_path: Path) -> None:
    """Readiness off, new connections still answered and told to close, then exit 0."""
    with serving(tmp_path, models / "mlp.onnx", "--drain", "1s") as server, server.connect() as early:
        assert early.ask(raw_request("mlp", ROW)).status == 200
        server.process.send_signal(signal.SIGTERM)
        status = 200
        while status == 200:
            with server.connect() as probe:
                status = probe.ask(READY).status
        assert status == 503
        with server.connect() as late:
            answer = late.ask(raw_request("mlp", ROW))
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
        answer = early.ask(raw_request("mlp", ROW))
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert server.process.wait(TIMEOUT_S) == 0


def test_a_second_sigterm_exits_at_once(models: Path, tmp_path: Path) -> None:
    """Nobody waits out a minute of draining who asks twice."""
    with serving(tmp_path, models / "mlp.onnx", "--drain", "60s") as server:
        server.process.send_signal(signal.SIGTERM)
        while True:
            with server.connect() as probe:
                if probe.ask(READY).status == 503:
                    break
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT_S) == 1


def test_no_request_is_lost_on_the_way_down(models: Path, tmp_path: Path) -> None:  # noqa: C901  one story
    """A client that could connect is answered, with `Connection: close`; a later one is refused, never reset."""
    failures: list[str] = []
    answered = [0]
    with serving(tmp_path, models / "mlp.onnx", "--drain", "300ms") as server:
        stop = threading.Event()

        def client() -> None:
            while not stop.is_set():
                try:
                    wire = server.connect()
                except OSError:
                    return
                with wire:
                    while True:
                        try:
                            answer = wire.ask(raw_request("mlp", ROW))
                        except ConnectionError:
                            failures.append("an idle connection was closed under a request")
                            break
                        answered[0] += 1
                        if answer.status != 200:
                            failures.append(str(answer.status))
                        if answer.headers.get("connection") == "close":
                            break

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        while answered[0] < 200:
            threads[0].join(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT_S) == 0
        stop.set()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert answered[0] > 200
    assert failures == []


def test_a_taken_port(models: Path, tmp_path: Path) -> None:
    """Exit 2 and one line that names it and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = completed(tmp_path, "serve", models / "mlp.onnx", "--port", str(port))
    assert done.returncode == 2
    assert f"127.0.0.1:{port}: Address already in use; port 0 takes one that is free" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--deadline", "30", "--deadline 30: 30ms or 30s?"),
        ("--slo", "20", "--slo 20: 20ms or 20s?"),
        ("--slo", "0ms", "--slo must be greater than 0, not 0ms"),
    ],
)
def test_times_of_requests_need_a_unit(
    models: Path, refusal: Callable[..., str], option: str, value: str, words: str
) -> None:
    """Exit 2 and one line that shows both meanings."""
    assert refusal(models / "mlp.onnx", option, value) == f"tailcut: {words}\n"


@pytest.mark.parametrize("fault", ["missing", "empty", "random", "truncated", "text", "flipped"])
def test_bad_model_files(models: Path, tmp_path: Path, refusal: Callable[..., str], fault: str) -> None:
    """Exit 2 and one line that names the file."""
    path = tmp_path / f"{fault}.onnx"
    whole = (models / "mlp.onnx").read_bytes()
    content = {
        "empty": b"",
        "random": np.random.default_rng(0).bytes(5000),
        "truncated": whole[: len(whole) // 2],
        "text": b"not a model\n",
        "flipped": bytes(byte ^ 0x80 for byte in whole[:32]) + whole[32:],
    }
    if fault in content:
        path.write_bytes(content[fault])
    text = refusal(path)
    assert path.name in text
    assert len(text.strip().splitlines()) == 1
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("schema = [", "not a readable profile"),
        ("a = 1", "schema"),
        ("schema = 99", "newer"),
        (
            'schema = 2\n[model]\npath = "m.onnx"\nsha256 = "0"\nname = "m"\n[settings.engine]\nthreads = "two"',
            "threads",
        ),
        (
            'schema = 2\n[model]\npath = "m.onnx"\nsha256 = "0"\nname = "m"\n[settings.batching]\nmax_batch_size = 0',
            "max_batch_size",
        ),
        ('schema = 2\n[model]\npath = "m.onnx"\nsha256 = "0"\nname = "m"', "another SHA-256"),
    ],
)
def test_bad_profiles(tmp_path: Path, refusal: Callable[..., str], content: str, reason: str) -> None:
    """Exit 2 and one line that says what is wrong with it."""
    perceptron([4, 3], tmp_path / "m.onnx")
    path = tmp_path / "p.toml"
    path.write_text(content)
    text = refusal(path)
    assert reason in text
    assert len(text.strip().splitlines()) == 1


def test_two_models_need_two_names(models: Path, refusal: Callable[..., str]) -> None:
    """Told so, and how to rename one."""
    assert "NAME=FILE" in refusal(models / "mlp.onnx", models / "mlp.onnx")


def test_two_models_and_a_unix_socket(models: Path, tmp_path: Path) -> None:
    """Renamed models answer under their names, over TCP and the Unix socket, whose file is gone afterwards."""
    uds = tmp_path / "s.sock"
    with serving(tmp_path, f"a={models / 'mlp.onnx'}", f"b={models / 'mlp.onnx'}", "--uds", str(uds)) as server:
        from tests.servers import Wire

        with server.connect() as wire:
            item = wire.ask(raw_request("a", ROW))
        unix = socket.socket(socket.AF_UNIX)
        unix.connect(str(uds))
        with Wire(unix) as wire:
            other = wire.ask(raw_request("b", ROW))
        assert item.status == other.status == 200
        assert item.body[-12:] == other.body[-12:]
        assert server.stop() == 0
    assert not uds.exists()


def test_overload_is_refused_at_once(models: Path, tmp_path: Path) -> None:
    """With a queue of two rows, a burst gets answers and 503 with Retry-After only, and the next one passes."""
    with serving(tmp_path, models / "echo.onnx", "--queue", "2", "--max-batch-size", "1") as server:
        wires = [server.connect() for _ in range(64)]
        request = raw_request("echo", bytes(4000))
        statuses: list[int] = []
        for _ in range(20):
            for wire in wires:
                wire.send(request)
            for wire in wires:
                answer = wire.read()
                statuses.append(answer.status)
                if answer.status == 503:
                    assert int(answer.headers["retry-after"]) >= 0  # whole seconds
                    assert int(answer.headers["retry-after-ms"]) >= 1
        assert set(statuses) <= {200, 503}
        assert 200 in statuses
        for wire in wires:
            wire.sock.close()
        with server.connect() as wire:
            assert wire.ask(request).status == 200
        assert server.stop() == 0


@pytest.mark.parametrize("folder", ["nowhere", pytest.param("file", marks=pytest.mark.slow)])
def test_a_unix_socket_that_cannot_be(models: Path, tmp_path: Path, folder: str) -> None:
    """No such folder, or a file in its place: exit 2 and one line that names the socket."""
    (tmp_path / "file").touch()
    done = completed(tmp_path, "serve", models / "mlp.onnx", "--port", "0", "--uds", tmp_path / folder / "s.sock")
    assert done.returncode == 2
    assert "s.sock" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_profile_of_another_machine_is_served(models: Path, tmp_path: Path) -> None:
    """With a warning, and with no more threads than there are CPUs."""
    settings = Settings(engine=EngineOptions(threads=512))
    profile = Profile.of_model(models / "mlp.onnx", settings)
    msgspec.structs.replace(profile, machine={"cpu": "of long ago"}).save(tmp_path / "p.toml")
    with serving(tmp_path, tmp_path / "p.toml") as server:
        with server.connect() as wire:
            assert wire.ask(raw_request("mlp", ROW)).status == 200
        assert server.stop() == 0
        warnings = [line for line in server.stderr.read_text().splitlines() if line.startswith("WARNING")]
        assert "another machine" in warnings[0]
        assert "threads" in " ".join(warnings[1:])


def test_every_limit_is_an_option(models: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    """And a wrong one is told."""
    limits = ["--max-body", "1", "--max-buffered", "8", "--max-connections", "9", "--queue", "64", "--deadline", "9s"]
    limits += ["--head-timeout", "9s", "--body-timeout", "9s", "--write-timeout", "9s", "--idle-timeout", "9s"]
    limits += ["--write-rate", "9"]
    with serving(tmp_path, models / "mlp.onnx", *limits, "--drain", "9s") as server:
        with server.connect() as wire:
            assert wire.ask(raw_request("mlp", ROW)).status == 200
        assert server.stop() == 0
    assert "soon" in refusal(models / "mlp.onnx", "--write-timeout", "soon")
