"""`tailcut demo`: tune, serve and load-test the bundled digits model, and show the commands for your own model.

It runs the commands that a user would run: `tailcut tune` in a separate process, then `tailcut serve`
twice, for the profile and for the baseline, with load and held-out samples sent to both over HTTP.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from tailcut.cli.records import DemoAccuracy, DemoArm, DemoLoad, DemoResult
    from tailcut.lab.trial import ArmRuns, ServedProfile
    from tailcut.tuner.result_records import TuneResult

SLO = "25ms"  # longer than most stalls of a small virtual machine, which no setting prevents
ACCURACY_FLOOR = 0.97  # of the held-out samples, before and after
_BATCH = 32  # samples per request
_CONCURRENCY = 16
_ROUNDS = 4
_OPEN_SHARE, _CLOSED_SHARE = 0.025, 0.012  # of the tuning's budget, for each arm: 7 seconds in all at the default


def demo(
    budget: Annotated[str, typer.Option(help="Time for the tuning.")] = "90s",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the profile and the report (default: a new temporary folder)."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end, and progress on stderr.")
    ] = False,
) -> None:
    """Tune, serve and load-test the bundled digit classifier, in under two minutes."""
    from tailcut.cli.records import DemoResult
    from tailcut.cli.termination import interrupted_once
    from tailcut.cli.tune_wanted import budget_of
    from tailcut.lab.records import to_json
    from tailcut.report.terminal import output_console

    budget_s = budget_of(budget)  # reports a mistake before any file is created
    console = output_console(stderr=json, highlight=False)
    folder = _folder(keep)
    with interrupted_once():  # else, on SIGTERM, the tune would go on, and folders would be left behind
        result = _tune(console, folder, budget)
        accuracy, load = _serve_both(console, folder, result, budget_s)
    outcome = DemoResult(accuracy, load, result, result.profile or "", result.report or "")
    good = _conclude(console, outcome)
    if json:
        print_json(to_json(outcome))
    raise typer.Exit(0 if good else 1)


def _folder(keep: Path | None) -> Path:
    """A folder with the model and its samples, so that every command shown works as printed."""
    import shutil
    import tempfile

    from tailcut.models import digits_data, digits_model

    folder = Path(tempfile.mkdtemp(prefix="tailcut-demo-")) if keep is None else keep
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(digits_model(), folder / "digits.onnx")
    shutil.copyfile(digits_data(), folder / "digits.npz")
    return folder


def _step(console: "Console", number: int, title: str, command: str) -> None:
    """Print the heading of a step and the command for the user's own model."""
    console.print()
    console.print(f"[bold]{number}  {title}[/bold]")
    console.print(f"   for your own model:  [cyan]{command}[/cyan]")
    console.print()


def _tune(console: "Console", folder: Path, budget: str) -> "TuneResult":
    import msgspec

    from tailcut.errors import EngineError
    from tailcut.tuner.result_records import TuneResult

    _step(console, 1, "Climb the ladder", f"tailcut tune MODEL.onnx --data SAMPLES.npz --slo {SLO}")
    console.print("   A small convolutional network that classifies 8x8 images of handwritten digits. The samples were")
    console.print(f"   not used in training. Clients wait {SLO} at most. Tuning takes about {budget}.")
    console.print()
    arguments = ["--data", "digits.npz", "-o", "digits.profile.toml", "--report", "digits.report.html"]
    out = _run_tailcut(["tune", "digits.onnx", *arguments, "--slo", SLO, "--budget", budget, "--json"], folder)
    try:
        result = msgspec.json.decode(out, type=TuneResult)
    except msgspec.DecodeError:
        raise EngineError("`tailcut tune` exited without a result: see its messages above") from None
    files = {"profile": str(folder / (result.profile or "")), "report": str(folder / (result.report or ""))}
    result = msgspec.structs.replace(result, **files)
    _show_rungs(console, result)
    _show_headlines(console, result)
    return result


