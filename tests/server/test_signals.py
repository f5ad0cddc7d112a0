"""SIGHUP and SIGUSR1 with one worker and with two, and what else belongs to the process: its address and its token."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.servers import TIMEOUT_S, Answer, Server, Wire, raw_request, serving, steady_clients, until

from tailcut.cli.serving.needs import read_token
from tailcut.errors import UsageError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

BODY = bytes(16)


def follow(server: Server, words: str, times: int = 1) -> None:
    """Wait until the server has logged some words so often."""
    until(lambda: server.stderr.read_text().count(words) >= times, server)


def outputs(server: Server) -> int:
    """The width of the model's answer."""
    with server.connect() as wire:
        answer = wire.ask(raw_request("mlp", BODY))
    return (len(answer.body) - int(answer.headers["inference-header-content-length"])) // 4


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sighup_reads_everything_anew_and_loses_nothing(tmp_path: Path, workers: int) -> None:
    """The model of a changed file answers, a file that does not load changes nothing, and no request fails."""
    path = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    token = tmp_path / "token"
    token.write_text("old")
    token.chmod(0o600)
    flags = ["--workers", str(workers), "--token-file", str(token)]
    with serving(tmp_path, path, *flags) as server:
        assert outputs(server) == 3
        perceptron([4, 8, 5], path)
        token.write_text("new")
        with steady_clients(raw_request("mlp", BODY), server.connect) as wrong:
            server.process.send_signal(signal.SIGHUP)
            until(lambda: outputs(server) == 5, server)
            if workers > 1:
                follow(server, "was replaced", workers)
            else:
                follow(server, "mlp: loaded: file changed")
        assert wrong == []
        path.write_bytes(b"rubbish")
        if workers == 1:
            with server.connect() as wire:
                for word, status in (("old", 401), ("new", 400)):
                    head = f"POST /v2/repository/models/mlp/load HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {word}"
                    assert wire.ask(f"{head}\r\nContent-Length: 0\r\n\r\n".encode()).status == status
        server.process.send_signal(signal.SIGHUP)
        unchanged = "ERROR mlp: not loaded: " if workers == 1 else "ERROR a new worker 0 could not start: the old ones"
        follow(server, unchanged)
        assert outputs(server) == 5
        assert server.stop() == 0


def test_the_token_alone_reloads_no_model(tmp_path: Path) -> None:
    """Models are loaded anew where one has changed, too, or could not be loaded the last time."""
    profile, token = tuned(tmp_path), tmp_path / "token"
    token.write_text("first")
    token.chmod(0o600)

    def status(word: str) -> int:
        with server.connect() as wire:
            return wire.ask(raw_request("mlp", BODY, f"Authorization: Bearer {word}")).status

    def renew(word: str, words: str, times: int = 1) -> None:
        token.write_text(word)
        server.process.send_signal(signal.SIGHUP)
        follow(server, words, times)
        until(lambda: status(word) == 200, server)

    with serving(tmp_path, profile, "--token-file", str(token), "--require-token") as server:
        renew("second", "no model has changed: all models are kept")
        assert status("first") == 401
        assert "loaded" not in server.stderr.read_text()
        tuned(tmp_path, outputs=5)
        renew("third", "mlp: loaded: file changed")
        renew("fourth", "no model has changed", 2)
        perceptron([4, 9, 5], tmp_path / "mlp.onnx")  # which is not the profile's
        renew("fifth", "mlp: not loaded: ")
        renew("sixth", "mlp: not loaded: ", 2)
        assert server.stop() == 0


SLOW = """
import os, time
from pathlib import Path
from tailcut import Pipeline, stage

Path(__file__).with_name("begun").write_text(f"{os.getpid()} ")
while not Path(__file__).with_name("go").exists():
    time.sleep(0.01)


@stage(inputs={"x": "FP32"}, outputs={"y": "FP32"}, threads=True)
def same(x):
    return x


pipeline = Pipeline("p", [same])
"""


def test_a_sighup_while_models_are_loaded_is_answered_afterwards(tmp_path: Path) -> None:
    """What it asks for may have changed after it was read; it does not end the server either."""
    (tmp_path / "p.py").write_text(SLOW)

    def hang_up() -> None:
        begun, end = tmp_path / "begun", time.monotonic() + TIMEOUT_S
        while not (begun.exists() and begun.read_text().endswith(" ")) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(int(begun.read_text()), signal.SIGHUP)
        (tmp_path / "go").touch()

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        logs = tmp_path / "logs"
        logs.mkdir()
        with serving(logs, f"{tmp_path}/p.py:pipeline") as server:
            follow(server, "reloading all models")
            follow(server, "p: loaded\n")
            assert server.stop() == 0
    finally:
        (tmp_path / "go").touch()
        thread.join()


def load_answer(server: Server) -> Answer:
    """The answer to a client that loads the model."""
    with server.connect() as wire:
        return wire.ask(b"POST /v2/repository/models/mlp/load HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")


def tuned(folder: Path, outputs: int = 3) -> Path:
    """A profile that records its model's inputs and outputs, as a tune writes it."""
    path = perceptron([4, 8, outputs], folder / "mlp.onnx")
    Profile.of_model(path).with_signature().save(folder / "mlp.profile.toml")
    return folder / "mlp.profile.toml"


