"""Predictions from measured parts: every way to serve every engine configuration is simulated. Pure."""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tailcut.lab.arrivals import poisson_times
from tailcut.runtime.rows import RowsSetting
from tailcut.runtime.settings import Settings
from tailcut.runtime.thread_budget import spinning_threads
from tailcut.spec import Rows
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.objective import Objective
from tailcut.tuner.shapes import ALIKE, ShapeMix, padded_mix
from tailcut.tuner.simulate import Configuration, Prediction, Ways, highest_rate, saturation_rate, simulate
from tailcut.tuner.space import SpaceFacts, changed, serving_choices

_SIMULATED, _MOST_SIMULATED = 3000, 6000  # requests of one simulation
_LIMITS = 8  # times the limit that a simulation lasts at least: near saturation a queue takes long to fill


@dataclass(frozen=True, slots=True)
class PredictionParts:
    """What was measured, and the conditions to predict for.

    Args:
        facts: of model and machine.
        ways: the overhead of a request, by dispatch and engine.
        cores: of this machine; the server shares them with the load client, unless it is confined to some of them.
        rows: the setting `batching.rows` of every configuration.
        mix: the shapes of the data's requests.
    """

    facts: SpaceFacts
    ways: Ways
    cores: float
    rows: RowsSetting
    mix: ShapeMix = ALIKE


def predict(
    estimates: Sequence[EngineEstimate], parts: PredictionParts, objective: Objective
) -> Iterator[PredictedConfiguration]:
    """Yield every way to serve the estimated engines, with what the simulation expects of it; uses all cores."""
    with ThreadPoolExecutor(max(1, int(parts.cores))) as pool:
        yield from pool.map(partial(_predicted, objective), configurations(estimates, parts))


def configurations(
    estimates: Sequence[EngineEstimate], parts: PredictionParts
) -> Iterator[tuple[Settings, Configuration, EngineEstimate]]:
    """Yield every way to serve the estimated engines: settings, the simulation's input, and the engine's estimate."""
    alone = replace(parts.facts.spec, rows=Rows.DEPENDENT)
    for estimate in estimates:
        as_measured = estimate.service_times(parts.facts.usable_cpus)
        longer = functools.cache(as_measured.scaled)
        facts = parts.facts if estimate.batched else replace(parts.facts, spec=alone)
        for choice in serving_choices(facts, estimate.options, estimate.alone_ns / 1e3):
            settings = changed(choice, batching={"rows": parts.rows})
            padding = settings.batching.padding
            mix = parts.mix if padding is None else padded_mix(facts.lengths, padding)
            configuration = Configuration(
                longer(mix.longer),
                parts.ways.of(settings.batching.dispatch, estimate.options.name),
                settings.batching.dispatch,
                settings.batching.max_batch_size,
                settings.batching.max_queue_delay_us,
                estimate.options.instances,
                min(float(parts.facts.usable_cpus), parts.cores),
                spinning=spinning_threads(estimate.options),
                mix=mix,
                client_apart=parts.facts.usable_cpus < parts.cores,
            )
            yield settings, configuration, estimate


def _predicted(
    objective: Objective, measured: tuple[Settings, Configuration, EngineEstimate]
) -> PredictedConfiguration:
    settings, configuration, estimate = measured
    way, longer = configuration.way_in, configuration.mix.longer
    loop_ns = way.alone_ns(configuration.dispatch)
    alone_ns = longer * estimate.alone_ns + loop_ns + way.client_ns + way.client_pass_ns + way.outside_ns
    if configuration.dispatch == "worker":
        alone_ns += 2 * way.wake_ns
    p99_ms = float("inf")
    capacity = saturation_rate(configuration, _SIMULATED)
    rate = highest_rate(configuration, objective.limit_ms, simulated(objective.limit_ms, capacity))
    # What a request costs depends on how many share a batch: at the rate that the configuration is judged by.
    judged = objective.rate if objective.is_open else capacity if objective.kind == "throughput" else rate
    prediction = simulate(configuration, poisson_times(judged, _SIMULATED / judged, 1)) if judged else None
    if prediction is not None and objective.is_open:
        p99_ms = prediction.percentile_ms(0.99)
    cpu_us = (longer * estimate.cpu_ns[1] + loop_ns) / 1e3
    if prediction is not None:
        cpu_us = _cpu_us(estimate, prediction, longer)
    return PredictedConfiguration(settings, rate, alone_ns / 1e6, cpu_us, estimate.memory_bytes, p99_ms, capacity)


def simulated(limit_ms: float, capacity: float) -> int:
    """How many requests to simulate when searching for the highest rate within a limit."""
    return int(max(_SIMULATED, min(_MOST_SIMULATED, _LIMITS * limit_ms / 1e3 * capacity)))


def _cpu_us(estimate: EngineEstimate, prediction: Prediction, longer: float) -> float:
    """CPU time per request: the loop's, and the engine's measured time for batches of the simulated mean size."""
    answered = max(1, len(prediction.latencies_ns))
    rows = answered / max(1, prediction.batches)
    sizes = sorted(estimate.cpu_ns)
    call_ns = float(np.interp(rows, sizes, [estimate.cpu_ns[size] for size in sizes]))
    return float(prediction.loop_busy_s) * 1e6 / answered + longer * call_ns / 1e3 / rows
