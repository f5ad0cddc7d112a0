"""Builds the sdist and the wheel, installs the wheel into an empty environment of each Python, and serves with it.

    python scripts/smoke.py [--all] [--engines] [--tests]

Without --all only this Python is tried; with it, each of 3.11 to 3.13 that is installed. A wheel is built from the
sdist, so both are complete when the bundled model answers as onnxruntime does. Needs a package index, no checkout: the
commands run in an empty folder.

With --engines both are tried on this Python: without openvino its profile is refused in one line, with it the answers
are the same, also once onnxruntime is gone. With --tests the other Pythons run a part of the tests, against the
installed wheel: protocols, batching, memory, compiled kernels, a model, a server and its clients.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
_TIMEOUT_S = 600
_AT_ONCE = 2  # Pythons
# Runs in the environment under test, with nothing of the checkout on its path.
_CHECK = """
import json, subprocess, sys
import numpy as np
from importlib.resources import files
from tailcut import Client, Model

source, engine = sys.argv[1:]
model = str(files("tailcut.models") / "digits.onnx")
inputs = {"image": np.load(files("tailcut.models") / "digits.npz")["image"][:4]}
if engine == "onnxruntime":
    import onnxruntime
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    np.savez("truth.npz", scores=session.run(["scores"], inputs)[0])
truth = dict(np.load("truth.npz"))
with Model.open(source or model) as opened:
    assert opened.profile.settings.engine.name == engine
    answers = [opened.infer_sync(inputs)]
command = [sys.executable, "-m", "tailcut", "serve", source or model, "--port", "0", "--json"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    address = json.loads(server.stdout.readline())
    with Client(f"http://{address['host']}:{address['port']}") as client:
        answers.append(client.infer(address["models"][0]["name"], inputs))
    server.terminate()
for answer in answers:
    for name, array in truth.items():
        np.testing.assert_allclose(answer[name], array, rtol=1e-4, atol=1e-5)
print("answers are right on Python %d.%d with %s" % (*sys.version_info[:2], engine))
"""
# A profile of the bundled model for openvino, which this installation may lack.
_PROFILE = """
from pathlib import Path
from tailcut.engines import EngineOptions
from tailcut.models import digits_model
from tailcut.runtime.profile import Profile, Settings

Profile.of_model(digits_model(), Settings(engine=EngineOptions(name="openvino"))).save(Path("openvino.profile.toml"))
"""
# What is quick, and most likely to depend on the version: the language, the standard library, compiled code.
_TESTS = (
    "tests/batching",
    "tests/memory",
    "tests/wire/http1/test_head.py",
    "tests/wire/http1/test_outlines.py",
    "tests/wire/http1/test_states.py",
    "tests/wire/v2",
    "tests/kernels/test_numbers.py",
    "tests/kernels/test_sockets.py",
    "tests/runtime/test_model.py",
    "tests/runtime/test_scheduler.py",
    "tests/server/test_http.py",
    "tests/client/test_clients.py",
)
_FOR_TESTS = ("pytest", "hypothesis", "psutil", "hpack", "tritonclient[http]")
_MISSING = "tailcut: the engine openvino is not installed: pip install 'tailcut[openvino]'"


def main() -> int:
    """0 when every installation answers."""
    parser = argparse.ArgumentParser(description="Build, install into empty environments, serve.")
    parser.add_argument("--all", action="store_true", help="also on the other Pythons that are installed")
    parser.add_argument("--engines", action="store_true", help="on this Python, with and without each engine")
    parser.add_argument("--tests", action="store_true", help="a part of the tests on the other Pythons")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT), at=folder)
        (wheel,) = folder.glob("*.whl")

        def try_one(python: str) -> None:
            own = python == sys.executable
            place = Path(tempfile.mkdtemp(dir=folder))
            _try(python, wheel, place, engines=options.engines and own, tests=options.tests and not own)

        with ThreadPoolExecutor(_AT_ONCE) as pool:  # installing keeps one core busy, and so do the tests
            list(pool.map(try_one, _pythons() if options.all else [sys.executable]))
    return 0


def _pythons() -> list[str]:
    """The running Python first, then one of each other version that starts."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    result = [sys.executable]
    for version in VERSIONS:
        managed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
        on_path = shutil.which(f"python{version}")
        for path in (on_path, *map(str, managed)) if version != own else ():
            # pyenv puts a shim into the path for each version, and lets only those that are selected run.
            if path is not None and _starts(path):
                result.append(path)
                break
    return result


def _starts(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


def _try(python: str, wheel: Path, folder: Path, *, engines: bool, tests: bool) -> None:
    place = folder / "empty"
    if python == sys.executable:
        venv.create(place, with_pip=True, clear=True)
    else:
        _run(python, "-m", "venv", "--clear", str(place), at=folder)
    inside = str(place / "bin" / "python")
    _install(inside, str(wheel), at=folder)
    _run(str(place / "bin" / "tailcut"), "--version", at=folder)
    _run(inside, "-c", _CHECK, "", "onnxruntime", at=folder)
    if engines:
        _try_engines(inside, f"{wheel}[openvino]", folder)
    if tests:
        _install(inside, *_FOR_TESTS, at=folder)
        _run(inside, "-m", "pytest", "-m", "not serial and not slow", "-p", "no:cacheprovider", *_TESTS, at=ROOT)


def _try_engines(inside: str, with_openvino: str, folder: Path) -> None:
    """Without openvino, with both engines, and without onnxruntime."""
    profile = "openvino.profile.toml"
    _run(inside, "-c", _PROFILE, at=folder)
    command = [inside, "-m", "tailcut", "serve", profile, "--port", "0"]
    refused = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if (refused.returncode, refused.stderr.strip()) != (2, _MISSING):
        raise RuntimeError(f"without openvino: {refused.returncode}, {refused.stderr}")
    _install(inside, with_openvino, at=folder)
    _run(inside, "-c", _CHECK, profile, "openvino", at=folder)
    _run(inside, "-m", "pip", "-q", "--disable-pip-version-check", "uninstall", "--yes", "onnxruntime", at=folder)
    _run(inside, "-c", _CHECK, "", "openvino", at=folder)


def _install(python: str, *requirements: str, at: Path) -> None:
    """With uv where it is installed, which takes seconds where pip takes a minute; with pip where uv cannot."""
    what = ["-q", "-c", str(ROOT / "constraints.txt"), *requirements]
    if shutil.which("uv") is not None:
        try:
            return _run("uv", "pip", "install", "--python", python, *what, at=at)
        except subprocess.CalledProcessError:
            pass
    return _run(python, "-m", "pip", "--disable-pip-version-check", "install", *what, at=at)


def _run(*command: str, at: Path) -> None:
    """Run a command, and show what it said when it has ended: others run beside it."""
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    sys.stdout.write(done.stdout + done.stderr)
    sys.stdout.flush()
    done.check_returncode()


if __name__ == "__main__":
    raise SystemExit(main())
