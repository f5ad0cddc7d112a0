"""Computes batches: on rows of the slab, on loose arrays, or on arrays padded to a bucket's length."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from tailcut.engines.base import Bound, Engine, RequestEngine
from tailcut.errors import DeviceError, DeviceLostError, EngineError, TailcutError
from tailcut.memory.aligned import aligned_empty
from tailcut.memory.slab import Slab
from tailcut.runtime.padding import Bucket, Padding
from tailcut.runtime.request import Batch, Executor

_log = logging.getLogger("tailcut")
_Outputs = tuple[np.ndarray, ...]
_BOUND_LIMIT = 4096  # bindings kept per worker (start rows times batch sizes in use); usually a few dozen


class _Executor(ABC):
    """What all executors do around the engine's call."""

    @abstractmethod
    def compute(self, batch: Batch) -> None:
        """Fill `batch.outputs`.

        Raises:
            EngineError: the engine failed.
        """

    def run(self, batch: Batch) -> None:
        """Fill `batch.outputs`, or `batch.error` where the engine failed, and the times of the call."""
        batch.executor = self
        batch.thread = threading.get_ident()
        batch.began_ns = time.monotonic_ns()
        try:
            self.compute(batch)
        except Exception as error:  # noqa: BLE001  whatever an engine raises must affect this batch only
            batch.error = error if isinstance(error, TailcutError) else EngineError(f"the engine failed: {error}")
        batch.ended_ns = time.monotonic_ns()


class RowExecutor(_Executor):
    """Runs neighbouring rows in place; other rows are first gathered into scratch rows of its own.

    A request whose inputs differ in their number of rows is a batch of its own, and has arrays.
    """

    def __init__(self, engine: Engine, slab: Slab) -> None:
        self._engine = engine
        self._slab = slab
        self._bound: dict[tuple[int, int], tuple[Bound, _Outputs, tuple[int, ...]]] = {}
        self._loose = ArrayExecutor(engine)
        self._scratch: Slab | None = None
        self._scratch_bound: dict[int, tuple[Bound, _Outputs, tuple[int, ...]]] = {}

    def compute(self, batch: Batch) -> None:
        """Fill `batch.outputs` with views of the output rows."""
        if batch.start >= 0:
            key = (batch.start, batch.rows)
            bound = self._bound.get(key)
            if bound is None:
                if len(self._bound) >= _BOUND_LIMIT:
                    self._bound.clear()
                bound = self._bound[key] = self._bind(self._slab, *key)
            call, batch.outputs, batch.addresses = bound
            call()
        elif batch.members[0].arrays is not None:
            self._loose.compute(batch)
        else:
            call, outputs, _ = self._gather(batch)
            call()
            # The next batch may use the scratch before the loop hands out this one: answers need memory of their own.
            batch.outputs = [output.copy() for output in outputs]
            batch.addresses = tuple(output.ctypes.data for output in batch.outputs)

    def _gather(self, batch: Batch) -> tuple[Bound, _Outputs, tuple[int, ...]]:
        if self._scratch is None or self._scratch.rows < batch.rows:
            specs = self._engine.spec
            self._scratch = Slab(specs.inputs, specs.outputs, max(batch.rows, self._slab.block))
            self._scratch_bound.clear()
        for source, target, size in zip(
            self._slab.input_bytes, self._scratch.input_bytes, self._slab.row_bytes, strict=True
        ):
            for request, offset in zip(batch.members, batch.offsets, strict=True):
                length = request.count * size
                start = request.row * size
                target[offset * size : offset * size + length] = source[start : start + length]
        bound = self._scratch_bound.get(batch.rows)
        if bound is None:
            bound = self._scratch_bound[batch.rows] = self._bind(self._scratch, 0, batch.rows)
        return bound

    def _bind(self, slab: Slab, start: int, rows: int) -> tuple[Bound, _Outputs, tuple[int, ...]]:
        spec = self._engine.spec
        inputs = [array[start : start + rows] for array in slab.inputs]
        outputs = tuple(array[start : start + rows] for array in slab.outputs)
        call = self._engine.bind(
            dict(zip(spec.input_names, inputs, strict=True)), dict(zip(spec.output_names, outputs, strict=True))
        )
        return call, outputs, tuple(output.ctypes.data for output in outputs)


