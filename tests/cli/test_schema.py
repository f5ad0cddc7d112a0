"""`tailcut schema` prints the JSON schema of each command that has --json."""

import json
import re

import pytest
from jsonschema import Draft202012Validator

from tailcut.cli import main as cli
from tailcut.cli.ray import ray
from tailcut.cli.schema import SCHEMAS


def has_json(command: str, capsys: pytest.CaptureFixture[str]) -> bool:
    assert cli.main([*command.split(), "--help"]) == 0
    return re.search(r"^ +--json ", capsys.readouterr().out, re.MULTILINE) is not None


def test_every_command_with_json_has_a_schema(capsys: pytest.CaptureFixture[str]):
    """The commands with --json are those with a schema."""
    assert [name for name in cli.COMMANDS if has_json(name, capsys)] == [name for name in SCHEMAS if " " not in name]
    parts = [f"ray {one.callback.__name__}" for one in ray.registered_commands]
    assert [name for name in parts if has_json(name, capsys)] == [name for name in SCHEMAS if " " in name]


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
