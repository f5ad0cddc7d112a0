"""`tailcut bench` as a user meets it: a real server, real exit codes, one JSON object."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Bench
from tests.lab.scripted import OK, scripted
from tests.processes import interrupted
from tests.schemas import validated
from tests.servers import Server, serving

from tailcut.cli.main import main
from tailcut.models import digits_data, digits_model

SCRIPT = Path(sys.executable).with_name("tailcut")
RUN_KEYS = {"mode", "rate_offered", "rate_achieved", "concurrency", "samples", "errors", "latency_ms"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bench")
    with serving(folder, digits_model(), "--uds", folder / "socket") as running:
        yield running


def bench_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own; with a short warm-up, but where the arguments name one."""
    command = [str(SCRIPT), "bench", "--warmup", "50ms", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_json_object(server: Server) -> None:
    """With --json stdout is one object: the target, each run with its keys, the machine, the command and the seed."""
    done = bench_process(server.url, "--concurrency", "1,4", "--duration", "150ms", "--warmup", "50ms", "--json")
    assert done.returncode == 0
    record = validated("bench", done.stdout)
    assert record["target"] == server.url
    assert record["seed"] == 0
    assert record["command"].startswith("tailcut bench ")
    assert record["machine"]["cpu"]
    assert [run["concurrency"] for run in record["runs"]] == [1, 4]
    for run in record["runs"]:
        assert run.keys() >= RUN_KEYS | {"p99_interval_ms"}
        assert run["latency_ms"].keys() == {"p50", "p95", "p99", "p99_9", "max"}
        assert run["mode"] == "closed"
        assert run["errors"] == {}
        assert run["samples"] > 20
        assert run.keys() >= {"server_cost"}
        if sys.platform == "linux":
            assert 1_000 < run["server_cost"]["cpu_ns"] < 1e9


@pytest.mark.slow
def test_more_connections_than_a_shell_allows_files(server: Server) -> None:
    """The limit is raised for them; where it may not be, the line names it, and does not blame the server."""
    bench = [SCRIPT, "bench", server.url, "--warmup", "0s", "--duration", "300ms", "--concurrency", "300", "--json"]
    command = ["/bin/bash", "-c", 'ulimit -S$0n 200; exec "$@"']
    done = subprocess.run([*command, "", *bench], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"][0]["errors"] == {}
    done = subprocess.run([*command, "H", *bench], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("Too many open files: raise the limit of open files (ulimit -n)")


def test_a_person_gets_a_table(bench: Bench, server: Server) -> None:
    """Without --json: a line for each run on stdout, progress on stderr."""
    done = bench(server.url, "--rate", "500", "--duration", "400ms", "--wire", "json")
    assert done.returncode == 0
    assert "500.0/s offered" in done.stdout
    assert "needs " in done.stdout or "client late" in done.stdout  # p99.9 of 200 samples
    assert done.stderr.startswith("open loop, 500.0 requests/s for 0.4 s")


def test_the_users_own_data_over_the_unix_socket(bench: Bench, server: Server) -> None:
    """--data sends the file's rows; http+unix:// goes over the socket."""
    url = f"http+unix://{server.stderr.parent / 'socket'}"
    done = bench(url, "--data", digits_data(), "--concurrency", "2", "--duration", "200ms", "--wire", "raw", "--json")
    assert done.returncode == 0
    assert validated("bench", done.stdout)["runs"][0]["errors"] == {}


@pytest.mark.slow
def test_the_sweep_starts_with_the_capacity(bench: Bench, server: Server) -> None:
    """One closed run, then open ones at 10 to 90 % of what it reached."""
    done = bench(server.url, "--rate-sweep", "--duration", "250ms", "--warmup", "50ms", "--json")
    first, *others = validated("bench", done.stdout)["runs"]
    assert first["mode"] == "closed"
    shares = [run["rate_offered"] / first["rate_achieved"] for run in others]
    assert shares == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.8, 0.9], rel=0.01)


def test_the_gate_passes_and_fails(bench: Bench, server: Server, tmp_path: Path) -> None:
    """Against a far slower result: exit 0. Against a far faster one, a regression: exit 1.

    So far that no noise of the machine comes near it.
    """
    first = tmp_path / "first.json"
    assert bench(server.url, "--concurrency", "2", "--duration", "100ms", "-o", first).returncode == 0
    record = json.loads(first.read_text())
    slow, fast = tmp_path / "slow.json", tmp_path / "fast.json"
    for path, factor in ((slow, 100.0), (fast, 1 / 100)):
        run = record["runs"][0]
        faked = run | {"latencies_us": [value * factor for value in run["latencies_us"]]}
        path.write_text(json.dumps(record | {"runs": [faked]}))
    passes = bench(server.url, "--concurrency", "2", "--duration", "100ms", "--against", slow, "--json")
    assert passes.returncode == 0
    (entry,) = validated("bench", passes.stdout)["comparison"]
    assert entry["run"] == 0
    assert entry["percentiles"]["p50"]["verdict"] == "better"
    fails = bench(server.url, "--concurrency", "2", "--duration", "100ms", "--against", fast)
    assert fails.returncode == 1
    assert "run 1 p50:" in fails.stdout
    assert "worse" in fails.stdout


def test_errors_are_a_no(bench: Bench, tmp_path: Path) -> None:
    """A server that refuses some requests makes exit 1, and the kinds are in the record."""
    model = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": []}

    async def script(number, writer) -> None:
        body = json.dumps([{"name": "m"}] if number == 0 else model).encode()
        if number < 2:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        elif number % 4 == 0:
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(OK)

    with scripted(script) as target:
        done = bench(
            f"http://{target.authority}", "--concurrency", "1", "--duration", "200ms", "--warmup", "0s", "--json"
        )
    assert done.returncode == 1
    assert validated("bench", done.stdout)["runs"][0]["errors"].keys() == {"503"}


@pytest.mark.slow
def test_a_search_names_its_rate_and_shows_its_curve(bench: Bench, server: Server) -> None:
    """--slo: the answer under `slo`, a curve sorted by rate, and exit 0 although probes above the rate failed."""
    done = bench(server.url, "--slo", "250ms", "--duration", "100ms", "--warmup", "20ms", "--wire", "raw", "--json")
    record = validated("bench", done.stdout)
    slo = record["slo"]
    assert done.returncode == (0 if slo["met"] else 1)
    assert (slo["slo_ms"], slo["percentile"]) == (250, "p99")
    rates = [point["rate_offered"] for point in slo["curve"]]
    assert rates == sorted(rates)
    assert len(record["runs"]) == len(rates) + 1  # the capacity comes first
    if slo["met"]:
        met = [point for point in slo["curve"] if point["rate_offered"] == pytest.approx(slo["highest_rate"], abs=0.01)]
        assert {point["shown"] for point in met} == {"meets"}
        assert len(met) >= 2


def test_a_limit_that_cannot_be_kept_is_a_no(bench: Bench, server: Server) -> None:
    """At one rate with --slo: met or not, and exit 1 when not; nothing answers within a microsecond."""
    done = bench(server.url, "--rate", "2000", "--slo", "1us", "--duration", "300ms", "--json")
    assert done.returncode == 1
    slo = validated("bench", done.stdout)["slo"]
    assert (slo["met"], slo["highest_rate"]) == (False, None)
    assert slo["limited_by"] in {"misses", "client behind"}
    for duration in ("1500ms", "6s"):  # until enough requests did not wait for one another
        done = bench(server.url, "--rate", "500", "--slo", "10s", "--duration", duration)
        if done.returncode == 0:
            break
    assert "500.0 requests/s is the highest rate with p99 within the limit" in done.stdout


@pytest.mark.parametrize(
    ("scenario", "more", "metric", "rows"),
    [
        ("single-stream", (), "p90_ms", 1),
        pytest.param("multi-stream", (), "p99_ms", 8, marks=pytest.mark.slow),
        pytest.param("server", ("--slo", "10s", "--rate", "700"), "queries_per_s", 1, marks=pytest.mark.slow),
        ("offline", ("--samples", "640"), "samples_per_s", 32),
    ],
)
def test_scenarios(
    bench: Bench, server: Server, *, scenario: str, more: tuple[str, ...], metric: str, rows: int
) -> None:
    """MLPerf's four by name, each with its metric and its samples in a query."""
    for duration in ("800ms", "2500ms", "10s"):  # until there are samples enough for the percentile
        done = bench(server.url, "--scenario", scenario, "--duration", duration, *more, "--json")
        result = validated("bench", done.stdout)["scenario"]
        if result["value"] is not None:
            break
    assert done.returncode == 0
    assert (result["name"], result["metric"], result["samples_per_query"]) == (scenario, metric, rows)
    assert result["value"] > 0
    assert "not an MLPerf result" in result["note"]


def test_the_server_scenario_needs_its_limit(bench: Bench, server: Server) -> None:
    """Without --slo there is nothing to meet."""
    done = bench(server.url, "--scenario", "server")
    assert (done.returncode, done.stdout) == (2, "")
    assert "add --slo" in done.stderr


def test_any_server_with_a_body_of_ones_own(bench: Bench, tmp_path: Path) -> None:
    """--body, --header and --expect measure servers that speak another protocol; other statuses are errors."""
    body, seen = tmp_path / "body", []
    body.write_bytes(b"abc")

    async def script(number, writer) -> None:
        seen.append(number)
        writer.write(OK.replace(b"200 OK", b"202 Accepted"))

    with scripted(script) as target:
        url = f"http://{target.authority}/any/path"
        options = ["--body", body, "--header", "X-Key: 1", "--concurrency", "2", "--duration", "200ms", "--json"]
        good, bad = bench(url, *options, "--expect", "202"), bench(url, *options)
    assert good.returncode == 0
    assert validated("bench", good.stdout)["runs"][0]["samples"] > 20
    assert bad.returncode == 1
    assert validated("bench", bad.stdout)["runs"][0]["errors"].keys() == {"202"}


@pytest.mark.slow
def test_a_trace_is_replayed_in_two_processes(server: Server, tmp_path: Path) -> None:
    """Every arrival of the file is sent once; the record says how they came, and how many processes sent them."""
    trace = tmp_path / "trace"
    trace.write_text("".join(f"{at * 0.01:.3f}\n" for at in range(50)))
    done = bench_process(server.url, "--trace", trace, "--processes", "2", "--json")
    assert done.returncode == 0
    (run,) = validated("bench", done.stdout)["runs"]
    assert (run["samples"], run["arrivals"], run["client_processes"]) == (50, "trace", 2)
    assert run["rate_offered"] == pytest.approx(100)


@pytest.mark.parametrize("arrivals", ["bursty", pytest.param("constant", marks=pytest.mark.slow)])
def test_arrivals_by_name(bench: Bench, server: Server, arrivals: str) -> None:
    """The record says how the requests came."""
    done = bench(server.url, "--rate", "200", "--arrivals", arrivals, "--duration", "300ms", "--json")
    assert done.returncode == 0
    assert validated("bench", done.stdout)["runs"][0]["arrivals"] == arrivals


def test_a_gate_that_cannot_compare_is_a_no(bench: Bench, server: Server, tmp_path: Path) -> None:
    """When no percentile is known to both sides the gate does not pass in silence."""
    first = tmp_path / "first.json"
    assert bench(server.url, "--concurrency", "2", "--duration", "100ms", "-o", first).returncode == 0
    record = json.loads(first.read_text())
    record["runs"][0]["latency_ms"] = dict.fromkeys(record["runs"][0]["latency_ms"])
    first.write_text(json.dumps(record))
    done = bench(server.url, "--concurrency", "2", "--duration", "100ms", "--against", first)
    assert done.returncode == 1
    assert "could not be compared" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("http://127.0.0.1:9", "--duration", "1s"), "no server answers at 127.0.0.1:9"),
        (("ftp://x",), "is not http://HOST:PORT"),
        (("grpc://127.0.0.1:9",), "no gRPC server answers at 127.0.0.1:9"),
        (("grpc://127.0.0.1:9/path",), "is not grpc://HOST:PORT"),
        (("grpc://127.0.0.1:9", "--body", "none"), "--body needs HTTP"),
        (("http://192.0.2.1:80",), "--allow-remote"),
        (("http://127.0.0.1:9", "--rate", "5", "--rate-sweep"), "cannot be combined"),
        (("http://127.0.0.1:9", "--duration", "soon"), "is not a duration"),
        (("http://127.0.0.1:9", "--duration", "0s"), "--duration"),
        (("http://127.0.0.1:9", "--concurrency", "0"), "list of positive whole numbers"),
        (("http://127.0.0.1:9", "--against", "none.json"), "no such result file"),
        (("http://127.0.0.1:9", "--trace", "a", "--rate", "5"), "cannot be combined"),
        (("http://127.0.0.1:9", "--rate", "5", "--concurrency", "64"), "--rate and --concurrency cannot be combined"),
        (("http://127.0.0.1:9", "--scenario", "offline", "--slo", "5ms"), "with --scenario server"),
        (("http://127.0.0.1:9", "--arrivals", "bursty", "--burst-factor", "20", "--rate", "5"), "burst"),
        (("http://127.0.0.1:9", "--processes", "0"), "--processes"),
        (("http://127.0.0.1:9", "--processes", "\N{SUPERSCRIPT TWO}"), "--processes"),
        (("http://127.0.0.1:9", "--rate", "1e12"), "are 5.5e+12 requests, and a run has at most 100,000,000"),
        (("http://127.0.0.1:9", "--mix", "a=5,b=1e12"), "are 5.5e+12 requests, and a run has at most 100,000,000"),
        (("http://127.0.0.1:9", "--scenario", "offline", "--samples", "1000000000000"), "'--samples'"),
        (("http://127.0.0.1:9", "--seed", "-1"), "'--seed'"),
        (("http://127.0.0.1:9", "--slo", "0ms"), "--slo must be greater than 0, not 0ms"),
        (("http://127.0.0.1:9", "--slo", "20"), "--slo 20: 20ms or 20s?"),
        (("http://127.0.0.1:9/x", "--header", "none"), "not a header"),
        (("http://127.0.0.1:9/x", "--body", "none.bin"), "none.bin: No such file"),
        (("http://127.0.0.1:9/x", "--scenario", "offline"), "several samples"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one line on stderr, nothing on stdout."""
    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("tailcut: ")
    assert words in line


def test_data_that_does_not_fit_and_models_that_are_not_there(bench: Bench, server: Server, tmp_path: Path) -> None:
    """Both are the user's mistakes, named before any load is sent."""
    np.savez(tmp_path / "wrong.npz", image=np.zeros((1, 3), np.float32))
    done = bench(server.url, "--data", tmp_path / "wrong.npz")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the model takes" in done.stderr
    done = bench(server.url, "--model", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nope" in done.stderr


def test_the_record_names_the_transport(bench: Bench, server: Server) -> None:
    """What the requests went over, and how tensors were in them."""
    done = bench(server.url, "--concurrency", "1", "--duration", "100ms", "--wire", "raw", "--json")
    assert validated("bench", done.stdout)["transport"] == "HTTP over TCP, raw tensors"


def test_shared_memory_is_for_v2_tensors(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """With another form, or a body of one's own, it is a mistake."""
    assert main(["bench", server.url, "--shared-memory", "x-", "--wire", "raw"]) == 2
    assert "leave out --wire" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm")
def test_sigterm_removes_what_lies_in_shared_memory(tmp_path: Path) -> None:
    """As Ctrl-C does; the exit code is that of the signal."""
    prefix = f"ended-{os.getpid()}-"
    command = [sys.executable, "-m", "tailcut", "bench", "--shared-memory", prefix, "--duration", "60s", "--rate", "50"]
    with serving(tmp_path, digits_model(), "--shared-memory", prefix) as running:
        code, out, err = interrupted([*command, running.url], tmp_path, "open loop", signal.SIGTERM)
    assert (code, out) == (143, ""), err
    assert list(Path("/dev/shm").glob(f"{prefix}*")) == []
