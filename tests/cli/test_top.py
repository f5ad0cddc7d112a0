"""`tailcut top`: the same figures in a terminal of any width, as lines, and as JSON; and how it ends."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import pytest
from rich.console import Console
from tests.certificates import make_pair, needs_openssl
from tests.engines.models import perceptron
from tests.processes import killed_at_end
from tests.schemas import validated
from tests.servers import TIMEOUT_S, Server, raw_request, serving

from tailcut.cli.main import main
from tailcut.live.records import About, DoctorFinding, Latency, ModelAbout, ModelView, ProcessView, StepView, View
from tailcut.report.live import Screen, live_lines, live_screen
from tailcut.runtime.tracing.records import SlowRequest
from tailcut.runtime.tracing.timeline import MARKS

TOP = [sys.executable, "-m", "tailcut", "top"]
ROW = np.ones((1, 4), np.float32).tobytes()
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
PLAIN = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("top")
    with serving(folder, perceptron([4, 8, 3], folder / "mlp.onnx")) as running:
        yield running
        assert running.stop() == 0


class Top(Protocol):
    """Runs `tailcut top` with these arguments."""

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def top(capfd: pytest.CaptureFixture[str]) -> Top:
    """In this process, which saves the time that starting one takes; else alike."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["top", *map(str, arguments)]
        return subprocess.CompletedProcess(command, main(command), *capfd.readouterr())

    return run


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, which ends with the block."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*TOP, *arguments], env=PLAIN, **pipes) as process, killed_at_end(process):
        yield process


def latency(requests: int) -> Latency:
    known = requests >= 459
    return Latency(
        requests=requests,
        p50_us=840.0,
        p95_us=1200.0 if known else None,
        p99_us=3100.0 if known else None,
        within_slo=None,
    )


def request(start_s: float, written_us: float) -> SlowRequest:
    marks = {mark: written_us if number > 2 else 0.0 for number, mark in enumerate(MARKS)}
    return SlowRequest(
        start_ns=int(start_s * 1e9),
        marks_us=marks,
        rows=3,
        batch_rows=8,
        body_bytes=64,
        status=200,
        process=7,
        coincided=["gc"],
    )


def model(name: str = "churn", requests: int = 1000, **fields: object) -> ModelView:
    usual = ModelView(
        name=name, version="1", rate=float(requests), row_rate=3.0 * requests, second=latency(requests),
        recent=latency(10 * requests), slowest_us=9100.0, failed=1, refused=2, expired=3, late=0, batches=100,
        batch_rows=30.0, batch_sizes={30: 100}, queued=4, queued_rows=5, computing=1, oldest_us=12.0, rows_in_use=6,
        queue_us=10.0, compute_us=20.0, busy=0.91, steps=[], looked_at=1000, slow=[request(99.0, 9100.0)],
    )  # fmt: skip
    return msgspec.structs.replace(usual, **fields)


def process(number: int) -> ProcessView:
    return ProcessView(pid=7 + number, worker=number, rate=500.0, connections=6, cpus=0.66, memory_bytes=156 << 20)


def view(*models: ModelView, clock_s: float = 100.0, processes: int = 1) -> View:
    return View(
        clock_s=clock_s, seconds=1.0, window_s=10.0, ready=True, rate=sum(item.rate for item in models), replies={},
        grpc_replies={}, connections=12, fast_path=8, buffered_bytes=0, throttled_ms=0.0,
        processes=[process(number) for number in range(processes)],
        models=list(models), models_left_out=0,
    )  # fmt: skip


def drawn(screen: Screen, width: int, height: int | None = None) -> str:
    console = Console(file=StringIO(), width=width, force_terminal=False)
    console.print(live_screen(screen, width, height))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 132, 200])
def test_it_fits_any_width(width: int) -> None:
    """No line is longer; rate, p50 and p99 are there from 40 columns on."""
    screen = Screen(
        "tailcut top 127.0.0.1:8000",
        findings=[DoctorFinding(name="governor", severity="warning", finding="slow", remedy=None)],
    )
    steps = [StepView(name="tokenize", rate=1.0, queue_us=None, compute_us=5.0, queued=0, failed=0, restarts=0)]
    for second in range(90):
        screen.add(
            view(model("a-name-that-is-long-[red]"), model("m", steps=steps), clock_s=100.0 + second, processes=2)
        )
    text = drawn(screen, width)
    assert max(map(len, text.splitlines())) <= width
    if width >= 40:
        assert "840 us" in text
        assert "3.1 ms" in text
    if width >= 80:
        assert "rows/batch" in text
    if width >= 132:
        assert "[red]" in text


def test_what_is_not_known_is_not_shown_as_a_number() -> None:
    """No requests, and too few for a percentile."""
    idle = model(second=latency(0), recent=latency(0), rate=0.0, batches=0, batch_rows=None, slow=[], slowest_us=None)
    few = model("few", requests=20)
    text = "\n".join(live_lines(view(idle, few)))
    assert "p50 no requests" in text
    assert "p99 too few" in text


def about(**changed: str) -> About:
    """What the server says of the model of `view`: so many rows, and settings."""
    names = {name.replace("_", "."): value for name, value in changed.items()}
    settings = {"engine.name": "onnxruntime"} | names
    item = ModelAbout(
        name="churn", version="1", settings=settings, changed=list(names), facts={}, rows=512, memory_bytes=1 << 20
    )
    return About(version="0", pid=7, slo_ms=None, queue_rows=None, models=[item], models_left_out=0)


def test_rows_batches_and_settings() -> None:
    """As the page has them: those of the moment, of all processes, and the settings that are not the defaults."""
    screen = Screen("x", about=about(engine_threads="2"))
    screen.add(view(model(batch_sizes={1: 60, 30: 40, 2: 0}), processes=2))
    text = drawn(screen, 100)
    assert "rows of churn: 5 waiting, 6 of 1,024 in use; batches: 1 row 60 %, 30 rows 40 %\n" in text
    assert "settings of churn: engine.threads=2\n" in text
    screen.about = about()
    assert "settings of churn: defaults\n" in drawn(screen, 100)
    screen.about = None
    assert "rows of churn: 5 waiting, 6 in use" in drawn(screen, 100)
    assert "rows of" not in drawn(screen, 50)


def test_many_sizes_of_batches() -> None:
    """Are put together between powers of two."""
    screen = Screen("x")
    screen.add(view(model(batch_sizes={1: 1, 2: 1, 3: 1, 4: 2, 5: 1, 8: 2, 9: 1, 16: 1})))
    text = drawn(screen, 150)
    assert "batches: 1 row 10 %, 2 rows 10 %, 3 to 4 rows 30 %, 5 to 8 rows 30 %, 9 to 16 rows 20 %\n" in text
    assert " ".join(drawn(screen, 60).split()).count("9 to 16 rows 20 %") == 1  # on a second line


def test_a_low_terminal_has_what_fits() -> None:
    """The settings go first, then rows and batches; the rest is as it was."""
    screen = Screen("x", about=about(engine_threads="2"))
    screen.add(view(model()))
    whole = drawn(screen, 80)
    lines = len(whole.splitlines())
    assert drawn(screen, 80, lines) == whole
    assert "settings of" not in (less := drawn(screen, 80, lines - 1))
    assert "rows of" in less
    least = drawn(screen, 80, lines - 2)
    assert "rows of" not in least
    assert "slowest of the last minute" in least
    assert drawn(screen, 80, 3) == least


def test_a_minute_is_kept() -> None:
    """Of rates and of slow requests, the slowest first; a second without a view is a gap."""
    screen = Screen("x")
    for second in (0, 1, 2, 70, 71, 73):
        screen.add(view(model(slow=[request(second, 100.0 * second)]), clock_s=float(second)))
    assert [entry[1].marks_us["written"] for entry in screen.slow] == [7300.0, 7100.0, 7000.0]
    assert len(screen.rates) == 3
    assert "██ █" in drawn(screen, 100)


