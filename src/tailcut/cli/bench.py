"""`tailcut bench`: load-test a served model."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailcut.cli.bench_requests import ArrivalProcess, RequestMaker, RequestOptions, Wire, mix_entries
from tailcut.cli.numbers import finite

if TYPE_CHECKING:
    from collections.abc import Callable

    from msgspec import UnsetType

    from tailcut.lab.arrivals import Arrivals, Replayed
    from tailcut.lab.load import LoadResult, LoadTarget
    from tailcut.lab.mix import MixEntry
    from tailcut.lab.record import PlannedRun
    from tailcut.lab.records import Scenario, ScenarioResult, SloResult
    from tailcut.lab.session import LoadSession

    _Found = tuple[ScenarioResult | UnsetType, SloResult | UnsetType]

_SWEEP = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)  # of the closed loop's capacity
_SWEEP_CONCURRENCY = 32
_CONCURRENCY = "1,8,32"  # of closed loops, if no other load is given
_MOST_PROCESSES = 64
_MOST_SAMPLES = 100_000_000


class ScenarioName(StrEnum):
    """The four scenarios of MLPerf Inference."""

    SINGLE_STREAM = "single-stream"
    MULTI_STREAM = "multi-stream"
    SERVER = "server"
    OFFLINE = "offline"


def bench(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="http(s)://, grpc(s):// or http+unix:// URL of a v2 server; with --body, any HTTP URL.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Model to test; required if the server has several.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Open loop: requests per second.", min=0.01, callback=finite)
    ] = None,
    arrivals: Annotated[
        ArrivalProcess, typer.Option(help="Open loop: distribution of arrivals.")
    ] = ArrivalProcess.POISSON,
    burst_factor: Annotated[
        float, typer.Option(help="Bursty: rate within a burst, in mean rates (at most 10).", callback=finite)
    ] = 5.0,
    burst_length: Annotated[str, typer.Option(help="Bursty: mean length of a burst.")] = "200ms",
    trace: Annotated[
        Path | None, typer.Option(help="Open loop: file of arrival times (seconds, one per line).")
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=RATE[:ARRIVALS],...", help="Open loops on several models at once, each at its own rate."
        ),
    ] = None,
    rate_sweep: Annotated[
        bool, typer.Option("--rate-sweep", help="Open loops at 10 to 90 % of the measured capacity.")
    ] = False,
    slo: Annotated[str | None, typer.Option(help="Find the highest rate whose p99 stays within this limit.")] = None,
    scenario: Annotated[ScenarioName | None, typer.Option(help="Run an MLPerf Inference scenario.")] = None,
    samples: Annotated[
        int, typer.Option(help="Number of samples in the offline scenario.", min=32, max=_MOST_SAMPLES)
    ] = 24_576,
    concurrency: Annotated[
        str | None,
        typer.Option(
            help=f"Closed loop: requests in flight; a list makes several runs. Without another load: {_CONCURRENCY}."
        ),
    ] = None,
    duration: Annotated[str, typer.Option(help="Duration of each run.")] = "5s",
    warmup: Annotated[str, typer.Option(help="Warm-up before each run, not counted.")] = "500ms",
    processes: Annotated[str, typer.Option(help="Number of client processes, or auto.")] = "1",
    wire: Annotated[Wire, typer.Option(help="Encoding of the tensors.")] = Wire.BINARY,
    shared_memory: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="Pass tensors in shared-memory regions whose names start with PREFIX."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Inputs from an .npz, .npy or .jsonl file (default: generated from --seed); with --mix, NAME=FILE.",
        ),
    ] = None,
    body: Annotated[Path | None, typer.Option(help="Send this file unchanged as the request body.")] = None,
    expect: Annotated[
        int | None,
        typer.Option(
            help="With --body or a path: HTTP status that counts as success (default: 200).", min=100, max=599
        ),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="Header NAME:VALUE to add to each request; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrival times and generated inputs.", min=0, max=2**63 - 1)] = 0,
    against: Annotated[
        Path | None, typer.Option(help="Compare with an earlier result; exit 1 if anything got worse.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the result to this file as JSON.")
    ] = None,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Allow a target on another machine.")] = False,
    ca: Annotated[
        Path | None, typer.Option(help="With https:// or grpcs://: file of certificates (PEM) to trust.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that the server requires.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Load-test a served model with an open or a closed loop; report percentiles with confidence intervals."""
    from msgspec import UNSET

    from tailcut.cli.bench_result import check_comparable, compare_runs, finish, is_good
    from tailcut.cli.options import parse_counts, with_access
    from tailcut.cli.outputs import check_writable, command_line
    from tailcut.cli.termination import interrupted_once
    from tailcut.durations import parse_duration, parse_limit
    from tailcut.errors import UsageError
    from tailcut.lab.arrivals import check_count, read_trace
    from tailcut.lab.describe import parse_headers, parse_url
    from tailcut.lab.record import read_record, run_record
    from tailcut.lab.records import BenchResult, Scenario
    from tailcut.machine.fingerprint import fingerprint
    from tailcut.machine.open_files import raise_open_files

    loads = {"rate": rate, "trace": trace, "rate_sweep": rate_sweep, "slo": slo, "scenario": scenario, "mix": mix}
    _check_exclusive(**loads, concurrency=concurrency)
    check_writable(output, report)
    raise_open_files()  # each connection needs a file descriptor
    named = Scenario(scenario) if scenario else None
    earlier = read_record(against) if against else None
    make = partial(_maker, factor=burst_factor, length_s=parse_duration(burst_length))
    load = _Load(
        rate=rate,
        make=make(arrivals),
        trace=None if trace is None else read_trace(trace),
        sweep=rate_sweep,
        slo_ms=None if slo is None else parse_limit(slo, "--slo") * 1e3,
        scenario=named,
        samples=samples,
        concurrency=parse_counts(concurrency or _CONCURRENCY),
    )
    length_s, warmup_s, clients = parse_duration(duration), parse_duration(warmup), _process_count(processes)
    if length_s <= 0:
        raise UsageError("--duration must be greater than 0")
    _check_files(output, report, [*_paths_of(data or []), trace, body, ca, token_file], against)
    load_target, path = parse_url(target, allow_remote=allow_remote)
    headers = parse_headers(header or [], grpc=load_target.grpc)
    load_target = with_access(load_target, ca, token_file, headers)
    requests = RequestOptions(
        url=target,
        path=path,
        body=body,
        data=data or [],
        model=model,
        wire=wire,
        shared_memory=shared_memory,
        expect=expect,
    )
    entries = mix_entries(mix, model, clients, own=requests.own)
    tensors = requests.form(named)
    requests.check_headers(headers)
    for offered in [entry.rate for entry in entries] or [rate or 0.0]:
        check_count(offered, warmup_s + length_s)
    with interrupted_once():  # else SIGTERM would leave regions of shared memory behind
        results, (scenario_record, slo_record) = _Runs(
            target=load_target,
            requests=requests,
            entries=entries,
            load=load,
            make=lambda kind: make(arrivals if kind is None else ArrivalProcess(kind)),
            length_s=length_s,
            warmup_s=warmup_s,
            seed=seed,
            clients=clients,
        ).made(lambda planned: check_comparable(against, earlier, planned))
    runs = [run_record(result) for result in results]
    record = BenchResult(
        target=target,
        runs=runs,
        scenario=scenario_record,
        slo=slo_record,
        machine=fingerprint(),
        command=command_line(),
        seed=seed,
        transport=f"{load_target.transport}, {tensors}",
        comparison=UNSET if earlier is None else compare_runs(runs, earlier.runs),
    )
    finish(record, output=output, report=report, markdown=markdown, json=json)
    if not is_good(record):
        raise typer.Exit(1)


