"""A stage's process: imports the stage by its path, and computes batches.

Before it imports any of the user's code, it makes sure that it ends with its parent. It leads its own session, so that
the server can end it together with the programs that the stage has started.
"""

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType

import numpy as np

from tailcut.errors import TailcutError, UsageError
from tailcut.pipelines.calling import Caller, end_forked, log_fault, plain, refusal
from tailcut.pipelines.chain import Chain
from tailcut.pipelines.chain_loading import open_chain
from tailcut.pipelines.forwarding import LogSender
from tailcut.pipelines.layout import Packed
from tailcut.pipelines.loading import load_pipeline, parse_path
from tailcut.pipelines.protocol import CALL, MOST_BYTES, PROGRESS_S, REPLY, ReplyKind
from tailcut.pipelines.region import MappedRegion
from tailcut.pipelines.stage import Stage

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LEFT_TO_THE_SERVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Serve one stage, or all steps of a pipeline, over an inherited socket, until the other side closes it."""
    parent, path, index, signature, control, inputs, outputs, logs, cpu, models_bytes = arguments
    if not _bound_to(int(parent)):
        return 1
    for descriptor in (control, inputs, outputs, logs):
        os.set_inheritable(int(descriptor), False)  # programs that the stage starts do not keep them open
    sock = socket.socket(fileno=int(control))
    _leave_signals()
    os.register_at_fork(after_in_child=sock.close)  # else the server would not see that this process has ended
    logging.basicConfig(handlers=[LogSender(socket.socket(fileno=int(logs)))], format="%(message)s", level=logging.INFO)
    logging.captureWarnings(True)
    results = MappedRegion(int(outputs))
    try:
        if cpu:
            _pin(int(cpu))
        asked = MappedRegion(int(inputs))
        encoded = asked.data[: int(models_bytes)].tobytes()
        caller = open_chain(parse_path(path), signature, encoded) if encoded else _caller(path, int(index), signature)
    except Exception as error:  # noqa: BLE001  the server reports whatever went wrong
        text = plain(error) if isinstance(error, TailcutError) else f"{path}: {type(error).__name__}: {plain(error)}"
        _reply(sock, results, ReplyKind.NOT_LOADED, plain(text))
        return 1
    gc.collect()
    gc.freeze()  # the collector need not walk what the import left behind again
    sock.sendall(REPLY.pack(ReplyKind.READY, 0, results.size))
    _serve(sock, caller, asked, results)
    return 0


def _pin(cpu: int) -> None:
    try:
        os.sched_setaffinity(0, {cpu})
    except (OSError, AttributeError) as error:
        raise UsageError(f"cpus={cpu}: its process cannot be pinned to that CPU: {error}") from None


def _caller(path: str, index: int, signature: str) -> Caller:
    """Load the stage with this index in the pipeline at this path.

    Raises:
        UsageError: the file has changed: the stage is gone, or its inputs or outputs are others.
    """
    steps = load_pipeline(parse_path(path)).steps
    step = steps[index] if index < len(steps) else None
    if not isinstance(step, Stage):
        raise UsageError(f"{path}: step {index + 1} is no longer a stage: reload the server")
    if step.signature != signature:
        raise UsageError(f"{path}: the stage's inputs, outputs or fill have changed since it was loaded: reload it")
    return Caller(step)


def _serve(sock: socket.socket, caller: Caller | Chain, inputs: MappedRegion, results: MappedRegion) -> None:
    pid = os.getpid()
    while True:
        record = sock.recv(CALL.size, socket.MSG_WAITALL)
        if len(record) < CALL.size:
            return
        size, region_bytes, result_bytes = CALL.unpack(record)
        results.hold(result_bytes)
        data = inputs.hold(region_bytes)[:size]
        progress = _Progress(sock, results)
        try:
            packed = caller.answer(caller.inputs.unpack(data), progress.called)
            end_forked(caller.stage, pid)
            _check_size(caller.stage, packed)
            packed.write(results.grow(packed.size))
        except BaseException as error:  # noqa: BLE001  whatever it raises, even SystemExit, fails only its requests
            log_fault(caller.stage, error)
            end_forked(caller.stage, pid)
            _reply(sock, results, *refusal(caller.stage, error))
        else:
            sock.sendall(REPLY.pack(ReplyKind.DONE, packed.size, results.size))


class _Progress:
    """Tells the server from time to time that one of several calls has returned: each call has its own time limit."""

    def __init__(self, sock: socket.socket, results: MappedRegion) -> None:
        self._sock = sock
        self._results = results
        self._sent_s = time.monotonic()

    def called(self) -> None:
        now_s = time.monotonic()
        if now_s - self._sent_s >= PROGRESS_S:
            self._sent_s = now_s
            self._sock.sendall(REPLY.pack(ReplyKind.WORKING, 0, self._results.size))


def _check_size(stage: Stage, packed: Packed) -> None:
    if packed.size > MOST_BYTES:
        raise UsageError(f"stage {stage.name!r} returned {packed.size} bytes, over {MOST_BYTES}")


def _reply(sock: socket.socket, results: MappedRegion, kind: ReplyKind, message: str) -> None:
    data = message.encode()
    region = results.grow(len(data))
    region[: len(data)] = np.frombuffer(data, np.uint8)
    sock.sendall(REPLY.pack(kind, len(data), results.size))


def _leave_signals() -> None:
    """Do nothing on the signals that stop a server, since systemd sends them to all processes of a unit.

    So the requests that the server drains are still computed. The signals work as usual in programs that a stage starts
    and processes that it forks: exec resets a handler (signal(7)), whereas it would keep SIG_IGN.
    """
    before = {number: signal.getsignal(number) for number in _LEFT_TO_THE_SERVER}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}  # nohup's stays

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)
    os.register_at_fork(after_in_child=restore)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass


def _bound_to(parent: int) -> bool:
    """Have the kernel kill this process when its server ends (prctl(2)); False if it has already ended."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent
