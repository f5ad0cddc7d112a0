"""The core of openvino that this process keeps."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.servers import serving, until

from tailcut.engines import EngineOptions
from tailcut.engines.openvino_core import core
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

# What happens when a server loads a model anew on SIGHUP: the old one, opened by the main thread, ends on another.
_MOVED = """
import os, signal, sys, threading
from pathlib import Path
from tailcut.engines import EngineOptions, open_engine

def opened():
    return open_engine(Path(sys.argv[1]), EngineOptions(name="openvino", threads=1))

signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
first = [opened()]
def replace():
    first.append(opened())
    first.pop(0).close()
thread = threading.Thread(target=replace)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
print(len(first))
"""


def test_there_is_one() -> None:
    """However often it is asked for."""
    assert core() is core()


def test_signals_arrive_after_a_model_ended_on_another_thread(tmp_path: Path) -> None:
    """openvino gives the thread that loads it first a stack for signals, which goes when openvino is let go of."""
    path = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    command = [sys.executable, "-c", _MOVED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n1\n"), done.stderr


@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_server_is_reloaded_and_stopped(tmp_path: Path, times: int) -> None:
    """Each SIGHUP replaces the model, and SIGTERM still ends the server as it should."""
    model = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    profile = tmp_path / "mlp.profile.toml"
    Profile.of_model(model, Settings(engine=EngineOptions(name="openvino", threads=1))).save(profile)
    with serving(tmp_path, profile, "--drain", "0s") as server:
        for number in range(times):
            server.process.send_signal(signal.SIGHUP)
            until(lambda number=number: server.stderr.read_text().count("mlp: loaded") == number + 1, server)
        assert server.stop() == 0


def test_the_tests_have_no_core_of_their_own() -> None:
    """When it went, the process of the tests would end with its next signal, without a word."""
    tests = Path(__file__).parent.parent
    own = re.compile(r"\bov(?:\.Core\(|\.compile_model\()|openvino\.Core\(")
    assert [path.name for path in tests.rglob("*.py") if own.search(path.read_text(encoding="utf-8"))] == []
