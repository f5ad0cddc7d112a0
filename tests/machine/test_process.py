"""What another process costs, on made-up trees and on real children."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.machine.trees import plant

from tailcut.errors import NotFoundError
from tailcut.machine.process import descendants, listening_process, look, peak_bytes, usage

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
CHILD = """
import mmap, subprocess, sys
print("ready", flush=True)
sys.stdin.readline()
memory = mmap.mmap(-1, 500 * 4096)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(500):
    memory[page * 4096] = 1
sum(range(1_000_000))
print("done", flush=True)
sys.stdin.readline()
"""


def process(pid: int, *, faults: tuple[int, int], ticks: tuple[int, int], threads: dict[int, str]) -> dict[str, str]:
    """Files of one process; a thread is `voluntary involuntary cpu_ns waited_ns children...`."""
    stat = f"{pid} (a (b) c) S 1 1 1 0 -1 4194304 {faults[0]} 9 {faults[1]} 8 {ticks[0]} {ticks[1]} 7 6 20 0 1 0 100"
    files = {f"{pid}/stat": stat}
    for tid, text in threads.items():
        voluntary, involuntary, cpu, waited, *children = text.split()
        lines = f"Name:\tx\nvoluntary_ctxt_switches:\t{voluntary}\nnonvoluntary_ctxt_switches:\t{involuntary}"
        files[f"{pid}/task/{tid}/status"] = lines
        files[f"{pid}/task/{tid}/children"] = " ".join(children)
        if cpu != "-":
            files[f"{pid}/task/{tid}/schedstat"] = f"{cpu} {waited} 5"
    return files


def test_made_up(tmp_path: Path) -> None:
    """Threads are summed, a new one counts whole, one that ended is left out, and children belong to it."""
    before = plant(tmp_path / "1", process(7, faults=(10, 1), ticks=(1, 1), threads={7: "5 1 100 10", 8: "9 9 900 90"}))
    threads = {7: "7 2 250 15 20", 9: "1 1 50 5"}
    after = plant(tmp_path / "2", process(7, faults=(110, 3), ticks=(5, 5), threads=threads))
    plant(after, process(20, faults=(4, 0), ticks=(0, 0), threads={20: "2 0 30 3"}))
    cost = look(7, proc=after).since(look(7, proc=before))
    assert cost.values() == {
        "context_switches": (2 + 1) + (1 + 1) + 2,
        "involuntary_switches": 1 + 1,
        "page_faults": 100 + 2 + 4,
        "major_faults": 2,
        "cpu_ns": 150 + 50 + 30,
        "waited_ns": 5 + 5 + 3,
    }
    assert look(7, children=False, proc=after).since(look(7, proc=before)).cpu_ns == 200


def test_without_scheduler_statistics(tmp_path: Path) -> None:
    """Where the kernel keeps none, CPU time comes in ticks and the wait for a core is unknown."""
    before = plant(tmp_path / "1", process(7, faults=(0, 0), ticks=(10, 5), threads={7: "1 1 - -"}))
    after = plant(tmp_path / "2", process(7, faults=(0, 0), ticks=(60, 55), threads={7: "1 1 - -"}))
    cost = look(7, proc=after).since(look(7, proc=before))
    assert cost.cpu_ns == pytest.approx(1_000_000_000)
    assert cost.waited_ns is None


def test_children_of_children(tmp_path: Path) -> None:
    """Descendants are found through every thread, each once."""
    files = process(1, faults=(0, 0), ticks=(0, 0), threads={1: "0 0 0 0 2", 11: "0 0 0 0 3"})
    files |= process(2, faults=(0, 0), ticks=(0, 0), threads={2: "0 0 0 0 4"})
    files |= process(4, faults=(0, 0), ticks=(0, 0), threads={4: "0 0 0 0 1"})
    assert set(descendants(1, plant(tmp_path, files))) == {2, 3, 4, 1}


@pytest.mark.parametrize("files", [{}, {"7/stat": ""}, {"7/stat": "7 (x) S 1"}])
def test_no_such_process(tmp_path: Path, files: dict[str, str]) -> None:
    """A process that is not there, or is just ending, is named."""
    with pytest.raises(NotFoundError, match="no process 7"):
        look(7, proc=plant(tmp_path, files))


@linux
def test_who_listens() -> None:
    """The process behind a port is found, the parent of two that hold one socket; a closed port has none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = [sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.readline()"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[server.fileno()]
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            assert listening_process(port) == os.getpid()
            child.communicate("end\n")
    assert listening_process(port) is None


@linux
def test_a_real_child() -> None:
    """Faults, CPU time and switches of a child between two looks are those it really made."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        before = look(child.pid)
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        cost = look(child.pid).since(before)
        child.stdin.write("end\n")
    assert 500 <= cost.page_faults < 2000
    assert cost.context_switches >= 1
    assert cost.cpu_ns > 1_000_000
    assert cost.context_switches >= cost.involuntary_switches >= 0


def test_the_peak_of_a_process_and_its_children(tmp_path: Path) -> None:
    """Their high-water marks together; None where there is no such process."""
    parent, child = (f"Name:\tx\nVmPeak:\t9 kB\nVmHWM:\t{size} kB\n" for size in (1000, 24))
    plant(tmp_path, {"7/status": parent, "7/task/7/children": "8", "8/status": child, "8/task/8/children": ""})
    assert peak_bytes(7, tmp_path) == 1024 * 1024
    assert peak_bytes(9, tmp_path) is None


@linux
def test_a_real_peak() -> None:
    """Of this process: more than a megabyte."""
    assert (peak_bytes(os.getpid()) or 0) > 1 << 20


@linux
def test_usage_of_this_process() -> None:
    """Time that it has used and memory that it holds; of a process that there is not, nothing."""
    before = usage(os.getpid())
    data = bytearray(os.urandom(1 << 20)) * 64
    end = os.times().user + os.times().system + 0.05
    while os.times().user + os.times().system < end:
        pass
    after = usage(os.getpid())
    assert before is not None
    assert after is not None
    assert after.cpu_ns > before.cpu_ns
    assert after.memory_bytes > before.memory_bytes + len(data) // 2
    assert usage(1 << 22) is None
