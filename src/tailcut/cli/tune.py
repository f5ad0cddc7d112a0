"""`tailcut tune`: climb the ladder, write the profile and the report."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailcut.cli.choices import BatchingChoice
from tailcut.cli.main import INTERRUPTED

if TYPE_CHECKING:
    from tailcut.tuner.records import Outcome, Wanted


class WireChoice(StrEnum):
    """What the clients of the served model may speak."""

    JSON = "json"
    BINARY = "binary"
    ANY = "any"


def tune(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")],
    data: Annotated[
        Path | None, typer.Option(help="Inputs by name in an .npz file, or the only one as .npy; `labels` too.")
    ] = None,
    slo: Annotated[str | None, typer.Option(help="The deadline that p99 is to meet, such as 10ms.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second; half of the baseline's capacity else.", min=0.01)
    ] = None,
    budget: Annotated[str, typer.Option(help="Time to spend; a slow model's verification may take more.")] = "120s",
    accuracy: Annotated[str, typer.Option(help="Least cosine with the float32 answers, or exact.")] = "0.999",
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Judge answers by a function (reference, candidate) -> float, at least --accuracy.",
        ),
    ] = None,
    wire: Annotated[WireChoice, typer.Option(help="What the clients speak.")] = WireChoice.ANY,
    batching: Annotated[
        BatchingChoice,
        typer.Option(help="Merge and split requests: on, off, or auto, where the model's rows are independent."),
    ] = BatchingChoice.AUTO,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The profile; MODEL.profile.toml else.")] = None,
    report: Annotated[Path | None, typer.Option(help="The HTML report; MODEL.report.html else.")] = None,
    seed: Annotated[int, typer.Option(help="Of arrival times and made-up inputs.", min=0)] = 0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Climb the ladder of settings; keep only what is proven better and still right.

    Exit code 1: the settings found answer wrongly in the verification, and no profile is written.
    """
    from dataclasses import replace

    import orjson
    from rich.console import Console

    from tailcut.report.console import LadderView, tune_summary
    from tailcut.runtime.rows import SETTING_OF
    from tailcut.tuner.search import Search

    slo_ms = _milliseconds(slo)
    wanted = _wanted(model, data, rate, budget, accuracy, metric, wire.value, seed)
    wanted = replace(wanted, rows=SETTING_OF[batching.value], slo_ms=slo_ms)
    stem = model.name.removesuffix(".onnx")
    profile_path = output or model.with_name(f"{stem}.profile.toml")
    report_path = report or profile_path.with_name(f"{stem}.report.html")
    for path in (profile_path, report_path):
        _writable(path)
    with LadderView(wanted.budget_s) as view:
        outcome = Search(wanted, view).run()
    objective = {
        "slo_ms": slo_ms,
        "accuracy": accuracy,
        "metric": metric,
        "wire": wire.value,
        "budget_s": wanted.budget_s,
        "seed": seed,
        "data": str(data) if data else None,
    }
    found = _write(outcome, wanted, objective, profile_path, report_path)
    if outcome.wrong:
        if json:
            print(orjson.dumps(found).decode())
        print(f"tailcut: no profile written: {' '.join(outcome.wrong.split())}", file=sys.stderr)
        raise typer.Exit(1)
    if json:
        print(orjson.dumps(found).decode())
    elif markdown:
        from tailcut.report.markdown import tune_markdown

        print(tune_markdown(found))
    else:
        Console().print(tune_summary(found))
        print(f"serve it: tailcut serve {shlex.quote(str(profile_path))}")
    if outcome.interrupted:
        print("tailcut: interrupted: the profile holds the best settings so far", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _wanted(
    model: Path,
    data: Path | None,
    rate: float | None,
    budget: str,
    accuracy: str,
    metric: str | None,
    wire: Any,
    seed: int,
) -> "Wanted":
    from tailcut.cli.options import load_data, parse_duration
    from tailcut.errors import UsageError
    from tailcut.tuner.accuracy import load_metric, parse_bound
    from tailcut.tuner.records import Wanted

    if model.suffix == ".toml":
        raise UsageError(f"{model}: tune takes the model itself, an ONNX file, and writes a profile")
    arrays = load_data(data) if data else None
    labels = arrays.pop("labels", None) if arrays else None
    budget_s = parse_duration(budget)
    if budget_s < 5:
        raise UsageError(f"--budget {budget}: a tune needs at least 5 seconds")
    bound = parse_bound(accuracy)
    if metric is not None and bound is None:
        raise UsageError("--metric is compared with a number: give it as --accuracy, such as 0.999")
    return Wanted(
        model=model,
        data=arrays,
        labels=labels,
        rate=rate,
        budget_s=budget_s,
        bound=bound,
        metric=load_metric(metric) if metric else None,
        wire=wire,
        seed=seed,
    )


def _write(
    outcome: "Outcome", wanted: "Wanted", objective: dict[str, Any], profile_path: Path, report_path: Path
) -> dict[str, Any]:
    import msgspec

    from tailcut.machine.fingerprint import fingerprint
    from tailcut.report.html import render_tune_html
    from tailcut.runtime.profile import Profile, copy_path, write_atomically
    from tailcut.tuner.result import evidence, result

    profile = Profile.of_model(wanted.model, outcome.settings, outcome.spec.name).with_weights()
    machine = fingerprint()
    model = {"name": profile.model.name, "path": str(wanted.model), "sha256": profile.model.sha256}
    command = f"tailcut {shlex.join(sys.argv[1:])}"
    found = result(outcome, model=model, machine=machine, objective=objective, command=command)
    if outcome.wrong:
        return found
    found |= {"profile": str(profile_path), "report": str(report_path)}
    if outcome.copy is not None:
        copy = copy_path(profile_path, outcome.copy_bytes)
        write_atomically(copy, outcome.copy_bytes)
        profile = profile.with_quantized(copy)
    profile = msgspec.structs.replace(profile, samples=outcome.samples, machine=machine, evidence=evidence(found))
    profile.save(profile_path)
    write_atomically(report_path, render_tune_html(found))
    return found


def _milliseconds(slo: str | None) -> float | None:
    from tailcut.cli.options import parse_duration

    return None if slo is None else parse_duration(slo) * 1e3


def _writable(path: Path) -> None:
    """Find out before two minutes are spent whether the result can be written."""
    import os

    from tailcut.errors import UsageError

    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder to write {path.name} to")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: cannot be written")
