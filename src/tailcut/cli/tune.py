"""`tailcut tune`: find the best settings, write the profile and the report; or compare profiles."""

import shlex
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailcut.cli.choices import BatchingChoice, DeviceChoice
from tailcut.cli.main import INTERRUPTED
from tailcut.cli.tune_together import JointFiles, arrivals_of, count, limits_of, names_of, tune_together

if TYPE_CHECKING:
    from tailcut.runtime.settings import Settings
    from tailcut.tuner.compare import Comparison
    from tailcut.tuner.records import Outcome, Wanted


class WireChoice(StrEnum):
    """The tensor encodings that clients use."""

    JSON = "json"
    BINARY = "binary"
    ANY = "any"


class ObjectiveChoice(StrEnum):
    """What to optimise."""

    GOODPUT = "goodput"
    LATENCY = "latency"
    THROUGHPUT = "throughput"
    COST = "cost"


@dataclass(frozen=True, slots=True)
class _Files:
    """The output files."""

    profile: Path
    report: Path
    journal: Path


def tune(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="MODEL",
            help="A model file (ONNX, OpenVINO IR, TensorFlow, TFLite, Paddle, PyTorch's .pt2), or several to "
            "tune together; with --compare, two or more profiles.",
            show_default=False,
        ),
    ] = None,
    model_repository: Annotated[
        Path | None,
        typer.Option(metavar="DIR/NAME", help="Tune this model of a Triton model repository; MODEL may be it, too."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Sample inputs, once per model: an .npz file with one array per input and optional `labels`, or an "
            ".npy file for a single input.",
            show_default=False,
        ),
    ] = None,
    slo: Annotated[str | None, typer.Option(help="Limit for p99, such as 10ms; for several models, 10ms,50ms.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests per second (default: half the baseline's capacity).", min=0.01)
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="Several models: requests per second for each, such as 100,20.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Several models: recorded arrivals instead of --rates; a time in seconds and a model name per line."
        ),
    ] = None,
    objective: Annotated[
        ObjectiveChoice | None,
        typer.Option(
            help="goodput: highest rate whose p99 meets the limit (default); latency: lowest p99 at --rate (default "
            "with --rate alone); throughput: highest closed-loop rate; cost: least CPU per request within the limit.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Exclude configurations whose engine needs more memory, such as 500MB.")
    ] = None,
    cpus: Annotated[int | None, typer.Option(help="Size the search space to this many CPUs.", min=1)] = None,
    budget: Annotated[
        str, typer.Option(help="Time to spend; if it is too short to verify p99, p95 or p50 is verified instead.")
    ] = "120s",
    accuracy: Annotated[
        str, typer.Option(help="Minimum cosine similarity to the float32 outputs, or exact.")
    ] = "0.999",
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Custom accuracy measure: a function (reference, candidate) -> float, compared with --accuracy.",
        ),
    ] = None,
    wire: Annotated[WireChoice, typer.Option(help="Tensor encoding that clients use.")] = WireChoice.ANY,
    normalize: Annotated[
        str | None,
        typer.Option(
            metavar="MEAN/STD",
            help="Accept uint8 pixels, normalized on the server to (pixel/255 - MEAN)/STD: one number each, or "
            "one per channel, such as 0.485,0.456,0.406/0.229,0.224,0.225.",
        ),
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Serve only these outputs, such as scores,boxes.")
    ] = None,
    fix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SIZE,...",
            help="Fix free dimensions, such as height=224,width=224; requests of other sizes are then refused.",
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Clients run on this machine and can use a Unix socket.")
    ] = False,
    device: Annotated[DeviceChoice, typer.Option(help="Where the model is to be computed.")] = DeviceChoice.CPU,
    batching: Annotated[
        BatchingChoice,
        typer.Option(help="Merge and split requests: on, off, or auto, where the model's rows are independent."),
    ] = BatchingChoice.AUTO,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ignore the measurements stored in MODEL.trials.jsonl.")
    ] = False,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Race the whole search space regardless of --budget; for validation.")
    ] = False,
    retune: Annotated[
        Path | None,
        typer.Option(metavar="PROFILE", help="Re-check this profile against a new search, and update it."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare profiles of one model with the first one given.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load TorchScript, and PyTorch programs that could run code of their own.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Profile to write (default: MODEL.profile.toml).")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write (default: MODEL.report.html).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrival times and generated inputs.", min=0)] = 0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Find the best settings for a model and prove their gain.

    Exit code 1: the verification found wrong answers, so no profile is written; with --compare, a profile is
    proven worse than the first, or gives wrong answers.
    """
    from dataclasses import replace

    from tailcut.cli.options import parse_bytes
    from tailcut.errors import UsageError
    from tailcut.runtime.rows import SETTING_OF
    from tailcut.tuner.objective import Constraints
    from tailcut.tuner.pixels import parse_normalize

    began = time.monotonic()
    on_device = device is DeviceChoice.CUDA
    search_only = (output, report, markdown, exhaustive, fresh, objective, memory, cpus, normalize, outputs, fix, local)
    if compare and any((*search_only, on_device)):
        raise UsageError("--compare measures profiles unchanged: leave out options of the search and its output files")
    together = len(models or []) > 1 and not compare
    single_only = (output, markdown, exhaustive, objective, memory, rate, retune, normalize, outputs, fix, local)
    if together and any((*single_only, on_device)):
        raise UsageError(
            "several models are tuned for their limits at --rates: leave out --rate, --objective, --memory, --retune, "
            "--exhaustive, --normalize, --outputs, --fix, --local, --device, --output and --markdown"
        )
    if not together and (rates or trace):
        raise UsageError("--rates and --trace need several models: use --rate for one")
    listed, configured = _of_repository([*(models or []), *([model_repository] if model_repository else [])])
    given, profiles, previous = _models(listed, retune, compare=compare)
    for model in given if trust else []:
        _trust(model)
    names = names_of(given) if together else []
    arrivals = arrivals_of(names, rates, trace) if together else []
    sources, rows = _data(data or [], len(given)), SETTING_OF[batching.value]
    limits = limits_of(slo, len(given))
    each = [
        replace(
            _wanted(model, source, rate, budget, accuracy, metric, wire.value, seed),
            rows=configured.batching.rows if rows == "auto" else rows,
            slo_ms=limit,
            objective=None if objective is None else objective.value,
            constraints=Constraints(None if memory is None else parse_bytes(memory), cpus),
            fresh=fresh,
            exhaustive=exhaustive,
            previous=previous,
            normalize=parse_normalize(normalize) if normalize else None,
            outputs=tuple(outputs.split(",")) if outputs else configured.engine.outputs,
            fixed=_fixed(fix) or configured.engine.fixed_dims,
            local=local,
            device=device.value,
            began=began,
        )
        for model, source, limit in zip(given, sources, limits, strict=True)
    ]
    wanted, model = each[0], given[0]
    if on_device:
        _need_device(model)
    asked: dict[str, Any] = {
        "slo_ms": wanted.slo_ms,
        "memory_bytes": wanted.constraints.memory_bytes,
        "cpus": cpus,
        "accuracy": accuracy,
        "metric": metric,
        "wire": wire.value,
        "normalize": normalize,
        "outputs": outputs,
        "fix": fix,
        "local": local,
        "device": device.value,
        "budget_s": wanted.budget_s,
        "seed": seed,
        "data": str(sources[0]) if sources[0] else None,
    }
    if together:
        asked |= {"slo_ms": limits, "data": [str(source) if source else None for source in sources]}
        asked |= {"rates": [one.rate for one in arrivals], "trace": str(trace) if trace else None}
        tune_together(each, arrivals, _joint_files(given, names, report), asked, json=json)
        return
    if compare:
        _compare(wanted, profiles, asked, json=json)
        return
    files = _files(model, output or retune, report)
    outcome, found = _search(replace(wanted, journal=files.journal), asked, files)
    _show(outcome, found, files, markdown=markdown, json=json)


def _need_device(model: Path) -> None:
    """Load a model on the device once, which says what is missing.

    Raises:
        UnsupportedError: PyTorch or onnxruntime has no CUDA, there is no device, or it cannot compute the model.
    """
    from tailcut.engines import EngineOptions, open_engine
    from tailcut.engines.files import default_engine

    name: Any = default_engine(model)
    open_engine(model, EngineOptions(name=name, device="cuda")).close()


def _trust(model: Path) -> None:
    from tailcut.engines.trust import trust

    trust(model)


def _of_repository(given: list[Path]) -> "tuple[list[Path], Settings]":
    """The files behind what is given, and what a model repository's configuration says of them."""
    from tailcut.errors import UsageError
    from tailcut.runtime.settings import Settings
    from tailcut.triton.folder import is_model_folder

    if not any(map(is_model_folder, given)):
        return given, Settings()
    if len(given) > 1:
        raise UsageError("models of a repository are tuned one by one")
    from tailcut.triton.library import newest_of

    path, reading = newest_of(given[0])
    return [path], reading.settings


