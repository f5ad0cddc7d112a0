"""The core of openvino: one for the process, kept until its end.

The first model that a core loads loads its plugin for the CPU, which gives the calling thread memory for its signals to
be handled on (sigaltstack), and frees that when the core and all its models are gone. On which thread they go does not
matter to it: a server that replaces a model on another thread would have the main thread handle its next signal on
memory that is gone, and the kernel would end it. So the plugin never goes.
"""

import os

import openvino as ov

from tailcut.forks import keep_for_good

_CORES: dict[int, ov.Core] = {}  # by process: a forked child has none of the threads of its parent's


def core() -> ov.Core:
    """The core of this process."""
    loaded = _CORES.get(os.getpid())
    if loaded is None:  # of two threads that come at once, both get the one that was kept; the other has loaded nothing
        loaded = _CORES.setdefault(os.getpid(), ov.Core())
        keep_for_good(loaded)
    return loaded
