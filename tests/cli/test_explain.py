"""`tailcut explain` as a user runs it: on a server under load, on a profile, and with mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.engines.models import perceptron
from tests.in_process import ran
from tests.processes import killed_at_end
from tests.schemas import validated
from tests.servers import serving

from tailcut.cli.termination import TERMINATED
from tailcut.lab.client import open_loop
from tailcut.lab.explain import while_doing
from tailcut.lab.load import LoadTarget
from tailcut.lab.payload import infer_payload
from tailcut.runtime.profile import Profile
from tailcut.runtime.tracing.timeline import STAGES

EXPLAIN = [sys.executable, "-m", "tailcut", "explain"]
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    Profile.of_model(perceptron([16, 32, 4], folder / "mlp.onnx")).save(folder / "mlp.toml")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EXPLAIN, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_server_under_load(folder: Path) -> None:
    """One JSON object with the stages, a page that opens, and trace events of the worst requests."""
    with serving(folder, folder / "mlp.toml") as server:
        target = LoadTarget(port=server.port)
        payload = infer_payload(target, "mlp", {"x": np.zeros((1, 16), np.float32)}, "binary")
        done = while_doing(
            lambda: open_loop(target, [payload], rate=300, duration_s=2.5),
            lambda: ran(
                folder, "explain", f"http://127.0.0.1:{server.port}", "--duration", "1s", "--json",
                "--report", "why.html", "--trace", "why.json",
            ),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = validated("explain", done.stdout)
    assert list(result["stages"]) == list(STAGES)
    assert result["model"] == "mlp"
    assert result["cause"]["advice"] in result["verdict"]
    assert json.loads((folder / "why.json").read_text())["traceEvents"]
    page = (folder / "why.html").read_text(encoding="utf-8")
    assert result["cause"]["words"] in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_opens_in_a_browser(folder: Path) -> None:
    """The page of the test before runs its script, and shows the slowest requests."""
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run".split()  # noqa: SIM905
    command = [
        str(CHROMIUM),
        *flags,
        f"--user-data-dir={folder / 'browser'}",
        "--dump-dom",
        (folder / "why.html").as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    assert "data-ready" in dom
    assert "compute" in dom


@pytest.mark.slow
def test_a_profile(folder: Path) -> None:
    """A profile is served and loaded for the time of the look; the table and Markdown carry the verdict."""
    done = run(folder, "mlp.toml", "--rate", "300", "--duration", "1s", "--markdown")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("### mlp: ")
    assert "| compute |" in done.stdout


@pytest.mark.slow
def test_a_profile_is_sent_the_requests_of_a_file(folder: Path) -> None:
    """Instead of generated ones, which a model may not accept; a request that does not fit is reported."""
    np.savez(folder / "fits.npz", x=np.ones((5, 16), np.float32))
    np.savez(folder / "other.npz", x=np.ones((5, 3), np.float32))
    load = ("mlp.toml", "--rate", "300", "--duration", "500ms", "--json", "--data")
    done = run(folder, *load, "fits.npz")
    assert done.returncode == 0, done.stderr
    assert validated("explain", done.stdout)["requests"] > 0
    refused = run(folder, *load, "other.npz")
    assert refused.returncode == 2
    assert "array 'x' of the data file is float32 [5, 3]" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://127.0.0.1:9"], "no server answers"),
        (["nowhere.toml", "--rate", "10"], "nowhere.toml: no such profile"),
        (["mlp.toml"], "--rate"),
        (["http://127.0.0.1:9", "--rate", "10"], "--rate needs a PROFILE"),
        (["http://127.0.0.1:9", "--data", "x.npz"], "--data needs a PROFILE"),
        (["mlp.toml", "--duration", "soon"], "soon"),
        ([__file__], "is neither the address of a running server nor a profile (.toml): make a profile of it with"),
        (["grpc://127.0.0.1:9"], "tailcut explain asks over HTTP"),
        (["mlp.toml", "--rate", "1e12"], "a run has at most 100,000,000"),
        ([], "URL|PROFILE"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, mistake: Callable[..., str], arguments: list[str], words: str) -> None:
    """What is wrong, with exit code 2 and nothing on stdout."""
    assert words in mistake(folder, "explain", *arguments)


def test_sigterm_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    """The server that it started, and that one's folder, go with it."""
    command = [*EXPLAIN, "mlp.toml", "--rate", "50", "--duration", "30s"]
    with (
        subprocess.Popen(command, cwd=folder, env=os.environ | {"TMPDIR": str(tmp_path)}) as child,
        killed_at_end(child),
    ):
        while not (servers := psutil.Process(child.pid).children(recursive=True)):
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == TERMINATED
    assert not psutil.wait_procs(servers, timeout=5)[1]
    assert not list(tmp_path.iterdir())
