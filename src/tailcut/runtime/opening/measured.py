"""Opens a model without a profile, with settings that are measured on this machine.

Measuring takes at most two seconds beside loading the model once, and a tenth of a second for a small model. At most
two sessions are open at a time, and only one of a model that is large or slow to load. `defaults.py` decides what
follows from the times.
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
_SHARE = 1 / 8  # of the budget, for timing one set of calls
_LOAD_SHARE = 1 / 4  # of the budget: a model that takes longer to load is not loaded a second time
_PROBE_S = 0.02  # for a first timing of a call
_TOO_LONG_NS = 60_000_000  # longer calls cannot be timed often enough to be compared
_SMALL_BYTES = 1 << 20  # of weights: a smaller model is probably too fast for more threads, so one is tried first
_LARGE_BYTES = 500 << 20  # of weights: a larger model is never loaded a second time
_COPIES = 4  # of the weights in two sessions: as in the file, and in the layout of the kernels
_COMPARED_NS = 20_000_000  # the longest batch that is compared, unless one row takes longer


@dataclass(frozen=True, slots=True)
class OpenedEngine:
    """A loaded engine with its profile, and the decisions about the model's rows and its settings.

    Where nothing could be measured, the settings are the given ones, and the choice says why.
    """

    profile: Profile
    engine: Engine
    rows: RowDecision
    choice: DefaultChoice


def surroundings(cpus: int | None = None, *, alone: bool = True, max_batch_size: int | None = None) -> ServingPlace:
    """The serving place in this process, with this many CPUs; None: as many as the process may use."""
    cpus = cpus or usable_cpus()
    threads = max(1, min(cpus, cores_of(topology(), affinity_mask())))
    return ServingPlace(cpus, threads, alone, cpu_quota() is not None, max_batch_size)


def open_measured(profile: Profile, limits: Limits, around: ServingPlace, budget_s: float = BUDGET_S) -> OpenedEngine:
    """Load a model without a profile, and measure threads, instances, spinning, dispatch and the largest batch.

    Args:
        profile: of a model file, with the settings to keep where nothing can be measured.
        limits: of the model.
        around: where it will serve.
        budget_s: seconds that measuring may take, beside loading the model once.

    Raises:
        ModelFileError: the model is missing, empty or corrupt.
        UnsupportedError: batching was asked for, and the model's signature rules it out.
    """
    path, base = Path(profile.model.path), profile.settings
    import_engine(base.engine.name)  # so that the import does not count as loading
    traits = read_traits(path)
    sessions = _Sessions(path, profile.model.name)
    sessions.open(_options(base.engine, 1 if traits.weight_bytes < _SMALL_BYTES else around.threads))
    try:
        samples, refusal, took_s = _samples(sessions.engine, budget_s)
        rows = settle_rows(sessions.engine, base.batching.rows, samples)
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
        except (TailcutError, MemoryError) as error:  # a model that cannot be measured may still be served
            choice = _fixed(base, f"fixed settings, because nothing could be measured: {error}", around)
            sessions.open(choice.apply(base).engine)
    except BaseException:
        sessions.close()
        raise
    return OpenedEngine(msgspec.structs.replace(profile, settings=choice.apply(base)), sessions.engine, rows, choice)


def _samples(engine: Engine, budget_s: float) -> tuple[Samples | None, str, float]:
    """Requests that the model accepts (None, and the reason, where none was found), and the seconds that took."""
    began = time.monotonic()
    try:
        samples, refusal = find_samples(engine, budget_s=budget_s), ""
    except UnsupportedError as error:
        samples, refusal = None, str(error)
    return samples, refusal, time.monotonic() - began


class _Sessions:
    """The best session so far, and at most one other."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._engine: Engine | None = None
        self.load_s = 0.0  # the time to load the first

    @property
    def engine(self) -> Engine:
        assert self._engine is not None  # noqa: S101  opened first
        return self._engine

    def open(self, options: EngineOptions) -> None:
        """Load a session instead of the current one."""
        spec = self.close()
        began = time.monotonic()
        self._engine = open_engine(self._path, options, self._name)
        if spec is None:
            self.load_s = time.monotonic() - began
        else:
            self._engine.spec = spec

    @contextmanager
    def beside(self, options: EngineOptions) -> Iterator[Engine]:
        """Open a second session, which is closed again unless `keep` is called with it."""
        other = open_engine(self._path, options, self._name)
        other.spec = self.engine.spec  # with the decision about its rows
        try:
            yield other
        finally:
            if other is not self._engine:
                other.close()

    def prefer(self, options: EngineOptions) -> None:
        """Open a session with these options, unless the current one has them."""
        if self.engine.options != options:
            self.open(options)

    def keep(self, engine: Engine) -> None:
        """Make this session the best one."""
        if engine is not self._engine:
            self.close()
            self._engine = engine

    def close(self) -> ModelSpec | None:
        """Free the best session; returns the spec of its model."""
        engine, self._engine = self._engine, None
        if engine is None:
            return None
        engine.close()
        return engine.spec


