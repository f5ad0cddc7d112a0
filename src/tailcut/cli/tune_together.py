"""`tailcut tune A.onnx B.onnx`: several models tuned together for one server."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tailcut.cli.main import INTERRUPTED
from tailcut.cli.outputs import command_line
from tailcut.cli.streams import print_json
from tailcut.cli.termination import exit_without_profile, nothing_written

if TYPE_CHECKING:
    from tailcut.lab.arrivals import Arrivals
    from tailcut.tuner.records import TuneRequest
    from tailcut.tuner.together.records import JointOutcome
    from tailcut.tuner.together.result_records import JointRequest, JointResult

MOST_MODELS = 8
_NOTHING_RACED = "anything raced"


@dataclass(frozen=True, slots=True)
class JointFiles:
    """The output files: a profile per model, and one report."""

    profiles: tuple[Path, ...]
    report: Path


def names_of(models: Sequence[Path]) -> list[str]:
    """The names under which the models are served.

    Raises:
        UsageError: too many models, or two with the same name.
        ModelFileError: a file is missing or not a model.
    """
    from tailcut.engines.files import kind_of, model_name
    from tailcut.errors import UsageError

    if len(models) > MOST_MODELS:
        raise UsageError(f"tune takes up to {MOST_MODELS} models together, not {len(models)}")
    for path in models:
        kind_of(path)
    names = [model_name(path) for path in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two models have the same name ({twice}): rename a file, because profiles are named after it")
    return names


def arrivals_of(names: Sequence[str], rates: str | None, trace: Path | None) -> "list[Arrivals]":
    """The arrivals of each model: Poisson at the given rates, or recorded.

    Raises:
        UsageError: neither or both are given, or they do not match the models.
    """
    from tailcut.errors import UsageError
    from tailcut.lab.arrivals import Poisson, read_trace_of_models

    if (rates is None) == (trace is None):
        raise UsageError("several models need the load of each: give either --rates 100,20 or --trace FILE")
    if trace is not None:
        return list(read_trace_of_models(trace, names))
    values = (rates or "").split(",")
    if len(values) != len(names):
        raise UsageError(f"--rates {rates}: {count(len(values), 'rate')} for {len(names)} models: give one per model")
    return [Poisson(_rate(value)) for value in values]


def limits_of(slo: str | None, models: int) -> list[float | None]:
    """The limit of each model's p99 in ms, or None.

    Raises:
        UsageError: the number of limits is not the number of models, or one is not a duration greater than 0.
    """
    from tailcut.durations import parse_limit
    from tailcut.errors import UsageError

    if slo is None:
        return [None] * models
    values = slo.split(",")
    if len(values) != models:
        raise UsageError(f"--slo {slo}: {count(len(values), 'limit')} for {count(models, 'model')}: give one per model")
    return [parse_limit(value, "--slo") * 1e3 for value in values]


def count(number: int, what: str) -> str:
    """A number with its noun, such as `2 files`."""
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def tune_together(
    models: Sequence["TuneRequest"],
    arrivals: "Sequence[Arrivals]",
    files: JointFiles,
    asked: "JointRequest",
    *,
    json: bool,
) -> None:
    """Tune, write the profiles and the report unless nothing raced, and print the result in any case.

    Raises:
        OSError: a file cannot be written.
    """
    from tailcut.lab.records import to_json
    from tailcut.report.console import LadderView
    from tailcut.report.terminal import output_console
    from tailcut.report.together_page import together_summary
    from tailcut.tuner.together.records import JointWanted
    from tailcut.tuner.together.search import JointSearch

    first = models[0]
    own = tuple(replace(model, journal=_journal(file)) for model, file in zip(models, files.profiles, strict=True))
    wanted = JointWanted(own, tuple(arrivals), first.budget_s, first.seed, first.began)
    with nothing_written(_NOTHING_RACED):
        with LadderView(first.budget_s) as view:
            outcome = JointSearch(wanted, view).run()
        written = write_result(outcome, asked, files)
    result = written.result
    if json:
        print_json(to_json(result))
    exit_without_profile(outcome.wrong, _NOTHING_RACED, nothing_won=outcome.nothing_won)
    if not json:
        output_console().print(together_summary(result))
        if written.error is None:
            print(f"serve them: tailcut serve {shlex.join(map(str, files.profiles))}")
    if written.error is not None:
        raise written.error
    if outcome.interrupted:
        print("tailcut: interrupted: the profiles contain the best settings so far", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


@dataclass(frozen=True, slots=True)
class WrittenJointResult:
    """A result with the files that were written, and the error if one of them was not, for example on a full disk."""

    result: "JointResult"
    error: OSError | None = None


def write_result(outcome: "JointOutcome", asked: "JointRequest", files: JointFiles) -> WrittenJointResult:
    """Write profiles and report, unless answers were wrong or nothing raced; returns the result to print."""
    import msgspec

    from tailcut.atomic import write_atomically
    from tailcut.machine.fingerprint import fingerprint
    from tailcut.report.html import render_together_html
    from tailcut.runtime.profile import copy_path
    from tailcut.tuner.service import service_evidence
    from tailcut.tuner.together.result import joint_evidence, joint_result, together_of

    machine = fingerprint()
    command = command_line()
    result = joint_result(outcome, machine=machine, objective=asked, command=command)
    if outcome.wrong or outcome.nothing_won:
        return WrittenJointResult(result)
    models = list(result.models)
    try:
        for number, (side, file) in enumerate(zip(outcome.sides, files.profiles, strict=True)):
            profile = side.profile.with_weights()
            if side.copy_bytes:
                copy = copy_path(file, side.copy_bytes, profile.settings.engine.precision)
                write_atomically(copy, side.copy_bytes)
                profile = profile.with_copy(copy, profile.settings)
            profile = msgspec.structs.replace(
                profile,
                together=together_of(outcome, number),
                machine=machine,
                evidence=joint_evidence(result, number) | service_evidence(_journal(file), profile, asked.cpus),
            )
            profile.save(file)
            models[number] = msgspec.structs.replace(models[number], profile=str(file))
        whole = msgspec.structs.replace(result, models=models, report=str(files.report))
        write_atomically(files.report, render_together_html(whole))
    except OSError as error:
        saved = [model.profile for model in models if model.profile is not None]
        if saved:
            error.strerror = f"{error.strerror}: only {', '.join(saved)} {'was' if len(saved) == 1 else 'were'} written"
        return WrittenJointResult(msgspec.structs.replace(result, models=models), error)
    return WrittenJointResult(whole)


def _journal(profile: Path) -> Path:
    return profile.with_name(f"{profile.name.removesuffix('.profile.toml')}.trials.jsonl")


def _rate(text: str) -> float:
    from tailcut.errors import UsageError

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value < float("inf"):
        raise UsageError(f"--rates: {text.strip()!r} is not a rate: write requests per second, 0.01 or more")
    return value
