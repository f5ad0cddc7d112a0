"""No process of ours resolves a host that the user has not named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.servers import raw_request, serving

from tailcut.engines.base import EngineOptions
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

HOOK = """
import os, socket
def hooked(name):
    original = getattr(socket, name)
    def call(host, *rest, **named):
        with open(os.environ["LOOKUPS"], "a") as file:
            print(name, host, file=file)
        return original(host, *rest, **named)
    setattr(socket, name, call)
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    hooked(name)
with open(os.environ["LOOKUPS"], "a") as file:
    print("process", os.getpid(), file=file)
"""
LOAD = """
import sys
from pathlib import Path
from tailcut.engines import EngineOptions, open_engine
for name in ("onnxruntime", "openvino"):
    open_engine(Path(sys.argv[1]), EngineOptions(name=name, threads=1)).close()
"""


@pytest.fixture
def lookups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that every Python process started from here writes the hosts to that it resolves."""
    folder = tmp_path / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    result = tmp_path / "lookups"
    result.touch()
    monkeypatch.setenv("LOOKUPS", str(result))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):  # openvino is silent where one is set
        monkeypatch.delenv(name, raising=False)
    return result


def hosts(lookups: Path) -> set[str]:
    return {line.split()[1] for line in lookups.read_text().splitlines() if not line.startswith("process")}


def is_watched(lookups: Path, process: int) -> bool:
    """Whether the lookups of a process are written to the file."""
    return f"process {process}\n" in lookups.read_text()


def test_a_server_of_both_engines_resolves_nothing(tmp_path: Path, lookups: Path) -> None:
    """From its start over a request to its end; the hook is seen to work, in the server too."""
    path = perceptron([4, 4], tmp_path / "mlp.onnx")
    profile = Profile.of_model(path, Settings(engine=EngineOptions(name="openvino", threads=1)), "other")
    profile.save(tmp_path / "other.profile.toml")
    executed = {"LOOKUPS": str(lookups)}  # a server that is forked from this process would not have the hook
    with serving(tmp_path, path, tmp_path / "other.profile.toml", env=executed) as server:
        assert is_watched(lookups, server.process.pid)
        for model in ("mlp", "other"):
            with server.connect() as wire:
                assert wire.ask(raw_request(model, bytes(16))).status == 200
        server.stop()
    assert hosts(lookups) <= {"127.0.0.1", "localhost", "None"}
    program = "import socket; socket.getaddrinfo('127.0.0.1', 80)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert "127.0.0.1" in hosts(lookups)


@pytest.mark.slow
def test_the_doctor_resolves_nothing(lookups: Path) -> None:
    """It loads openvino to ask what the processor can do."""
    subprocess.run(
        [sys.executable, "-m", "tailcut", "doctor", "--json", "--probe", "10ms"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert hosts(lookups) <= {"127.0.0.1", "localhost", "None"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.usefixtures("lookups")
def test_no_engine_asks_a_name_server(tmp_path: Path) -> None:
    """Neither by system calls that Python does not see."""
    path = perceptron([4, 4], tmp_path / "mlp.onnx")
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=connect,sendto,sendmmsg",
        "-o",
        trace,
        sys.executable,
        "-c",
        LOAD,
        path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if "ptrace" in done.stderr.lower():
        pytest.skip("no process may be traced here")
    assert done.returncode == 0, done.stderr
    assert "AF_INET" not in trace.read_text()


def test_a_process_that_wants_telemetry_of_its_own_has_it(lookups: Path) -> None:
    """The package can be imported afterwards: it was hidden for one import only."""
    program = "from tailcut.engines.telemetry import import_openvino; import_openvino(); import openvino_telemetry"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert hosts(lookups) == set()
