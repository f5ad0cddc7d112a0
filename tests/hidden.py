"""An environment in which packages are not installed, as far as Python programs can tell: children inherit it."""

import os
from pathlib import Path


def without(folder: Path, *packages: str) -> dict[str, str]:
    """The environment for a child process whose imports of these packages fail, and its children's, too."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"sys.modules[{name!r}] = None" for name in packages]  # documented: importing such a module fails
    (folder / "sitecustomize.py").write_text("\n".join(["import sys", *lines, ""]))
    inherited = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), inherited]))}
