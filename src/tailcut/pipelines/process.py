"""The server's side of one stage process: started, called by one thread at a time, killed.

A call blocks the worker thread that makes it, never the event loop: it waits in recv(2) without the interpreter's lock.
"""

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import numpy as np

from tailcut.engines.file_hash import file_hash
from tailcut.errors import (
    BatchLostError,
    DeadlineExceededError,
    EngineError,
    InvalidInputError,
    ModelFileError,
    TooLargeError,
    UsageError,
)
from tailcut.pipelines.calling import Caller
from tailcut.pipelines.forwarding import log_from
from tailcut.pipelines.layout import Parts, rows_of
from tailcut.pipelines.life import Life, move
from tailcut.pipelines.loading import PipelinePath, import_path
from tailcut.pipelines.protocol import CALL, MOST_BYTES, PROGRESS_S, REPLY, ReplyKind
from tailcut.pipelines.region import MappedRegion
from tailcut.pipelines.stage import Stage

_log = logging.getLogger("tailcut")
_START = "import sys; sys.path[:] = {}; from tailcut.pipelines.child import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True, slots=True)
class StagePlace:
    """A stage, and where its processes find it."""

    stage: Stage
    path: PipelinePath
    index: int  # of the step in the pipeline
    caller: Caller = field(init=False)
    sha256: str = field(init=False)  # of the file, when it was loaded

    def __post_init__(self) -> None:
        object.__setattr__(self, "caller", Caller(self.stage))
        object.__setattr__(self, "sha256", file_hash(self.path.file))

    @property
    def has_changed(self) -> bool:
        """Whether the file is another one than when it was loaded."""
        try:
            return file_hash(self.path.file) != self.sha256
        except ModelFileError:
            return True


