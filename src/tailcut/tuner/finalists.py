"""Which configurations race on the real server: the best by simulation, a few of each kind. Pure.

The simulation ranks thousands, but not by what it does not model, such as caches and the operating system. So the
finalists are the best of several kinds rather than the eight best, which often differ only in the batch size.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tailcut.runtime.settings import Settings
from tailcut.tuner.heats import NEAR

FINALISTS = 8
_SAME_ENGINE, _SAME_PRECISION, _SAME_DISPATCH = 1, 3, 3  # of the finalists
_LONE, _LONE_OF = 2, 3  # finalists chosen for the latency of a lone request: at most, and one of how many
_FRUGAL = 0.8  # of the CPU time of all equal finalists: one that takes less is chosen for that
_HOPE = 0.3  # of the best rank: configurations below it do not race just to represent their kind


@dataclass(frozen=True, slots=True)
class PredictedConfiguration:
    """A whole configuration, and what the simulation expects of it.

    Args:
        settings: the configuration.
        rate: the highest requests per second whose p99 is within the limit.
        alone_ms: the median latency of one connection.
        cpu_us: CPU time per request.
        memory_bytes: of the engine.
        p99_ms: at the objective's rate; infinite where none was simulated.
        capacity: requests per second when the queue is never empty.
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
    """The best by rank, a few of each kind, the best for a lone request, and the one of equals that takes least CPU.

    The second is the best on another engine or in another precision: where only two can race, that is the difference
    that the simulation predicts least well. The best of each dispatch is among them, because a stall while the cost of
    that dispatch was measured would otherwise keep all its configurations out of the race. So is the best of each
    number of threads and instances with the engine of the best one, or with the two best engines where dispatch makes
    no kinds: how these share cores and caches is not simulated. If the best one waits for batches to fill, the best of
    its engine and dispatch that does not is among them: clients that wait for their answers fill batches less well.

    Args:
        predicted: configurations.
        count: how many to choose, at most.
        rank: larger is better.
        kinds: the groups of similar configurations that settings belong to, and how many of each may race; None for
            `kinds_of`.
    """
    own = kinds or kinds_of
    ranked = sorted(predicted, key=lambda candidate: (-rank(candidate), candidate.alone_ms))
    hopeful = [candidate for candidate in ranked if rank(candidate) >= _HOPE * rank(ranked[0])]
    engines = list(dict.fromkeys(_computed_by(candidate) for candidate in hopeful))
    other = [candidate for candidate in hopeful if _computed_by(candidate) in engines[1:]]
    by_dispatch = any(_is_by_dispatch(own(candidate.settings)) for candidate in ranked[:1])
    firsts = [
        *{candidate.settings.batching.dispatch: candidate for candidate in reversed(hopeful) if by_dispatch}.values(),
        *{
            (_computed_by(candidate), _shape(candidate)): candidate
            for candidate in reversed(hopeful)
            if _computed_by(candidate) in engines[: 1 if by_dispatch else 2]
        }.values(),
    ]
    eager = _eager(hopeful)
    firsts += eager
    chosen: list[PredictedConfiguration] = []
    taken: Counter[object] = Counter()
    for candidate in dict.fromkeys([*ranked[:1], *other[:1], *eager, *sorted(firsts, key=ranked.index), *ranked]):
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
    raced = {own(candidate.settings)[0][0] for candidate in chosen}
    others = {own(item.settings)[0][0]: item for item in reversed(near)}
    fresh = [item for kind, item in others.items() if kind not in raced]
    lone = sorted((item for item in fresh if item.alone_ms < quickest_ms), key=lambda candidate: candidate.alone_ms)
    return [*chosen, *dict.fromkeys([*lone, *sorted(fresh, key=near.index), *near])][:count]


def _eager(ranked: Sequence[PredictedConfiguration]) -> list[PredictedConfiguration]:
    """The best one that does not wait for batches to fill, of the engine and dispatch of the best one, if that does."""
    waiting = [candidate.settings for candidate in ranked[:1] if candidate.settings.batching.max_queue_delay_us]
    alike = [
        candidate
        for candidate in ranked
        for best in waiting
        if candidate.settings.engine == best.engine
        and candidate.settings.batching.dispatch == best.batching.dispatch
        and not candidate.settings.batching.max_queue_delay_us
    ]
    return alike[:1]


def pareto(
    predicted: Sequence[PredictedConfiguration], accuracy: Mapping[Settings, float] | None = None
) -> list[PredictedConfiguration]:
    """The Pareto front: configurations that no other beats in rate, lone latency, CPU, memory and accuracy at once.

    Args:
        predicted: configurations.
        accuracy: of those whose answers were compared, larger is better; counted only between two of these.
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


def _is_by_dispatch(kinds: Sequence[tuple[object, int]]) -> bool:
    return any(key in {"inline", "worker", "adaptive"} for key, _ in kinds)


def _shape(candidate: PredictedConfiguration) -> tuple[int, int]:
    return candidate.settings.engine.threads, candidate.settings.engine.instances


def kinds_of(settings: Settings, *, by_dispatch: bool = True) -> list[tuple[object, int]]:
    """The groups of similar finalists that settings belong to, and how many of each may race.

    Args:
        settings: of one configuration.
        by_dispatch: whether configurations that differ in their dispatch are of different kinds.
    """
    engine, dispatch = settings.engine, settings.batching.dispatch
    precision = (engine.name, engine.precision), _SAME_PRECISION
    if not by_dispatch:
        return [(engine, _SAME_ENGINE), precision]
    return [((engine, dispatch), _SAME_ENGINE), precision, (dispatch, _SAME_DISPATCH)]
