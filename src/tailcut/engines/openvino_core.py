"""OpenVINO's core: one per process, kept until the process ends.

The first model that a core loads also loads the CPU plugin, which allocates an alternate signal stack (sigaltstack) for
the calling thread, and frees it when the core and all its models are released, on whichever thread. If a server then
replaced a model on another thread, the main thread would handle its next signal on freed memory, and the kernel would
kill the process. So the plugin is never unloaded.
"""

import os

import openvino as ov

from tailcut.forks import keep_for_good

_CORES: dict[int, ov.Core] = {}  # by pid: a forked child lacks its parent's threads


def core() -> ov.Core:
    """Return the core of this process."""
    loaded = _CORES.get(os.getpid())
    if loaded is None:  # if two threads race, both get the core that is stored; the other one has loaded nothing
        loaded = _CORES.setdefault(os.getpid(), ov.Core())
        keep_for_good(loaded)
    return loaded
