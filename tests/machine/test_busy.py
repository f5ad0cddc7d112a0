"""Who used the CPUs between two looks: made-up trees, and a real process that does nothing but run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.machine.trees import plant

from tailcut.machine.busy import cpu_look

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")


def files(ticks: list[int], processes: dict[int, int]) -> dict[str, str]:
    """A tree: eight numbers of each of two CPUs, and the CPU ticks of processes."""
    cpus = "\n".join(f"cpu{number} {' '.join(map(str, ticks))} 0 0" for number in (0, 1))
    tree = {"stat": f"cpu  0 0 0 0 0 0 0 0 0 0\n{cpus}\nintr 1"}
    for pid, used in processes.items():
        numbers = " ".join(["1"] * 10)
        tree[f"{pid}/stat"] = f"{pid} (a (b) c) R {numbers} {used - 1} 1 0 0 20 0 1 0 77 1 1"
        tree[f"{pid}/status"] = "Name:\ta\nCpus_allowed_list:\t0-1\n"
    return tree


def test_made_up(tmp_path: Path) -> None:
    """Busy and stolen shares, and CPUs by process; one that ended, or did not run, is left out."""
    hertz = os.sysconf("SC_CLK_TCK")
    before = plant(tmp_path / "1", files([5] * 8, {7: 100, 8: 5, 9: 5}))
    after = plant(tmp_path / "2", files([55, 15, 25, 65, 15, 5, 15, 45], {7: 100 + hertz, 8: 5, 11: hertz // 2}))
    mask, nowhere = frozenset({0, 1}), tmp_path / "no groups"
    first = cpu_look(mask, proc=before, groups=nowhere, at_s=1.0)
    second = cpu_look(mask, proc=after, groups=nowhere, at_s=3.0)
    assert first is not None
    assert second is not None
    use = second.since(first)
    assert (use.seconds, use.busy, use.stolen) == (2.0, pytest.approx(2 * 90 / 200), pytest.approx(40 / 200))
    assert [(process.pid, process.name, process.cpus) for process in use.processes] == [
        (7, "a (b) c", 0.5),
        (11, "a (b) c", 0.25),
    ]
    assert use.processes[0].allowed == {0, 1}
    assert (use.throttled_times, use.throttled_s) == (0, 0.0)


def test_nothing_is_known_without_a_tree(tmp_path: Path) -> None:
    """Other systems have no /proc."""
    assert cpu_look(frozenset({0}), proc=tmp_path) is None


@linux
def test_a_process_that_runs_all_the_time() -> None:
    """It is found with its number, and with more CPU time than one that sleeps."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as hog:
        try:
            first = cpu_look()
            end = time.monotonic() + 20
            result = []
            while not result and time.monotonic() < end:
                time.sleep(0.1)  # time has to pass: that is what is measured
                second = cpu_look()
                assert first is not None
                assert second is not None
                result = [process for process in second.since(first).processes if process.pid == hog.pid]
        finally:
            hog.kill()
    assert result
    assert result[0].name.startswith("python")
    assert result[0].allowed
