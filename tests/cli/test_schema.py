"""`tailcut schema` prints the JSON schema of each command that has --json."""

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tests.engines.models import perceptron
from tests.schemas import validated
from tests.servers import ready

from tailcut import converters
from tailcut.cli import main as cli
from tailcut.cli.ray import ray
from tailcut.cli.schema import SCHEMAS
from tailcut.client.requests import ServerAddress
from tailcut.ray import membership

COMMANDS = [*cli.COMMANDS, *(f"ray {command.callback.__name__}" for command in ray.registered_commands)]


def has_json(command: str, capsys: pytest.CaptureFixture[str]) -> bool:
    assert cli.main([*command.split(), "--help"]) == 0
    return re.search(r"^ +--json ", capsys.readouterr().out, re.MULTILINE) is not None


def test_every_command_with_json_has_a_schema(capsys: pytest.CaptureFixture[str]):
    """The commands with --json are those with a schema."""
    assert [name for name in COMMANDS if has_json(name, capsys)] == list(SCHEMAS)


@pytest.mark.parametrize("command", SCHEMAS)
def test_schema(command: str, capsys: pytest.CaptureFixture[str]):
    """It is a valid schema of an object that allows no other keys."""
    assert cli.main(["schema", *command.split()]) == 0
    schema = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(schema)
    assert list(Draft202012Validator(schema).iter_errors({"unknown": 1}))


def test_no_such_schema(capsys: pytest.CaptureFixture[str]):
    """Another name is refused with the names that there are."""
    assert cli.main(["schema", "schema"]) == 2
    assert "microbench" in capsys.readouterr().err


def test_ladder(capsys: pytest.CaptureFixture[str]):
    """Every setting that may be tuned."""
    assert cli.main(["ladder", "--json"]) == 0
    assert all(rung["settings"] for rung in validated("ladder", capsys.readouterr().out)["rungs"])


@pytest.mark.parametrize("options", [(), ("--grpc-port", "0", "--reuse-port", "--uds", "s")])
def test_serve(options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a server prints when it is ready, wherever it listens."""
    monkeypatch.chdir(tmp_path)
    with ready(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *options) as (_, line):
        result = validated("serve", line)
    assert [model["name"] for model in result["models"]] == ["mlp"]
    assert (result["grpc_port"] is not None) is ("--grpc-port" in options)
    assert (result["uds"] is not None) is ("--uds" in options)


@pytest.mark.parametrize("right", [True, False])
def test_convert(right: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Of a model that was converted, and of one whose answers became others; what is converted needs libraries."""
    comparison = converters.Comparison(0.0 if right else 1.0, 1e-3, 64, ("with zeros",))
    result = converters.Conversion(Path("m.pkl"), Path("m.onnx"), "a forest", comparison)
    monkeypatch.setattr(converters, "convert", lambda source, target, *, trust, requests: result)
    assert cli.main(["convert", "m.pkl", "m.onnx", "--trust", "--json"]) == (0 if right else 1)
    assert validated("convert", capsys.readouterr().out)["target"] == ("m.onnx" if right else None)


@pytest.mark.parametrize("count", [0, 2])
def test_ray_replicas(count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Of replicas that take requests, and where there is none; a cluster's are those of tests/ray_serve."""

    class Replicas:
        @classmethod
        def parse(cls, url: str) -> "Replicas":
            assert url == "ray://app"
            return cls()

        def follow(self, changed) -> None:
            changed([ServerAddress.parse(f"http://10.0.0.{number}:8000") for number in range(1, 1 + count)])

        def close(self) -> None:
            pass

    monkeypatch.setattr(membership, "ReplicaDirectory", Replicas)
    assert cli.main(["ray", "replicas", "app", "--json"]) == (0 if count else 1)
    urls = [f"http://10.0.0.{number}:8000" for number in range(1, 1 + count)]
    assert validated("ray replicas", capsys.readouterr().out) == {"replicas": urls}
