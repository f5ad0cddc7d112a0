"""Measures served profiles against each other: real servers in child processes, with load in turns A B A B.

A child gets a profile file and nothing else, so the measurement applies to a user's `tailcut serve`.
"""

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tailcut.errors import TailcutError
from tailcut.lab.client import closed_loop, open_loop
from tailcut.lab.cost import Spent, watched
from tailcut.lab.fork_server import FAST_PATH, SERVER, ForkedCommand, execute, fork
from tailcut.lab.load import LoadResult, LoadTarget, NotListeningError, Payload, failed_result
from tailcut.machine.process import ProcessCost
from tailcut.runtime.profile import Profile

_START_S = 120.0
_STOP_S = 10.0
_REPEATED = 0.25  # share of an arm's blocks, at most
FAILED_MS = 1e12  # the latency of a failed request, larger than any other


class ServeError(TailcutError):
    """A profile cannot be served; the message is the last line of the server's log."""


def modules_of(profile: Profile) -> tuple[str, ...]:
    """The modules that a server of a profile imports in any case."""
    return SERVER + (FAST_PATH if profile.settings.io.fast_path else ())


class ServedProfile:
    """A `tailcut serve` child process; a context manager that ends it.

    Args:
        profile: written to a temporary file for the child; its model path must be absolute.
        arguments: further options of `tailcut serve`.
        neighbours: further profiles, of models in the same server.
        cpus: the CPUs that the child may use; None: all that this process may use.
        forked: whether it may be forked instead of executed (see `fork_server.py`).
    """

    def __init__(
        self,
        profile: Profile,
        arguments: Sequence[str] = (),
        *,
        neighbours: Sequence[Profile] = (),
        cpus: tuple[int, ...] | None = None,
        forked: bool = False,
    ) -> None:
        self._cpus = cpus
        self._forked = forked
        self.profile = profile
        self._profiles = (profile, *neighbours)
        self._arguments = arguments
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._child: subprocess.Popen[bytes] | ForkedCommand | None = None
        self.target = LoadTarget()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def shared_prefix(self) -> str:
        """The prefix of shared-memory names that it accepts, where its profile is for shared memory."""
        return f"tailcut-{os.getpid()}-{id(self):x}"

    @property
    def pid(self) -> int | None:
        """The process id of the child; None while there is none."""
        return None if self._child is None else self._child.pid

    @property
    def ended(self) -> bool:
        """Whether the child ended by itself, or was killed."""
        return self._child is not None and self._child.poll() is not None

    @property
    def is_forked(self) -> bool:
        """Whether the child was forked."""
        return isinstance(self._child, ForkedCommand)

    def start(self) -> None:
        """Start the child and wait until it is ready.

        Raises:
            ServeError: it ended instead, or was not ready in two minutes.
        """
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Start the child without waiting, so that several can load at once. It ends with the calling thread."""
        self._folder = tempfile.TemporaryDirectory(prefix="tailcut-")
        folder = Path(self._folder.name)
        paths = [folder / f"trial{number or ''}.profile.toml" for number in range(len(self._profiles))]
        for profile, path in zip(self._profiles, paths, strict=True):
            profile.save(path)
        command = ["serve", *map(str, paths), "--port", "0", "--json"]
        command += self._arguments
        if self.profile.settings.io.socket == "unix":
            command += ["--uds", str(folder / "socket")]
        if self.profile.settings.io.wire == "shared":
            command += ["--shared-memory", self.shared_prefix]
        with (folder / "stderr").open("wb") as stderr:
            if self._forked:
                modules = modules_of(self.profile)
                self._child = fork(command, stderr, modules=modules, cpus=self._cpus)
            else:
                self._child = execute(command, stderr, cpus=self._cpus)

    def wait_ready(self) -> None:
        """Wait until the started child listens.

        Raises:
            ServeError: it ended instead, or was not ready in two minutes.
        """
        assert self._folder is not None  # noqa: S101  it was started
        try:
            self.target = self._wait_ready(Path(self._folder.name) / "stderr")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the child; it is killed if it does not end by itself."""
        child, self._child = self._child, None
        if child is not None:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
                try:
                    child.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            if child.stdout is not None:
                child.stdout.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _wait_ready(self, log: Path) -> LoadTarget:
        child = self._child
        assert child is not None  # noqa: S101  called right after it was made
        assert child.stdout is not None  # noqa: S101  it has a pipe
        ready, _, _ = select.select([child.stdout], [], [], _START_S)
        line = child.stdout.readline() if ready else b""
        if not line:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise ServeError((lines[-1] if lines else "the server exited without a message").removeprefix("tailcut: "))
        address: dict[str, Any] = json.loads(line)
        return LoadTarget(address["host"], address["port"], address["uds"])


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a comparison: the target, and its payloads."""

    target: LoadTarget
    payloads: Sequence[Payload]
    pid: int | None = None  # of its server, where the cost is measured


def open_run(arm: Arm, *, rate: float, duration_s: float, seed: int, warmup_s: float = 0.0) -> LoadResult:
    """Run an open loop on an arm; where its server has ended, everything has failed."""
    try:
        return open_loop(arm.target, arm.payloads, rate=rate, duration_s=duration_s, seed=seed, warmup_s=warmup_s)
    except NotListeningError:
        return failed_result("open", duration_s, 1, rate)


def closed_run(arm: Arm, *, concurrency: int, duration_s: float, warmup_s: float = 0.0) -> LoadResult:
    """Run a closed loop on an arm; where its server has ended, everything has failed."""
    try:
        return closed_loop(arm.target, arm.payloads, concurrency=concurrency, duration_s=duration_s, warmup_s=warmup_s)
    except NotListeningError:
        return failed_result("closed", duration_s, concurrency)


@dataclass(slots=True)
class ArmRuns:
    """The results of an arm: latencies in ms for each open-loop block, requests per second for each closed-loop block.

    A failed request of an open loop has the latency `FAILED_MS`, so that no percentile improves because of it.
    """

    blocks: list[np.ndarray] = field(default_factory=list)
    throughputs: list[float] = field(default_factory=list)
    errors: int = 0
    behind: int = 0  # blocks that count although the client was late
    repeated: int = 0  # blocks that were repeated because the client was late
    lateness_ns: list[float] = field(default_factory=list)  # p99 of the client's lateness in each open block
    achieved: list[float] = field(default_factory=list)
    client_cpu: list[float] = field(default_factory=list)  # cores that the client used in each open block
    client_cpu_closed: list[float] = field(default_factory=list)  # and in each closed one
    spent: Spent = field(default_factory=Spent)  # by the server in the open blocks, where all arms have the same load

    @property
    def latencies(self) -> np.ndarray:
        """The latencies of all blocks, in the order of time."""
        return np.concatenate(self.blocks) if self.blocks else np.empty(0)

    @property
    def answered(self) -> np.ndarray:
        """The latencies of requests that did not fail."""
        return self.latencies[self.latencies < FAILED_MS]

    @property
    def client_behind(self) -> bool:
        """Whether the client was late in most blocks, so that latencies are partly its own."""
        return 2 * self.behind > len(self.blocks)

    def add_open(self, result: LoadResult, cost: ProcessCost | None = None) -> None:
        """Add an open-loop block, and the server's cost of it."""
        failed = sum(result.errors.values())
        self.errors += failed
        self.behind += result.client_behind
        self.lateness_ns.append(result.lateness_p99_ns)
        self.achieved.append(result.rate_achieved)
        self.client_cpu.append(result.client_cpu)
        self.blocks.append(np.concatenate([result.latencies_ns / 1e6, np.full(failed, FAILED_MS)]))
        self.spent.add(result, cost)

    def add_closed(self, result: LoadResult) -> None:
        """Add a closed-loop block."""
        self.errors += sum(result.errors.values())
        self.throughputs.append(result.rate_achieved)
        self.client_cpu_closed.append(result.client_cpu)


