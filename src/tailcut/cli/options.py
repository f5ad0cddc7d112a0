"""What several commands read from their command lines: durations, lists, data files."""

import re
import zipfile
from pathlib import Path

import numpy as np

from tailcut.errors import UsageError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h)?\Z")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def parse_duration(text: str) -> float:
    """Seconds in `500us`, `10ms`, `30s`, `2m`, `1h`; a bare number is seconds.

    Raises:
        UsageError: it is none of these.
    """
    match = _DURATION.match(text.strip())
    if not match:
        raise UsageError(f"{text!r} is not a duration: write 500us, 10ms, 30s, 2m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def parse_counts(text: str) -> list[int]:
    """Positive whole numbers from `1,8,32`.

    Raises:
        UsageError: it is not such a list.
    """
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"{text!r} is not a list of positive whole numbers: write 1,8,32")
    return [int(part) for part in parts]


def load_data(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; nothing pickled is ever read.

    Raises:
        UsageError: missing, not an .npz file, or it holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            if not isinstance(data, np.lib.npyio.NpzFile):
                raise UsageError(f"{path}: not an .npz file: write one with numpy.savez(path, NAME=array)")
            return {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise UsageError(f"{path}: no such data file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        objects = "allow_pickle" in str(error) and zipfile.is_zipfile(path)  # numpy takes any noise for a pickle
        reason = "it holds Python objects" if objects else "not a readable .npz file"
        raise UsageError(f"{path}: {reason}: write one with numpy.savez(path, NAME=array)") from None
