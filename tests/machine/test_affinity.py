"""Pinning on the real machine: it takes effect, ends, and stays with its thread."""

import os
import sys
import threading

import pytest

from tailcut.errors import InvalidInputError, UnsupportedError
from tailcut.machine.affinity import bind_memory, pin_thread, pinned
from tailcut.machine.quota import affinity_mask

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no thread affinity")


@pytest.fixture(autouse=True)
def _unpin():
    before = affinity_mask()
    yield
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, before)


@linux
def test_pins_and_tells_what_was() -> None:
    """The mask becomes what was asked for; the one before it comes back."""
    allowed = affinity_mask()
    last = max(allowed)
    assert pin_thread(last) == allowed
    assert affinity_mask() == {last}
    assert pin_thread(allowed) == {last}
    assert affinity_mask() == allowed


@linux
def test_pinned_ends_with_its_block() -> None:
    """The mask comes back also after an error."""
    allowed, inside = affinity_mask(), set()

    def work() -> None:
        with pinned([min(allowed)]):
            inside.update(affinity_mask())
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert inside == {min(allowed)}
    assert affinity_mask() == allowed


@linux
def test_other_threads_stay_as_they_are() -> None:
    """Only the calling thread is bound."""
    allowed, seen = affinity_mask(), []

    def work() -> None:
        pin_thread(min(allowed))
        seen.append(affinity_mask())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{min(allowed)}]
    assert affinity_mask() == allowed


@linux
@pytest.mark.parametrize("cpus", [10_000, [-1], 1 << 70])
def test_unknown_cpu(cpus: int | list[int]) -> None:
    """A CPU that is not there is refused with those that are."""
    with pytest.raises(InvalidInputError, match="this thread may use"):
        pin_thread(cpus)


@linux
def test_no_cpu() -> None:
    """An empty set is refused."""
    with pytest.raises(InvalidInputError, match="at least one CPU"):
        pin_thread([])


def test_without_the_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads cannot be pinned (macOS), one clear line says so."""
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(UnsupportedError, match=f"cannot be pinned on {sys.platform}"):
        pin_thread(0)


@linux
def test_memory_node() -> None:
    """Memory binds to node 0 and back, or the machine says in one line why it cannot."""
    try:
        bind_memory(0)
    except (UnsupportedError, InvalidInputError) as error:
        pytest.skip(str(error))
    bind_memory(None)


@linux
@pytest.mark.parametrize("node", [63, 64, 1000, 5000, -1])
def test_unknown_memory_node(node: int) -> None:
    """A node that is not there is refused by number; a number beyond the mask does not bind some other node."""
    with pytest.raises((UnsupportedError, InvalidInputError), match=f"node {node}|cannot be bound"):
        bind_memory(node)


def test_memory_on_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux, one clear line says so."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match="memory cannot be bound to a node on darwin"):
        bind_memory(0)
