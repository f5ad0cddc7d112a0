"""Which configurations race on the real server: the best by simulation, few of a kind. Pure.

The simulation ranks thousands, but what it does not model (caches, the operating system) it cannot rank. So the
finalists are the best of several kinds rather than the eight best, which mostly differ in one batch size.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tailcut.runtime.settings import Settings

FINALISTS = 8
NEAR = 0.05  # configurations within it of the best are equal, and the shortest lone latency decides
_SAME_ENGINE, _SAME_PRECISION, _SAME_DISPATCH = 1, 3, 3  # of the finalists
_LONE = 2  # finalists that are there for the lone request
_HOPE = 0.3  # of the best rank: what is predicted to be worse does not race for its kind's sake


@dataclass(frozen=True, slots=True)
class Predicted:
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
    predicted: Iterable[Predicted],
    count: int = FINALISTS,
    rank: Callable[[Predicted], float] = lambda one: one.rate,
) -> list[Predicted]:
    """The best by rank (more is better), a few of each kind, and the best for a lone request.

    The best of each dispatch is among them: what a way in costs is one measurement, and a stall during it would keep
    all configurations of that way out of the race.
    """
    ranked = sorted(predicted, key=lambda one: (-rank(one), one.alone_ms))
    firsts = {one.settings.batching.dispatch: one for one in reversed(ranked) if rank(one) >= _HOPE * rank(ranked[0])}
    chosen: list[Predicted] = []
    kinds: Counter[object] = Counter()
    for one in [*sorted(firsts.values(), key=ranked.index), *ranked]:
        if one in chosen:
            continue
        if len(chosen) == count - min(_LONE, count - 1):
            break
        if all(kinds[key] < most for key, most in _kinds(one.settings)):
            chosen.append(one)
            kinds.update(key for key, _ in _kinds(one.settings))
    near = [one for one in ranked if one not in chosen and rank(one) >= 0.5 * rank(ranked[0])]
    chosen += sorted(near, key=lambda one: one.alone_ms)[: count - len(chosen)]
    return chosen


def pareto(predicted: Sequence[Predicted]) -> list[Predicted]:
    """Those that no other beats in rate, lone latency, CPU and memory at once."""
    front: list[Predicted] = []
    for one in sorted(predicted, key=lambda each: -each.rate):
        if not any(_beats(other, one) for other in front):
            front.append(one)
    return front


def _beats(one: Predicted, other: Predicted) -> bool:
    pairs = [
        (one.rate, other.rate),
        (-one.alone_ms, -other.alone_ms),
        (-one.cpu_us, -other.cpu_us),
        (-one.memory_bytes, -other.memory_bytes),
    ]
    return all(mine >= its for mine, its in pairs) and any(mine > its for mine, its in pairs)


def _kinds(settings: Settings) -> list[tuple[object, int]]:
    engine, dispatch = settings.engine, settings.batching.dispatch
    return [
        ((engine, dispatch), _SAME_ENGINE),
        ((engine.name, engine.precision), _SAME_PRECISION),
        (dispatch, _SAME_DISPATCH),
    ]
