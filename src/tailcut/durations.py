"""Durations as options have them."""

import re

from tailcut.errors import UsageError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)?\Z")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_duration(text: str) -> float:
    """Seconds in `500us`, `10ms`, `30s`, `2m`, `1h`; a bare number is seconds.

    Raises:
        UsageError: the text has another form.
    """
    match = _DURATION.match(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a duration: write 500us, 10ms, 30s, 2m or 1h")
    return float(match[1]) * _SECONDS[match[2]]