@dataclass(frozen=True, slots=True)
class _Compared:
    """The results of the comparisons.

    Args:
        threads: a phrase about threads; empty where there was nothing to compare.
        spinning: a phrase about spinning, which applies only to a model alone; empty where nothing was compared.
        spins: whether spinning was found to be better.
    """

    threads: str = ""
    spinning: str = ""
    spins: bool = False


@dataclass(frozen=True, slots=True)
class _Times:
    """Nanoseconds of a call by its rows, on the session that was kept, and the results of the comparisons."""

    call_ns: dict[int, float]
    compared: _Compared = _Compared()


def _choose(sessions: _Sessions, facts: ModelFacts, around: ServingPlace, times: _Times) -> DefaultChoice:
    """Choose settings for the session that was kept, and those for the case with (or without) other models."""
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
        most_rows=spec.within(max(1, limits.slab_bytes // max(1, 2 * row_bytes))),  # a slab has room for two batches
        queue_rows=limits.queue_rows,
        endless=traits.endless,
    )


class _Race:
    """Compares sessions of a model with different numbers of threads, and with and without spinning."""

    def __init__(self, sessions: _Sessions, samples: Samples, budget_s: float) -> None:
        self._samples = samples
        self._share_s = _SHARE * budget_s
        self._sessions = sessions
        self._load_s = _LOAD_SHARE * budget_s
        self._end = time.monotonic() + budget_s - self._share_s

    def run(self, facts: ModelFacts, traits: Traits, around: ServingPlace) -> _Times:
        """Keep the best session, and time it by batch size.

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
        """Keep the best session; returns the results of the comparisons."""
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
        """Whether there is time to compare one more session."""
        return time.monotonic() + 2 * self._share_s + self._sessions.load_s < self._end

    def _compare_two(self, pair: tuple[Engine, Engine], rows: int) -> tuple[bool, str]:
        """Time two engines until it is clear whether the second is better; returns that, and the result in words."""
        comparisons: list[TimeComparison] = []
        while not comparisons or (not is_clear(comparisons) and time.monotonic() + self._share_s < self._end):
            estimate, other = self._estimate(pair, rows)
            comparisons.append(compare(estimate, other))
        result = middle(comparisons)
        return result.better, describe_comparison(estimate, other, result)

    def _estimate(self, engines: Sequence[Engine], rows: int) -> list[ConfigurationEstimate]:
        """Time one row as the machine is, and `rows` rows (0: none) beside a busy thread, with engines in turns."""
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
    """The largest power of two, up to the usual batch size, whose rows take at most `limit_ns`."""
    rows = 1
    while rows < USUAL_BATCH and 2 * rows * row_ns <= limit_ns:
        rows *= 2
    return rows


def _is_static(spec: ModelSpec) -> bool:
    """Whether nothing but the number of rows varies in size between requests."""
    tensors = spec.inputs + spec.outputs
    return all(None not in tensor.shape and tensor.dtype is not DType.BYTES for tensor in tensors)


def _options(base: EngineOptions, threads: int) -> EngineOptions:
    return msgspec.structs.replace(base, threads=threads, spinning=False, instances=1)


def _is_comparable(weight_bytes: int) -> bool:
    """Whether two sessions fit into half of the memory that the process may use."""
    memory_bytes = memory_limit()
    return weight_bytes <= _LARGE_BYTES and (memory_bytes is None or _COPIES * weight_bytes <= memory_bytes // 2)
