"""perf_event_open: readings are scaled where events took turns, and what cannot be had is explained."""

import errno
import sys
from pathlib import Path

import pytest
from tests.machine.trees import plant

from tailcut.machine import perf
from tailcut.machine.perf import (
    CACHE,
    HARDWARE,
    SOFTWARE,
    CounterEvent,
    CounterGroup,
    CounterReading,
    why_forbidden,
    why_missing,
)

FAULTS = CounterEvent("page_faults", SOFTWARE, 2)
CLOCK = CounterEvent("cpu_ns", SOFTWARE, 1)
CYCLES = CounterEvent("cycles", HARDWARE, 0)
SWITCHES = CounterEvent("context_switches", SOFTWARE, 3, in_kernel=True)


@pytest.mark.parametrize(
    ("earlier", "later", "counted"),
    [
        (CounterReading(10, 100, 100), CounterReading(30, 200, 200), 20),
        (CounterReading(10, 100, 100), CounterReading(30, 200, 150), 40),
        (CounterReading(0, 0, 0), CounterReading(1000, 4000, 1000), 4000),
        (CounterReading(10, 100, 50), CounterReading(10, 200, 50), None),
        (CounterReading(7, 100, 100), CounterReading(7, 100, 100), 0),
    ],
)
def test_turns(earlier: CounterReading, later: CounterReading, counted: int | None) -> None:
    """A count is scaled by the share of the time in which its event ran; without any turn it is unknown, not 0."""
    assert later.since(earlier) == counted


def test_a_group_is_read_at_once() -> None:
    """The events of a group come in one read, by their names, and only grow."""
    group = CounterGroup([CLOCK, FAULTS])
    if group.missing:
        pytest.skip(group.missing[0].reason)
    before = group.decode(group.read())
    pages = bytearray(64 * 4096)
    after = group.decode(group.read())
    assert list(after) == ["cpu_ns", "page_faults"]
    assert after["cpu_ns"].since(before["cpu_ns"]) > 0
    assert after["page_faults"].value >= before["page_faults"].value
    assert len(pages) == 64 * 4096
    group.close()
    assert group.read() == b""
    group.close()


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed in /proc")
def test_files_are_given_back() -> None:
    """A group's file descriptors are closed with it."""
    files = Path("/proc/self/fd")
    before = len(list(files.iterdir()))
    group = CounterGroup([CLOCK, FAULTS])
    del group
    assert len(list(files.iterdir())) == before


def test_an_event_that_no_kernel_has() -> None:
    """An event that cannot be opened is missing by name, and the others of its group are still counted."""
    group = CounterGroup([CLOCK, CounterEvent("nonsense", SOFTWARE, 9999)])
    assert [item.name for item in group.missing][-1] == "nonsense"
    assert all(item.reason and item.remedy for item in group.missing)


@pytest.mark.skipif(sys.platform != "linux", reason="the reasons are those of Linux")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.ENOSYS, "there is no perf_event_open"),
        (errno.EMFILE, "file descriptor"),
        (errno.EACCES, "perf_event_paranoid|seccomp"),
        (errno.EPERM, "perf_event_paranoid|seccomp"),
    ],
)
def test_reasons(error: int, words: str) -> None:
    """Each error of the call has its own message, with the remedy."""
    missing = why_missing(SWITCHES, error)
    assert missing.name == "context_switches"
    assert any(word in missing.reason for word in words.split("|"))
    assert missing.remedy


@pytest.mark.parametrize(("kind", "error"), [(HARDWARE, errno.ENOENT), (CACHE, errno.EOPNOTSUPP)])
def test_no_hardware_counters(monkeypatch: pytest.MonkeyPatch, kind: int, error: int) -> None:
    """A machine without a PMU is distinguished from a processor that lacks one event."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(perf, "has_hardware_counters", lambda: False)
    assert "no hardware counters" in why_missing(CounterEvent("x", kind, 0), error).reason
    monkeypatch.setattr(perf, "has_hardware_counters", lambda: True)
    assert "this processor does not count it" in why_missing(CounterEvent("x", kind, 0), error).reason


def test_hardware_by_its_devices(tmp_path: Path) -> None:
    """Counters of processors are registered as cpu, cpu_core or armv8_...; software and msr are none."""
    devices = plant(tmp_path, {"software/type": "1", "msr/type": "8"})
    assert not perf.has_hardware_counters(devices)
    assert not perf.has_hardware_counters(tmp_path / "nowhere")
    assert perf.has_hardware_counters(plant(tmp_path, {"cpu_core/type": "4"}))
    assert perf.has_hardware_counters(plant(tmp_path / "arm", {"armv8_pmuv3_0/type": "8"}))


@pytest.mark.parametrize(
    ("event", "level", "words"),
    [
        (CYCLES, 3, "unprivileged users may not use counters"),
        (SWITCHES, 2, "inside the kernel"),
        (CYCLES, 2, "seccomp"),
        (SWITCHES, 1, "seccomp"),
        (CYCLES, -1, "seccomp"),
    ],
)
def test_paranoid(event: CounterEvent, level: int, words: str) -> None:
    """The level explains a refusal where it can; where the level would allow it, a sandbox must be the cause."""
    reason, remedy = why_forbidden(event, level)
    assert words in reason
    assert ("sysctl" in remedy) == ("paranoid" in reason)


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux, every event is missing, with one reason."""
    monkeypatch.setattr(sys, "platform", "darwin")
    group = CounterGroup([CLOCK, CYCLES])
    assert {item.reason for item in group.missing} == {"darwin has no perf_event_open"}
    assert group.decode(group.read()) == {}