def _need_model_files(given: list[Path]) -> None:
    """Refuse what is no model file.

    Raises:
        UsageError: a pipeline, or a profile.
    """
    from tailcut.errors import UsageError
    from tailcut.runtime.model import is_pipeline

    pipeline = next((path for path in given if is_pipeline(str(path))), None)
    if pipeline is not None:
        raise UsageError(
            f"{pipeline}: tune does not choose the settings of a pipeline's stages yet: tune its models, and set "
            "workers, max_batch_size and cpus in @stage, with tailcut bench to compare"
        )
    profile_file = next((path for path in given if path.suffix == ".toml"), None)
    if profile_file is not None:
        raise UsageError(
            f"{profile_file} is a profile: give the model itself, or use --retune PROFILE to re-check a profile"
        )


def _models(
    given: list[Path], retune: Path | None, *, compare: bool
) -> tuple[list[Path], dict[str, "Settings"], "Settings | None"]:
    """The models, the settings of the profiles to compare by name, and the settings to re-check."""
    from tailcut.errors import UsageError
    from tailcut.runtime.profile import Profile

    if compare and (retune is not None or len(given) < 2):
        raise UsageError("--compare takes two or more profiles: tailcut tune --compare A.toml B.toml")
    if compare:
        profiles = {str(path): Profile.load(path) for path in given}
        first = next(iter(profiles.values()))
        if len(profiles) < len(given):
            raise UsageError("--compare: the same profile was given twice")
        for name, profile in profiles.items():
            profile.verify_model()
            if (profile.model.sha256, profile.model.weights) != (first.model.sha256, first.model.weights):
                raise UsageError(f"{name} is for a different model than {given[0]}: compare profiles of one model")
        return [Path(first.model.path)], {name: profile.settings for name, profile in profiles.items()}, None
    if retune is not None:
        if given:
            raise UsageError("--retune reads the model's path from the profile: leave out MODEL")
        profile = Profile.load(retune)
        profile.verify_model()
        return [Path(profile.model.path)], {}, profile.settings
    if not given:
        raise UsageError("no MODEL given: name a model file, or several to tune them together")
    _need_model_files(given)
    return given, {}, None