def _paths_of(data: list[str]) -> list[Path]:
    return [Path(part) for text in data for part in (text, text.partition("=")[2]) if part]


def _check_files(output: Path | None, report: Path | None, read: list[Path | None], against: Path | None) -> None:
    """Refuse output files that are the same file, or an input file; an earlier result may be replaced by the new one.

    Raises:
        UsageError: two of them are the same file.
    """
    from tailcut.cli.outputs import refuse_overwriting

    refuse_overwriting({"--output": output, "--report": report}, read)
    refuse_overwriting({"--report": report}, [against])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """The requests of a load test, their target, and how long to send them."""

    target: "LoadTarget"
    requests: RequestOptions
    entries: "list[MixEntry]"
    load: "_Load"
    make: "Callable[[str | None], Callable[[float], Arrivals]]"  # arrivals of a kind; None for the default kind
    length_s: float
    warmup_s: float
    seed: int
    clients: int | None

    def made(self, check: "Callable[[list[PlannedRun]], object]") -> "tuple[list[LoadResult], _Found]":
        """Make the runs; `check` is called before the first request with what is known of them."""
        from msgspec import UNSET

        from tailcut.lab.mix import run_mix
        from tailcut.lab.record import PlannedRun
        from tailcut.lab.scenarios import samples_per_query
        from tailcut.lab.session import LoadSession
        from tailcut.lab.shared import SharedLoad

        requests, prefix, scenario = self.requests, self.requests.shared_memory, self.load.scenario
        with ExitStack() as stack:
            shared = None if prefix is None else stack.enter_context(SharedLoad(self.target, prefix))
            rows = samples_per_query(scenario) if scenario else 1
            maker = RequestMaker(self.target, requests.wire, self.seed, rows, shared)
            if self.entries:
                mixed = maker.of_mix(self.entries, requests.data, self.make)
                check([PlannedRun.open(arrivals, model) for model, (_, arrivals) in mixed.items()])
                times = {"duration_s": self.length_s, "warmup_s": self.warmup_s}
                return run_mix(self.target, mixed, **times, seed=self.seed, say=_say), (UNSET, UNSET)
            workload = requests.own_workload(self.target) or maker.of(requests.model, requests.data)
            check(self.load.planned(workload.model))
            session = LoadSession(self.target, workload, self.length_s, self.warmup_s, self.seed, self.clients, _say)
            records = self.load.run(session)
            return session.results, records


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """The load: which runs to make."""

    rate: float | None
    make: "Callable[[float], Arrivals]"
    trace: "Replayed | None"
    sweep: bool
    slo_ms: float | None
    scenario: "Scenario | None"
    samples: int
    concurrency: list[int]

    def planned(self, model: str | None) -> "list[PlannedRun]":
        """The runs as far as they are known in advance; empty for a search, a sweep or a scenario."""
        from tailcut.lab.record import PlannedRun

        if self.scenario is not None or self.sweep or (self.slo_ms is not None and self.rate is None):
            return []
        if self.trace is not None:
            return [PlannedRun.open(self.trace, model)]
        if self.rate is not None:
            return [PlannedRun.open(self.make(self.rate), model)]
        return [PlannedRun.closed(count, model) for count in self.concurrency]

    def run(self, session: "LoadSession") -> "_Found":
        """Make the runs; returns the results of a scenario and of a search."""
        from msgspec import UNSET

        from tailcut.lab.scenarios import run_scenario

        if self.scenario is not None:
            return run_scenario(session, self.scenario, slo_ms=self.slo_ms, rate=self.rate, samples=self.samples)
        if self.trace is not None:
            session.open(self.trace, duration_s=self.trace.length_s)
        elif self.slo_ms is not None and self.rate is None:
            return UNSET, session.saturate(self.make, self.slo_ms)
        elif self.slo_ms is not None and self.rate is not None:
            return UNSET, session.meets(self.make(self.rate), self.slo_ms)
        elif self.rate is not None:
            session.open(self.make(self.rate))
        elif self.sweep:
            capacity = session.closed(_SWEEP_CONCURRENCY).rate_achieved
            for share in _SWEEP:
                session.open(self.make(max(0.1, share * capacity)))
        else:
            for count in self.concurrency:
                session.closed(count)
        return UNSET, UNSET


