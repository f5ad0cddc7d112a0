"""A tune of one model or pipeline: search, write the profile and the report, and print the result."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tailcut.cli.main import INTERRUPTED
from tailcut.cli.outputs import command_line
from tailcut.cli.streams import print_json
from tailcut.cli.termination import exit_without_profile, nothing_written
from tailcut.cli.tune_files import TuneFiles

if TYPE_CHECKING:
    from tailcut.runtime.profile import Profile
    from tailcut.tuner.records import TuneOutcome, TuneRequest
    from tailcut.tuner.result_records import ModelRequest, TuneResult

NOTHING_BETTER = "anything better was found"


@dataclass(frozen=True, slots=True)
class WrittenResult:
    """A result with the files that were written, and the error if one of them was not, for example on a full disk."""

    result: "TuneResult"
    error: OSError | None = None


def tune_one(wanted: "TuneRequest", asked: "ModelRequest", files: TuneFiles, *, markdown: bool, json: bool) -> None:
    """Tune, write the profile and the report, and print the result, even if a file cannot be written.

    Raises:
        TailcutError: as `tune_model`.
        OSError: a file cannot be written.
    """
    from tailcut.report.console import LadderView
    from tailcut.runtime.profile import is_pipeline
    from tailcut.tuner.pipelines.search import tune_pipeline
    from tailcut.tuner.search import tune_model

    with nothing_written(NOTHING_BETTER):
        with LadderView(wanted.budget_s) as view:
            outcome = (tune_pipeline if is_pipeline(str(wanted.model)) else tune_model)(wanted, view)
        written = write_result(outcome, wanted, asked, files)
    _show(outcome, written.result, files, markdown=markdown, json=json)
    if written.error is not None:
        raise written.error
    if outcome.interrupted:
        print("tailcut: interrupted: the profile contains the best settings so far", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _show(outcome: "TuneOutcome", result: "TuneResult", files: TuneFiles, *, markdown: bool, json: bool) -> None:
    from tailcut.lab.records import to_json
    from tailcut.report.terminal import output_console

    if json:
        print_json(to_json(result))
    exit_without_profile(outcome.wrong, NOTHING_BETTER, nothing_won=outcome.nothing_won)
    if markdown and not json:
        from tailcut.report.markdown import tune_markdown

        print(tune_markdown(result))
    elif not json:
        from tailcut.engines.trust import is_trusted
        from tailcut.report.console import tune_summary

        output_console().print(tune_summary(result))
        trust = " --trust" if is_trusted(Path(result.model.path)) else ""
        if result.profile is not None:
            print(f"serve it: tailcut serve {shlex.quote(str(files.profile))}{trust}")


def write_result(
    outcome: "TuneOutcome", wanted: "TuneRequest", asked: "ModelRequest", files: TuneFiles
) -> "WrittenResult":
    """Write profile and report, unless answers were wrong or nothing was gained; returns the result to print."""
    import msgspec

    from tailcut.atomic import write_atomically
    from tailcut.machine.fingerprint import fingerprint
    from tailcut.report.html import render_tune_html
    from tailcut.runtime.profile import copy_path
    from tailcut.tuner.result import evidence, result
    from tailcut.tuner.result_records import TunedModel
    from tailcut.tuner.service import service_evidence

    profile = _profile(outcome, wanted)
    machine = fingerprint()
    model = TunedModel.of(outcome.spec, profile.model.name, str(wanted.model), profile.model.sha256)
    command = command_line()
    record = result(outcome, model=model, machine=machine, objective=asked, command=command)
    if outcome.wrong or outcome.nothing_won:
        return WrittenResult(record)
    record = msgspec.structs.replace(
        record, profile=str(files.profile), report=str(files.report), trials=str(files.journal)
    )
    try:
        if outcome.copy_bytes:
            copy = copy_path(files.profile, outcome.copy_bytes, outcome.settings.engine.precision)
            write_atomically(copy, outcome.copy_bytes)
            profile = profile.with_copy(copy, outcome.settings)
        kept = evidence(record) | service_evidence(files.journal, profile, wanted.constraints.cpus)
        profile = msgspec.structs.replace(profile, samples=outcome.samples, machine=machine, evidence=kept)
        profile.save(files.profile)
    except OSError as error:
        return WrittenResult(msgspec.structs.replace(record, profile=None, report=None), error)
    try:
        write_atomically(files.report, render_tune_html(record))
    except OSError as error:
        error.strerror = f"{error.strerror}: {files.profile} was written, but the report was not"
        return WrittenResult(msgspec.structs.replace(record, report=None), error)
    return WrittenResult(record)


def _profile(outcome: "TuneOutcome", wanted: "TuneRequest") -> "Profile":
    """The profile of the model or pipeline with the settings found, its hashes and its signature."""
    import msgspec

    from tailcut.runtime.profile import Profile, is_pipeline
    from tailcut.tuner.pipelines.learning import untuned_profile

    if not is_pipeline(str(wanted.model)):
        return Profile.of_model(wanted.model, outcome.settings, outcome.spec.name).with_weights().with_signature()
    profile = untuned_profile(str(wanted.model))
    model = msgspec.structs.replace(profile.model, signature=outcome.spec.signature)
    return msgspec.structs.replace(profile, model=model, settings=outcome.settings)