def _run_tailcut(arguments: list[str], folder: Path) -> str:
    """Run a tailcut command in a folder and return its stdout; exits with its exit code if it fails."""
    import subprocess

    from tailcut.cli.termination import is_terminated

    command = [sys.executable, "-m", "tailcut", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603  our own
        try:
            out, _ = child.communicate()
        except KeyboardInterrupt:
            if is_terminated():
                child.terminate()  # a Ctrl-C reaches the child by itself
            try:
                child.communicate(timeout=30)  # it stops its servers first
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                child.kill()
            raise
    if child.returncode:
        raise typer.Exit(child.returncode)
    return out


def _show_headlines(console: "Console", result: "TuneResult") -> None:
    """Print both headlines: same traffic with a shorter tail, and same tail with more traffic, if proven."""
    from tailcut.report.tune_words import headline, more_traffic

    more = more_traffic(result) or "not proven within the budget: use a longer --budget"
    console.print()
    for name, words in (("same traffic", " ".join(headline(result))), ("same tail", more)):
        console.print(f"   {name}: {words}", markup=False, highlight=False)


def _show_rungs(console: "Console", result: "TuneResult") -> None:
    """Print the effect of each rung on the percentiles: every candidate that was measured, and which were kept."""
    from rich.markup import escape

    table = _table("rung", "candidate", "p50 ms", "p95 ms", "p99 ms", "vs best so far", "verdict")
    for rung in result.rungs:
        measured = [candidate for candidate in rung.candidates if candidate.verdict != "skipped"]
        heading = rung.name
        for candidate in measured:
            kept = candidate.setting in (rung.kept or "").split(" + ")
            times = [_ms(value) for value in (candidate.p50_ms, candidate.p95_ms, candidate.p99_ms)]
            ratio = f"{candidate.ratio_of} x{candidate.tail_ratio.point:.2f}" if candidate.tail_ratio else ""
            verdict = "kept" if kept else candidate.verdict
            table.add_row(heading, escape(candidate.setting), *times, ratio, verdict, style="green" if kept else None)
            heading = ""
        untried = len(rung.candidates) - len(measured)
        if untried:
            table.add_row(heading, f"({untried} not tried: the budget was used up)")
        elif not measured:
            table.add_row(heading, escape(f"({rung.note or 'nothing to try'})"))
    _print_table(console, table)


def _table(*headings: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading.endswith(" ms") or heading == "samples" else "left")
    return table


def _print_table(console: "Console", table: "Table") -> None:
    from rich.padding import Padding

    console.print(Padding(table, (0, 0, 1, 3)))


def _serve_both(
    console: "Console", folder: Path, result: "TuneResult", budget_s: float
) -> "tuple[DemoAccuracy, DemoLoad]":
    """Serve baseline and tuned profile, check both on the held-out samples, and load-test them interleaved."""
    from tailcut.cli.options import load_data
    from tailcut.cli.records import DemoAccuracy
    from tailcut.lab.trial import ServedProfile
    from tailcut.runtime.profile import Profile
    from tailcut.tuner.space import BASELINE, changed

    _step(console, 2, "Serve the profile", "tailcut serve MODEL.profile.toml")
    baseline = Profile.of_model(
        folder / "digits.onnx", changed(BASELINE, batching={"bind": False}, io={"wire": "json"})
    )
    tuned = Profile.load(Path(result.profile or ""))
    data = load_data(folder / "digits.npz")
    with ServedProfile(baseline) as before, ServedProfile(tuned) as after:
        console.print(f"   The tuned model is served at {after.target.authority}, next to the baseline.")
        accuracy = DemoAccuracy(_accuracy(before, data), _accuracy(after, data))
        console.print(
            f"   Held-out samples classified correctly over HTTP: baseline {accuracy.baseline:.2%}, "
            f"tuned {accuracy.tuned:.2%} of {len(data['labels'])}."
        )
        _step(console, 3, "Test it under load", "tailcut bench http://HOST:PORT --rate 1000")
        load = _load((before, after), data, result.objective.rate, budget_s)
        _show_load(console, load)
    return accuracy, load


def _accuracy(served: "ServedProfile", data: dict[str, "np.ndarray"]) -> float:
    """Share of samples classified correctly."""
    from tailcut.lab.payload import infer_once

    right = 0
    for start in range(0, len(data["labels"]), _BATCH):
        part = slice(start, start + _BATCH)
        scores = infer_once(served.target, "digits", {"image": data["image"][part]})["scores"]
        right += int((scores.argmax(axis=1) == data["labels"][part]).sum())
    return right / len(data["labels"])


def _load(
    arms: "tuple[ServedProfile, ServedProfile]", data: dict[str, "np.ndarray"], rate: float, budget_s: float
) -> "DemoLoad":
    """Load-test both arms, interleaved: in each round an open loop at the tune's rate, then a closed loop."""
    from tailcut.cli.records import DemoLoad
    from tailcut.lab.payload import encoded, infer_payload
    from tailcut.lab.trial import Arm, ArmRuns, closed_block, open_block

    rows = [{"image": data["image"][row : row + 1]} for row in range(64)]
    sides = [
        Arm(
            served.target,
            [infer_payload(served.target, "digits", row, encoded(served.profile.settings.io.wire)) for row in rows],
        )
        for served in arms
    ]
    runs = [ArmRuns() for _ in sides]
    for seed in range(_ROUNDS):
        open_block(sides, runs, rate=rate, duration_s=_OPEN_SHARE * budget_s / _ROUNDS, seed=seed)
        closed_block(sides, runs, concurrency=_CONCURRENCY, duration_s=_CLOSED_SHARE * budget_s / _ROUNDS)
    return DemoLoad(*(_summary(run, rate) for run in runs))


def _summary(run: "ArmRuns", rate: float) -> "DemoArm":
    """An arm's figures; without percentiles if the load client was late, as they would include its own delays."""
    import numpy as np

    from tailcut.cli.records import DemoArm
    from tailcut.lab.records import bounds_of
    from tailcut.stats.serial import serial_percentile_interval
    from tailcut.tuner.race import percentiles_ms

    late, answered = run.client_behind, run.answered
    percentiles = percentiles_ms(run)
    interval = None if late else serial_percentile_interval(answered, 0.99)
    return DemoArm(
        rate_offered=rate,
        samples=len(answered),
        errors=run.errors,
        client_behind=late,
        **(dict.fromkeys(percentiles) if late else percentiles),
        p99_interval_ms=bounds_of(interval),
        throughput=float(np.mean(run.throughputs)),
    )


def _show_load(console: "Console", load: "DemoLoad") -> None:
    arms = {"baseline": load.baseline, "tuned": load.tuned}
    table = _table("", "p50 ms", "p95 ms", "p99 ms", "99 % interval", "requests/s", "samples")
    for name, arm in arms.items():
        interval = " to ".join(_ms(end) for end in arm.p99_interval_ms or [None])
        times = [_ms(value) for value in (arm.p50_ms, arm.p95_ms, arm.p99_ms)]
        table.add_row(name, *times, interval, f"{arm.throughput:,.0f}", f"{arm.samples:,}")
    _print_table(console, table)
    rate = load.tuned.rate_offered
    console.print(f"   Latency at {rate:,.0f} requests/s, open loop; requests/s with {_CONCURRENCY} in flight.")
    for name, arm in arms.items():
        if arm.client_behind:
            console.print(f"   {name}: the load generator itself fell behind, so its percentiles are unknown.")


def _conclude(console: "Console", outcome: "DemoResult") -> bool:
    """Print the conclusion; returns whether accuracy held and every request succeeded."""
    from rich.markup import escape

    errors = outcome.load.baseline.errors + outcome.load.tuned.errors
    accurate = min(outcome.accuracy.baseline, outcome.accuracy.tuned) >= ACCURACY_FLOOR
    _step(console, 4, "Read the report", "tailcut tune MODEL.onnx --data SAMPLES.npz --report REPORT.html")
    if not accurate:
        console.print(f"   [red]Accuracy on the held-out samples is below {ACCURACY_FLOOR:.0%}.[/red]")
    if errors:
        console.print(f"   [red]{errors} requests of the load test failed.[/red]")
    console.print(f"   report:   {escape(outcome.report)}")
    console.print(f"   profile:  {escape(outcome.profile)}")
    console.print(f"   again:    tailcut serve {escape(outcome.profile)}")
    return accurate and not errors


def _ms(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
