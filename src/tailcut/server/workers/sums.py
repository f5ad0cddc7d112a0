"""What workers have counted, added up. Pure.

Counts are nested as `process.as_counts` makes them: the server's, and those of each model by its name and version,
which hold those of each step of a pipeline by its name. Names of counters have a meaning at their own level only: a
model or a step may have any name, that of a counter as well.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Counts = dict[str, Any]  # numbers, lists of numbers, or again such dictionaries
_Merge = Callable[[Sequence[Any]], Any]
_MergeCounts = Callable[[Sequence[Counts]], Counts]

# What is true of the moment only: it ends with its worker.
_GAUGES_OF_SERVER = frozenset({"connections", "fast_path", "loops", "buffered_bytes"})
_GAUGES_OF_QUEUE = frozenset({"queued", "queued_rows", "computing", "rows_in_use", "oldest_ns"})


def add_up(*many: Counts) -> Counts:
    """The sum of what workers have counted; {} where none has published anything."""
    return _ALL([counts for counts in many if counts])


def lasting(counts: Counts) -> Counts:
    """The counts that stay when their worker is gone: gauges are 0."""
    if not counts:
        return {}
    models = {
        name: {version: _lasting_of_model(item) for version, item in versions.items()}
        for name, versions in counts["models"].items()
    }
    return counts | {"server": _reset(counts["server"], _GAUGES_OF_SERVER), "models": models}


def _lasting_of_model(counts: Counts) -> Counts:
    stages = {stage: _reset(item, _GAUGES_OF_QUEUE) for stage, item in counts["stages"].items()}
    return _reset(counts, _GAUGES_OF_QUEUE) | {"stages": stages}


def _reset(counts: Counts, gauges: frozenset[str]) -> Counts:
    return counts | dict.fromkeys(gauges & counts.keys(), 0)


def _by_counter(merges: Mapping[str, _Merge]) -> _MergeCounts:
    """Merges dictionaries of counters: each as its name says, numbers otherwise."""
    return lambda many: {name: merges.get(name, sum)(values) for name, values in _by_key(many)}


def _each(merge: _Merge) -> _MergeCounts:
    """Merges dictionaries whose keys mean nothing here: the values of each are merged alike."""
    return lambda many: {key: merge(values) for key, values in _by_key(many)}


def _by_key(many: Sequence[Counts]) -> list[tuple[str, list[Any]]]:
    keys = dict.fromkeys(key for counts in many for key in counts)
    return [(key, [counts[key] for counts in many if key in counts]) for key in keys]


def _columns(lists: Sequence[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*lists, strict=True)]


# The largest where a sum would mean nothing; of exemplars, which begin with a time, the latest.
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
