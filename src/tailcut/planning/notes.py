"""Notes on what a plan is based on."""

from collections.abc import Iterator, Sequence

from tailcut.planning.measured import MeasuredProfile
from tailcut.planning.request import PlanRequest
from tailcut.planning.search import MOST_SIMULATED, Figures, PlannedLoad
from tailcut.planning.words import number, several

_FAR = 2.0  # a larger factor between a measured capacity and the tune's is not explained by quotas and cold caches


def plan_notes(wanted: PlanRequest, replicas: int, faster: float, parts: Sequence[Figures] = ()) -> list[str]:
    """The notes on a plan; `parts` are the figures of each model."""
    cores, workers = wanted.replica_cores, wanted.workers
    known = (
        (True, "clients run on other machines, and the network adds what it added when the model was tuned"),
        (replicas > 1, "simulated: each replica is a machine like the one on which the model was tuned"),
        (
            replicas * workers > MOST_SIMULATED and not wanted.together,
            f"more than {MOST_SIMULATED} servers: {MOST_SIMULATED} were simulated at the same load for each",
        ),
        (
            {float(model.cores) for model in wanted.models} != {cores},
            f"a replica has {several(cores, 'core')}, which is not what the model was measured with",
        ),
        (
            wanted.capacity is None and any(cores / workers < min(1.0, model.cores) for model in wanted.models),
            "a server that its quota throttles may answer a third less than planned: measure one, and give --capacity",
        ),
        (workers > 1, f"each of {workers} workers has {several(cores / workers, 'core')} of its own"),
        (wanted.hedge_ms > 0, "both copies of a hedged request are computed"),
        (wanted.together, "each replica serves all models, and replicas get requests in turn"),
        (
            not all(model.service.exact for model in wanted.models),
            "service times were measured before the last changes of the engine's settings",
        ),
        *((True, note) for note in _rare_notes(wanted, parts)),
        *((True, note) for model in wanted.models for note in _scale_notes(model, wanted)),
        (
            any(model.is_local for model in wanted.models),
            "tuned with --local, for clients on the same machine: over a network, a replica answers less than planned",
        ),
        (
            wanted.recording is not None and wanted.rules is None and workers > 1,
            "no autoscaler was simulated: its replicas have one worker each (--workers 1)",
        ),
        (
            faster > 1,
            f"the recording has too many requests, and was shortened by a factor of {number(faster, 3)}",
        ),
    )
    return [words for holds, words in known if holds]


def _scale_notes(model: MeasuredProfile, wanted: PlanRequest) -> Iterator[str]:
    """Notes on how much the CPU times of a model are scaled, and why."""
    whose = f"{model.profile.model.name}: " if wanted.together else ""
    scale, answered = wanted.scale(model), None if model.loop is None else model.loop.throughput
    if wanted.capacity is not None:
        most = number(wanted.capacity, 6)
        workers = wanted.measured_workers
        whose = f"a replica of {several(workers, 'worker')}" if max(workers, wanted.workers) > 1 else "a replica"
        yield f"CPU times are scaled by {scale:.2f} so that {whose} answers at most {most} requests/s"
        if not 1 / _FAR < scale / model.scale < _FAR:
            yield "that is far from what the tune measured: check --cores, and that the replica was saturated"
    elif answered is None:
        yield f"{whose}the profile does not say what the tuned server answered: CPU times are those of its parts"
    elif model.agrees:
        share = f"{1 / model.ratio:.0%} of the rate predicted from its parts"
        yield f"{whose}the tuned server answered {number(answered)} requests/s, {share}"
    elif model.is_near:
        yield f"{whose}CPU times are scaled by {scale:.2f}: the tuned server answered {number(answered)} requests/s"
    else:
        remedy = "tune it again" if wanted.together else "measure a replica, and give --capacity"
        yield (
            f"{whose}CPU times are not scaled: {number(model.ratio * answered)} requests/s were predicted from the "
            f"parts, and the tuned server answered {number(answered)}, which is too far apart; {remedy}"
        )


def _rare_notes(wanted: PlanRequest, parts: Sequence[Figures]) -> Iterator[str]:
    """Notes on models whose percentile is based on too few requests, or that were simulated apart from the others."""
    for model, limit, part in zip(wanted.models, wanted.limits, parts, strict=bool(parts)):
        name, needed = model.profile.model.name, PlannedLoad(wanted.arrivals, limit).enough
        if not part.asked:
            yield f"{name}: its requests are too rare to be simulated beside other models': only a lone request was"
        elif part.asked < needed:
            asked = several(part.asked, "request")
            yield f"{name}: {limit.percentile} is uncertain: it is based on {asked}, and needs {needed:,}"
        if part.closer:
            yield f"{name}: its requests are rare, and were simulated closer together than they arrive"
