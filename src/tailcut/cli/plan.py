"""`tailcut plan`: how many replicas meet a limit at a rate, from the times that a tune measured."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailcut.cli.numbers import finite
from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailcut.planning.request import PlanRequest

MOST_MODELS = 8


class RoutingChoice(StrEnum):
    """How a load balancer chooses a replica."""

    RANDOM = "random"
    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"
    TWO_CHOICES = "two-choices"


def plan(
    profiles: Annotated[
        list[Path],
        typer.Argument(
            metavar="PROFILE...",
            help="Tuned profiles; several are served together on each replica.",
            show_default=False,
        ),
    ],
    slo: Annotated[
        str,
        typer.Option(metavar="pN=DURATION", help="Limit of a percentile, such as p99=10ms; several: one per profile."),
    ],
    rate: Annotated[
        str | None,
        typer.Option(metavar="N", help="Requests per second; several profiles: one rate each, such as 5000,200."),
    ] = None,
    arrivals: Annotated[
        str, typer.Option(help="Distribution of arrivals: poisson, constant, or bursty:FACTOR:LENGTH.")
    ] = "poisson",
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Recorded traffic: arrival times (seconds, one per line), or lines of SECONDS RATE; scaled to --rate."
        ),
    ] = None,
    autoscale: Annotated[
        str | None,
        typer.Option(
            metavar="RULES",
            help="With --trace: the autoscaler's utilisation=T or queue=T (its target), start, down, every, min, max "
            "(default: start=30s,down=5m,every=15s).",
        ),
    ] = None,
    headroom: Annotated[
        str, typer.Option(metavar="S", help="Headroom: additional share of the rate that must fit, such as 0.2 or 20%.")
    ] = "0.2",
    failures: Annotated[int, typer.Option(help="Number of replicas that may fail.", min=0, max=999)] = 0,
    routing: Annotated[
        RoutingChoice | None, typer.Option(help="How a replica is chosen (default: two-choices).")
    ] = None,
    hedge: Annotated[
        str | None, typer.Option(metavar="D", help="Send a request to a second replica after this long.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes per replica (default: the profile's).", min=1)] = None,
    cores: Annotated[
        float | None,
        typer.Option(help="Cores per replica (default: as when it was tuned).", min=0.01, max=4096.0, callback=finite),
    ] = None,
    capacity: Annotated[
        float | None,
        typer.Option(
            help="Highest measured rate of one replica, in requests per second.", min=0.001, max=1e7, callback=finite
        ),
    ] = None,
    capacity_workers: Annotated[
        int | None, typer.Option(help="Processes of the replica that --capacity was measured with.", min=1)
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Price of one replica for an hour.", min=0.0, max=1e9, callback=finite)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrivals, service times and routing.", min=0, max=2**32 - 1)] = 0,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Plan capacity: replicas for a rate and a limit, what a lost replica costs, and what an autoscaler misses."""
    import msgspec

    from tailcut.atomic import write_atomically
    from tailcut.cli.outputs import check_writable, command_line, refuse_overwriting
    from tailcut.durations import bounded, parse_duration, parse_latency
    from tailcut.errors import UsageError
    from tailcut.lab.compiled import compiling
    from tailcut.planning import cluster
    from tailcut.planning.autoscale import parse_rules
    from tailcut.planning.demand import parse_arrivals, parse_headroom, parse_limit, parse_rates
    from tailcut.planning.measured import read_measured
    from tailcut.planning.plan import make_plan
    from tailcut.planning.recordings import read_recording
    from tailcut.planning.request import PlanRequest
    from tailcut.report.html import render_plan_html
    from tailcut.report.plan_page import plan_view
    from tailcut.report.terminal import output_console

    refuse_overwriting({"--report": report}, [*profiles, trace])
    rates = parse_rates(rate) if rate is not None else []
    limits = [
        parse_limit(part, lambda value: bounded(parse_latency(value, "--slo"), "--slo")) for part in slo.split(",")
    ]
    make = parse_arrivals(arrivals, lambda value: bounded(parse_duration(value), "--arrivals"))
    rules = parse_rules(autoscale or "", lambda value: bounded(parse_duration(value), "--autoscale"))
    spare = parse_headroom(headroom)
    hedge_s = bounded(parse_latency(hedge, "--hedge"), "--hedge") if hedge is not None else 0.0
    if not rates and trace is None:
        raise UsageError("give the traffic: --rate, --trace, or both")
    if autoscale is not None and trace is None:
        raise UsageError("--autoscale needs --trace: an autoscaler follows recorded traffic")
    if trace is not None and arrivals != "poisson":
        raise UsageError("--trace and --arrivals cannot be combined")
    if capacity_workers is not None and capacity is None:
        raise UsageError("--capacity-workers needs --capacity: it says how many workers the measured replica had")
    check_writable(report)
    models = [read_measured(path) for path in profiles]
    counted = workers or (models[0].profile.settings.io.workers if len(models) == 1 else 1)
    wanted = PlanRequest(
        models,
        rates,
        limits * len(models) if len(limits) == 1 else limits,
        make,
        arrivals,
        None if trace is None else read_recording(trace),
        None if trace is None or (counted > 1 and autoscale is None) else rules,
        spare,
        failures,
        "two-choices" if routing is None else routing.value,
        round(hedge_s * 1e3, 6),
        counted,
        cores,
        capacity,
        capacity_workers,
        price,
        seed,
        command_line(),
    )
    _check(wanted, chosen=routing is not None)
    with compiling("the simulation"):
        cluster.prepare()
    result = make_plan(wanted, _say)
    if report:
        write_atomically(report, render_plan_html(result))
    if json:
        print_json(msgspec.json.encode(result))
    else:
        output_console().print(plan_view(result))


