"""Process-wide settings of a `tailcut serve`: the allocator, signals, freed memory, a core for the event loop."""

import logging
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailcut.machine.reserve import Reservation
    from tailcut.runtime.settings import Settings
    from tailcut.server.workers.process import WorkerProcess

_log = logging.getLogger("tailcut")


class EarlySignals:
    """Keeps signals that the running server handles from ending it during start-up.

    SIGHUP is remembered: once the server is up, it reloads everything, because files may have changed after they were
    read. For workers, the supervisor handles it.
    """

    def __init__(self, worker: "WorkerProcess | None") -> None:
        self._hung_up = False
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, self._remember if worker is None else signal.SIG_IGN)

    def hung_up(self) -> bool:
        """Whether SIGHUP was received."""
        return self._hung_up

    def _remember(self, *_: object) -> None:
        self._hung_up = True


def load_allocator(settings: "Sequence[Settings]") -> None:
    """Restart the process with the allocator that a profile names, if it is installed and not loaded yet.

    Worker processes inherit it from the supervisor. With openvino, only the system's allocator works.
    """
    from tailcut.machine.allocator import PACKAGES, find, is_asked_for, is_loaded, restart, with_preloaded

    _ask_for_huge_heap(settings)
    wanted = {model_settings.memory.allocator for model_settings in settings} - {"system"}
    if wanted and any(model_settings.engine.name == "openvino" for model_settings in settings):
        _log.warning("openvino does not work with %s: using the system's allocator", " or ".join(sorted(wanted)))
        return
    for name in sorted(wanted)[:1]:
        library = find(name)
        if library is None:
            hint = f"on Debian, apt install {PACKAGES[name]}"
            _log.warning("%s is not installed (%s): using the system's allocator", name, hint)
        elif not is_loaded(name) and not is_asked_for(library):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # exec keeps ignored signals, but no handlers
            restart(with_preloaded(library, os.environ))
        elif not is_loaded(name):
            _log.warning("the dynamic loader could not load %s: using the system's allocator", library)
    if len(wanted) > 1:
        _log.warning(
            "the profiles name several allocators (%s), but a process has only one: using the first",
            ", ".join(sorted(wanted)),
        )


def _ask_for_huge_heap(settings: "Sequence[Settings]") -> None:
    """Restart the process with huge pages for the C library's heap, if a profile asks for them."""
    from tailcut.machine.allocator import can_huge_heap, has_huge_heap, restart, with_huge_heap

    if not any(model_settings.memory.huge_heap for model_settings in settings) or has_huge_heap(os.environ):
        return
    if can_huge_heap():
        restart(with_huge_heap(os.environ))
    else:
        _log.warning("memory.huge_heap has no effect: it needs glibc 2.35 and transparent huge pages")


def reserve_core(settings: "Sequence[Settings]") -> "Reservation | None":
    """Keep this thread, and all that it starts from now on, off the core that is reserved for the event loop."""
    from tailcut.machine.affinity import pin_thread
    from tailcut.machine.quota import affinity_mask, usable_cpus
    from tailcut.machine.reserve import reserve
    from tailcut.machine.topology import topology

    if not any(item.io.own_core for item in settings):
        return None
    reservation = reserve(topology(), affinity_mask(), usable_cpus())
    if reservation is None:
        _log.warning("io.own_core has no effect: this process may use only one core, or has a CPU quota")
    else:
        pin_thread(reservation.others)
    return reservation


def take_core(reservation: "Reservation | None") -> None:
    """Pin this thread, which runs the event loop, to the reserved core."""
    from tailcut.machine.affinity import pin_thread

    if reservation is not None:
        pin_thread(reservation.loop)


def apply_settings(settings: "Sequence[Settings]", uds: str | None, shared_memory: str | None) -> None:
    """Apply process-wide settings, and warn about those that need a command-line option."""
    from tailcut.machine.allocator import keep_freed

    if any(item.memory.keep_freed for item in settings) and not keep_freed():
        _log.warning("memory.keep_freed has no effect: this C library has no option for it")
    if uds is None and any(item.io.socket == "unix" for item in settings):
        _log.warning("the profile was measured over a Unix socket: add --uds PATH and connect clients to it")
    if shared_memory is None and any(item.io.wire == "shared" for item in settings):
        _log.warning("the profile was measured with tensors in shared memory: add --shared-memory PREFIX")
