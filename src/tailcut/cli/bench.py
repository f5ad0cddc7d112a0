"""`tailcut bench`: an honest load test of a served model."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tailcut.lab.load import LoadResult, Payload, Target

_PAYLOADS = 64  # distinct requests sent in turn
_SWEEP = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)  # of the closed loop's capacity
_SWEEP_CONCURRENCY = 32


class Wire(StrEnum):
    """How tensors travel."""

    BINARY = "binary"
    JSON = "json"
    RAW = "raw"


def bench(  # noqa: C901, PLR0912  a check for each option
    target: Annotated[str, typer.Argument(metavar="TARGET", help="http://HOST:PORT or http+unix:///PATH.")],
    model: Annotated[str | None, typer.Option(help="Which model, where the server has several.")] = None,
    rate: Annotated[float | None, typer.Option(help="Open loop: requests a second, Poisson.", min=0.01)] = None,
    rate_sweep: Annotated[bool, typer.Option("--rate-sweep", help="Open loop at 10 to 90 % of the capacity.")] = False,
    concurrency: Annotated[str, typer.Option(help="Closed loop: requests in flight, a list.")] = "1,8,32",
    duration: Annotated[str, typer.Option(help="Of each run.")] = "5s",
    warmup: Annotated[str, typer.Option(help="Before each run, not counted.")] = "500ms",
    wire: Annotated[Wire, typer.Option(help="How tensors travel.")] = Wire.BINARY,
    data: Annotated[Path | None, typer.Option(help="Inputs from an .npz file; else made up, seeded.")] = None,
    seed: Annotated[int, typer.Option(help="Of arrival times and made-up inputs.")] = 0,
    against: Annotated[Path | None, typer.Option(help="An earlier result: say what changed, exit 1 if worse.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the result here, as JSON.")] = None,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Send load to another machine.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Load-test a served model: open loop from planned times, or closed loop; percentiles with intervals."""
    import orjson

    from tailcut.cli.options import parse_counts, parse_duration
    from tailcut.errors import UsageError
    from tailcut.lab.describe import parse_target
    from tailcut.lab.record import read_record, regressed
    from tailcut.report.bench import bench_table

    if rate is not None and rate_sweep:
        raise UsageError("--rate and --rate-sweep exclude each other")
    earlier = read_record(against) if against else None
    place = parse_target(target, allow_remote=allow_remote)
    counts, length_s, warmup_s = parse_counts(concurrency), parse_duration(duration), parse_duration(warmup)
    if length_s <= 0:
        raise UsageError("--duration must be more than nothing")
    payloads = _payloads(place, model, data, wire.value, seed)
    runs = _Runs(place, payloads, length_s, warmup_s, seed)
    if rate is not None:
        runs.open(rate)
    elif rate_sweep:
        capacity = runs.closed(_SWEEP_CONCURRENCY).rate_achieved
        for share in _SWEEP:
            runs.open(max(0.1, share * capacity))
    else:
        for count in counts:
            runs.closed(count)
    record: dict[str, Any] = runs.record(target, f"tailcut {shlex.join(sys.argv[1:])}")
    if earlier is not None:
        record["comparison"] = _compare(record, earlier)
    if output:
        from tailcut.runtime.profile import write_atomically

        write_atomically(output, orjson.dumps(record, option=orjson.OPT_INDENT_2).decode())
    if report:
        from tailcut.report.html import render_bench_html
        from tailcut.runtime.profile import write_atomically

        write_atomically(report, render_bench_html(record))
    if json:
        print(orjson.dumps(record).decode())
    elif markdown:
        from tailcut.report.markdown import bench_markdown

        print(bench_markdown(record))
    else:
        bench_table(record)
    failed = any(run["errors"] or not run["samples"] for run in record["runs"])
    worse = any(regressed(entry["percentiles"]) for entry in record.get("comparison", []))
    if failed or worse:
        raise typer.Exit(1)


class _Runs:
    def __init__(
        self, target: "Target", payloads: "list[Payload]", duration_s: float, warmup_s: float, seed: int
    ) -> None:
        self._target = target
        self._payloads = payloads
        self._duration_s = duration_s
        self._warmup_s = warmup_s
        self._seed = seed
        self._results: list[LoadResult] = []

    def open(self, rate: float) -> None:
        from tailcut.lab.client import open_loop

        print(f"open loop, {rate:,.1f} requests/s for {self._duration_s:g} s ...", file=sys.stderr)
        self._results.append(
            open_loop(
                self._target,
                self._payloads,
                rate=rate,
                duration_s=self._duration_s,
                seed=self._seed,
                warmup_s=self._warmup_s,
            )
        )

    def closed(self, concurrency: int) -> "LoadResult":
        from tailcut.lab.client import closed_loop

        print(f"closed loop, {concurrency} in flight for {self._duration_s:g} s ...", file=sys.stderr)
        result = closed_loop(
            self._target,
            self._payloads,
            concurrency=concurrency,
            duration_s=self._duration_s,
            warmup_s=self._warmup_s,
        )
        self._results.append(result)
        return result

    def record(self, target: str, command: str) -> dict[str, Any]:
        from tailcut.lab.record import run_record
        from tailcut.machine.fingerprint import fingerprint

        runs = [run_record(result) for result in self._results]
        return {"target": target, "runs": runs, "machine": fingerprint(), "command": command, "seed": self._seed}


def _payloads(target: "Target", model: str | None, data: Path | None, wire: str, seed: int) -> "list[Payload]":
    from tailcut.cli.options import load_data
    from tailcut.lab.describe import made_up_inputs, rows_of_data, served_spec
    from tailcut.lab.payload import infer_payload

    spec = served_spec(target, model)
    if data is not None:
        inputs = rows_of_data(spec, load_data(data), _PAYLOADS)
    else:
        inputs = [made_up_inputs(spec, seed + number) for number in range(8)]
    return [infer_payload(target, spec.name, one, wire) for one in inputs]  # type: ignore[arg-type]  # the enum's values


def _compare(record: dict[str, Any], earlier: dict[str, Any]) -> list[dict[str, Any]]:
    from tailcut.errors import UsageError
    from tailcut.lab.record import compare, match_runs

    pairs = match_runs(record["runs"], earlier["runs"])
    if not pairs:
        raise UsageError("no run of the earlier result has the same mode, rate and concurrency as one of this")
    return [{"run": new, "percentiles": compare(record["runs"][new], earlier["runs"][old])} for new, old in pairs]
