"""Opens a bare model with settings that are measured to suit this machine.

Beside the first loading it takes two seconds at most, and a tenth of a second for a small model. It never holds more
than two sessions, and only one of a model that is large or slow to load. What follows from the times is decided in
`defaults.py`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tailcut.engines import import_engine, open_engine
from tailcut.engines.base import Engine, EngineOptions
from tailcut.engines.files import Traits
from tailcut.engines.samples import Samples, find_samples
from tailcut.engines.traits import read_traits
from tailcut.errors import TailcutError, UnsupportedError
from tailcut.machine.quota import affinity_mask, cpu_quota, memory_limit, usable_cpus
from tailcut.machine.topology import cores_of, topology
from tailcut.runtime.limits import Limits
from tailcut.runtime.opening.defaults import (
    PARALLEL_NS,
    USUAL_BATCH,
    ConfigurationEstimate,
    DefaultChoice,
    ModelFacts,
    ServingPlace,
    TimeComparison,
    choose,
    compare,
    describe_comparison,
    is_clear,
    may_spin,
    middle,
    sizes_to_try,
)
from tailcut.runtime.opening.row_proof import settle_rows
from tailcut.runtime.opening.timing import Timing, busy_thread, call_of_rows, time_calls, time_sizes
from tailcut.runtime.profile import Profile
from tailcut.runtime.rows import RowDecision
from tailcut.runtime.settings import Settings
from tailcut.spec import DType, ModelSpec

BUDGET_S = 2.0
_SHARE = 1 / 8  # of it, for timing one set of calls
_LOAD_SHARE = 1 / 4  # of it: a model that takes longer to load is not loaded a second time
_PROBE_S = 0.02  # for a first look at a call
_TOO_LONG_NS = 60_000_000  # a call that takes longer is not timed often enough to compare
_SMALL_BYTES = 1 << 20  # of weights: probably too quick for more threads, so it is tried with one first
_LARGE_BYTES = 500 << 20  # of weights: never loaded a second time
_COPIES = 4  # of the weights in two sessions: as they are in the file, and as the kernels want them
_COMPARED_NS = 20_000_000  # a batch that is compared takes no longer, unless a row alone does


@dataclass(frozen=True, slots=True)
class OpenedEngine:
    """A loaded engine with the profile that it is to serve, and what was decided of the model's rows and its settings.

    Where nothing could be measured, the settings are as they were given, and the choice says why.
    """

    profile: Profile
    engine: Engine
    rows: RowDecision
    choice: DefaultChoice


def surroundings(cpus: int | None = None, *, alone: bool = True, max_batch_size: int | None = None) -> ServingPlace:
    """Of this process, which may use this many CPUs: where none are named, all that the machine lets it use."""
    cpus = cpus or usable_cpus()
    threads = max(1, min(cpus, cores_of(topology(), affinity_mask())))
    return ServingPlace(cpus, threads, alone, cpu_quota() is not None, max_batch_size)


def open_measured(profile: Profile, limits: Limits, around: ServingPlace, budget_s: float = BUDGET_S) -> OpenedEngine:
    """Load a bare model, and choose threads, instances, spinning, dispatch and the largest batch by measuring.

    Args:
        profile: of a model file, with the settings that are kept where nothing can be measured.
        limits: bounds of the model.
        around: where it is to serve.
        budget_s: seconds that the measurements may take, beside loading the model once.

    Raises:
        ModelFileError: the model is missing, empty or corrupt.
        UnsupportedError: batching was asked for, and the model's signature rules it out.
    """
    path, base = Path(profile.model.path), profile.settings
    import_engine(base.engine.name)  # so that its import does not count as loading
    traits = read_traits(path)
    sessions = _Sessions(path, profile.model.name)
    sessions.open(_options(base.engine, 1 if traits.weight_bytes < _SMALL_BYTES else around.threads))
    try:
        samples, refusal, took_s = _samples(sessions.engine, budget_s)
        rows = settle_rows(sessions.engine, base.batching.rows, limits, samples)
        try:
            if samples is None:
                raise UnsupportedError(refusal)
            facts = _facts(sessions.engine.spec, traits, limits)
            if took_s < budget_s:
                times = _Race(sessions, samples, budget_s).run(facts, traits, around)
            else:
                sessions.prefer(_options(base.engine, around.threads))
                times = _Times({1: took_s * 1e9})
            choice = _choose(sessions, facts, around, times)
        except (TailcutError, MemoryError) as error:  # what cannot be measured may be served all the same
            choice = _fixed(base, f"fixed settings, because nothing could be measured: {error}", around)
            sessions.open(choice.apply(base).engine)
    except BaseException:
        sessions.close()
        raise
    return OpenedEngine(msgspec.structs.replace(profile, settings=choice.apply(base)), sessions.engine, rows, choice)


def _samples(engine: Engine, budget_s: float) -> tuple[Samples | None, str, float]:
    """Requests that the model accepts, or why there are none; and the seconds that finding them took."""
    began = time.monotonic()
    try:
        samples, refusal = find_samples(engine, budget_s=budget_s), ""
    except UnsupportedError as error:
        samples, refusal = None, str(error)
    return samples, refusal, time.monotonic() - began


class _Sessions:
    """The session that is best so far, and at most one beside it."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._engine: Engine | None = None
        self.load_s = 0.0  # what the first took

    @property
    def engine(self) -> Engine:
        assert self._engine is not None  # noqa: S101  opened first
        return self._engine

    def open(self, options: EngineOptions) -> None:
        """Load a session, in the place of the one there is."""
        spec = self.close()
        began = time.monotonic()
        self._engine = open_engine(self._path, options, self._name)
        if spec is None:
            self.load_s = time.monotonic() - began
        else:
            self._engine.spec = spec

    @contextmanager
    def beside(self, options: EngineOptions) -> Iterator[Engine]:
        """A second session, which is closed again unless it is kept."""
        other = open_engine(self._path, options, self._name)
        other.spec = self.engine.spec  # what was decided of its rows
        try:
            yield other
        finally:
            if other is not self._engine:
                other.close()

    def prefer(self, options: EngineOptions) -> None:
        """Have a session with these options, the one there is where it has them."""
        if self.engine.options != options:
            self.open(options)

    def keep(self, engine: Engine) -> None:
        """From now on this session is the best."""
        if engine is not self._engine:
            self.close()
            self._engine = engine

    def close(self) -> ModelSpec | None:
        """Free the best session; what is known of its model."""
        engine, self._engine = self._engine, None
        if engine is None:
            return None
        engine.close()
        return engine.spec