@pytest.mark.slow
def test_once(server: Server) -> None:
    """One second as text without colours, with the model and its process."""
    command = [*TOP, server.url, "--once"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=PLAIN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mlp" in done.stdout
    assert "no requests" in done.stdout
    assert CONTROL.search(done.stdout) is None


def test_json(server: Server, top: Top) -> None:
    """One object of one second, as the schema says; without --once one a line."""
    done = top(server.url, "--once", "--json")
    assert done.returncode == 0, done.stderr
    assert validated("top", done.stdout)["models"][0]["name"] == "mlp"
    with started(server.url, "--json") as process, server.connect() as wire:
        assert process.stdout is not None
        validated("top", process.stdout.readline())
        for _ in range(20):
            assert wire.ask(raw_request("mlp", ROW)).status == 200
        got = 0
        while got < 20:
            got += json.loads(process.stdout.readline())["models"][0]["second"]["requests"]
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0


def in_terminal(*arguments: str, columns: int, end: signal.Signals | None, **environment: str) -> tuple[str, int]:
    """What the command writes to a terminal of so many columns, and its exit code; `end` once it has drawn twice."""
    ours, theirs = pty.openpty()
    variables = PLAIN | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "30"} | environment
    with (
        subprocess.Popen([*TOP, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=variables) as process,
        killed_at_end(process),
    ):
        os.close(theirs)
        text = b""
        try:
            while piece := os.read(ours, 65536):
                text += piece
                if end is not None and text.count(b"mlp") >= 2:
                    process.send_signal(end)
                    end = None
        except OSError:  # the terminal is closed with its last process
            pass
        os.close(ours)
        return text.decode(), process.wait(TIMEOUT_S)


@pytest.mark.parametrize("columns", [80, pytest.param(40, marks=pytest.mark.slow)])
def test_in_a_terminal(server: Server, columns: int) -> None:
    """On a screen of its own, which is gone after Ctrl-C; exit code 0."""
    text, code = in_terminal(server.url, columns=columns, end=signal.SIGINT)
    assert code == 0
    assert text.count("\x1b[?1049h") == text.count("\x1b[?1049l") == 1
    assert "Traceback" not in text
    assert "\x1b[1m" in text


@pytest.mark.slow
def test_no_colour(server: Server) -> None:
    """NO_COLOR leaves colours out, on a terminal too."""
    text, _ = in_terminal(server.url, "--once", columns=80, end=None, NO_COLOR="1")
    assert [
        code for code in re.findall(r"\x1b\[([0-9;]*)m", text) if re.search(r"(?:^|;)(?:3[0-7]|9[0-7]|38)", code)
    ] == []


@pytest.mark.slow
def test_a_server_that_stops(tmp_path: Path) -> None:
    """One line, and exit code 0: it said so. Of one that is gone without a word, exit code 2."""
    path = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    for number, (code, words) in {
        signal.SIGINT: (0, "has stopped"),
        signal.SIGKILL: (2, "closed the connection"),
    }.items():
        with serving(tmp_path, path) as server, started(server.url) as process:
            assert process.stdout is not None
            assert "mlp" in process.stdout.readline()
            server.process.send_signal(number)
            _, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == code, errors
        assert words in errors
        assert errors.count("\n") == 1


def test_a_token(tmp_path: Path, top: Top) -> None:
    """From a file; without it, one line says so."""
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    flags = ["--token-file", str(tmp_path / "token"), "--require-token"]
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *flags) as server:
        assert top(server.url, "--once", "--token-file", tmp_path / "token").returncode == 0
        done = top(server.url, "--once")
        assert (done.returncode, "--token-file" in done.stderr) == (2, True)
        (tmp_path / "wrong").write_text("other")
        (tmp_path / "wrong").chmod(0o600)
        done = top(server.url, "--once", "--token-file", tmp_path / "wrong")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith(f"does not accept the token in {tmp_path / 'wrong'}")
        assert server.stop() == 0


@pytest.mark.slow
def test_another_token_is_read_from_the_file(tmp_path: Path) -> None:
    """When the server has taken it, it ends the stream; the next one is asked for with the new token."""
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    flags = ["--token-file", str(tmp_path / "token")]
    model = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    with (
        serving(tmp_path, model, *flags, "--require-token", "--access-log") as server,
        started(server.url, *flags, "--json") as process,
    ):
        assert process.stdout is not None
        validated("top", process.stdout.readline())
        (tmp_path / "token").write_text("another")
        server.process.send_signal(signal.SIGHUP)
        while "/live" not in server.stderr.read_text():  # the line of a stream that has ended
            validated("top", process.stdout.readline())
        for _ in range(2):  # one may be of the old stream
            validated("top", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
        assert server.stop() == 0


@pytest.mark.slow
@needs_openssl
def test_over_tls(tmp_path: Path, top: Top) -> None:
    pair = make_pair(tmp_path)
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *pair.flags) as server:
        assert top(f"https://localhost:{server.port}", "--once", "--ca", pair.cert).returncode == 0
        done = top(f"https://localhost:{server.port}", "--once")
        assert (done.returncode, "--ca" in done.stderr) == (2, True)
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://127.0.0.1:9"], "no server answers at 127.0.0.1:9"),
        (["grpc://127.0.0.1:9"], "is for gRPC, and tailcut top asks over HTTP: give http://HOST:PORT"),
        (["ftp://x"], "is not http://HOST:PORT, https://HOST:PORT or http+unix:///PATH\n"),
        ([__file__], "is a file, not the address of a running server"),
        ([__file__], ", then tailcut top http://127.0.0.1:8000"),
        (["http://127.0.0.1:9", "--ca", "x.pem"], "--ca needs TLS"),
        (["{url}/v2"], "answers 404"),
    ],
)
def test_wrong_addresses(
    server: Server, tmp_path: Path, mistake: Callable[..., str], arguments: list[str], words: str
) -> None:
    """One line that says what is wrong, exit code 2, nothing on stdout."""
    assert words in mistake(tmp_path, "top", *[argument.format(url=server.url) for argument in arguments])
