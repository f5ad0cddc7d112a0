"""Reads a model's `config.pbtxt`, protobuf's text format, as a message or as the JSON object for clients."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from tailcut.errors import MissingFileError, UsageError
from tailcut.triton.names import CONFIG_FILE
from tailcut.wire.grpc.messages import MESSAGES

_LARGEST_BYTES = 4 << 20


def read_config(folder: Path) -> Any | None:
    """Read the configuration in a model's folder; None if there is none.

    Raises:
        MissingFileError: the file cannot be read.
        UsageError: the file is too large or no configuration; the message names the file and the line.
    """
    path = folder / CONFIG_FILE
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise UsageError(f"{path}: has more than {_LARGEST_BYTES >> 20} MiB")
        return parse_config(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise MissingFileError(f"{path}: cannot be read: {error.strerror}") from None


def parse_config(text: str, where: str) -> Any:
    """Parse a configuration into a message `inference.ModelConfig`.

    Args:
        text: the configuration in protobuf's text format.
        where: its file, for messages.

    Raises:
        UsageError: the text is not a configuration; the message names the line and the column.
    """
    try:
        return text_format.Parse(text, MESSAGES["ModelConfig"]())
    except text_format.ParseError as error:
        raise UsageError(f"{where}: not a model configuration: {' '.join(str(error).split())}") from None


def as_dict(message: Any) -> dict[str, Any]:
    """A message as JSON values, in Triton's form: every field that has a default, and numbers as numbers.

    Messages that are not set are left out, and enumeration values are given by name.
    """
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            values[field.name] = {
                str(key): as_dict(item) if value.message_type else item
                for key, item in sorted(getattr(message, field.name).items())
            }
        elif _is_repeated(field):
            values[field.name] = [_value(field, item) for item in getattr(message, field.name)]
        elif not field.has_presence or message.HasField(field.name):
            values[field.name] = _value(field, getattr(message, field.name))
    return values


def _is_repeated(field: Any) -> bool:
    known = getattr(field, "is_repeated", None)  # protobuf before 6.31 has only the label
    return bool(field.label == field.LABEL_REPEATED if known is None else known)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_dict(value)
    if field.enum_type is not None:
        known: Mapping[int, Any] = field.enum_type.values_by_number
        return known[value].name if value in known else value
    return value
