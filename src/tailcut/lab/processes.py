"""Several client processes for one load test, because the capacity of one Python process is limited.

The plan is divided in turns, so that together the processes send exactly the arrivals that one would send. Each
connects, reports that it is ready, and starts at the same monotonic time. Jobs and outcomes are sent through pipes as
MessagePack; nothing is pickled.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import IO, BinaryIO

import msgspec
import numpy as np

from tailcut.errors import TailcutError, UsageError
from tailcut.lab.client import OPEN_CONNECTIONS, gather_closed, gather_open
from tailcut.lab.load import COLUMNS, Gathered, LoadTarget, Payload
from tailcut.machine.child_python import python

_READY = b"ready\n"
_LEAD_NS = 20_000_000  # from the start message to the start, so that every process has read it
_STOP_S = 5.0


class _Job(msgspec.Struct):
    """The job of one process: a part of the plan, or connections of a closed loop."""

    target: tuple[str, int, str | None, bool, bool, str | None, str | None, tuple[tuple[str, str], ...]]
    requests: list[tuple[bytes, int, tuple[bytes, ...], int]]
    times: bytes = b""
    patience_s: float | None = None
    connections: int = 0
    concurrency: int = 0
    length_s: float = 0.0


class _Found(msgspec.Struct):
    """The result of one process; `outcomes` are int64 [requests, 7], a column for each field of `RequestOutcome`."""

    outcomes: bytes = b""
    unanswered: int = 0
    connections: int = 0
    cpu_s: float = 0.0
    start_ns: int = 0
    end_ns: int = 0
    mistake: str | None = None


def share_open(
    target: LoadTarget,
    payloads: Sequence[Payload],
    times: np.ndarray,
    *,
    processes: int,
    patience_s: float | None = None,
) -> list[Gathered]:
    """As `gather_open`, in several processes, each with its part of the plan.

    Raises:
        UsageError: no server listens.
    """
    connections = max(1, OPEN_CONNECTIONS // processes)
    jobs = []
    for number in range(processes):
        own = _own_places(payloads, number, processes)
        turned = [own[(number + k * processes) % len(payloads)] for k in range(len(payloads))]
        part = times[number::processes].astype(np.int64).tobytes()
        jobs.append(_job(target, turned, times=part, patience_s=patience_s, connections=connections))
    return _run(jobs)


def share_closed(
    target: LoadTarget, payloads: Sequence[Payload], *, concurrency: int, length_s: float, processes: int
) -> list[Gathered]:
    """As `gather_closed`, in several processes, each with its part of the connections.

    Raises:
        UsageError: no server listens.
    """
    processes = min(processes, concurrency)
    parts = [len(range(number, concurrency, processes)) for number in range(processes)]
    return _run(
        [
            _job(target, _own_places(payloads, number, processes), concurrency=part, length_s=length_s)
            for number, part in enumerate(parts)
        ]
    )


def _own_places(payloads: Sequence[Payload], number: int, processes: int) -> list[Payload]:
    """The payloads with this process's part of the places in shared memory."""
    return [replace(payload, places=payload.places[number::processes]) for payload in payloads]


def _job(target: LoadTarget, payloads: Sequence[Payload], **rest: object) -> _Job:
    address = (target.host, target.port, target.uds, target.grpc, target.tls, target.ca, target.token, target.headers)
    asked = [(payload.request, payload.expect_status, payload.places, payload.length) for payload in payloads]
    return _Job(address, asked, **rest)  # type: ignore[arg-type]


def _run(jobs: Sequence[_Job]) -> list[Gathered]:
    with ExitStack() as stack:
        children = []
        for job in jobs:
            command = python("-m", __name__)
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603  our own
            stack.callback(_end, child)
            assert child.stdin is not None  # noqa: S101  it has a pipe
            data = msgspec.msgpack.encode(job)
            _write(child.stdin, len(data).to_bytes(8) + data)
            children.append(child)
        for child in children:
            assert child.stdout is not None  # noqa: S101  it has a pipe
            if child.stdout.readline() != _READY:
                _found(child)
        start = (time.monotonic_ns() + _LEAD_NS).to_bytes(8)
        for child in children:
            _write(child.stdin, start)
        return [_gathered(_found(child)) for child in children]


def _found(child: subprocess.Popen[bytes]) -> _Found:
    assert child.stdout is not None  # noqa: S101  it has a pipe
    rest = child.stdout.read()
    if not rest:
        raise TailcutError("a client process of the load test ended without a result")
    outcome = msgspec.msgpack.decode(rest, type=_Found)
    if outcome.mistake:
        raise UsageError(outcome.mistake)
    return outcome


def _gathered(outcome: _Found) -> Gathered:
    outcomes = np.frombuffer(outcome.outcomes, np.int64).reshape(-1, COLUMNS)
    return Gathered(outcomes, outcome.unanswered, outcome.connections, outcome.cpu_s, outcome.start_ns, outcome.end_ns)


def _end(child: subprocess.Popen[bytes]) -> None:
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _write(pipe: IO[bytes] | None, data: bytes) -> None:
    assert pipe is not None  # noqa: S101  it has a pipe
    pipe.write(data)
    pipe.flush()


def _work(source: BinaryIO, sink: BinaryIO) -> None:
    """The child's side: one job, one result."""
    job = msgspec.msgpack.decode(source.read(int.from_bytes(source.read(8))), type=_Job)
    target = LoadTarget(*job.target)
    payloads = [Payload(*request) for request in job.requests]

    def start() -> int:
        sink.write(_READY)
        sink.flush()
        start_ns = int.from_bytes(source.read(8))
        return start_ns or sys.exit(1)  # the parent has ended

    try:
        if job.concurrency:
            got = gather_closed(target, payloads, concurrency=job.concurrency, length_s=job.length_s, start=start)
        else:
            times = np.frombuffer(job.times, np.int64)
            got = gather_open(
                target, payloads, times, connections=job.connections, patience_s=job.patience_s, start=start
            )
    except UsageError as error:
        sink.write(b"mistake\n" + msgspec.msgpack.encode(_Found(mistake=str(error))))
        return
    outcome = _Found(got.outcomes.tobytes(), got.unanswered, got.connections, got.cpu_s, got.start_ns, got.end_ns)
    sink.write(msgspec.msgpack.encode(outcome))


if __name__ == "__main__":
    # Files of our own: with PYTHONUNBUFFERED set, those of sys may read and write partially.
    # A parent that no longer reads has abandoned the test.
    with suppress(BrokenPipeError), open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as sink:
        _work(source, sink)
