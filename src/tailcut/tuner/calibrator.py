"""A child process that quantises a model with ranges from some requests, and answers others with the copy it wrote.

The quantiser holds the model in memory several times, and does not support every model: a failure in the child costs a
tune one precision only. Messages are framed as in `estimator.py`. The parent's side is `calibrate.py`.
"""

import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.activations import Method
from tailcut.engines.base import Form
from tailcut.engines.quantise import Calibration
from tailcut.errors import TailcutError
from tailcut.tuner.estimator import Tensor, pack, read, unpack, write

LEVELS = (
    0.0,
    0.0,
    0.1,
    0.25,
    0.5,
)  # shares of the operators in float, the most sensitive first; from the second level on, also the first and the last
_FEWEST_COLLECTED = 8
_FEWEST_ANSWERED = 4


class StartCalibration(msgspec.Struct, frozen=True, tag=True):
    """Collect ranges from requests for `seconds`, at least eight; the first job. Intermediate files go to `folder`."""

    path: str
    folder: str
    requests: list[list[Tensor]]
    held_out: list[list[Tensor]]
    seconds: float


class Attempt(msgspec.Struct, frozen=True, tag=True):
    """Write a copy for an engine to `out`, and answer held-out requests with it for `seconds`, at least four."""

    engine: Form
    method: Method
    level: int  # of LEVELS
    out: str
    seconds: float


class CalibrationStarted(msgspec.Struct, frozen=True, tag=True):
    """How many requests the ranges are from, and how many operators can be quantised; or the error."""

    error: str | None = None
    requests: int = 0
    operators: int = 0


class Attempted(msgspec.Struct, frozen=True, tag=True):
    """The operators left in float, and the answers to the first of the held-out requests; or the error."""

    error: str | None = None
    in_float: list[str] = []
    answers: list[list[Tensor]] = []


def _start(job: StartCalibration) -> Calibration:
    calibration = Calibration(Path(job.path), Path(job.folder))
    end = time.monotonic() + job.seconds
    for request in job.requests:
        if calibration.requests >= _FEWEST_COLLECTED and time.monotonic() > end:
            break
        calibration.collect(unpack(request))
    return calibration


def _in_float(calibration: Calibration, level: int) -> list[str]:
    """The operators to leave in float, at most half: a copy that quantises fewer does not pay for its conversions."""
    if not level:
        return []
    worst = calibration.most_sensitive()
    chosen = [*calibration.ends(), *worst[: math.ceil(LEVELS[level] * len(worst))]]
    return list(dict.fromkeys(chosen))[: len(worst) // 2]


def _attempt(calibration: Calibration, held_out: Sequence[list[Tensor]], job: Attempt) -> Attempted:
    chosen = _in_float(calibration, job.level)
    out = Path(job.out)
    calibration.write(job.engine, job.method, chosen, out)
    engine = open_engine(out, EngineOptions(name=job.engine, precision="int8_static"))
    answers: list[list[Tensor]] = []
    end = time.monotonic() + job.seconds
    try:
        for request in held_out:
            if len(answers) >= _FEWEST_ANSWERED and time.monotonic() > end:
                break
            answers.append(pack(engine.run(unpack(request))))
    finally:
        engine.close()
    return Attempted(None, chosen, answers)


def _work(source: int, sink: int) -> None:
    calibration: Calibration | None = None
    held_out: list[list[Tensor]] = []
    with open(source, "rb", closefd=False) as jobs, open(sink, "wb") as answers:
        while data := read(jobs):
            job = msgspec.msgpack.decode(data, type=StartCalibration | Attempt)
            answer: CalibrationStarted | Attempted
            try:
                if isinstance(job, StartCalibration):
                    held_out = job.held_out
                    calibration = _start(job)
                    answer = CalibrationStarted(None, calibration.requests, len(calibration.operators))
                else:
                    assert calibration is not None  # noqa: S101  the parent starts first
                    answer = _attempt(calibration, held_out, job)
            except (TailcutError, MemoryError, OSError) as error:
                message = str(error) or type(error).__name__
                answer = (
                    CalibrationStarted(error=message) if isinstance(job, StartCalibration) else Attempted(error=message)
                )
            write(answers, answer)


if __name__ == "__main__":
    # The quantiser prints to stdout: send that to stderr, so that it does not mix with the answers.
    pipe = os.dup(1)
    os.dup2(2, 1)
    with suppress(BrokenPipeError):
        _work(0, pipe)
