"""Durations of options and calls: parsed from text, checked and limited."""

import re
from math import isfinite, isnan
from numbers import Real
from typing import Any

from tailcut.errors import InvalidInputError, UsageError

LONGEST_S = 10**6  # the longest timeout of a call: eleven days

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)?\Z")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_duration(text: str) -> float:
    """The seconds in `500us`, `10ms`, `30s`, `2m` or `1h`; a bare number means seconds.

    Raises:
        UsageError: the text is not of this form.
    """
    match = _DURATION.match(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else float("inf")
    if not isfinite(seconds):
        raise UsageError(f"{text!r} is not a duration: write 500us, 10ms, 30s, 2m or 1h")
    return seconds


def parse_latency(text: str, option: str) -> float:
    """The seconds in a latency, which needs a unit: a bare 20 could be meant as 20 ms.

    Args:
        text: as the user wrote it.
        option: the option that it was given to, for the error's message.

    Raises:
        UsageError: not a duration, or one without a unit other than 0.
    """
    seconds = parse_duration(text)
    number = text.strip()
    if seconds and number[-1].isdigit():
        raise UsageError(f"{option} {number}: {number}ms or {number}s?")
    return seconds


def bounded(seconds: float, option: str) -> float:
    """The duration itself, after checking that it is short enough for simulations.

    Raises:
        UsageError: it is longer than `LONGEST_S`.
    """
    if seconds > LONGEST_S:
        raise UsageError(f"{option}: {seconds:g} s are longer than {LONGEST_S:,} s")
    return seconds


def parse_limit(text: str, option: str) -> float:
    """The seconds of a latency limit, parsed by `parse_latency`.

    Raises:
        UsageError: the text is not a latency, or not greater than 0.
    """
    seconds = parse_latency(text, option)
    if seconds <= 0:
        raise UsageError(f"{option} must be greater than 0, not {text}")
    return seconds


def seconds_of(timeout_s: object) -> float:
    """The timeout of a call in seconds, limited to the eleven days that a server accepts; infinity means as many.

    Raises:
        InvalidInputError: it is not a number.
    """
    if not isinstance(timeout_s, bool) and isinstance(timeout_s, Real):
        seconds: Any = max(min(timeout_s, LONGEST_S), -LONGEST_S)
        if not isnan(seconds):
            return float(seconds)
    raise InvalidInputError(f"timeout_s must be a number of seconds, got {timeout_s!r}")
