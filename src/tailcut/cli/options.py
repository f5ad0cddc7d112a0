"""Parsers of command-line values: sizes, lists, data files."""

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tailcut.cli.serving.needs import read_token
from tailcut.errors import MissingFileError, UsageError
from tailcut.lab.data import ONLY_INPUT, read_jsonl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailcut.lab.load import LoadTarget

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMG]i?B)\Z")
_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def with_access(
    target: "LoadTarget", ca: Path | None, token_file: Path | None, headers: "Mapping[str, str] | None" = None
) -> "LoadTarget":
    """A target with the certificates to trust, the token in a file, and headers for each request.

    Raises:
        UsageError: `ca` is given without TLS, the file does not contain one token, or a header has a token as well.
    """
    if ca is not None and not target.tls:
        raise UsageError("--ca needs TLS: write https://HOST:PORT or grpcs://HOST:PORT")
    headers = headers or {}
    if token_file is not None and "authorization" in map(str.lower, headers):
        raise UsageError("--token-file and --header Authorization cannot be combined: give only one of them")
    token = None if token_file is None else read_token(token_file)
    return replace(target, ca=None if ca is None else str(ca), token=token, headers=tuple(headers.items()))


def indices_of(text: str | None) -> tuple[int, ...]:
    """Distinct indices from `0` or `1,3`; empty for None.

    Raises:
        UsageError: the text is not of this form.
    """
    words = [] if text is None else [word.strip() for word in text.split(",")]
    if len(set(words)) < len(words) or not all(word.isascii() and word.isdecimal() for word in words):
        raise UsageError(f"{text!r} is not a list of device indices: write 0 or 1,3")
    return tuple(map(int, words))


def parse_bytes(text: str) -> int:
    """The number of bytes of `500MB`, `2GB`, `512MiB` or `800kB`.

    Raises:
        UsageError: the text is not of this form, or less than a byte.
    """
    match = _BYTES.match(text.strip())
    size_bytes = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if not size_bytes:
        raise UsageError(f"{text!r} is not an amount of memory: write 500MB, 2GB or 512MiB")
    return size_bytes


def parse_counts(text: str) -> list[int]:
    """Positive whole numbers from `1,8,32`.

    Raises:
        UsageError: the text is not such a list.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{text!r} is not a list of positive whole numbers: write 1,8,32")
    return [int(part) for part in parts]


def load_data(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, or the array of an .npy file as `ONLY_INPUT`; pickles are never loaded.

    A .jsonl file has one request per line; its arrays are named INPUT/LINE.

    Raises:
        UsageError: the file is missing or not of this kind, or an array contains Python objects (such as lists of
            different lengths).
    """
    if Path(path).suffix == ".jsonl":
        return read_jsonl(Path(path))
    name = ONLY_INPUT
    arrays: dict[str, np.ndarray] = {}
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return {ONLY_INPUT: data}
        with data:
            for name in data.files:
                arrays[name] = data[name]
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such data file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        if str(error).startswith("Object arrays"):
            what, group = (f"array {name!r}", name) if name else ("it", "NAME")
            raise UsageError(
                f"{path}: {what} contains Python objects, such as lists of different lengths: save one array per "
                f"length, named {group}/0, {group}/1 and so on, or a .jsonl file with one request per line; save "
                "strings as numpy.array(strings)"
            ) from None
        raise UsageError(
            f"{path}: not a readable .npz file: write one with numpy.savez(path, NAME=array), or a .jsonl file with "
            "one request per line"
        ) from None
    return arrays