def open_block(arms: Sequence[Arm], runs: Sequence[ArmRuns], *, rate: float, duration_s: float, seed: int) -> None:
    """Run an open-loop block on each arm in turn, with equal arrival times; once more where the client was late."""
    for arm, run in _in_turn(arms, runs, [len(run.blocks) for run in runs]):
        warmup_s = min(0.1, duration_s / 5)
        block = partial(open_run, arm, rate=rate, duration_s=duration_s, seed=seed, warmup_s=warmup_s)
        allowed = run.repeated <= _REPEATED * len(run.blocks)
        result, cost, repeated = watched_again(arm.pid, block, allowed=allowed)
        run.repeated += repeated
        run.add_open(result, cost)


def watched_again(
    pid: int | None, block: Callable[[], LoadResult], *, allowed: bool = True
) -> tuple[LoadResult, ProcessCost | None, bool]:
    """Run a block; returns it, the server's cost, and whether it was repeated (once) because the client was late.

    A block with failed requests is kept, because these are the server's. `allowed` is whether it may be repeated: where
    the client is always late, repeating does not help.
    """
    result, cost = watched(pid, block)
    if not allowed or not result.client_behind or result.errors:
        return result, cost, False
    return *watched(pid, block), True


def closed_block(arms: Sequence[Arm], runs: Sequence[ArmRuns], *, concurrency: int, duration_s: float) -> None:
    """Run one closed-loop block on each arm in turn."""
    for arm, run in _in_turn(arms, runs, [len(run.throughputs) for run in runs]):
        warmup_s = min(0.1, duration_s / 5)
        run.add_closed(closed_run(arm, concurrency=concurrency, duration_s=duration_s, warmup_s=warmup_s))


def _in_turn(arms: Sequence[Arm], runs: Sequence[ArmRuns], blocks: Sequence[int]) -> list[tuple[Arm, ArmRuns]]:
    """Each arm with its runs; in reverse order every second time, so that none always follows the same one."""
    turn = list(zip(arms, runs, strict=True))
    return turn[::-1] if max(blocks, default=0) % 2 else turn
