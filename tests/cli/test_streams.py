"""Closed standard streams and readers that leave, with real processes started by a shell."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.processes import killed_at_end
from tests.servers import Server, serving

import tailcut

TAILCUT = f"{sys.executable} -m tailcut"


@pytest.mark.slow
@pytest.mark.parametrize(("closed", "numbers"), [("<&- >&- 2>&-", (0, 1, 2)), ("<&-", (0,)), ("2>&-", (2,))])
def test_a_server_with_closed_streams_serves(tmp_path: Path, closed: str, numbers: tuple[int, ...]) -> None:
    """Its first sockets take no standard stream's number, and it ends as any other."""
    perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    command = f"exec {TAILCUT} serve mlp.onnx --port 0 --json --access-log --uds {tmp_path}/s {closed}"
    with (
        subprocess.Popen(["/bin/sh", "-c", command], cwd=tmp_path, stdout=subprocess.DEVNULL) as process,
        killed_at_end(process),
    ):
        with tailcut.Client(f"unix:{tmp_path}/s") as client:
            while not client.live():
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.05)
        for number in numbers:
            assert Path(f"/proc/{process.pid}/fd/{number}").readlink() == Path("/dev/null")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.slow
def test_a_server_outlives_whoever_reads_its_output(tmp_path: Path) -> None:
    """`tailcut serve --json | head -1`, with stderr in the same pipe: a line for each request goes nowhere."""
    model = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    command = [sys.executable, "-m", "tailcut", "serve", str(model), "--port", "0", "--json", "--access-log"]
    command += ["--uds", str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process, killed_at_end(process):
        assert process.stdout is not None
        while b'"port"' not in process.stdout.readline():
            pass
        process.stdout.close()
        with tailcut.Client(f"unix:{tmp_path}/s") as client:
            for _ in range(200):
                assert client.live()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.parametrize("settings", ["ascii", "latin-1:strict", "ascii:surrogateescape", "utf-8", "utf-16-le"])
def test_an_encoding_that_lacks_a_character(settings: str) -> None:
    """It is written as its number; a line of JSON is UTF-8 in every encoding."""
    script = (
        "from tailcut.cli.streams import keep_for_result, print_json, secure_streams\n"
        "secure_streams()\n"
        "print('a\u0142')\n"
        "print_json('\"\u0142\"')\n"
        "print_json('\"\u0142\"'.encode(), keep_for_result(), flush=True)\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=60, check=True)
    encoding = settings.partition(":")[0]
    assert done.stdout == "a\u0142\n".encode(encoding, "backslashreplace") + 2 * '"\u0142"\n'.encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a perceptron."""
    folder = tmp_path_factory.mktemp("streams")
    with serving(folder, perceptron([4, 8, 3], folder / "mlp.onnx")) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("redirect", ["| true", "| head -c 1 >/dev/null", ">&-", "2>&- >&-", "<&-"])
def test_a_measurement_goes_on_to_its_end(server: Server, redirect: str, tmp_path: Path) -> None:
    """Also the exit code and standard error are as if the output had been read."""
    bench = f"{TAILCUT} bench {server.url} --duration 0.3s --warmup 0s --rate 50 --json"
    command = f"{{ {bench}; echo $? >code; }}"
    done = subprocess.run(["/bin/sh", "-c", f"{command} {redirect}"], cwd=tmp_path, capture_output=True, timeout=90)  # noqa: PLW1510
    assert (tmp_path / "code").read_text() == "0\n"
    assert b"Error" not in done.stderr
    assert b"ignored" not in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_reported(server: Server) -> None:
    """What was asked for could not be written: exit code 2 and one line."""
    command = f"{TAILCUT} bench {server.url} --duration 0.3s --warmup 0s --rate 50 --json >/dev/full"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=90)  # noqa: PLW1510
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
