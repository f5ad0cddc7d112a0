"""Static int8 for a tune: which copy of the model answers rightly, found in a few attempts.

A copy has its ranges chosen by one of three methods, and some operators left in float. The requests that the ranges are
taken from are not those that a copy is judged by. The methods are tried first, with everything quantised; if none gives
right answers, the best one is tried with the first and the last operator in float, then with more and more of the
operators that lose the most accuracy. Each engine has a copy of its own: what makes one fast makes the other slow.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar, cast

import msgspec
import numpy as np

from tailcut.engines.activations import METHODS, Method
from tailcut.engines.base import Form
from tailcut.errors import TailcutError
from tailcut.machine.child_python import python
from tailcut.tuner.accuracy import Accuracy, Outputs
from tailcut.tuner.calibrator import LEVELS, Attempt, Attempted, CalibrationStarted, StartCalibration
from tailcut.tuner.estimator import pack, read, unpack, write
from tailcut.tuner.gate import Gate
from tailcut.tuner.result_records import Quantized

Arrays = dict[str, np.ndarray]
Judge = Callable[[Sequence[Outputs]], Accuracy]
FEWEST = 16  # requests in the data
MOST = 128
MOST_BYTES = 256 << 20  # of requests
_COLLECTING = 0.4  # of the time; the rest is for attempts
_ANSWERING = 0.05  # of the time, for the answers of one attempt
_ENOUGH = (False, 0.5)  # right, with at most half of the allowed error: no other method is tried
_NAMED = 3  # operators in a message
_STOP_S = 5.0
_Answer = TypeVar("_Answer", CalibrationStarted, Attempted)


class CalibrationError(TailcutError):
    """A model cannot be quantised, the process ended, or even the best copy answers wrongly; `copy` is that copy."""

    def __init__(self, message: str, copy: "Copy | None" = None) -> None:
        super().__init__(message)
        self.copy = copy


@dataclass(frozen=True, slots=True)
class Material:
    """What copies are made from.

    Args:
        model: an ONNX file.
        requests: that ranges are taken from.
        held_out: other requests, by which a copy is judged.
        judge: compares answers to the first of `held_out` with the reference answers.
        accepting: the strictest `--accuracy` that would accept such answers; None where no sensible one would.
    """

    model: Path
    requests: Sequence[Arrays]
    held_out: Sequence[Arrays]
    judge: Judge
    accepting: Callable[[Sequence[Outputs]], float | None]

    @classmethod
    def of(cls, model: Path, requests: Sequence[Arrays], gate: Gate) -> Self:
        """Hold out every second request that the gate has an answer to; for a slow model that may be only four.

        Copies are also judged by requests that join several of the data's, which can only reject more copies.

        Raises:
            CalibrationError: there are too few requests.
        """
        if len(requests) < FEWEST:
            raise CalibrationError(f"it needs at least {FEWEST} requests in --data, and there are {len(requests)}")
        questions = gate.held_out()
        held_out = {question.source for question in questions if question.joined == 1}
        rest = [request for number, request in enumerate(requests) if number not in held_out]
        rest = rest[:: -(-len(rest) // MOST)]
        sizes = np.cumsum([sum(array.nbytes for array in request.values()) for request in rest])
        rest = rest[: max(FEWEST // 2, int((sizes <= MOST_BYTES).sum()))]
        held = [question.inputs for question in questions]
        return cls(model, rest, held, partial(gate.judge, questions), partial(gate.accepting, questions))


@dataclass(frozen=True, slots=True)
class Copy:
    """A quantised copy of the model for one engine.

    Args:
        path: the file.
        engine, method: the engine it is for, and how ranges were chosen.
        requests: number of requests that the ranges were taken from.
        operators, in_float: number of matrix products and convolutions, and the names of those left in float.
        accuracy: on the held-out requests.
        answers: to these requests.
    """

    path: Path
    engine: Form
    method: Method
    requests: int
    operators: int
    in_float: tuple[str, ...]
    accuracy: Accuracy
    answers: Sequence[Outputs] = field(default=(), repr=False, compare=False)

    def describe(self) -> str:
        """In one line."""
        names = ", ".join(self.in_float[:_NAMED]) + (", ..." if len(self.in_float) > _NAMED else "")
        kept = f"{len(self.in_float)} of {self.operators} operators in float ({names})" if names else "all operators"
        worst = "" if self.accuracy.worst is None else f", worst cosine {self.accuracy.worst:.5f}"
        return f"static int8 for {self.engine}: {kept}, ranges by {self.method} over {self.requests} requests{worst}"

    def record(self) -> Quantized:
        """The record for the result and the profile."""
        worst = self.accuracy.worst
        return Quantized(self.engine, self.method, self.requests, self.operators, list(self.in_float), worst)


@dataclass(slots=True)
class Copies:
    """Copies by engine: those whose answers are right, and the best ones of engines that have none."""

    right: dict[str, Copy] = field(default_factory=dict)
    wrong: dict[str, Copy] = field(default_factory=dict)


def copies_for(
    material: Material, engines: Sequence[Form], folder: Path, seconds: float, tell: Callable[[str], None]
) -> Copies:
    """Make a copy for each engine, and report on each in a line.

    Args:
        material: what copies are made from.
        engines: to make copies for.
        folder: for the copies.
        seconds: for everything.
        tell: called with each line.
    """
    copies = Copies()
    try:
        with Calibrator(material, folder, seconds) as calibrator:
            started = calibrator.start()
            for number, engine in enumerate(engines):
                left = calibrator.left_s / (len(engines) - number)
                try:
                    copies.right[engine] = calibrator.copy_for(engine, started, left)
                    tell(copies.right[engine].describe())
                except CalibrationError as error:
                    if error.copy is not None:
                        copies.wrong[engine] = error.copy
                    tell(f"static int8 for {engine} is left out: {error}")
    except CalibrationError as error:
        tell(f"static int8 is left out: {error}")
    return copies


class Calibrator:
    """The parent's side of the child process; a context manager that ends it and removes its files except the copies.

    Raises:
        CalibrationError: the child reported an error, or exited.
    """

    def __init__(self, material: Material, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._judge = material.judge
        self._scratch = tempfile.TemporaryDirectory(dir=folder)
        self._end = time.monotonic() + seconds
        self._answer_s = _ANSWERING * seconds
        self._attempts = 0
        command = python("-m", "tailcut.tuner.calibrator")
        self._child = subprocess.Popen(  # noqa: S603  our own interpreter and module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._job = StartCalibration(
            str(material.model.parent.resolve() / material.model.name),  # as Profile.of_model names it
            self._scratch.name,
            [pack(dict(request)) for request in material.requests],
            [pack(dict(request)) for request in material.held_out],
            _COLLECTING * seconds,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._child.wait(0 if error is not None else _STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._scratch.cleanup()

    def start(self) -> CalibrationStarted:
        """Have the child collect the ranges."""
        started = self._ask(self._job, CalibrationStarted)
        if started.error:
            raise CalibrationError(started.error)
        return started

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return max(0.0, self._end - time.monotonic())

    def copy_for(self, engine: Form, started: CalibrationStarted, seconds: float) -> Copy:
        """The first copy that answers rightly, all operators in int8 if that is possible.

        Raises:
            CalibrationError: none does within about this time; the error has the best one and what is wrong with it.
        """
        end = time.monotonic() + seconds
        best = self.attempt(engine, METHODS[0], 0, started)
        for method in METHODS[1:]:
            if _distance(best) <= _ENOUGH or time.monotonic() > end:
                break
            best = min(best, self.attempt(engine, method, 0, started), key=_distance)
        most = 0
        for level in range(1, len(LEVELS)):
            if best.accuracy.right or time.monotonic() > end:
                break
            last = self.attempt(engine, best.method, level, started)
            if len(last.in_float) <= most:
                break
            most, best = len(last.in_float), min(best, last, key=_distance)
        if not best.accuracy.right:
            kept = f"{len(best.in_float)} of {best.operators} operators in float"
            hurry = " (there was no time for more)" if time.monotonic() > end else ""
            raise CalibrationError(f"{best.accuracy.reason} with {kept}{hurry}", best)
        return best

    def attempt(self, engine: Form, method: Method, level: int, started: CalibrationStarted) -> Copy:
        """Make one copy, whether its answers are right or not."""
        self._attempts += 1
        path = self._folder / f"{engine}.{self._attempts}.onnx"
        attempted = self._ask(Attempt(engine, method, level, str(path), self._answer_s), Attempted)
        if attempted.error:
            raise CalibrationError(attempted.error)
        answers = [unpack(answer) for answer in attempted.answers]
        in_float, accuracy = tuple(attempted.in_float), self._judge(answers)
        return Copy(path, engine, method, started.requests, started.operators, in_float, accuracy, answers)

    def _ask(self, job: StartCalibration | Attempt, kind: type[_Answer]) -> _Answer:
        try:
            write(cast(BinaryIO, self._child.stdin), job)
            data = read(cast(BinaryIO, self._child.stdout))
        except OSError:
            data = b""
        if not data:
            raise CalibrationError("the process that quantises the model exited")
        return msgspec.msgpack.decode(data, type=kind)


def _distance(copy: Copy) -> tuple[bool, float]:
    """A sort key, the best copy first: right before wrong, then by the error as a share of what is allowed."""
    accuracy = copy.accuracy
    if accuracy.value is not None:
        return not accuracy.right, -accuracy.value
    return not accuracy.right, accuracy.rows[0].excess if accuracy.rows else 0.0
