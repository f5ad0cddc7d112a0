"""Which configurations race on the real server: the best by simulation, few of a kind. Pure.

The simulation ranks thousands, but what it does not model (caches, the operating system) it cannot rank. So the
finalists are the best of several kinds rather than the eight best, which mostly differ in one batch size.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tailcut.runtime.settings import Settings
from tailcut.tuner.heats import NEAR

FINALISTS = 8
_SAME_ENGINE, _SAME_PRECISION, _SAME_DISPATCH = 1, 3, 3  # of the finalists
_LONE, _LONE_OF = 2, 3  # finalists that are there for the lone request, and of how many one is
_FRUGAL = 0.8  # of the CPU time of all that were chosen and are equal: a finalist that is there for taking so little
_HOPE = 0.3  # of the best rank: what is predicted to be worse does not race for its kind's sake


@dataclass(frozen=True, slots=True)
class PredictedConfiguration:
    """A whole configuration, and what the simulation expects of it.

    Args:
        settings: the configuration.
        rate: requests per second within the limit.
        alone_ms: the median latency of one connection.
        cpu_us: CPU time of a request.
        memory_bytes: of the engine.
        p99_ms: at the rate that the objective names; infinite where none was simulated.
        capacity: requests per second when there are always more.
    """

    settings: Settings
    rate: float
    alone_ms: float
    cpu_us: float
    memory_bytes: int
    p99_ms: float = float("inf")
    capacity: float = 0.0


def finalists(
    predicted: Iterable[PredictedConfiguration],
    count: int = FINALISTS,
    rank: Callable[[PredictedConfiguration], float] = lambda candidate: candidate.rate,
    kinds: Callable[[Settings], list[tuple[object, int]]] | None = None,
) -> list[PredictedConfiguration]:
    """The best by rank (more is better), a few of each kind, the best for a lone request, and the most frugal equal.

    The second is the best on another engine or in another precision: where only two can race, that is the difference
    that a simulation knows least of. The best of each dispatch is among them: what a way in costs is one measurement,
    and a stall during it would keep all configurations of that way out of the race. So is the best of each number of
    threads and instances with the engine of the very best: how these share cores and caches is not simulated.
    """
    own = kinds or kinds_of
    ranked = sorted(predicted, key=lambda candidate: (-rank(candidate), candidate.alone_ms))
    hopeful = [candidate for candidate in ranked if rank(candidate) >= _HOPE * rank(ranked[0])]
    alike = [candidate for candidate in hopeful if _computed_by(candidate) == _computed_by(ranked[0])]
    other = [candidate for candidate in hopeful if candidate not in alike]
    firsts = [
        *{candidate.settings.batching.dispatch: candidate for candidate in reversed(hopeful)}.values(),
        *{_shape(candidate): candidate for candidate in reversed(alike)}.values(),
    ]
    chosen: list[PredictedConfiguration] = []
    taken: Counter[object] = Counter()
    for candidate in dict.fromkeys([*ranked[:1], *other[:1], *sorted(firsts, key=ranked.index), *ranked]):
        if len(chosen) == count - min(_LONE, count // _LONE_OF):
            break
        if candidate in firsts or all(taken[key] < most for key, most in own(candidate.settings)):
            chosen.append(candidate)
            taken.update(key for key, _ in own(candidate.settings))
    equal = [candidate for candidate in ranked if rank(candidate) >= (1 - NEAR) * rank(ranked[0])]
    if count > len(chosen) + 1 and equal:
        frugal = min(equal, key=lambda candidate: candidate.cpu_us)
        if frugal not in chosen and all(
            frugal.cpu_us <= _FRUGAL * candidate.cpu_us
            for candidate in chosen
            if candidate in equal and candidate.cpu_us
        ):
            chosen.append(frugal)
    near = [candidate for candidate in ranked if candidate not in chosen and rank(candidate) >= 0.5 * rank(ranked[0])]
    quickest_ms = min((candidate.alone_ms for candidate in chosen), default=0.0)
    lone = sorted((item for item in near if item.alone_ms < quickest_ms), key=lambda candidate: candidate.alone_ms)
    raced = {_way(candidate) for candidate in chosen}
    fresh = [item for way, item in {_way(item): item for item in reversed(near)}.items() if way not in raced]
    return [*chosen, *dict.fromkeys([*lone, *sorted(fresh, key=near.index), *near])][:count]


def pareto(
    predicted: Sequence[PredictedConfiguration], accuracy: Mapping[Settings, float] | None = None
) -> list[PredictedConfiguration]:
    """Those that no other beats in rate, lone latency, CPU, memory and accuracy at once.

    Args:
        predicted: configurations.
        accuracy: of those whose answers were compared, more is better; it counts between two of them.
    """
    known = accuracy or {}
    front: list[PredictedConfiguration] = []
    for candidate in sorted(predicted, key=lambda each: -each.rate):
        if not any(_beats(other, candidate, known) for other in front):
            front.append(candidate)
    return front


def _beats(
    predicted: PredictedConfiguration, other: PredictedConfiguration, accuracy: Mapping[Settings, float]
) -> bool:
    pairs = [
        (predicted.rate, other.rate),
        (-predicted.alone_ms, -other.alone_ms),
        (-predicted.cpu_us, -other.cpu_us),
        (-predicted.memory_bytes, -other.memory_bytes),
    ]
    if predicted.settings in accuracy and other.settings in accuracy:
        pairs.append((accuracy[predicted.settings], accuracy[other.settings]))
    return all(mine >= its for mine, its in pairs) and any(mine > its for mine, its in pairs)


def _computed_by(candidate: PredictedConfiguration) -> tuple[str, str]:
    return candidate.settings.engine.name, candidate.settings.engine.precision


def _way(candidate: PredictedConfiguration) -> tuple[object, str]:
    return candidate.settings.engine, candidate.settings.batching.dispatch


def _shape(candidate: PredictedConfiguration) -> tuple[int, int]:
    return candidate.settings.engine.threads, candidate.settings.engine.instances


def kinds_of(settings: Settings) -> list[tuple[object, int]]:
    """Which finalists are alike, and how many of them may race."""
    engine, dispatch = settings.engine, settings.batching.dispatch
    return [
        ((engine, dispatch), _SAME_ENGINE),
        ((engine.name, engine.precision), _SAME_PRECISION),
        (dispatch, _SAME_DISPATCH),
    ]
