"""The allocator of the whole process: one preloaded (LD_PRELOAD), or the C library's own, set to keep freed memory.

This matters for blocks of many megabytes: glibc returns them to the kernel when they are freed, and the next request
faults every page in again (25 to 60 ms for 40 MiB on two virtual cores, 0.7 ms if they are kept).
"""

import ctypes
import ctypes.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Allocator = Literal["system", "jemalloc", "mimalloc", "tcmalloc"]
PRELOADED: dict[Allocator, str] = {"jemalloc": "jemalloc", "mimalloc": "mimalloc", "tcmalloc": "tcmalloc_minimal"}
PACKAGES: dict[Allocator, str] = {
    "jemalloc": "libjemalloc2",
    "mimalloc": "libmimalloc2.0",
    "tcmalloc": "libtcmalloc-minimal4",
}  # Debian's
_TUNABLES, _HUGE_HEAP, _HUGE_SINCE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb", (2, 35)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


def find(allocator: Allocator) -> str | None:
    """The library of an allocator, under the name the dynamic loader knows; None if it is not installed."""
    return ctypes.util.find_library(PRELOADED[allocator]) if sys.platform.startswith("linux") else None


def installed() -> list[Allocator]:
    """The allocators that can be preloaded here."""
    return [name for name in PRELOADED if find(name) is not None]


def is_loaded(allocator: Allocator, maps: Path = Path("/proc/self/maps")) -> bool:
    """Whether this process has the allocator mapped."""
    try:
        return f"lib{PRELOADED[allocator]}" in maps.read_text(errors="replace")
    except OSError:
        return False


def loaded() -> Allocator | None:
    """The allocator that this process uses in place of the C library's; None if it uses that one."""
    return next((name for name in PRELOADED if is_loaded(name)), None)


def is_asked_for(library: str) -> bool:
    """Whether LD_PRELOAD names this library; its entries are separated by colons or spaces (ld.so(8))."""
    return library in os.environ.get("LD_PRELOAD", "").replace(":", " ").split(" ")


def with_preloaded(library: str, environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of the environment with the library added to LD_PRELOAD."""
    others = environment.get("LD_PRELOAD", "")
    return {**environment, "LD_PRELOAD": f"{library}:{others}" if others else library}


def restart(environment: Mapping[str, str]) -> None:
    """Replace this process by a new run of its command line in another environment (execve); its pid stays the same.

    Raises:
        OSError: the interpreter cannot be started.
    """
    os.execve(sys.executable, sys.orig_argv, dict(environment))  # noqa: S606  ourselves


def with_huge_heap(environment: Mapping[str, str]) -> dict[str, str]:
    """A copy of the environment in which glibc's malloc asks for transparent huge pages."""
    others = [
        tunable
        for tunable in environment.get(_TUNABLES, "").split(":")
        if tunable and not tunable.startswith(f"{_HUGE_HEAP}=")
    ]
    return {**environment, _TUNABLES: ":".join([*others, f"{_HUGE_HEAP}=1"])}


def has_huge_heap(environment: Mapping[str, str]) -> bool:
    """Whether the environment sets that option."""
    return f"{_HUGE_HEAP}=1" in environment.get(_TUNABLES, "").split(":")


def can_huge_heap() -> bool:
    """Whether the C library has that option and the kernel gives huge pages to those that ask for them."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):  # another C library
        return False
    return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= _HUGE_SINCE and _huge_pages()


def _huge_pages(setting: Path = Path("/sys/kernel/mm/transparent_hugepage/enabled")) -> bool:
    try:
        return "[never]" not in setting.read_text()
    except OSError:
        return False


def keep_freed() -> bool:
    """Have glibc keep freed memory instead of returning it to the kernel (mallopt(3)); returns whether it will."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _NEVER)) and bool(mallopt(_M_MMAP_MAX, 0))
