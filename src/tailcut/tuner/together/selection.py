"""Which combinations of the models' configurations race together. Pure.

What is best for a model alone is often not best beside another: two threads for each of two models on two cores,
threads that spin, or long calls on the event loop that all share. So each model's short list has the best configuration
of every shape (threads, and whether the loop computes), and not only the best ones; every combination of the short
lists is simulated, and the best few of different shapes race.
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
SPIN_NS = 40_000_000  # after a call of onnxruntime a spinning thread used this much CPU time before it slept
_LEAST_MS = 1e-6

Combination = tuple[Settings, ...]  # the settings of each model, in the models' order


@dataclass(frozen=True, slots=True)
class ExpectedCombination:
    """A combination, and what the simulation expects: the p99 of each model in ms, and the score that follows."""

    settings: Combination
    p99_ms: tuple[float, ...]
    score: float


def score(p99_ms: Sequence[float], limits_ms: Sequence[float]) -> float:
    """How often the p99 of the model that is worst off fits into its limit: 1 and more where all limits are met."""
    return min(limit / max(p99, _LEAST_MS) for p99, limit in zip(p99_ms, limits_ms, strict=True))


def shortlist(
    predicted: Sequence[PredictedConfiguration],
    count: int,
    rank: Callable[[PredictedConfiguration], float],
    keep: Sequence[Settings] = (),
) -> list[Settings]:
    """The best of a model for each shape, the best of several kinds, and those to keep in any case."""
    ranked = sorted(predicted, key=lambda prediction: (-rank(prediction), prediction.alone_ms))
    shapes: dict[object, Settings] = {}
    for prediction in ranked:
        shapes.setdefault(_shape(prediction.settings), prediction.settings)
    chosen = [*keep, *(prediction.settings for prediction in ranked[:1]), *shapes.values()]
    chosen += [finalist.settings for finalist in finalists(predicted, count, rank)]
    return list(dict.fromkeys(chosen))[: max(count, len(keep) + 1)]


def list_length(models: int, most: int = MOST_COMBINATIONS) -> int:
    """How long the short list of each model may be, of this many; two at least."""
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
        lists: of each model.
        configurations: of each model, by settings.
        arrivals_ns: of each model, int64 ns.
        limits_ms: of each model's p99.
        cores: that all share.
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
    """The best combinations of different engines and threads, and the one of what is best for each model alone."""
    chosen: list[Combination] = []
    shapes: set[tuple[object, ...]] = set()
    for candidate in simulated:
        shape = tuple((settings.engine, settings.batching.dispatch) for settings in candidate.settings)
        if shape not in shapes and len(chosen) < count - 1:
            shapes.add(shape)
            chosen.append(candidate.settings)
    return list(dict.fromkeys([*chosen, alone]))


def _shape(settings: Settings) -> tuple[int, int, bool, bool]:
    """What of a configuration its neighbours feel: threads, whether they spin, and whether the loop computes."""
    engine = settings.engine
    spins = engine.spinning and engine.threads > 1
    return engine.threads, engine.instances, spins, settings.batching.dispatch == "inline"


def spin_ns(engine: EngineOptions) -> int:
    """How long the idle threads of an engine spin after a call."""
    if engine.name != "onnxruntime" or not engine.spinning or engine.threads == 1:
        return 0
    return engine.spin_us * 1000 or SPIN_NS


def _p99_ms(prediction: Prediction) -> float:
    return prediction.percentile_ms(0.99)