def _check(wanted: "PlanRequest", *, chosen: bool) -> None:
    """Check that options fit together.

    Raises:
        UsageError: the number of rates or limits does not match the profiles, or an option needs a single profile.
    """
    from tailcut.errors import UsageError
    from tailcut.planning.words import several

    count = len(wanted.models)
    _check_names([model.profile.model.name for model in wanted.models])
    if len(wanted.rates) not in ({0, 1} if wanted.recording is not None else {count}):
        rates = several(len(wanted.rates), "rate")
        raise UsageError(f"--rate: {rates} for {several(count, 'profile')}: separate one rate per profile with commas")
    if len(wanted.limits) != count:
        raise UsageError(
            f"--slo: {several(len(wanted.limits), 'limit')} for {several(count, 'profile')}: give one, or one each"
        )
    if wanted.rules is not None and wanted.workers > 1:
        raise UsageError(
            f"--autoscale: the simulated autoscaler's replicas have one worker each, not {wanted.workers}: "
            "add --workers 1, or leave out --autoscale"
        )
    if count > 1:
        _check_together(wanted)
    _check_devices(wanted)
    if count > 1 and chosen and wanted.routing != "round-robin":
        raise UsageError("several profiles: the replicas get their requests in turn: leave out --routing")


def _check_together(wanted: "PlanRequest") -> None:
    """Check options and profiles that are planned together.

    Raises:
        UsageError: an option needs a single profile, or a profile was tuned with several workers.
    """
    from tailcut.errors import UsageError

    single = {
        "--trace": wanted.recording is not None,
        "--hedge": wanted.hedge_ms > 0,
        "--workers": wanted.workers > 1,
        "--capacity": wanted.capacity is not None,
    }
    given = " and ".join(option for option, is_given in single.items() if is_given)
    if given:
        raise UsageError(f"several profiles: {given} {'needs' if sum(single.values()) == 1 else 'need'} a single one")
    for model in wanted.models:
        workers = model.profile.settings.io.workers
        if workers > 1:
            raise UsageError(
                f"{model.path}: the profile has io.workers = {workers}, and several models share one process: "
                "plan it alone"
            )


def _check_devices(wanted: "PlanRequest") -> None:
    """Refuse servers that share a CUDA device, because the simulation gives each of them the device alone.

    Raises:
        UsageError: several workers with a model on a device, or several models on one.
    """
    from tailcut.errors import UsageError

    devices = [model.profile.settings.devices for model in wanted.models]
    if wanted.workers > 1 and any(devices):
        raise UsageError(
            f"{wanted.workers} workers would share the replica's CUDA device, and each has the device alone in the "
            "simulation: add --workers 1, and plan for more replicas"
        )
    used = [index for indices in devices for index in indices]
    shared = next((index for index in used if used.count(index) > 1), None)
    if shared is not None:
        raise UsageError(
            f"several profiles are on CUDA device {shared}, and each has it alone in the simulation: plan each "
            "of them by itself"
        )


def _check_names(names: "Sequence[str]") -> None:
    from tailcut.errors import UsageError

    if len(names) > MOST_MODELS:
        raise UsageError(f"plan takes up to {MOST_MODELS} profiles together, not {len(names)}")
    if len(set(names)) < len(names):
        raise UsageError("two profiles are for models of the same name: give each model once")


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr)
