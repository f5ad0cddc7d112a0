"""Adds up the counts of workers, and makes them smaller. Pure.

Counts are nested as `process.as_counts` makes them: those of the server, and those of each model by its name and
version, which contain those of each step of a pipeline by its name. Names of counters have a meaning only at their own
level: a model or a step may have any name, even that of a counter.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Counts = dict[str, Any]  # numbers, lists of numbers, or nested dictionaries of them
_Merge = Callable[[Sequence[Any]], Any]
_MergeCounts = Callable[[Sequence[Counts]], Counts]

# Gauges: they end with their worker.
_GAUGES_OF_SERVER = frozenset({"connections", "fast_path", "loops", "buffered_bytes"})
_GAUGES_OF_QUEUE = frozenset({"queued", "queued_rows", "computing", "rows_in_use", "oldest_ns"})
_EXACT_ROWS = 128  # the largest batch size that is kept exactly; larger ones are rounded up


def add_up(*many: Counts) -> Counts:
    """The sum of the counts of workers; {} where none has published any."""
    return _ALL([counts for counts in many if counts])


def lasting(counts: Counts) -> Counts:
    """The counts that remain when their worker ends: gauges become 0."""
    if not counts:
        return {}
    counts = _with_models(counts, _lasting_of_model)
    return counts | {"server": _reset(counts["server"], _GAUGES_OF_SERVER)}


def concise(counts: Counts) -> Counts:
    """The counts with fewer batch sizes: there could be 65536, and there is little room.

    Sizes are rounded up to sixteenths of a power of two, those of a pipeline's steps to powers of two, so that they
    stay in their buckets of the metrics.
    """
    return _with_models(counts, _concise_model)


def brief(counts: Counts) -> Counts:
    """The counts as small as the metrics allow: without exemplars, and with batch sizes as powers of two."""
    return _with_models(counts, _brief_model)


def _with_models(counts: Counts, change: Callable[[Counts], Counts]) -> Counts:
    models = {
        name: {version: change(item) for version, item in versions.items()}
        for name, versions in counts["models"].items()
    }
    return counts | {"models": models}


def _lasting_of_model(counts: Counts) -> Counts:
    stages = {stage: _reset(item, _GAUGES_OF_QUEUE) for stage, item in counts["stages"].items()}
    return _reset(counts, _GAUGES_OF_QUEUE) | {"stages": stages}


def _concise_model(counts: Counts) -> Counts:
    by_stage = {stage: _rounded(by_rows, _power_of_two) for stage, by_rows in counts["stage_batches"].items()}
    return counts | {"by_rows": _rounded(counts["by_rows"], _nearly), "stage_batches": by_stage}


def _brief_model(counts: Counts) -> Counts:
    return counts | {
        "exemplars": {},
        "batch_exemplars": {},
        "by_rows": _rounded(counts["by_rows"], _power_of_two),
    }


def _rounded(by_rows: Mapping[Any, Sequence[int]], to: Callable[[int], int]) -> Counts:
    rounded: dict[int, list[int]] = {}
    for rows, (batches, compute_ns) in by_rows.items():
        key = to(int(rows))
        if key in rounded:
            rounded[key][0] += batches
            rounded[key][1] += compute_ns
        else:
            rounded[key] = [batches, compute_ns]
    return {str(rows): pair for rows, pair in rounded.items()}


def _power_of_two(rows: int) -> int:
    return 1 << (rows - 1).bit_length()


def _nearly(rows: int) -> int:
    if rows <= _EXACT_ROWS:
        return rows
    step = _power_of_two(rows) // 16
    return -(-rows // step) * step


def _reset(counts: Counts, gauges: frozenset[str]) -> Counts:
    return counts | dict.fromkeys(gauges & counts.keys(), 0)


def _by_counter(merges: Mapping[str, _Merge]) -> _MergeCounts:
    """A function that merges dictionaries of counters: each by the function for its name, else as numbers."""
    return lambda many: {name: merges.get(name, sum)(values) for name, values in _by_key(many)}


def _each(merge: _Merge) -> _MergeCounts:
    """A function that merges dictionaries with arbitrary keys, all values by the same function."""
    return lambda many: {key: merge(values) for key, values in _by_key(many)}


def _by_key(many: Sequence[Counts]) -> list[tuple[str, list[Any]]]:
    keys = dict.fromkeys(key for counts in many for key in counts)
    return [(key, [counts[key] for counts in many if key in counts]) for key in keys]


def _columns(lists: Sequence[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*lists, strict=True)]


# The maximum, where a sum would be meaningless; for exemplars, which begin with a time, the latest.
_STEP = _by_counter({"oldest_ns": max, "last_ms": max})
_MODEL = _by_counter(
    {
        "oldest_ns": max,
        "last_ms": max,
        "limit_ns": max,
        "latency": _each(sum),
        "exemplars": _each(max),
        "by_rows": _each(_columns),
        "batch_exemplars": _each(max),
        "stages": _each(_STEP),
        "stage_batches": _each(_each(_columns)),
    }
)
_SERVER = _by_counter(
    {"replies": _each(sum), "grpc_replies": _each(sum), "loop_stall_ns": max, "loop_stall_cpu_ns": max}
)
_ALL = _by_counter({"at_ns": max, "server": _SERVER, "models": _each(_each(_MODEL))})
