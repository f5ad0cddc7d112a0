"""Regions of code on the real machine: faults, switches and CPU time are those of the block and of its thread alone."""

import errno
import json
import mmap
import os
import subprocess
import sys
import threading
from dataclasses import fields

import pytest
from tests.machine.sandbox import PERF_EVENT_OPEN, run_refused

from tailcut import counters
from tailcut.errors import InvalidInputError
from tailcut.machine.counters import CounterValues, counts_missing
from tailcut.machine.perf import paranoid

linux = pytest.mark.skipif(sys.platform != "linux", reason="counters per thread are Linux's")
PAGES = 256
SHOW = """
import json, mmap
from tailcut.machine.counters import counters
with counters() as c:
    memory = mmap.mmap(-1, 256 * mmap.PAGESIZE)
    for start in range(0, len(memory), mmap.PAGESIZE):
        memory[start] = 1
print(json.dumps(c.values() | {"missing": {one.name: [one.reason, one.remedy] for one in c.missing}}))
"""


def touch_pages() -> None:
    """Write to fresh pages, each once."""
    memory = mmap.mmap(-1, PAGES * mmap.PAGESIZE)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    for start in range(0, len(memory), mmap.PAGESIZE):
        memory[start] = 1


@linux
def test_page_faults() -> None:
    """Each fresh page is a fault of the block that touches it."""
    with counters() as c:
        touch_pages()
    assert PAGES <= c.page_faults < PAGES + 200
    assert c.major_faults == 0


@linux
def test_waiting_is_a_switch_and_no_cpu_time() -> None:
    """A thread that waits gives its core away once a wait, of its own will, and uses no CPU time meanwhile."""
    reading, writing = os.pipe()
    opened = threading.Event()

    def answer() -> None:
        opened.wait()
        os.write(writing, b"x")

    other = threading.Thread(target=answer)
    other.start()
    with counters() as c:
        opened.set()
        os.read(reading, 1)
        other.join()
    os.close(reading)
    os.close(writing)
    assert c.context_switches >= 1
    assert c.context_switches >= c.involuntary_switches
    assert c.cpu_ns <= c.wall_ns * 1.05 + 100_000


@linux
def test_another_thread_is_not_counted() -> None:
    """Faults of a thread belong to that thread's regions only."""
    inside = []

    def work() -> None:
        with counters() as own:
            touch_pages()
        inside.append(own.page_faults)

    with counters() as c:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert inside[0] >= PAGES
    assert c.page_faults < PAGES


@linux
def test_regions_nest_and_repeat() -> None:
    """An inner region is part of the outer one; a region that is entered again counts anew."""
    with counters() as outer:
        touch_pages()
        with counters() as inner:
            touch_pages()
    assert inner.page_faults < outer.page_faults
    assert inner.wall_ns < outer.wall_ns
    with outer:
        pass
    assert outer.page_faults < PAGES


@linux
def test_a_failing_block_is_counted() -> None:
    """The counts of a block that raises are there, and its error goes on."""
    region = counters()

    def work() -> None:
        with region:
            touch_pages()
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert region.page_faults >= PAGES


@linux
def test_a_forked_child_counts_itself() -> None:
    """After a fork the child's regions are the child's, not its parent's."""
    with counters():
        pass
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with counters() as c:
            touch_pages()
        os.write(writing, str(c.page_faults).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reading, 100)) >= PAGES
    os.close(reading)
    os.close(writing)


def test_every_value_has_a_reason_or_a_number() -> None:
    """What is None is in `missing`, with a reason and a remedy; what is not, is not; all of it goes through JSON."""
    with counters() as c:
        sum(range(1000))
    values = c.values()
    assert set(values) == {field.name for field in fields(CounterValues)} - {"missing", "user_only"} | {"ipc"}
    assert json.loads(json.dumps(values)) == values
    nothing = {name for name, value in values.items() if value is None} - {"ipc"}
    assert nothing == {item.name for item in c.missing}
    assert all(item.reason and item.remedy for item in c.missing)
    assert {item.name for item in counts_missing()} <= nothing
    assert (values["ipc"] is None) == (c.cycles is None or c.instructions is None)


def test_ipc() -> None:
    """Instructions per cycle need both, and a cycle."""
    assert CounterValues(wall_ns=1, cycles=4, instructions=10).ipc == 2.5
    assert CounterValues(wall_ns=1, cycles=0, instructions=10).ipc is None
    assert CounterValues(wall_ns=1, cycles=4).ipc is None


def test_before_its_end() -> None:
    """A region that has not ended has no counts, and an unknown name is named."""
    region = counters()
    with pytest.raises(InvalidInputError, match="has not ended"):
        _ = region.cycles
    with region, pytest.raises(InvalidInputError, match="has not ended"):
        _ = region.counts
    with pytest.raises(AttributeError, match=r"no count 'cylces', it has .*cycles"):
        _ = region.cylces


def test_left_by_another_thread() -> None:
    """A region that another thread leaves is refused: the two halves count different things."""
    region, errors = counters().__enter__(), []

    def leave() -> None:
        try:
            region.__exit__(None, None, None)
        except InvalidInputError as error:
            errors.append(str(error))

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    assert len(errors) == 1


@linux
@pytest.mark.skipif(PERF_EVENT_OPEN is None, reason="the number of the call is not known here")
@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_where_the_call_is_forbidden(error: int) -> None:
    """Where a seccomp filter refuses the call, faults, switches and CPU time are there; the rest is explained."""
    done = run_refused(error, SHOW)
    assert done.stderr == ""
    counts = json.loads(done.stdout)
    assert counts["page_faults"] >= 1
    assert counts["cpu_ns"] > 0
    assert counts["context_switches"] >= 0
    assert {"migrations", "cycles", "instructions", "cache_misses"} <= set(counts["missing"])
    assert counts["cycles"] is None
    assert all(reason and remedy for reason, remedy in counts["missing"].values())


USER_ONLY = """
import os
from tailcut.machine.perf import SOFTWARE, CounterEvent, CounterGroup
os.setgid(65534)
os.setuid(65534)
events = [CounterEvent("page_faults", SOFTWARE, 2), CounterEvent("context_switches", SOFTWARE, 3, in_kernel=True)]
group = CounterGroup(events)
before = group.decode(group.read())
memory = bytearray(1 << 20)
after = group.decode(group.read())
print(group.user_only, [one.name for one in group.missing], after["page_faults"].since(before["page_faults"]))
"""


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(paranoid() != 2, reason="only at level 2 are users' counts limited to their own code")
def test_the_kernels_share_is_left_out_with_a_note() -> None:
    """Where users may not count inside the kernel, what happens in user code is counted, and `user_only` says so."""
    done = subprocess.run([sys.executable, "-c", USER_ONLY], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    only, missing, faults = done.stdout.split(" ", 2)
    assert (only, missing) == ("True", "['context_switches']")
    assert int(faults) >= 100


@linux
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_without_privileges() -> None:
    """A user whom the kernel lets count nothing inside it still gets faults, switches and CPU time."""
    program = "import json, mmap, os, tailcut.machine.counters\nos.setgid(65534)\nos.setuid(65534)\n" + SHOW
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    counts = json.loads(done.stdout)
    assert counts["page_faults"] >= 1
    assert counts["cpu_ns"] > 0
    if paranoid() >= 2:
        reason, remedy = counts["missing"]["migrations"]
        assert "perf_event_paranoid" in reason
        assert "sysctl" in remedy