class ArrayExecutor(_Executor):
    """Runs loose arrays: joins the rows of several requests, and splits the outputs again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._apart = engine if isinstance(engine, RequestEngine) else None  # checking a protocol takes 10 us

    def compute(self, batch: Batch) -> None:
        """Fill `batch.outputs`, or `batch.apart`, with new arrays."""
        spec = self._engine.spec
        parts = [request.arrays or {} for request in batch.members]
        if self._apart is not None:
            batch.apart = self._run_apart(self._apart, batch, parts)
            return
        if len(parts) == 1:
            inputs = parts[0]
        else:
            inputs = {name: np.concatenate([part[name] for part in parts]) for name in spec.input_names}
        outputs = self._engine.run(inputs)
        batch.outputs = [outputs[name] for name in spec.output_names]
        if len(parts) > 1 and any(array.shape[:1] != (batch.rows,) for array in batch.outputs):
            raise EngineError("the model did not return one output row for each input row")

    def _run_apart(
        self, engine: RequestEngine, batch: Batch, parts: Sequence[dict[str, np.ndarray]]
    ) -> Sequence[Sequence[np.ndarray]]:
        if not engine.one_by_one:
            return engine.run_apart(parts)
        results: list[list[np.ndarray]] = []
        for part in parts:
            batch.called_ns = time.monotonic_ns()
            results += engine.run_apart([part])
        return results


class FallbackExecutor(_Executor):
    """Runs batches on one engine, and those that its device cannot compute on another one.

    Args:
        first: tried first, until its device is lost.
        second: computes what failed, for one thread at a time.
        turn: held during that; shared by all executors that use the second engine.
    """

    def __init__(self, first: Executor, second: Executor, turn: threading.Lock) -> None:
        self._first = first
        self._second = second
        self._turn = turn
        self._lost = False

    def compute(self, batch: Batch) -> None:
        """Fill `batch.outputs` by the executor that computes the batch."""
        if not self._lost:
            try:
                return self._first.compute(batch)
            except DeviceError as error:
                self._lost = isinstance(error, DeviceLostError)
                again = "every batch" if self._lost else f"a batch of {batch.rows} rows"
                _log.error("%s: %s is computed by the second engine", error, again)
        batch.rescued = True
        with self._turn:
            self._second.compute(batch)
        return None


class PaddedExecutor(_Executor):
    """Runs the rows of one bucket in scratch arrays of its size; requests longer than all buckets as loose arrays."""

    def __init__(self, engine: Engine, padding: Padding, max_batch_size: int) -> None:
        self._engine = engine
        self._padding = padding
        self._rows = max_batch_size
        self._loose = ArrayExecutor(engine)
        self._bindable = engine.spec.fixed_outputs
        self._scratch: dict[Bucket, dict[str, np.ndarray]] = {}
        self._outputs: dict[Bucket, dict[str, np.ndarray]] = {}
        self._bound: dict[tuple[Bucket, int], Bound] = {}

    def compute(self, batch: Batch) -> None:
        """Fill `batch.outputs` in the bucket's sizes; `Batch.arrays` cuts a request's part to its own."""
        bucket = batch.members[0].key
        if not isinstance(bucket, Bucket):
            self._loose.compute(batch)
            return
        scratch = self._fill(batch, bucket)
        batch.cuts = self._padding.cuts
        if self._bindable:
            self._call(bucket, batch.rows)()
            # The next batch may use the scratch before the loop hands out this one: answers need memory of their own.
            batch.outputs = [array[: batch.rows].copy() for array in self._outputs[bucket].values()]
            return
        outputs = self._engine.run({name: array[: batch.rows] for name, array in scratch.items()})
        batch.outputs = [outputs[name] for name in self._engine.spec.output_names]
        if any(array.shape[:1] != (batch.rows,) for array in batch.outputs):
            raise EngineError("the model did not return one output row for each input row")

    def _fill(self, batch: Batch, bucket: Bucket) -> dict[str, np.ndarray]:
        scratch, padding = self._scratch.get(bucket) or self._make(bucket), self._padding
        for request, start in zip(batch.members, batch.offsets, strict=True):
            for name, source in (request.arrays or {}).items():
                target = scratch[name][start : start + request.count]
                if request.lengths != bucket.sizes:
                    for axis, dimension in padding.places.get(name, ()):
                        length, before = request.lengths[dimension], (slice(None),) * axis
                        target[(*before, slice(length, None))] = padding.values[name]
                        target = target[(*before, slice(length))]
                target[:] = source
        return scratch

    def _make(self, bucket: Bucket) -> dict[str, np.ndarray]:
        spec, shape = self._engine.spec, self._padding.shape
        scratch = {t.name: aligned_empty(shape(t, self._rows, bucket.sizes), t.dtype.numpy) for t in spec.inputs}
        self._scratch[bucket] = scratch
        if self._bindable:
            self._outputs[bucket] = {
                t.name: aligned_empty(shape(t, self._rows, bucket.sizes), t.dtype.numpy) for t in spec.outputs
            }
        return scratch

    def _call(self, bucket: Bucket, rows: int) -> Bound:
        call = self._bound.get((bucket, rows))
        if call is None:
            inputs, outputs = (
                {name: array[:rows] for name, array in arrays[bucket].items()}
                for arrays in (self._scratch, self._outputs)
            )
            call = self._bound[bucket, rows] = self._engine.bind(inputs, outputs)
        return call