@dataclass(frozen=True, slots=True)
class _Compared:
    """What was compared.

    Args:
        threads: a phrase; empty where there was nothing to compare.
        spinning: likewise; it counts for a model alone.
        spins: whether spinning was found better.
    """

    threads: str = ""
    spinning: str = ""
    spins: bool = False


@dataclass(frozen=True, slots=True)
class _Times:
    """Nanoseconds of a call by its rows on the session that was kept, and what was compared before."""

    call_ns: dict[int, float]
    compared: _Compared = _Compared()


def _choose(sessions: _Sessions, facts: ModelFacts, around: ServingPlace, times: _Times) -> DefaultChoice:
    """The settings for the session that was kept, and those for the time when there are others, or no more others."""
    threads = sessions.engine.options.threads
    here, otherwise = (
        _choose_for(threads, facts, replace(around, alone=alone), times) for alone in (around.alone, not around.alone)
    )
    return msgspec.structs.replace(here, otherwise=otherwise)


def _choose_for(threads: int, facts: ModelFacts, around: ServingPlace, times: _Times) -> DefaultChoice:
    compared = times.compared
    estimate = ConfigurationEstimate(threads, around.alone and compared.spins, times.call_ns)
    choice = choose(facts, estimate, around)
    phrases = (choice.reason, compared.threads, compared.spinning if around.alone else "")
    return msgspec.structs.replace(choice, reason="; ".join(filter(None, phrases)))


def _fixed(base: Settings, reason: str, around: ServingPlace) -> DefaultChoice:
    """The given settings; engine threads sleep where there are other models."""
    given = DefaultChoice.of(base, reason)
    alone, beside = given, msgspec.structs.replace(given, spinning=False, alone=False)
    here, otherwise = (alone, beside) if around.alone else (beside, alone)
    return msgspec.structs.replace(here, otherwise=otherwise)