def test_a_changed_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    """SIGHUP reads the profile anew, too; log and answer name the files, and the answer no folder."""
    profile = tuned(tmp_path)
    with serving(tmp_path, profile, "--allow-model-control") as server:
        perceptron([4, 9, 3], tmp_path / "mlp.onnx")
        server.process.send_signal(signal.SIGHUP)
        reason = "mlp.onnx has another SHA-256 than mlp.profile.toml: "
        follow(server, f"mlp: not loaded: {tmp_path}/mlp.onnx: {reason}")
        assert "; the old version still answers" in server.stderr.read_text()
        answer = load_answer(server)
        assert answer.status == 400
        assert answer.json()["error"].startswith(f"failed to load 'mlp': {reason}")
        assert str(tmp_path) not in answer.json()["error"]
        tuned(tmp_path, outputs=5)
        server.process.send_signal(signal.SIGHUP)
        follow(server, "mlp: loaded: file changed")
        assert outputs(server) == 5
        assert server.stop() == 0


def test_a_profile_that_was_tuned_again_is_recognised(tmp_path: Path) -> None:
    """The model's file is the same in both cases: the line says whether there are other settings."""
    profile = tuned(tmp_path)
    with serving(tmp_path, profile) as server:
        server.process.send_signal(signal.SIGHUP)
        follow(server, "mlp: loaded: file unchanged")
        retuned = Settings(batching=BatchingSettings(max_batch_size=7))
        Profile.of_model(tmp_path / "mlp.onnx", retuned).with_signature().save(profile)
        server.process.send_signal(signal.SIGHUP)
        follow(server, "mlp: loaded: profile changed")


def test_a_changed_model_is_accepted_where_it_has_the_same_signature(tmp_path: Path) -> None:
    """With a warning that its figures are not proven; with other outputs it is refused, and the old one answers."""
    profile = tuned(tmp_path)
    perceptron([4, 9, 3], tmp_path / "mlp.onnx")
    with serving(tmp_path, profile, "--accept-model-change", "--allow-model-control") as server:
        words = "mlp.onnx is not the file that mlp.profile.toml was measured on: its figures are not proven for it"
        assert words in server.stderr.read_text()
        perceptron([4, 8, 5], tmp_path / "mlp.onnx")
        answer = load_answer(server)
        assert answer.status == 400
        assert "it lacks output y FP32 [-1, 3]; it also has output y FP32 [-1, 5]" in answer.json()["error"]
        assert outputs(server) == 3
        assert server.stop() == 0


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def everywhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on all addresses, of one worker and of two."""
    folder = tmp_path_factory.mktemp("everywhere")
    path = perceptron([4, 8, 3], folder / "mlp.onnx")
    with serving(folder, path, "--workers", str(request.param), "--host", "::") as server:
        yield server
        assert server.stop() == 0


def test_all_addresses_are_those_of_both_families(everywhere: Server) -> None:
    """`--host ::` answers over IPv4 as well, and says so."""
    for host in ("127.0.0.1", "::1"):
        with Wire(socket.create_connection((host, everywhere.port), TIMEOUT_S)) as wire:
            assert wire.ask(raw_request("mlp", BODY)).status == 200
    assert f"http://[::]:{everywhere.port} (IPv6 and IPv4)" in everywhere.stderr.read_text()


def test_sigusr1_logs_a_line_of_counts(everywhere: Server) -> None:
    """And nothing else happens."""
    with everywhere.connect() as wire:
        assert wire.ask(raw_request("mlp", BODY)).status == 200
        # Which publishes a worker's counts.
        assert wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
    everywhere.process.send_signal(signal.SIGUSR1)
    follow(everywhere, "answers since the start: ")
    assert outputs(everywhere) == 3


def test_one_address_of_ipv6_is_of_that_family(tmp_path: Path) -> None:
    """`--host ::1` is not reached over IPv4, and says so."""
    path = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    with serving(tmp_path, path, "--host", "::1") as server:
        with server.connect() as wire:
            assert wire.ask(raw_request("mlp", BODY)).status == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)
        assert f"http://[::1]:{server.port} (IPv6 only)" in server.stderr.read_text()


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_token_that_everybody_can_read_is_warned_of(
    tmp_path: Path, mode: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """By one line with the command that mends it."""
    path = tmp_path / "token"
    path.write_text("secret")
    path.chmod(mode)
    assert read_token(path) == "secret"
    assert (f"chmod o-r {path}" in caplog.text) is warned


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "must contain one token of ASCII characters without spaces"),
        (b"two words", "must contain one token"),
        (b"a\0b", "must contain one token"),
        (b"a\x7f", "must contain one token"),
        ("gehe\u00efm".encode(), "must contain one token"),
        (b"x" * 4097, "the token has 4097 characters (at most 4096)"),
    ],
)
def test_a_token_that_no_client_can_send_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    """In one line that names the file."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_token(path)
    assert str(error.value).startswith(f"{path}: {message}")
    path.write_bytes(b"x" * 4096 + b"\r\n")
    path.chmod(0o600)
    assert read_token(path) == "x" * 4096


def test_a_crash_leaves_the_stacks_of_all_threads(tmp_path: Path) -> None:
    """What an engine's own code does to the process is otherwise a bare exit status."""
    model = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    with serving(tmp_path, model) as server:
        server.process.send_signal(signal.SIGABRT)
        assert server.process.wait(TIMEOUT_S) == -signal.SIGABRT
        log = server.stderr.read_text()
    assert "Fatal Python error: Aborted" in log
    assert "most recent call first" in log
