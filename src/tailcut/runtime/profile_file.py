"""The TOML file of a profile: read in limited time and memory, whatever it contains, and written whole or not at all.

An older file is converted to the newest schema.
"""

import logging
import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import tomli_w

from tailcut.atomic import write_atomically
from tailcut.errors import MissingProfileError, ProfileError
from tailcut.runtime.profile_schema import SCHEMA, upgrade

_log = logging.getLogger("tailcut")
_LARGEST_BYTES = 16 << 20
_LARGEST_INT = 1 << 63
TOO_DEEP = "its values are nested too deeply"
# A dotted key with more parts than any in a profile; a match can begin only where a word does, so searching is linear.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""", re.ASCII)


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a profile in the newest schema, whose values are not checked yet.

    Raises:
        MissingProfileError: there is no such file.
        ProfileError: the file is unreadable, not TOML, not a profile, or of a later schema.
    """
    try:
        raw = _parsed(path)
    except FileNotFoundError:
        raise MissingProfileError(f"{path}: no such profile") from None
    except UnicodeDecodeError:
        raise ProfileError(f"{path}: not a profile, which is the .toml file that `tailcut tune MODEL` writes") from None
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path}: not a readable profile: {error}") from None
    except RecursionError:
        raise ProfileError(f"{path}: not a readable profile: {TOO_DEEP}") from None
    schema = raw.get("schema")
    if not isinstance(schema, int) or not 1 <= schema < _LARGEST_INT:
        raise ProfileError(f"{path}: not a Tailcut profile: it has no schema number")
    if schema > SCHEMA:
        raise ProfileError(f"{path}: schema {schema} is newer than this Tailcut reads ({SCHEMA}): upgrade Tailcut")
    try:
        tables, renamed = upgrade(raw, schema)
    except ValueError as error:
        raise ProfileError(f"{path}: not a valid profile: {error}") from None
    if renamed:
        _log_renamed(path, schema, ", ".join(renamed))
    return tables


def write_tables(path: Path, tables: Mapping[str, Any]) -> None:
    """Write the tables of a profile, without None, which TOML does not have.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, tomli_w.dumps(_without_none(tables)))


@lru_cache(1024)  # a command reads a profile several times, and logs this once
def _log_renamed(path: Path, schema: int, renamed: str) -> None:
    _log.info("%s: a profile of schema %d: %s", path, schema, renamed)


def _parsed(path: Path) -> dict[str, Any]:
    """The tables of an untrusted TOML file, no larger and with no longer keys than a profile can have.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not TOML, too large, or has a dotted key with too many parts: the parser's time grows with
            their square.
    """
    with path.open("rb") as file:
        data = file.read(_LARGEST_BYTES + 1)
    if len(data) > _LARGEST_BYTES:
        raise ValueError(f"it has more than {_LARGEST_BYTES >> 20} MiB")
    text = data.decode("utf-8")
    if _LONG_KEY.search(text):
        raise ValueError(TOO_DEEP)
    return tomllib.loads(text)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
