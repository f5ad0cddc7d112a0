"""A child process that loads one engine configuration and times its calls on request.

Each configuration has a process, so that its threads and memory are its own and a crash of the engine costs only this
configuration. Jobs and answers are sent through pipes as MessagePack, each after its length (8 bytes, big-endian);
nothing is pickled. The parent's side is `engine_estimate.py`.
"""

import itertools
import resource
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import Engine
from tailcut.errors import TailcutError, UnsupportedError
from tailcut.runtime.opening.row_proof import open_outputs
from tailcut.runtime.opening.timing import call_of
from tailcut.spec import DType, Rows

_PAUSE_S = 0.002  # before each call that stands for a lone request, whose caches are cold
_OTHER_BYTES = (
    512 * 1024
)  # copied between all other calls, in place of the memory that a server's loop touches for each batch
_OTHER_MOST_NS = 2_000_000  # longer calls are not affected by it


class Tensor(msgspec.Struct, frozen=True):
    """An array as it is sent through a pipe; strings are sent as lists."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[str]


class LoadModel(msgspec.Struct, frozen=True, tag=True):
    """Open the model; the first job. Several requests, if they differ in length, are computed in turn.

    `independent`: the user states that rows are independent, whatever the file implies.
    """

    path: str
    options: EngineOptions
    requests: list[list[Tensor]]
    instances: int
    independent: bool = False


class MeasureCalls(msgspec.Struct, frozen=True, tag=True):
    """Call the engine with this many rows for `seconds`, on all instances at once; `paused`: with pauses in between.

    Each call has the rows of one request; at least `fewest` calls are made on each instance.
    """

    rows: int
    seconds: float
    fewest: int = 3
    paused: bool = False


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Compute the answers to these requests for about `seconds`, at least to the first one."""

    requests: list[list[Tensor]]
    seconds: float


class Answered(msgspec.Struct, frozen=True, tag=True):
    """The answers to the first of the requests; or the error."""

    answers: list[list[Tensor]] = []
    error: str | None = None


class ModelLoaded(msgspec.Struct, frozen=True, tag=True):
    """The model is open, and `batched` says whether its rows may share a call; or the error."""

    error: str | None = None
    batched: bool = False
    load_s: float = 0.0
    memory_bytes: int = 0


class CallTimes(msgspec.Struct, frozen=True, tag=True):
    """How long each call took (int64 nanoseconds), and the CPU time of all of them together; or the error."""

    times_ns: bytes = b""
    cpu_ns: int = 0
    memory_bytes: int = 0
    error: str | None = None


def pack(arrays: dict[str, np.ndarray]) -> list[Tensor]:
    """Arrays as they are sent through a pipe."""
    return [_tensor(name, array) for name, array in arrays.items()]


def unpack(tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The arrays that `pack` was given; strings are `str`."""
    return {tensor.name: _array(tensor) for tensor in tensors}


def _tensor(name: str, array: np.ndarray) -> Tensor:
    dtype = DType.of(array.dtype)
    if dtype is DType.BYTES:
        text = [item.decode() if isinstance(item, bytes) else str(item) for item in array.reshape(-1).tolist()]
        return Tensor(name, dtype, array.shape, text)
    return Tensor(name, dtype, array.shape, np.ascontiguousarray(array).tobytes())


def _array(tensor: Tensor) -> np.ndarray:
    if isinstance(tensor.data, list):
        return np.array(tensor.data, object).reshape(tensor.shape)
    return np.frombuffer(bytearray(tensor.data), DType(tensor.dtype).numpy).reshape(tensor.shape)


class _Bench:
    """An open engine, and the calls of each batch size."""

    def __init__(self, job: LoadModel) -> None:
        self._engine: Engine = open_engine(Path(job.path), job.options)
        if job.independent and self._engine.spec.batchable:
            self._engine.spec = replace(self._engine.spec, rows=Rows.INDEPENDENT)
        self.batched = self._engine.spec.batched
        self._requests = [unpack(request) for request in job.requests]
        if self._requests and self._engine.spec.fixed_rows:
            open_outputs(self._engine, self._engine.run(self._requests[0]))
        self._instances = job.instances
        self._calls: dict[int, list[Callable[[], object]]] = {}

    def answer(self, job: Ask) -> Answered:
        end, answers = time.monotonic() + job.seconds, []
        for request in job.requests:
            answers.append(pack(self._engine.run(unpack(request))))
            if time.monotonic() > end:
                break
        return Answered(answers)

    def measure(self, job: MeasureCalls) -> CallTimes:
        calls = self._calls.get(job.rows)
        if calls is None:
            calls = self._calls[job.rows] = [self._call(job.rows) for _ in range(self._instances)]
            for call in calls:
                for _ in self._requests:
                    call()  # the first call of a size plans memory
        times: list[list[int]] = [[] for _ in calls]
        others: list[int] = []
        cpu = time.process_time_ns()
        if len(calls) == 1:
            _time(calls[0], job, times[0], others)
        else:
            threads = [
                threading.Thread(target=_time, args=(call, job, own, others))
                for call, own in zip(calls, times, strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        cpu = time.process_time_ns() - cpu - sum(others)
        everything = np.array([item for own in times for item in own], np.int64)
        return CallTimes(everything.tobytes(), cpu, _memory_bytes())

    def _call(self, rows: int) -> Callable[[], object]:
        calls = [
            call_of(self._engine, {name: self._rows(array, rows) for name, array in request.items()})
            for request in self._requests
        ]
        if len(calls) == 1:
            return calls[0]
        turns = itertools.cycle(calls)

        def call() -> object:
            return next(turns)()

        return call

    def _rows(self, array: np.ndarray, rows: int) -> np.ndarray:
        if not self.batched:
            if rows > 1:
                raise UnsupportedError("the rows of this configuration depend on each other")
            return array
        return np.concatenate([array] * -(-rows // max(1, len(array))))[:rows]


def _time(call: Callable[[], object], job: MeasureCalls, times: list[int], others: list[int]) -> None:
    """Call the engine repeatedly; `others` collects the CPU nanoseconds of the copies between the calls."""
    clock, own = time.monotonic_ns, time.thread_time_ns
    end = clock() + int(job.seconds * 1e9)
    here, there = np.zeros((2, _OTHER_BYTES), np.uint8)
    while len(times) < job.fewest or clock() < end:
        if job.paused:
            time.sleep(_PAUSE_S)
        elif not times or times[-1] < _OTHER_MOST_NS:
            cpu = own()
            here[:] = there
            others.append(own() - cpu)
        began = clock()
        call()
        times.append(clock() - began)


def _memory_bytes() -> int:
    """The resident memory; outside Linux its peak, which on Linux would include the time before the exec."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def write(pipe: BinaryIO, message: object) -> None:
    """Send one message."""
    data = msgspec.msgpack.encode(message)
    pipe.write(len(data).to_bytes(8) + data)
    pipe.flush()


def read(pipe: BinaryIO) -> bytes:
    """Receive one message; empty when the other side has closed the pipe."""
    head = pipe.read(8)
    return pipe.read(int.from_bytes(head)) if len(head) == 8 else b""


def _work(source: BinaryIO, sink: BinaryIO) -> None:
    bench: _Bench | None = None
    while data := read(source):
        job = msgspec.msgpack.decode(data, type=LoadModel | MeasureCalls | Ask)
        answer: ModelLoaded | CallTimes | Answered
        try:
            if isinstance(job, LoadModel):
                began = time.monotonic()
                bench = _Bench(job)
                answer = ModelLoaded(None, bench.batched, time.monotonic() - began, _memory_bytes())
            else:
                assert bench is not None  # noqa: S101  the parent loads first
                answer = bench.answer(job) if isinstance(job, Ask) else bench.measure(job)
        except (TailcutError, MemoryError) as error:
            message = str(error) or type(error).__name__
            failed = ModelLoaded if isinstance(job, LoadModel) else Answered if isinstance(job, Ask) else CallTimes
            answer = failed(error=message)
        write(sink, answer)


__all__: Sequence[str] = (
    "Answered",
    "Ask",
    "CallTimes",
    "LoadModel",
    "MeasureCalls",
    "ModelLoaded",
    "Tensor",
    "pack",
    "read",
    "unpack",
    "write",
)

if __name__ == "__main__":
    with suppress(BrokenPipeError), open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as sink:
        _work(source, sink)
