"""Profiles served by real child processes and measured in turns."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.lab.scripted import answer_ok, scripted

from tailcut.errors import TailcutError
from tailcut.lab.load import LoadResult
from tailcut.lab.payload import encode, infer_once, infer_payload
from tailcut.lab.trial import (
    FAILED_MS,
    Arm,
    ArmRuns,
    ServedProfile,
    ServeError,
    closed_block,
    open_block,
    watched_again,
)
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import IoSettings, Settings


@pytest.mark.slow
def test_a_profile_is_served_and_ended(models: Path) -> None:
    """Inside the block the child answers; after it the process is gone and nobody listens."""
    with ServedProfile(Profile.of_model(models / "mlp.onnx", Settings())) as served:
        child = served._child
        assert child is not None
        assert infer_once(served.target, "mlp", {"x": np.ones((1, 4), np.float32)})["y"].shape == (1, 3)
    assert child.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
    with pytest.raises(TailcutError, match="closed the connection"):
        infer_once(served.target, "mlp", {"x": np.ones((1, 4), np.float32)})


@pytest.mark.slow
@pytest.mark.usefixtures("forked_trials")
@pytest.mark.skipif(not sys.platform.startswith("linux") or usable_cpus() < 2, reason="no room for two workers")
def test_a_profile_of_two_workers_is_measured_like_any_other(models: Path) -> None:
    """Its load is answered by both, and what both spent is its cost."""
    profile = Profile.of_model(models / "mlp.onnx", Settings(io=IoSettings(workers=2)))
    with ServedProfile(profile) as served:
        payloads = [infer_payload(served.target, "mlp", {"x": np.ones((1, 4), np.float32)}, "binary")]
        arms, runs = [Arm(served.target, payloads, served.pid)], [ArmRuns()]
        open_block(arms, runs, rate=300, duration_s=0.3, seed=0)
        closed_block(arms, runs, concurrency=4, duration_s=0.2)
        children = Path(f"/proc/{served.pid}/task/{served.pid}/children").read_text().split()
    assert len(children) == 2
    assert runs[0].errors == 0
    assert runs[0].throughputs[0] > 0
    cost = runs[0].spent.per_request()
    assert cost is not None
    assert (cost.cpu_ns or 0) > 1_000


@pytest.mark.usefixtures("forked_trials")
def test_a_profile_that_cannot_be_served_says_why(models: Path) -> None:
    """The server's own last line is the error, and no child is left."""
    profile = Profile.of_model(models / "mlp.onnx", Settings())
    served = ServedProfile(profile, ["--max-body", "none"])
    with pytest.raises(ServeError, match="--max-body"):
        served.start()
    assert served._child is None


def test_blocks_take_turns() -> None:
    """Every second time the other way round; open blocks have the same arrival times; results are gathered by arm."""
    order = []

    def named(name: str):
        async def script(number, writer) -> None:
            if order[-1:] != [name]:
                order.append(name)
            if name == "b" and number == 30:
                writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
            else:
                await answer_ok(number, writer)

        return script

    with scripted(named("a")) as a, scripted(named("b")) as b:
        arms = [Arm(target, [encode(target, "POST", "/")]) for target in (a, b)]
        runs = [ArmRuns(), ArmRuns()]
        for seed in range(2):
            open_block(arms, runs, rate=200, duration_s=0.2, seed=seed)
        closed_block(arms, runs, concurrency=2, duration_s=0.1)
    assert order == ["a", "b", "a", "b"]  # each of the three begins with whom the one before ended
    assert len(runs[0].latencies) == len(runs[1].latencies) == sum(map(len, runs[0].blocks)) > 20
    assert [len(run.latencies) - len(run.answered) for run in runs] == [0, 1]
    assert runs[1].blocks[0].max() == FAILED_MS
    assert [len(run.throughputs) for run in runs] == [1, 1]
    assert [run.errors for run in runs] == [0, 1]
    assert [len(run.achieved) for run in runs] == [2, 2]
    assert [run.spent.per_request() for run in runs] == [None, None]  # nobody named a process


@pytest.mark.usefixtures("forked_trials")
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_blocks_have_their_servers_cost(models: Path) -> None:
    """What a server spends in its open-loop blocks is reported per request; closed-loop blocks do not count."""
    served = ServedProfile(Profile.of_model(models / "mlp.onnx", Settings()))
    assert served.pid is None
    with served:
        payload = infer_payload(served.target, "mlp", {"x": np.ones((1, 4), np.float32)}, "binary")
        arm, runs = Arm(served.target, [payload], served.pid), ArmRuns()
        open_block([arm], [runs], rate=200, duration_s=0.3, seed=1)
        sent = runs.spent.requests
        closed_block([arm], [runs], concurrency=2, duration_s=0.1)
    assert served.pid is None
    assert runs.spent.requests == sent >= len(runs.latencies) > 20
    cost = runs.spent.per_request()
    assert cost is not None
    assert 1_000 < cost.cpu_ns < 1e9
    assert cost.context_switches > 0


def late(lateness_ms: float) -> LoadResult:
    latencies = np.full(100, 1e6)
    return LoadResult("open", 1.0, 100.0, 100.0, 1, latencies, latencies, lateness_p99_ns=lateness_ms * 1e6)


@pytest.mark.parametrize(
    ("lateness_ms", "asked", "kept_ms"), [([0.1], 1, 0.1), ([50.0, 0.2], 2, 0.2), ([50.0, 60.0], 2, 60.0)]
)
def test_a_block_in_which_the_client_was_late_is_repeated_once(
    lateness_ms: list[float], asked: int, kept_ms: float
) -> None:
    """The second one counts, whether or not the client was in time then."""
    results = [late(value) for value in lateness_ms]
    blocks = iter(results)
    kept, cost, repeated = watched_again(None, lambda: next(blocks))
    assert kept is results[asked - 1]
    assert repeated is (asked == 2)
    assert cost is None
    runs = ArmRuns()
    runs.add_open(kept)
    assert runs.lateness_ns == [kept_ms * 1e6]
    assert runs.behind == (kept_ms > 2)
    assert runs.client_behind is (kept_ms > 2)