def _data(given: list[Path], models: int) -> list[Path | None]:
    """The data file of each model: none at all, or one each."""
    from tailcut.errors import UsageError

    if given and len(given) != models:
        raise UsageError(f"--data: {count(len(given), 'file')} for {count(models, 'model')}: give it once per model")
    return list(given) or [None] * models


def _joint_files(models: list[Path], names: list[str], report: Path | None) -> JointFiles:
    """A profile beside each model, and one report beside the first."""
    from tailcut.engines.files import file_stem

    profiles = tuple(model.with_name(f"{file_stem(model)}.profile.toml") for model in models)
    files = JointFiles(profiles, report or models[0].with_name(f"{'+'.join(names)}.report.html"))
    for path in (*files.profiles, files.report):
        _writable(path)
    return files


def _files(model: Path, output: Path | None, report: Path | None) -> _Files:
    from tailcut.engines.files import file_stem

    stem = file_stem(model)
    profile = output or model.with_name(f"{stem}.profile.toml")
    files = _Files(
        profile, report or profile.with_name(f"{stem}.report.html"), profile.with_name(f"{stem}.trials.jsonl")
    )
    for path in (files.profile, files.report, files.journal):
        _writable(path)
    return files


def _search(wanted: "Wanted", asked: dict[str, Any], files: _Files) -> tuple["Outcome", dict[str, Any]]:
    from tailcut.report.console import LadderView
    from tailcut.tuner.search import Search

    with LadderView(wanted.budget_s) as view:
        outcome = Search(wanted, view).run()
    return outcome, _write(outcome, wanted, asked, files)


