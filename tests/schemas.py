"""Validates real output of commands against the schemas that `tailcut schema` prints."""

import json
from typing import Any

from jsonschema import Draft202012Validator

from tailcut.cli.schema import SCHEMAS


def validated(command: str, output: str | bytes) -> Any:
    """Parse what a command printed; fails if it violates its schema."""
    value = json.loads(output)
    Draft202012Validator(SCHEMAS[command]()).validate(value)
    return value
