"""The versions of the profile's format: renames the settings of an older file to those of the newest schema. Pure."""

from collections.abc import Mapping
from typing import Any

SCHEMA = 2
# What schema 2 renamed, by section of [settings].
_RENAMED: Mapping[str, Mapping[str, str]] = {
    "batching": {"max_batch": "max_batch_size", "hold_us": "max_queue_delay_us"},
    "io": {"spin_us": "busy_poll_us", "express": "fast_path"},
}


def upgrade(raw: Mapping[str, Any], schema: int) -> tuple[dict[str, Any], list[str]]:
    """The tables of a profile in schema 2, and the renamed settings, as `old is now new`.

    Raises:
        ValueError: a file of schema 2 has a setting under its old name, or a file has both names.
    """
    upgraded = dict(raw)
    settings = upgraded.get("settings")
    if not isinstance(settings, dict):
        return upgraded | {"schema": SCHEMA}, []
    notes = []
    sections = dict(settings)
    for section, names in _RENAMED.items():
        values = sections.get(section)
        if not isinstance(values, dict):
            continue
        for old, new in names.items():
            if old not in values:
                continue
            if schema >= SCHEMA or new in values:
                raise ValueError(f"settings.{section}.{old} is called {new} in schema {SCHEMA}")
            notes.append(f"{section}.{old} is now {new}")
        sections[section] = {names.get(name, name): value for name, value in values.items()}
    return upgraded | {"schema": SCHEMA, "settings": sections}, notes
