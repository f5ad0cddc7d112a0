"""Which combinations of the models' configurations race together. Pure.

The best settings of a model alone are often not the best together with other models: two threads for each of two models
on two cores, spinning threads, or long calls on the event loop that all share. So each model's short list has the best
configuration of every shape (threads, and whether the loop computes), and not only the best ones. Every combination of
the short lists is simulated, and the best few of different shapes race.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from tailcut.engines.base import EngineOptions
from tailcut.runtime.settings import Settings
from tailcut.tuner.finalists import PredictedConfiguration, finalists
from tailcut.tuner.simulate import Configuration, Prediction
from tailcut.tuner.together.simulation import CoTenant, simulate_together

MOST_COMBINATIONS = 256
SPIN_NS = 40_000_000  # measured: CPU time of a spinning thread of onnxruntime after a call before it sleeps
_LEAST_MS = 1e-6

Combination = tuple[Settings, ...]  # the settings of each model, in the models' order


@dataclass(frozen=True, slots=True)
class ExpectedCombination:
    """A combination, with the p99 of each model in ms that the simulation expects, and the score that follows."""

    settings: Combination
    p99_ms: tuple[float, ...]
    score: float


def score(p99_ms: Sequence[float], limits_ms: Sequence[float]) -> float:
    """The smallest ratio of a model's limit to its p99: 1 or more if all limits are met."""
    return min(limit / max(p99, _LEAST_MS) for p99, limit in zip(p99_ms, limits_ms, strict=True))


def shortlist(
    predicted: Sequence[PredictedConfiguration],
    count: int,
    rank: Callable[[PredictedConfiguration], float],
    keep: Sequence[Settings] = (),
) -> list[Settings]:
    """The best configurations of one model: of each shape, of several kinds, and those of `keep` in any case.

    Args:
        predicted: configurations of the model.
        count: how long the list may be.
        rank: larger is better.
        keep: settings that are on the list, and first.
    """
    ranked = sorted(predicted, key=lambda prediction: (-rank(prediction), prediction.alone_ms))
    shapes: dict[object, Settings] = {}
    for prediction in ranked:
        shapes.setdefault(_shape(prediction.settings), prediction.settings)
    chosen = [*keep, *(prediction.settings for prediction in ranked[:1]), *shapes.values()]
    chosen += [finalist.settings for finalist in finalists(predicted, count, rank)]
    return list(dict.fromkeys(chosen))[: max(count, len(keep) + 1)]


def list_length(models: int, most: int = MOST_COMBINATIONS) -> int:
    """How long the short list of each of this many models may be, for at most `most` combinations; at least two."""
    return max(2, int(most ** (1 / models) + 1e-9))


def expected(
    lists: Sequence[Sequence[Settings]],
    configurations: Sequence[Mapping[Settings, Configuration]],
    arrivals_ns: Sequence[np.ndarray],
    limits_ms: Sequence[float],
    cores: float,
) -> list[ExpectedCombination]:
    """Simulate every combination of the short lists; the best first.

    Args:
        lists: settings of each model.
        configurations: of each model, by settings.
        arrivals_ns: of each model, int64 [requests], ascending.
        limits_ms: of each model's p99.
        cores: number of cores that all models share.
    """
    result = []
    for settings in product(*lists):
        members = [
            CoTenant(known[own], spin_ns(own.engine)) for own, known in zip(settings, configurations, strict=True)
        ]
        predictions = simulate_together(members, arrivals_ns, cores)
        p99_ms = tuple(_p99_ms(prediction) for prediction in predictions)
        result.append(ExpectedCombination(settings, p99_ms, score(p99_ms, limits_ms)))
    return sorted(result, key=lambda item: -item.score)


def racing(simulated: Iterable[ExpectedCombination], count: int, alone: Combination) -> list[Combination]:
    """The best combinations that differ in engine or dispatch, and that of each model's best alone; at most `count`."""
    chosen: list[Combination] = []
    shapes: set[tuple[object, ...]] = set()
    for candidate in simulated:
        shape = tuple((settings.engine, settings.batching.dispatch) for settings in candidate.settings)
        if shape not in shapes and len({*chosen, candidate.settings, alone}) <= count:
            shapes.add(shape)
            chosen.append(candidate.settings)
    return list(dict.fromkeys([*chosen, alone]))


def _shape(settings: Settings) -> tuple[int, int, bool, bool]:
    """What other models notice of a configuration: threads, whether they spin, and whether the event loop computes."""
    engine = settings.engine
    spins = engine.spinning and engine.threads > 1
    return engine.threads, engine.instances, spins, settings.batching.dispatch == "inline"


def spin_ns(engine: EngineOptions) -> int:
    """How long the idle threads of an engine spin after a call, in nanoseconds."""
    if engine.name != "onnxruntime" or not engine.spinning or engine.threads == 1:
        return 0
    return engine.spin_us * 1000 or SPIN_NS


def _p99_ms(prediction: Prediction) -> float:
    return prediction.percentile_ms(0.99)