def _show(outcome: "Outcome", found: dict[str, Any], files: _Files, *, markdown: bool, json: bool) -> None:
    import orjson
    from rich.console import Console

    if json:
        print(orjson.dumps(found).decode())
    if outcome.wrong:
        print(f"tailcut: no profile written: {' '.join(outcome.wrong.split())}", file=sys.stderr)
        raise typer.Exit(1)
    if markdown and not json:
        from tailcut.report.markdown import tune_markdown

        print(tune_markdown(found))
    elif not json:
        from tailcut.report.console import tune_summary

        Console().print(tune_summary(found))
        print(f"serve it: tailcut serve {shlex.quote(str(files.profile))}")
    if outcome.interrupted:
        print("tailcut: interrupted: the profile contains the best settings so far", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _fixed(text: str | None) -> tuple[str, ...]:
    from tailcut.engines.base import parse_fixed_dim
    from tailcut.errors import UnsupportedError, UsageError

    fixed = tuple(text.split(",")) if text else ()
    for one in fixed:
        try:
            parse_fixed_dim(one)
        except UnsupportedError as error:
            raise UsageError(str(error).replace("fixed_dims", "--fix", 1)) from None
    return fixed


def _compare(wanted: "Wanted", profiles: dict[str, "Settings"], asked: dict[str, Any], *, json: bool) -> None:
    import orjson
    from rich.console import Console

    from tailcut.machine.fingerprint import fingerprint
    from tailcut.report.console import LadderView, comparison_summary
    from tailcut.tuner.compare import compare, comparison_record

    with LadderView(wanted.budget_s) as view:
        found: Comparison = compare(wanted, profiles, view)
    record = {
        "model": str(wanted.model),
        "machine": fingerprint(),
        "objective": asked,
        "command": f"tailcut {shlex.join(sys.argv[1:])}",
    } | comparison_record(found, wanted.slo_ms)
    if json:
        print(orjson.dumps(record).decode())
    else:
        Console().print(comparison_summary(record))
    if found.is_worse:
        raise typer.Exit(1)


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

    arrays = load_data(data) if data else None
    labels = arrays.pop("labels", None) if arrays else None
    budget_s = parse_duration(budget)
    if budget_s < 5:
        raise UsageError(f"--budget {budget}: a tune needs at least 5 seconds")
    bound = parse_bound(accuracy)
    if metric is not None and bound is None:
        raise UsageError("--metric needs a number as --accuracy, such as 0.999")
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


def _write(outcome: "Outcome", wanted: "Wanted", asked: dict[str, Any], files: _Files) -> dict[str, Any]:
    import msgspec

    from tailcut.atomic import write_atomically
    from tailcut.machine.fingerprint import fingerprint
    from tailcut.report.html import render_tune_html
    from tailcut.runtime.profile import Profile, copy_path
    from tailcut.tuner.result import evidence, result

    profile = Profile.of_model(wanted.model, outcome.settings, outcome.spec.name).with_weights()
    profile = profile.with_signature()
    machine = fingerprint()
    model = {"name": profile.model.name, "path": str(wanted.model), "sha256": profile.model.sha256}
    command = f"tailcut {shlex.join(sys.argv[1:])}"
    found = result(outcome, model=model, machine=machine, objective=asked, command=command)
    if outcome.wrong:
        return found
    found |= {"profile": str(files.profile), "report": str(files.report), "trials": str(files.journal)}
    if outcome.copy is not None:
        copy = copy_path(files.profile, outcome.copy_bytes)
        write_atomically(copy, outcome.copy_bytes)
        profile = profile.with_quantized(copy)
    profile = msgspec.structs.replace(profile, samples=outcome.samples, machine=machine, evidence=evidence(found))
    profile.save(files.profile)
    write_atomically(files.report, render_tune_html(found))
    return found


def _writable(path: Path) -> None:
    """Check before the search whether the result can be written."""
    import os

    from tailcut.errors import UsageError

    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder, cannot write {path.name}")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{path}: cannot be written: it is a folder, or the folder is read-only")
