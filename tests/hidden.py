"""Environments in which packages seem not to be installed, for Python programs and their children."""

import os
from pathlib import Path


def without(folder: Path, *packages: str) -> dict[str, str]:
    """An environment in which imports of these packages fail, for a child process and its children."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"sys.modules[{name!r}] = None" for name in packages]  # documented: importing such a module fails
    (folder / "sitecustomize.py").write_text("\n".join(["import sys", *lines, ""]))
    inherited = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), inherited]))}
