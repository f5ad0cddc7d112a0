"""A stage as an engine of the runtime: its requests are batched, counted and supervised like a model's."""

import os
from collections.abc import Sequence

import numpy as np

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.errors import EngineError, InvalidInputError, TailcutError, UnsupportedError
from tailcut.pipelines.beside import BesideWatch, Parts, is_mixing
from tailcut.pipelines.calling import Caller, end_forked, kept, log_fault, refusal
from tailcut.pipelines.pool import ProcessPool
from tailcut.pipelines.process import NotSentError, StageSource
from tailcut.pipelines.protocol import ReplyKind


class StageEngine:
    """Calls a stage's function in its processes or, with `threads`, on the calling thread.

    Raises:
        UsageError: no process can import the stage.
    """

    def __init__(self, source: StageSource) -> None:
        stage = source.stage
        self.spec = stage.spec
        self.options = EngineOptions(name="none", instances=stage.workers, threads=1)
        self.stage = stage
        self._caller = Caller(stage)
        self._pool = None if stage.threads else ProcessPool(source)
        self._beside = None if stage.per_request else BesideWatch(stage.name, self._call)

    @property
    def pids(self) -> list[int]:
        """Ids of the stage's processes that are alive; empty if it runs on threads."""
        return [] if self._pool is None else self._pool.pids

    @property
    def restarts(self) -> int:
        """How many processes were started to replace another."""
        return 0 if self._pool is None else self._pool.restarts

    @property
    def one_by_one(self) -> bool:
        """Whether each request is a separate call on the calling thread, so that its time is that of one call."""
        return self._pool is None and self.stage.per_request

    def run_apart(self, requests: Sequence[Arrays]) -> list[list[np.ndarray]]:
        """The outputs of each request.

        Raises:
            InvalidInputError: the function refuses the input.
            EngineError: the function failed, its outputs are not as declared, or there is no process.
            BatchLostError: the process died or was killed while it computed these requests.
        """
        parts = [list(request.values()) for request in requests]
        return self._call(parts) if self._beside is None else self._beside.answers(parts)

    def is_mixing(self, requests: Sequence[Arrays]) -> bool:
        """Whether the answer to any of these requests depends on the others.

        Raises:
            TailcutError: as `run_apart`.
        """
        parts = [list(request.values()) for request in requests]
        return is_mixing(self._call, parts, self._call(parts), range(len(parts)))

    def _call(self, parts: Parts) -> list[list[np.ndarray]]:
        if self._pool is None:
            return self._call_here(parts)
        while True:
            process = self._pool.take()
            try:
                return process.call(parts)
            except NotSentError:
                continue
            finally:
                self._pool.give_back(process)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs of one request, by name.

        Raises:
            EngineError: as `run_apart`.
        """
        return dict(zip(self.spec.output_names, self.run_apart([inputs])[0], strict=True))

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """Refuse, because a function allocates its own outputs.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"stage {self.spec.name!r}: a function cannot be bound to arrays")

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.close()

    def _call_here(self, parts: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        pid = os.getpid()
        try:
            results = self._caller.run([[_read_only(array) for array in arrays] for arrays in parts])
            end_forked(self._caller.stage, pid)
            return [kept(arrays) for arrays in results]
        except BaseException as error:  # noqa: BLE001  whatever it raises, even SystemExit, fails only its requests
            log_fault(self._caller.stage, error)
            end_forked(self._caller.stage, pid)
            kind, message = refusal(self._caller.stage, error)
            fault: TailcutError = InvalidInputError(message) if kind is ReplyKind.INVALID else EngineError(message)
            raise fault from None


def _read_only(array: np.ndarray) -> np.ndarray:
    """A read-only view: later steps, or the client's other requests, read the same array."""
    view = array.view()
    view.flags.writeable = False
    return view
