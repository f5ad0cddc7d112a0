"""Binding a thread to CPUs, and its memory to a NUMA node. Linux only: elsewhere a clear error says so."""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tailcut.errors import InvalidInputError, UnsupportedError
from tailcut.machine.quota import affinity_mask

_MPOL_DEFAULT, _MPOL_BIND = 0, 2  # linux/mempolicy.h
_MASK_WORDS = 16  # 1024 nodes, the most that Linux is built for
_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}


def pin_thread(cpus: int | Iterable[int]) -> frozenset[int]:
    """Bind the calling thread to CPUs by number; returns the mask it had before.

    Raises:
        InvalidInputError: no CPU given, or one that this thread may not use.
        UnsupportedError: the operating system has no such call (macOS).
    """
    wanted = frozenset([cpus] if isinstance(cpus, int) else cpus)
    if not hasattr(os, "sched_setaffinity"):
        raise UnsupportedError(f"threads cannot be pinned on {sys.platform}: it has no sched_setaffinity")
    if not wanted:
        raise InvalidInputError("name at least one CPU to pin the thread to")
    before = affinity_mask()
    try:
        os.sched_setaffinity(0, wanted)
    except (OSError, OverflowError, ValueError):
        known = ", ".join(map(str, sorted(before)))
        raise InvalidInputError(f"cannot pin to CPUs {sorted(wanted)}: this thread may use {known}") from None
    return before


@contextmanager
def pinned(cpus: int | Iterable[int]) -> Iterator[None]:
    """Pin the calling thread for the duration of a `with` block."""
    before = pin_thread(cpus)
    try:
        yield
    finally:
        pin_thread(before)


def bind_memory(node: int | None) -> None:
    """Have the calling thread's new pages come from one NUMA node (set_mempolicy(2)); None undoes it.

    Raises:
        InvalidInputError: there is no such node.
        UnsupportedError: the operating system or processor has no such call.
    """
    number = _SET_MEMPOLICY.get(os.uname().machine)
    if not sys.platform.startswith("linux") or number is None:
        raise UnsupportedError(f"memory cannot be bound to a node on {sys.platform} {os.uname().machine}")
    words = (ctypes.c_ulong * _MASK_WORDS)()
    if node is not None:
        if not 0 <= node < _MASK_WORDS * 64:
            raise InvalidInputError(f"cannot bind memory to node {node}: there is no such node")
        words[node // 64] = 1 << node % 64
    bits = 0 if node is None else _MASK_WORDS * 64 + 1  # the kernel reads one bit fewer than `maxnode`
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.syscall(number, _MPOL_DEFAULT if node is None else _MPOL_BIND, words if bits else None, bits)
    if done != 0:
        raise InvalidInputError(f"cannot bind memory to node {node}: {os.strerror(ctypes.get_errno())}")
