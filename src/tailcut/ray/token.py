"""Reads the token that requests to a replica's server need."""

from pathlib import Path

from tailcut.errors import UsageError


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        UsageError: the file cannot be read, or does not contain one token.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        token = ""
    except OSError as error:
        raise UsageError(f"{path}: the token cannot be read: {error.strerror}") from None
    if len(token.split()) != 1:
        raise UsageError(f"{path}: must contain one token of ASCII characters without spaces")
    return token
