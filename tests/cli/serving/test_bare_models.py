"""The bare models of a server: measured and logged once for a file, whatever loads it again."""

from pathlib import Path

import numpy as np
from tests.engines.models import perceptron
from tests.servers import raw_request, serving, until

from tailcut.runtime.opening.defaults import SAFE_SETTINGS
from tailcut.runtime.profile import Profile


def test_the_server_measures_bare_models_by_default(tmp_path: Path) -> None:
    """The choice is logged once, for all workers, who compute alike, and stands in the configuration."""
    path = perceptron([16, 32, 4], tmp_path / "small.onnx")
    body = np.ones((1, 16), np.float32).tobytes()
    logs, configurations = [], []
    for arguments in (("--no-auto",), ("--workers", "2")):
        with serving(tmp_path, path, *arguments) as server, server.connect() as wire:
            answer = wire.ask(raw_request("small", body))
            assert answer.status == 200
            configurations.append(wire.ask(b"GET /v2/models/small/config HTTP/1.1\r\nHost: x\r\n\r\n").json())
            logs.append(server.stderr.read_text())
            assert server.stop() == 0
    assert [log.count("small: threads=1 dispatch=inline max_batch_size=") for log in logs] == [0, 1]
    message = [config["parameters"].get("defaults", {}).get("string_value", "") for config in configurations]
    assert [text.startswith("threads=1 dispatch=inline max_batch_size=") for text in message] == [False, True]
    assert configurations[0]["max_batch_size"] == 32


def test_what_the_user_set_is_kept(tmp_path: Path) -> None:
    """The largest batch of the command line, also where another is measured to be better; and all of a profile."""
    path = perceptron([16, 32, 4], tmp_path / "small.onnx")
    profile = tmp_path / "mine.profile.toml"
    Profile.of_model(path, SAFE_SETTINGS, "mine").save(profile)
    with serving(tmp_path, path, profile, "--max-batch-size", "7") as server, server.connect() as wire:
        for name in ("small", "mine"):
            config = wire.ask(f"GET /v2/models/{name}/config HTTP/1.1\r\nHost: x\r\n\r\n".encode()).json()
            assert config["max_batch_size"] == 7
            assert ("defaults" in config["parameters"]) == (name == "small")
        assert server.stop() == 0


def test_a_model_that_is_loaded_again_keeps_its_settings(tmp_path: Path) -> None:
    """The file is the same, so nothing is measured while the server has other work; another file is measured."""
    path = perceptron([16, 32, 4], tmp_path / "small.onnx")
    load = b"POST /v2/repository/models/small/load HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    with serving(tmp_path, path, "--allow-model-control") as server, server.connect() as wire:
        assert wire.ask(load).status == 200
        assert server.stderr.read_text().count("small: threads=1 dispatch=inline") == 1
        perceptron([16, 48, 4], path)
        assert wire.ask(load).status == 200
        # Lines are written by a thread of their own.
        until(lambda: server.stderr.read_text().count("small: threads=1 dispatch=inline") == 2, server)
        assert wire.ask(raw_request("small", np.ones((1, 16), np.float32).tobytes())).status == 200
        assert server.stop() == 0
