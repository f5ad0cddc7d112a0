"""How much a model may hold at a time, how many slab rows that allows, and how long its engine may take."""

from dataclasses import dataclass, replace
from math import inf
from numbers import Integral, Real

from tailcut.errors import ArgumentTypeError, CapacityError, UsageError
from tailcut.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one model: rows waiting or computing, bytes of their slab, seconds of one engine call."""

    queue_rows: int = 1024
    queue_setting: str = "--queue"  # the setting that limits `queue_rows`, for messages
    slab_bytes: int = 256 << 20
    most_bytes: int = 2 << 30  # of a slab of large rows, which holds two batches in any case
    engine_timeout_s: float = 30.0  # a longer call is given up: its requests fail, and its worker is replaced
    engine_title: str = "the engine"  # the engine's name in messages about such a call
    warm_up_s: float = 10.0  # how long warming up may delay readiness

    def __post_init__(self) -> None:
        for name in ("queue_rows", "slab_bytes", "most_bytes", "engine_timeout_s", "warm_up_s"):
            value, kind = getattr(self, name), Real if name.endswith("_s") else Integral
            if isinstance(value, bool) or not isinstance(value, kind):
                what = "a number" if kind is Real else "a whole number"
                raise ArgumentTypeError(f"limits: {name} must be {what}, got {value!r}")
        if not 0 < self.engine_timeout_s < inf:
            raise UsageError("the time after which an engine call counts as hung must be over 0 and finite")


def check_limits(limits: object) -> None:
    """Check that an argument is `Limits`.

    Raises:
        ArgumentTypeError: it is of another type.
    """
    if not isinstance(limits, Limits):
        raise ArgumentTypeError(f"limits must be Limits(...), not a {type(limits).__name__}")


def within_memory(limits: Limits, memory_bytes: int | None, models: int = 1) -> Limits:
    """The limits, reduced so that slabs of this many models use at most a quarter of the process's memory."""
    if memory_bytes is None:
        return limits
    share = memory_bytes // 4 // models
    return replace(limits, slab_bytes=min(limits.slab_bytes, share), most_bytes=min(limits.most_bytes, 2 * share))


def rows_for(spec: ModelSpec, max_batch_size: int, limits: Limits) -> int:
    """The rows of the slab: as many as may be queued, fewer where rows are large, but always two batches.

    Raises:
        CapacityError: two batches alone exceed the limit; the message has the sizes.
    """
    row_bytes = sum(tensor.row_bytes or 0 for tensor in spec.inputs + spec.outputs)
    rows = max(2 * max_batch_size, min(limits.queue_rows, limits.slab_bytes // max(row_bytes, 1)))
    if 2 * max_batch_size * row_bytes > limits.most_bytes:
        raise CapacityError(
            f"model {spec.name!r}: two batches of {max_batch_size} rows of {row_bytes} bytes need "
            f"{2 * max_batch_size * row_bytes} bytes, over the limit of {limits.most_bytes}: lower max_batch_size"
        )
    return -(-rows // max_batch_size) * max_batch_size
