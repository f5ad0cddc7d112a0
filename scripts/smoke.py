"""Builds the sdist and the wheel, installs the wheel into an empty environment of each Python, and serves with it.

    python scripts/smoke.py [--all]

Without --all only this Python is tried; with it, each of 3.11 to 3.13 that is installed. A wheel is built from the
sdist, so both are complete when the bundled model answers as onnxruntime does. Needs a package index, no checkout: the
commands run in an empty folder.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
_TIMEOUT_S = 600
# Runs in the environment under test, with nothing of the checkout on its path.
_CHECK = """
import json, subprocess, sys
import numpy as np, onnxruntime
from importlib.resources import files
from tailcut import Client, Model

model = str(files("tailcut.models") / "digits.onnx")
row = np.load(files("tailcut.models") / "digits.npz")
row = {name: array[:4] for name, array in row.items()}
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
inputs = {one.name: row[one.name] for one in session.get_inputs()}
truth = dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs)))
with Model.open(model) as opened:
    answers = [opened.infer_sync(inputs)]
command = [sys.executable, "-m", "tailcut", "serve", model, "--port", "0", "--json"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    address = json.loads(server.stdout.readline())
    with Client(f"http://{address['host']}:{address['port']}") as client:
        answers.append(client.infer(address["models"][0]["name"], inputs))
    server.terminate()
for answer in answers:
    for name, array in truth.items():
        np.testing.assert_allclose(answer[name], array, rtol=1e-4, atol=1e-5)
print("answers are right on Python %d.%d" % sys.version_info[:2])
"""


def main() -> int:
    """0 when every installation answers."""
    parser = argparse.ArgumentParser(description="Build, install into empty environments, serve.")
    parser.add_argument("--all", action="store_true", help="also on the other Pythons that are installed")
    everywhere = parser.parse_args().all
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT), at=folder)
        (wheel,) = folder.glob("*.whl")
        for python in _pythons() if everywhere else [sys.executable]:
            _try(python, wheel, folder)
    return 0


def _pythons() -> list[str]:
    """The running Python first, then one of each other version that starts."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = [sys.executable]
    for version in VERSIONS:
        managed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
        on_path = shutil.which(f"python{version}")
        for path in (on_path, *map(str, managed)) if version != own else ():
            # pyenv puts a shim into the path for each version, and lets only those that are selected run.
            if path is not None and _starts(path):
                found.append(path)
                break
    return found


def _starts(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


def _try(python: str, wheel: Path, folder: Path) -> None:
    place = folder / "empty"
    if python == sys.executable:
        venv.create(place, with_pip=True, clear=True)
    else:
        _run(python, "-m", "venv", "--clear", str(place), at=folder)
    inside = str(place / "bin" / "python")
    constraints = str(ROOT / "constraints.txt")
    _run(inside, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", constraints, str(wheel), at=folder)
    _run(str(place / "bin" / "tailcut"), "--version", at=folder)
    _run(inside, "-c", _CHECK, at=folder)


def _run(*command: str, at: Path) -> None:
    subprocess.run(command, cwd=at, check=True, timeout=_TIMEOUT_S)


if __name__ == "__main__":
    raise SystemExit(main())
