"""`tailcut tune`: find the best settings, write the profile and the report; or compare profiles."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tailcut.cli.choices import BatchingChoice, DeviceChoice
from tailcut.cli.numbers import finite
from tailcut.cli.termination import interrupted_once, nothing_written
from tailcut.cli.tune_compare import compare_profiles
from tailcut.cli.tune_files import data_files, joint_files, tune_files
from tailcut.cli.tune_one import NOTHING_BETTER, tune_one
from tailcut.cli.tune_sources import (
    bounded,
    models_of,
    need_device,
    of_repository,
    refuse_for_pipelines,
    trust_model,
)
from tailcut.cli.tune_together import arrivals_of, limits_of, names_of, tune_together
from tailcut.cli.tune_wanted import asked_of, cpus_of, fixed_of, names_in, wanted_of


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


def tune(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="MODEL",
            help="A model file (ONNX, OpenVINO IR, TensorFlow, TFLite, Paddle, PyTorch's .pt2), several to tune "
            "together, or a pipeline (FILE.py:VARIABLE); with --compare, two or more profiles.",
            show_default=False,
        ),
    ] = None,
    model_repository: Annotated[
        Path | None,
        typer.Option(metavar="DIR/NAME", help="Tune a model of a Triton model repository; MODEL accepts it, too."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Sample inputs, once per model: an .npz file with one array per input and optional `labels`, a .jsonl "
            "file with one request per line, or an .npy file for a single input.",
            show_default=False,
        ),
    ] = None,
    slo: Annotated[str | None, typer.Option(help="Limit for p99, such as 10ms; for several models, 10ms,50ms.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Requests per second (default: half the baseline's capacity).", min=0.01, callback=finite),
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
    cpus: Annotated[
        int | None,
        typer.Option(help="Use this many CPUs: the search is sized to them, and servers run on them.", min=1),
    ] = None,
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
    device: Annotated[DeviceChoice, typer.Option(help="Device that computes the model.")] = DeviceChoice.CPU,
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
        bool, typer.Option("--trust", help="Load TorchScript, and PyTorch programs that may execute arbitrary code.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Profile to write (default: MODEL.profile.toml).")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="HTML report to write (default: MODEL.report.html).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrival times and generated inputs.", min=0, max=2**63 - 1)] = 0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Find the best settings for a model or a pipeline, and prove their gain.

    Exit code 1: the verification found wrong answers, so no profile is written; with --compare, a profile is
    proven worse than the first, or gives wrong answers.
    """
    from dataclasses import replace

    from msgspec.structs import asdict

    from tailcut.cli.options import parse_bytes
    from tailcut.errors import UsageError
    from tailcut.runtime.rows import SETTING_OF
    from tailcut.tuner.objective import Constraints
    from tailcut.tuner.pixels import parse_normalize
    from tailcut.tuner.together.result_records import JointRequest

    began = time.monotonic()
    on_device = device is DeviceChoice.CUDA
    search_only = (output, report, markdown, exhaustive, fresh, objective, memory, cpus, normalize, outputs, fix, local)
    encoded, batched = wire is not WireChoice.ANY, batching is not BatchingChoice.AUTO
    if compare and any((*search_only, on_device, encoded, batched)):
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
    listed, configured, largest = of_repository([*(models or []), *([model_repository] if model_repository else [])])
    given, profiles, previous = models_of(listed, retune, compare=compare)
    previous, largest = bounded(previous, given[0], largest)
    for model in given:
        only = {
            "--normalize": normalize,
            "--outputs": outputs,
            "--fix": fix,
            "--exhaustive": exhaustive,
            "--local": local,
        }
        refuse_for_pipelines(model, only | {"--trust": trust, "--batching": batched})
    for model in given if trust else []:
        trust_model(model)
    names = names_of(given) if together else []
    arrivals = arrivals_of(names, rates, trace) if together else []
    sources, rows = data_files(data or [], len(given)), SETTING_OF[batching.value]
    limits, cpus_allowed = limits_of(slo, len(given)), cpus_of(cpus)
    began += _compiled_s(together=together)  # the budget excludes compiling
    each = [
        replace(
            wanted_of(model, source, rate, budget, accuracy, metric, wire.value, seed),
            rows=configured.batching.rows if rows == "auto" else rows,
            slo_ms=limit,
            objective=None if objective is None else objective.value,
            constraints=Constraints(None if memory is None else parse_bytes(memory), cpus_allowed),
            fresh=fresh,
            exhaustive=exhaustive,
            previous=previous,
            normalize=parse_normalize(normalize) if normalize else None,
            outputs=names_in(outputs, "--outputs") or configured.engine.outputs,
            fixed=fixed_of(fix) or configured.engine.fixed_dims,
            local=local,
            device=device.value,
            declared=configured.engine.signature,
            max_batch_size=largest,
            began=began,
        )
        for model, source, limit in zip(given, sources, limits, strict=True)
    ]
    wanted, model = each[0], given[0]
    if on_device:
        need_device(model)
    asked = asked_of(wanted, accuracy, metric, normalize, outputs, fix, sources[0])
    with interrupted_once():
        if together:
            own = {"slo_ms": limits, "data": [str(source) if source else None for source in sources]}
            loads = {"rates": [arrival.rate for arrival in arrivals], "trace": str(trace) if trace else None}
            request = JointRequest(**asdict(asked) | own | loads)
            tune_together(each, arrivals, joint_files(given, names, report, [*sources, trace]), request, json=json)
            return
        if compare:
            compare_profiles(wanted, profiles, asked, json=json)
            return
        files = tune_files(model, output, report, retune=retune, read=sources)
        tune_one(replace(wanted, journal=files.journal), asked, files, markdown=markdown, json=json)


def _compiled_s(*, together: bool) -> float:
    """Compile what servers and simulations need, if not done yet, and return how many seconds it took."""
    from tailcut.lab.compiled import compiling, prepare_servers
    from tailcut.tuner import simulate
    from tailcut.tuner.together import simulation

    began = time.monotonic()
    what = "the load generator, the fast path and the simulation"
    with interrupted_once(), nothing_written(NOTHING_BETTER), compiling(what):
        prepare_servers()
        simulate.prepare()
        if together:
            simulation.prepare()
    return time.monotonic() - began