def _facts(spec: ModelSpec, traits: Traits, limits: Limits) -> ModelFacts:
    row_bytes = sum(tensor.row_bytes or 0 for tensor in spec.inputs + spec.outputs)
    return ModelFacts(
        batched=spec.batched,
        timed=spec.fixed_sizes or _is_static(spec),
        most_rows=spec.within(max(1, limits.slab_bytes // max(1, 2 * row_bytes))),  # a slab holds two batches
        queue_rows=limits.queue_rows,
        endless=traits.endless,
    )


class _Race:
    """Compares sessions of a model with other numbers of threads, and with or without spinning."""

    def __init__(self, sessions: _Sessions, samples: Samples, budget_s: float) -> None:
        self._samples = samples
        self._share_s = _SHARE * budget_s
        self._sessions = sessions
        self._load_s = _LOAD_SHARE * budget_s
        self._end = time.monotonic() + budget_s - self._share_s

    def run(self, facts: ModelFacts, traits: Traits, around: ServingPlace) -> _Times:
        """Have the session that suits, and time it by batch size.

        Raises:
            TailcutError: the engine failed.
        """
        [probe] = time_calls([call_of_rows(self._sessions.engine, self._samples, 1)], _PROBE_S)
        compared = self._compare(probe, traits, around)
        if probe.wall_ns > _TOO_LONG_NS:
            return _Times({1: probe.undisturbed_ns}, compared)
        sizes = sizes_to_try(facts, around)
        return _Times(time_sizes(self._sessions.engine, self._samples, sizes, self._share_s), compared)

    def _compare(self, probe: Timing, traits: Traits, around: ServingPlace) -> _Compared:
        """Have the session that suits; what was compared."""
        sessions = self._sessions
        if around.threads == 1 or sessions.load_s > self._load_s:
            return _Compared()
        first = sessions.engine
        single, every = _options(first.options, 1), _options(first.options, around.threads)
        if probe.undisturbed_ns < PARALLEL_NS:
            sessions.prefer(single)
            return _Compared(f"too short for {around.threads} threads")
        if probe.wall_ns > _TOO_LONG_NS or not _is_comparable(traits.weight_bytes):
            sessions.prefer(every)
            return _Compared()
        rows = _rows_within(_COMPARED_NS, probe.undisturbed_ns) if first.spec.batched else 0
        with sessions.beside(every if first.options == single else single) as second:
            pair = (first, second) if first.options == single else (second, first)
            better, words = self._compare_two(pair, rows)
            sessions.keep(pair[better])
        if sessions.engine.options != every or every.name != "onnxruntime":
            return _Compared(words)
        if not (may_spin(replace(around, alone=True)) and self._has_time()):
            return _Compared(words)
        with sessions.beside(msgspec.structs.replace(every, spinning=True)) as third:
            spins, spinning = self._compare_two((sessions.engine, third), max(1, rows))
            if spins and around.alone:
                sessions.keep(third)
        return _Compared(words, spinning, spins)

    def _has_time(self) -> bool:
        """Whether one more session can be compared."""
        return time.monotonic() + 2 * self._share_s + self._sessions.load_s < self._end

    def _compare_two(self, pair: tuple[Engine, Engine], rows: int) -> tuple[bool, str]:
        """Time two engines again and again, until it is clear whether the second is better; what was found."""
        comparisons: list[TimeComparison] = []
        while not comparisons or (not is_clear(comparisons) and time.monotonic() + self._share_s < self._end):
            estimate, other = self._estimate(pair, rows)
            comparisons.append(compare(estimate, other))
        result = middle(comparisons)
        return result.better, describe_comparison(estimate, other, result)

    def _estimate(self, engines: Sequence[Engine], rows: int) -> list[ConfigurationEstimate]:
        """One row on the machine as it is, and `rows` rows (0: none) beside a busy thread, on each engine in turns."""
        idle = time_calls([call_of_rows(engine, self._samples, 1) for engine in engines], self._share_s / 2)
        busy: list[dict[int, float]] = [{} for _ in engines]
        if rows:
            calls = [call_of_rows(engine, self._samples, rows) for engine in engines]
            with busy_thread() as clock:
                busy = [{rows: timing.undisturbed_ns} for timing in time_calls(calls, self._share_s / 2, clock)]
        return [
            ConfigurationEstimate(
                engine.options.threads, engine.options.spinning, {1: alone.undisturbed_ns}, beside, alone.cpu_ns
            )
            for engine, alone, beside in zip(engines, idle, busy, strict=True)
        ]


def _rows_within(limit_ns: float, row_ns: float) -> int:
    """The largest power of two of rows, up to those of a usual batch, that take no longer than that."""
    rows = 1
    while rows < USUAL_BATCH and 2 * rows * row_ns <= limit_ns:
        rows *= 2
    return rows


def _is_static(spec: ModelSpec) -> bool:
    """Whether nothing in a request has a size of its own."""
    tensors = spec.inputs + spec.outputs
    return all(None not in tensor.shape and tensor.dtype is not DType.BYTES for tensor in tensors)


def _options(base: EngineOptions, threads: int) -> EngineOptions:
    return msgspec.structs.replace(base, threads=threads, spinning=False, instances=1)


def _is_comparable(weight_bytes: int) -> bool:
    """Whether a second session fits, in half of the memory that the process may use."""
    memory_bytes = memory_limit()
    return weight_bytes <= _LARGE_BYTES and (memory_bytes is None or _COPIES * weight_bytes <= memory_bytes // 2)
