"""A finding of `tailcut doctor`: its severity, its cost, and the command that fixes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters, from least to most."""

    OK = "ok"
    NOTE = "note"  # nothing is wrong, or it cannot be changed from within this machine
    WARNING = "warning"  # makes the tail longer
    FAULT = "fault"  # spoils every measurement and every service


OK, NOTE, WARNING, FAULT = Severity


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    severity: Severity
    finding: str
    remedy: str | None = None  # the exact command, for the user to run
    cost: str | None = None  # measured here, where it can be
    environment: Mapping[str, str] = field(default_factory=dict)  # the same remedy as variables of the process
