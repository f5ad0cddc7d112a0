"""What lies on the disk: which files belong to a model, and where they may be. Nothing is parsed here."""

from pathlib import Path

from tailcut.errors import ModelFileError


def check_external(path: Path, place: dict[str, str]) -> None:
    """A weights file lies in the model's own folder or below, and is as long as the model says."""
    name = place.get("location", "")
    file = path.parent / name
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise ModelFileError(f"{path}: its external weights file {name!r} lies outside the model's folder")
    if not file.is_file():
        raise ModelFileError(f"{path}: its external weights file {name!r} is missing")
    offset, length, size = place.get("offset", "0"), place.get("length", "0"), file.stat().st_size
    if not (offset.isdigit() and length.isdigit() and int(offset) + int(length) <= size):
        raise ModelFileError(f"{path}: its external weights file {name!r} is cut short: it has {size} bytes")
