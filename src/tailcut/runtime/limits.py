"""How much a model may hold at once, how many slab rows that makes, and how long its engine may take."""

from dataclasses import dataclass

from tailcut.errors import CapacityError, UsageError
from tailcut.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one model: rows waiting or computing, bytes of slab under them, seconds of one engine call."""

    queue_rows: int = 1024
    slab_bytes: int = 256 << 20
    hang_s: float = 30.0  # a call that takes longer is given up: its requests fail, its worker is replaced
    warm_up_s: float = 10.0  # longest time before ready in which batch sizes are tried out

    def __post_init__(self) -> None:
        if self.hang_s <= 0:
            raise UsageError("the time after which an engine call counts as hung must be over 0")


def rows_for(spec: ModelSpec, max_batch: int, limits: Limits) -> int:
    """Rows of the slab: as many as may queue, fewer where rows are large, but always two batches.

    Raises:
        CapacityError: two batches alone are over the bound; names the sizes.
    """
    row_bytes = sum(tensor.row_bytes or 0 for tensor in spec.inputs + spec.outputs)
    rows = max(2 * max_batch, min(limits.queue_rows, limits.slab_bytes // max(row_bytes, 1)))
    if max_batch > 1 and 2 * max_batch * row_bytes > 8 * limits.slab_bytes:
        raise CapacityError(
            f"model {spec.name!r}: two batches of {max_batch} rows of {row_bytes} bytes need "
            f"{2 * max_batch * row_bytes} bytes, over the bound of {8 * limits.slab_bytes}: lower max_batch"
        )
    return -(-rows // max_batch) * max_batch