def _check_exclusive(**given: object) -> None:
    """Refuse options that name different loads; only --slo combines with others: --rate or --scenario server."""
    from tailcut.errors import UsageError

    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(named) > 1 and set(named) - {"--slo", "--rate"} not in (set(), {"--scenario"}):
        raise UsageError(f"{' and '.join(named)} cannot be combined")
    if given["scenario"] and given["scenario"] != "server" and len(named) > 1:
        raise UsageError(f"{' and '.join(named[:-1])} can only be combined with --scenario server")


def _maker(kind: ArrivalProcess, factor: float, length_s: float) -> "Callable[[float], Arrivals]":
    from tailcut.lab.arrivals import Bursty, Constant, Poisson

    if kind is ArrivalProcess.BURSTY:
        Bursty(1.0, factor, length_s)  # raises for impossible parameters before any load is sent
        return lambda rate: Bursty(rate, factor, length_s)
    return Constant if kind is ArrivalProcess.CONSTANT else Poisson


def _process_count(text: str) -> int | None:
    """A number of client processes, or None for auto."""
    from tailcut.errors import UsageError

    if text == "auto":
        return None
    if not text.isdecimal() or not 0 < int(text) <= _MOST_PROCESSES:
        raise UsageError(f"--processes must be a number from 1 to {_MOST_PROCESSES} or auto, not {text!r}")
    return int(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
