"""Engine configurations measured in process: time, CPU and memory by batch size, many of them in a few seconds.

Each configuration is loaded by a child process of its own (`estimator.py`). They take turns in short runs, so that a
stall of the machine affects all of them equally; after each round, the worse half is dropped. A small model is called
thousands of times per second, so a tenth of a second tells more here than ten seconds of load on a server.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tailcut.engines import EngineOptions
from tailcut.runtime.thread_budget import spins
from tailcut.tuner.engine_estimate import NO_TIME, EngineEstimate, Estimator
from tailcut.tuner.judging import EstimateError, Judging

_LARGEST = 128
_GAIN = 0.97  # of the time per row, which a batch twice as large must reach for the next size to be tried
_SHORTEST_S = 0.02
_MEASURING = 0.4  # of the time is for measuring, however long loading took
_LOADING = 0.6  # of the time, after which no more configurations are loaded
_AGAIN = 2  # the others have this many times what the first one took to load
_FEWEST = 3  # configurations that are loaded even after that, and measured to the end
_SPINNING_S = 0.04  # how long onnxruntime's threads spin after a call
_LENGTHS = (0.5, 0.1, 0.9, 0.3, 0.7)  # quantiles of the requests by size that are measured


def typical(requests: Sequence[Mapping[str, np.ndarray]], *, batched: bool) -> list[dict[str, np.ndarray]]:
    """Requests that represent all: one, if all have the same shapes; else several lengths, the median first.

    Args:
        requests: the data's.
        batched: whether to take one row of each, whose copies fill the batches.
    """
    rows = [{name: array[:1] if batched else array for name, array in request.items()} for request in requests]
    if len({tuple(array.shape for array in row.values()) for row in rows}) == 1:
        return rows[:1]
    ranked = sorted(rows, key=lambda item: sum(array.size for array in item.values()))
    return [ranked[int(share * len(ranked))] for share in _LENGTHS]


def estimate_engines(  # noqa: PLR0913  rounds of one measurement
    model: Path,
    choices: Sequence[EngineOptions],
    requests: Sequence[Mapping[str, np.ndarray]],
    *,
    seconds: float,
    batched: bool,
    independent: bool = False,
    whole: bool = False,
    copy_of: Callable[[EngineOptions], Path | None] = lambda _: None,
    tell: Callable[[EngineEstimate], None] = lambda _: None,
    store: Callable[[EngineEstimate], None] = lambda _: None,
    judging: Judging | None = None,
) -> list[EngineEstimate]:
    """Measure all configurations in about `seconds`; the most rows per second first.

    Args:
        model: a model file.
        choices: what to measure.
        requests: as `typical` returns them; each fills the batches of some calls with its rows.
        seconds: for everything.
        batched: whether to try batches larger than a request.
        independent: the user states that rows are independent, whatever an engine derives from the file.
        whole: load every configuration, however long it takes.
        copy_of: the file to load instead of the model; None for the model itself.
        tell: called with each configuration that is done.
        store: called with each when its first size is known, and again when all its sizes are.
        judging: checks the answers of one configuration of each engine and precision; if they are wrong, no other one
            of that kind is measured.

    Returns:
        The estimates of all choices; `error` says why one was not measured.
    """
    began = time.monotonic()
    files = [copy_of(choice) or model for choice in choices]
    opened = partial(Estimator, requests=requests, independent=independent)
    loading = _LoadingTime(math.inf if whole else began + _LOADING * seconds)
    racing, estimates = _load_all(dict(zip(choices, files, strict=True)), opened, tell, loading, judging or Judging())
    end = max(began + seconds, time.monotonic() + _MEASURING * seconds)
    try:
        sizes = [1]
        while racing and sizes:
            for size in sizes:
                racing = _round(racing, size, end, tell)
            if sizes == [1]:
                for estimator in racing:
                    store(estimator.estimate)
            largest = sizes[-1]
            grows = (
                batched
                and largest < _LARGEST
                and any(estimator.estimate.batched and _pays(estimator.estimate) for estimator in racing)
            )
            sizes = [largest * 2] if grows and time.monotonic() < end else []
        for estimator in racing:
            store(estimator.estimate)
        racing = _better_half(racing, tell)
        while time.monotonic() < end and racing:
            measured = [_measure(estimator, 1, end, paused=True) for estimator in racing]
            for size in racing[0].estimate.sizes:
                measured += [
                    _measure(estimator, size, end) for estimator in racing if size in estimator.estimate.times_ns
                ]
            if not any(measured):
                break
            racing = _better_half(racing, tell)
    finally:
        for estimator in racing:
            _done(estimator, tell)
    return sorted(estimates, key=lambda estimate: -estimate.rows_per_s)


def _better_half(racing: Sequence[Estimator], tell: Callable[[EngineEstimate], None]) -> list[Estimator]:
    """The better half by rows per second, at least a few, and the two fastest for a lone row; the others are closed."""
    kept = sorted(racing, key=lambda estimator: -estimator.estimate.rows_per_s)[: max(_FEWEST, len(racing) // 2)]
    kept += sorted(racing, key=lambda estimator: estimator.estimate.low_ns(1))[:2]
    return [estimator for estimator in racing if estimator in kept or not _done(estimator, tell)]


class _LoadingTime:
    """How long configurations may load: the first as long as it takes, all others together at least twice as long.

    Quantising the weights of a model with many channels takes minutes where loading it takes a second.

    Args:
        until: when loading should end; after it, only the first few are started.
    """

    def __init__(self, until: float) -> None:
        self.until = until
        self._began = time.monotonic()
        self._end = math.inf

    @property
    def left_s(self) -> float:
        """Seconds until a configuration that is still loading is given up."""
        return self._end - time.monotonic()

    def note_loaded(self) -> None:
        """Note that a configuration has been loaded."""
        if self._end == math.inf:
            now = time.monotonic()
            self._end = max(self.until, now + _AGAIN * (now - self._began))


def _load_all(
    choices: Mapping[EngineOptions, Path],
    opened: Callable[[Path, EngineOptions], Estimator],
    tell: Callable[[EngineEstimate], None],
    loading: _LoadingTime,
    judging: Judging,
) -> tuple[list[Estimator], list[EngineEstimate]]:
    """Load all configurations, two at a time; an engine that cannot load the model at all is tried once.

    Where loading takes longer than planned, only the first few are loaded.
    """
    names = list(dict.fromkeys(options.name for options in choices))
    firsts = [next(options for options in choices if options.name == name) for name in names]
    racing: list[Estimator] = []
    estimates: list[EngineEstimate] = []
    for number, options in enumerate([*firsts, *(choice for choice in choices if choice not in firsts)]):
        refused = [
            estimate.error for estimate in estimates if _unloadable(estimate) and _same_graph(estimate.options, options)
        ]
        wrong = judging.reason(options)
        if refused or wrong:
            estimates.append(EngineEstimate(options, error=refused[0] if refused else wrong))
            tell(estimates[-1])
            continue
        late = number >= max(len(firsts), _FEWEST) and time.monotonic() > loading.until
        if late or loading.left_s <= 0:
            estimates.append(EngineEstimate(options, error=NO_TIME))
            tell(estimates[-1])
            continue
        racing.append(opened(choices[options], options))
        estimates.append(racing[-1].estimate)
        if number + 1 >= len(firsts) and len(racing) % 2 == 0:
            racing = _loaded(racing, tell, loading, judging)
    return _loaded(racing, tell, loading, judging), estimates


def _unloadable(estimate: EngineEstimate) -> bool:
    return estimate.error is not None and f"{estimate.options.name} cannot load it" in estimate.error


def _same_graph(refused: EngineOptions, options: EngineOptions) -> bool:
    """Whether an engine that refused one will refuse the other: the model itself, or the same kind of copy."""
    whole = refused.precision in {"f32", "bf16", "f16"}
    return refused.name == options.name and (whole or refused.precision == options.precision)


def _loaded(
    racing: Sequence[Estimator], tell: Callable[[EngineEstimate], None], loading: _LoadingTime, judging: Judging
) -> list[Estimator]:
    kept = []
    for estimator in racing:
        try:
            if not estimator.estimate.load_s:
                estimator.wait_loaded(loading.left_s)
                loading.note_loaded()
                judging.check(estimator.estimate.options, estimator.answers)
            kept.append(estimator)
        except EstimateError as error:
            estimator.estimate.error = str(error)
            _done(estimator, tell)
    return kept


def _round(
    racing: Sequence[Estimator], rows: int, end: float, tell: Callable[[EngineEstimate], None]
) -> list[Estimator]:
    """Measure one size on each; a configuration that fails at the first size is dropped."""
    kept = []
    for estimator in racing:
        if rows > 1 and not (estimator.estimate.batched and _pays(estimator.estimate)):
            kept.append(estimator)
            continue
        fewest = _calls_in(estimator.estimate, rows, end - time.monotonic())
        if not fewest:
            kept.append(estimator)
            continue
        try:
            seconds = max(_SHORTEST_S, min(0.1, (end - time.monotonic()) / (12 * len(racing))))
            _run(estimator, rows, seconds, fewest)
            if not _pays(estimator.estimate) and _calls_in(estimator.estimate, rows, end - time.monotonic()):
                _run(estimator, rows, seconds, fewest)  # a stall in one run must not end the search for larger batches
            kept.append(estimator)
        except EstimateError as error:
            if rows > 1:
                kept.append(estimator)
            else:
                estimator.estimate.error = str(error)
                _done(estimator, tell)
    return kept


def _run(estimator: Estimator, rows: int, seconds: float, fewest: int, *, paused: bool = False) -> None:
    """Time one size, and wait until the engine's threads have stopped spinning: others are measured next."""
    estimator.measure(rows, seconds, fewest=fewest, paused=paused)
    if spins(estimator.estimate.options):
        time.sleep(_SPINNING_S)


