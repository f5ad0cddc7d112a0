"""The server's side of one stage process: it starts the process, calls it from one thread at a time, and kills it.

A call blocks the worker thread that makes it, never the event loop: it waits in recv(2), without holding the GIL.
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
from tailcut.pipelines.chain import ChainLayout
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
class StageSource:
    """A stage, and where its processes can import it from.

    Args:
        stage: the stage, or the one that stands for all steps of the pipeline.
        path: of the pipeline.
        index: its position among the steps of the pipeline; -1 for all of them.
        signature: of what the processes load.
        models: for all steps: encoded `ChainSettings`.
        layout: for all steps: of their inputs and outputs.
    """

    stage: Stage
    path: PipelinePath
    index: int
    signature: str = ""
    models: bytes = b""
    layout: ChainLayout | None = None
    caller: Caller | ChainLayout = field(init=False)
    sha256: str = field(init=False)  # hash of the file when it was loaded

    def __post_init__(self) -> None:
        object.__setattr__(self, "signature", self.signature or self.stage.signature)
        object.__setattr__(self, "caller", self.layout or Caller(self.stage))
        object.__setattr__(self, "sha256", file_hash(self.path.file))

    @property
    def has_changed(self) -> bool:
        """Whether the file has changed since it was loaded, or cannot be read."""
        try:
            return file_hash(self.path.file) != self.sha256
        except ModelFileError:
            return True


class StageProcess:
    """One process of a stage. One thread at a time may use it, except for `interrupt`, which any thread may call."""

    def __init__(self, source: StageSource, cpu: int | None = None) -> None:
        self._source = source
        self._life = Life.STARTING
        self._group_ended = False
        self._patience_s = 0.0  # the receive timeout set on the socket
        with ExitStack() as undo:  # if memory, descriptors or threads run out, nothing is left behind
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
        """Start the process itself, and a thread that forwards its log."""
        source, stage = self._source, self._source.stage
        logs, their_logs = socket.socketpair()
        undo.callback(logs.close)
        inherited = (theirs.fileno(), self._inputs.descriptor, self._results.descriptor, their_logs.fileno())
        # Not `-m` or a plain `-c`: they put the current folder first, whose files could shadow standard modules.
        command = [sys.executable, "-P", "-c", _START.format(ascii(import_path()))]
        command += [str(os.getpid()), str(source.path), str(source.index), source.signature]
        command += [*map(str, inherited), "" if cpu is None else str(cpu), str(len(source.models))]
        self._inputs.grow(len(source.models))[: len(source.models)] = np.frombuffer(source.models, np.uint8)
        with their_logs:
            process = subprocess.Popen(  # noqa: S603  this interpreter, and our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_stderr() else None,
                pass_fds=inherited,
                start_new_session=True,  # with its own process group, which can be killed as a whole
            )
        undo.callback(process.wait)
        undo.callback(process.kill)
        threading.Thread(target=log_from, args=(logs, stage.name), name=f"{stage.name}-log", daemon=True).start()
        return process

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended, without checking."""
        return self._life is Life.ENDED

    @property
    def is_alive(self) -> bool:
        """Check whether it is still alive."""
        if self._life is Life.ENDED:
            return False
        if self._process.poll() is None:
            return True
        self._end_group()
        return False

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until it has imported its stage; it is killed if it does not.

        Raises:
            UsageError: the file cannot be imported, or not within this time.
        """
        name = self._source.stage.name
        try:
            kind, message = self._receive(timeout_s)
        except TimeoutError:
            self.kill()
            raise UsageError(f"stage {name!r}: its process was not ready within {timeout_s:g} s") from None
        except ConnectionError:
            raise UsageError(f"stage {name!r}: its process exited while it started ({self._ending()})") from None
        if kind is not ReplyKind.READY:
            self.kill()
            raise UsageError(f"stage {name!r}: {message}")
        self._life = move(self._life, Life.IDLE)

    def call(self, parts: Parts) -> list[list[np.ndarray]]:
        """The outputs of each request, copied out of the shared region.

        Raises:
            NotSentError: the process had exited before the call.
            InvalidInputError: the function refuses the input.
            EngineError: the function failed, or its outputs are not as declared.
            BatchLostError: the process died or was killed while it computed this batch.
            StageTimeoutError: the call exceeded the stage's time limit; the process was killed.
            TooLargeError: the batch is larger than `MOST_BYTES`.
        """
        stage = self._source.stage
        caller = self._source.caller
        packed = caller.pack(parts)
        if packed.size > MOST_BYTES:
            raise TooLargeError(f"stage {stage.name!r}: a batch has {packed.size} bytes, over {MOST_BYTES}")
        packed.write(self._inputs.grow(packed.size))
        self._life = move(self._life, Life.CALLED)
        try:
            self._sock.sendall(CALL.pack(packed.size, self._inputs.size, self._results.size))
        except ConnectionError:
            raise NotSentError(f"stage {stage.name!r}: its process had exited ({self._ending()})") from None
        try:
            kind, message = self._receive(stage.timeout_s + (PROGRESS_S if stage.per_request else 0.0))
        except TimeoutError:
            self.kill()
            words = f"stage {stage.name!r} did not answer within {stage.timeout_s:g} s: its process was killed"
            _log.error("%s", words)
            raise StageTimeoutError(words) from None
        except ConnectionError:
            raise BatchLostError(f"stage {stage.name!r}: its process exited during a call ({self._ending()})") from None
        self._life = move(self._life, Life.IDLE)
        if kind is ReplyKind.INVALID:
            raise InvalidInputError(message)
        if kind is not ReplyKind.DONE:
            raise EngineError(message)
        # One copy for the whole batch, since the next batch reuses the region.
        return caller.unpack(self._results.data[: self._size].copy(), rows_of(parts))

    def interrupt(self) -> None:
        """Kill the process from any thread; a thread that waits for it notices."""
        self._process.kill()

    def kill(self) -> None:
        """Kill the process and release its memory. Calling it again does nothing."""
        if self._life is Life.ENDED:
            return
        self._life = Life.ENDED
        self._end_group()
        self._process.wait()
        self._sock.close()
        self._inputs.close()
        self._results.close()

    def _end_group(self) -> None:
        """Kill the process and the programs that its stage has started, only once, since its id may be reused."""
        if not self._group_ended:
            self._group_ended = True
            with suppress(ProcessLookupError, PermissionError):  # macOS raises the latter if only a zombie is left
                os.killpg(self._process.pid, signal.SIGKILL)

    def _receive(self, timeout_s: float) -> tuple[ReplyKind, str]:
        """Wait for the next reply; returns its kind and message.

        Raises:
            TimeoutError: none came within this time of the call, or of the last sign of progress.
            ConnectionError: the process has ended.
        """
        if timeout_s != self._patience_s:
            # A timeout in the kernel (socket(7), SO_RCVTIMEO) needs one system call per reply; poll and recv are two.
            limit = divmod(max(1, int(timeout_s * 1e6)), 1_000_000)  # 0 would mean no timeout
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
        """How the process ended, in words."""
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        if code is None:
            return "it closed its socket"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


class NotSentError(BatchLostError):
    """The process had exited before it was called: another one can compute the batch."""


class StageTimeoutError(DeadlineExceededError, BatchLostError):
    """A stage exceeded its time limit, and its process was killed while it computed the batch."""


def _has_stderr() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False