class StageProcess:
    """One process of a stage. Its methods are for one thread at a time; `interrupt` is for any."""

    def __init__(self, stage_place: StagePlace, cpu: int | None = None) -> None:
        self._place = stage_place
        self._life = Life.STARTING
        self._group_ended = False
        self._patience_s = 0.0  # of the socket
        with ExitStack() as undo:  # without memory, descriptors or threads, nothing is left behind
            self._inputs = MappedRegion.create()
            undo.callback(self._inputs.close)
            self._results = MappedRegion.create()
            undo.callback(self._results.close)
            self._sock, theirs = socket.socketpair()
            undo.callback(self._sock.close)
            with theirs:
                self._process = self._started(theirs, cpu, undo)
            undo.pop_all()

    def _started(self, theirs: socket.socket, cpu: int | None, undo: ExitStack) -> subprocess.Popen[bytes]:
        """The operating system's process, whose log lines a thread takes."""
        stage, path, index = self._place.stage, self._place.path, self._place.index
        logs, their_logs = socket.socketpair()
        undo.callback(logs.close)
        inherited = (theirs.fileno(), self._inputs.descriptor, self._results.descriptor, their_logs.fileno())
        # Neither `-m` nor `-c` alone: they put the current folder first, whose files would replace standard modules.
        command = [sys.executable, "-P", "-c", _START.format(ascii(import_path()))]
        command += [str(os.getpid()), str(path), str(index), stage.signature]
        command += [*map(str, inherited), "" if cpu is None else str(cpu)]
        with their_logs:
            process = subprocess.Popen(  # noqa: S603  this interpreter, and our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_stderr() else None,
                pass_fds=inherited,
                start_new_session=True,  # with a group of its own, which ends as a whole
            )
        undo.callback(process.wait)
        undo.callback(process.kill)
        threading.Thread(target=log_from, args=(logs, stage.name), name=f"{stage.name}-log", daemon=True).start()
        return process

    @property
    def pid(self) -> int:
        """The operating system's number for it."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._life is Life.ENDED

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended, by itself or otherwise."""
        if self._life is Life.ENDED:
            return False
        if self._process.poll() is None:
            return True
        self._end_group()
        return False

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until it has imported its stage; it is killed where it does not.

        Raises:
            UsageError: the file cannot be imported now, or it takes longer than that.
        """
        name = self._place.stage.name
        try:
            kind, message = self._receive(timeout_s)
        except TimeoutError:
            self.kill()
            raise UsageError(f"stage {name!r}: its process was not ready within {timeout_s:g} s") from None
        except ConnectionError:
            raise UsageError(f"stage {name!r}: its process ended while it started ({self._ending()})") from None
        if kind is not ReplyKind.READY:
            self.kill()
            raise UsageError(f"stage {name!r}: {message}")
        self._life = move(self._life, Life.IDLE)

    def call(self, parts: Parts) -> list[list[np.ndarray]]:
        """The outputs of each request, in memory of their own.

        Raises:
            NotSentError: the process had ended before the call.
            InvalidInputError: the function refuses the input.
            EngineError: the function failed, or returned what was not declared.
            BatchLostError: the process died or was killed while it computed this batch.
            TooLargeError: the batch does not fit into a region of `MOST_BYTES`.
        """
        stage = self._place.stage
        caller = self._place.caller
        packed = caller.pack(parts)
        if packed.size > MOST_BYTES:
            raise TooLargeError(f"stage {stage.name!r}: a batch has {packed.size} bytes, over {MOST_BYTES}")
        packed.write(self._inputs.grow(packed.size))
        self._life = move(self._life, Life.CALLED)
        try:
            self._sock.sendall(CALL.pack(packed.size, self._inputs.size, self._results.size))
        except ConnectionError:
            raise NotSentError(f"stage {stage.name!r}: its process had ended ({self._ending()})") from None
        try:
            kind, message = self._receive(stage.timeout_s + (PROGRESS_S if stage.per_request else 0.0))
        except TimeoutError:
            self.kill()
            words = f"stage {stage.name!r} did not answer within {stage.timeout_s:g} s: its process was killed"
            _log.error("%s", words)
            raise StageTimeoutError(words) from None
        except ConnectionError:
            raise BatchLostError(f"stage {stage.name!r}: its process ended in a call ({self._ending()})") from None
        self._life = move(self._life, Life.IDLE)
        if kind is ReplyKind.INVALID:
            raise InvalidInputError(message)
        if kind is not ReplyKind.DONE:
            raise EngineError(message)
        # One copy for the whole batch: the region is the next one's.
        return caller.unpack(self._results.data[: self._size].copy(), rows_of(parts))

    def interrupt(self) -> None:
        """End it now, from any thread: the one that waits for it finds it ended."""
        self._process.kill()

    def kill(self) -> None:
        """End it now. Calling it again does nothing."""
        if self._life is Life.ENDED:
            return
        self._life = Life.ENDED
        self._end_group()
        self._process.wait()
        self._sock.close()
        self._inputs.close()
        self._results.close()

    def _end_group(self) -> None:
        """End the process, and the programs that its stage has started, once: its number may be another's later."""
        if not self._group_ended:
            self._group_ended = True
            with suppress(ProcessLookupError, PermissionError):  # macOS has the latter where only a zombie is left
                os.killpg(self._process.pid, signal.SIGKILL)

    def _receive(self, timeout_s: float) -> tuple[ReplyKind, str]:
        """The next reply, and its message.

        Raises:
            TimeoutError: none came in time, after the process was called or after one of several calls in it has ended.
            ConnectionError: the process has ended.
        """
        if timeout_s != self._patience_s:
            # The kernel's limit (socket(7), SO_RCVTIMEO): one system call for each reply, where poll and recv are two.
            limit = divmod(max(1, int(timeout_s * 1e6)), 1_000_000)  # 0 would be none
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", *limit))
            self._patience_s = timeout_s
        number = ReplyKind.WORKING
        while number == ReplyKind.WORKING:
            try:
                record = self._sock.recv(REPLY.size, socket.MSG_WAITALL)
            except BlockingIOError:
                raise TimeoutError from None
            if len(record) < REPLY.size:
                raise ConnectionResetError
            number, self._size, region_bytes = REPLY.unpack(record)
        kind = ReplyKind(number)
        data = self._results.hold(region_bytes)
        if kind in {ReplyKind.READY, ReplyKind.DONE}:
            return kind, ""
        return kind, data[: self._size].tobytes().decode(errors="replace")

    def _ending(self) -> str:
        """How it ended."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        if code is None:
            return "it closed its socket"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


class NotSentError(BatchLostError):
    """A process had ended before it was called: another one can have the batch."""


class StageTimeoutError(DeadlineExceededError, BatchLostError):
    """A stage did not answer in time, and its process was killed while it computed the batch."""


def _has_stderr() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False