def _calls_in(estimate: EngineEstimate, rows: int, seconds: float) -> int:
    """How many calls of this size there is time for, after a warm-up call of each request.

    At most 3, or one per request if there are more; at least 1 for the first size.
    """
    most = max(3, estimate.requests)
    smaller = [size for size in estimate.sizes if size <= rows]
    if not smaller:
        return most if seconds > 0 else 1
    call_s = estimate.low_ns(smaller[-1]) / 1e9 * rows / smaller[-1]
    return max(0, min(most, int(seconds / max(call_s, 1e-9)) - estimate.requests))


def _pays(estimate: EngineEstimate) -> bool:
    """Whether the largest size so far took less time per row than the one before it."""
    sizes = estimate.sizes
    if len(sizes) < 2:
        return True
    before, last = sizes[-2:]
    return estimate.low_ns(last) / last <= _GAIN * estimate.low_ns(before) / before


def _measure(estimator: Estimator, rows: int, end: float, *, paused: bool = False) -> bool:
    """Time one size again; whether there was time for it."""
    fewest = _calls_in(estimator.estimate, rows, end - time.monotonic())
    if fewest:
        _run(estimator, rows, 2 * _SHORTEST_S, fewest, paused=paused)
    return fewest > 0


def _done(estimator: Estimator, tell: Callable[[EngineEstimate], None]) -> bool:
    estimator.close()
    tell(estimator.estimate)
    return True
