"""Allocators in place of the C library's: found, loaded by a server that begins anew, and refused in words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.servers import serving

from tailcut.machine.allocator import (
    PACKAGES,
    PRELOADED,
    can_huge_heap,
    find,
    has_huge_heap,
    installed,
    is_asked_for,
    is_loaded,
    with_huge_heap,
    with_preloaded,
)
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.space import changed

KEPT = """
import ctypes, resource, sys
from tailcut.machine.allocator import keep_freed
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = 64 << 20
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        block = libc.malloc(ctypes.c_size_t(size))
        ctypes.memset(block, 1, size)
        libc.free(ctypes.c_void_p(block))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
assert keep_freed()
faults()
print(given_back, faults())
"""


HUGE = """
import ctypes, re
from pathlib import Path
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
ctypes.memset(libc.malloc(ctypes.c_size_t(64 << 20)), 1, 64 << 20)
pages = Path("/proc/self/smaps_rollup").read_text()
print(re.search(r"AnonHugePages:\\s+(\\d+)", pages)[1])
"""


def profile_with(folder: Path, name: str = "m", engine: str = "onnxruntime", **memory: object) -> Path:
    model = perceptron([4, 3], folder / f"{name}.onnx")
    profile = Profile.of_model(model, changed(Settings(), engine={"name": engine}, memory=memory))
    profile.save(folder / f"{name}.profile.toml")
    return folder / f"{name}.profile.toml"


def test_every_allocator_has_a_library_and_a_package() -> None:
    """What is installed is a part of what is known, and each has a package to name."""
    assert set(installed()) <= set(PRELOADED) == set(PACKAGES)


def test_preloading_keeps_what_is_preloaded_already() -> None:
    """The library comes first, and the rest of the environment stays."""
    assert with_preloaded("a.so", {"HOME": "/"}) == {"HOME": "/", "LD_PRELOAD": "a.so"}
    assert with_preloaded("a.so", {"LD_PRELOAD": "b.so"}) == {"LD_PRELOAD": "a.so:b.so"}


@pytest.mark.parametrize("preload", ["a.so", "b.so:a.so", "b.so a.so", "b.so c.so:a.so"])
def test_the_loader_separates_libraries_by_colons_or_spaces(preload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a server would restart again with a library that was preloaded already."""
    monkeypatch.setenv("LD_PRELOAD", preload)
    assert is_asked_for("a.so")
    assert not is_asked_for("so")


@pytest.mark.skipif(not installed(), reason="no other allocator is installed here")
def test_a_server_runs_on_the_allocator_of_its_profile(tmp_path: Path) -> None:
    """The process that was started is the one that serves, with the library mapped; so are its workers."""
    name = installed()[0]
    with serving(tmp_path, profile_with(tmp_path, allocator=name), "--workers", "2") as server:
        pid = server.process.pid
        assert is_loaded(name, Path(f"/proc/{pid}/maps"))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) >= 2
        assert all(is_loaded(name, Path(f"/proc/{child}/maps")) for child in children)


@pytest.mark.skipif(not installed(), reason="no other allocator is installed here")
@pytest.mark.parametrize("beside", [False, True])
def test_openvino_keeps_the_systems_allocator(tmp_path: Path, beside: bool) -> None:
    """It ends a process that runs on another one: its own profile and one beside it are served on the system's."""
    name = installed()[0]
    profiles = [profile_with(tmp_path, engine="openvino", allocator="system" if beside else name)]
    profiles += [profile_with(tmp_path, "other", allocator=name)] if beside else []
    with serving(tmp_path, *profiles) as server:
        assert not is_loaded(name, Path(f"/proc/{server.process.pid}/maps"))
        assert f"openvino does not work with {name}: using the system's allocator" in server.stderr.read_text()


@pytest.mark.skipif(not installed(), reason="no other allocator is installed here")
def test_openvino_on_another_allocator_is_refused(tmp_path: Path) -> None:
    """In one line, where the user preloads it: the process lives."""
    library = find(installed()[0])
    assert library is not None
    command = [sys.executable, "-m", "tailcut", "serve", profile_with(tmp_path, engine="openvino"), "--port", "0"]
    environment = with_preloaded(library, os.environ)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"openvino cannot run on {installed()[0]}: take it out of LD_PRELOAD" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloading is Linux's")
def test_an_allocator_that_is_not_installed(tmp_path: Path) -> None:
    """The server says how to install it, and serves on the system's."""
    missing = next((name for name in PRELOADED if find(name) is None), None)
    if missing is None:
        pytest.skip("all of them are installed here")
    with serving(tmp_path, profile_with(tmp_path, allocator=missing)) as server:
        text = server.stderr.read_text()
    assert f"{missing} is not installed (on Debian, apt install {PACKAGES[missing]})" in text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept() -> None:
    """Blocks of 64 MiB fault in their pages once, not each time."""
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, timeout=60, check=True)
    before, after = map(int, done.stdout.split())
    assert after * 10 < before


def test_memory_settings_are_served(tmp_path: Path) -> None:
    """Locked rows and kept memory: the server starts without a warning, or warns why it cannot apply them."""
    with serving(tmp_path, profile_with(tmp_path, lock=True, keep_freed=True)) as server:
        text = server.stderr.read_text()
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    locked = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmLck:"))
    assert locked > 0 or "memory.lock has no effect" in text


def test_huge_pages_are_asked_for_beside_other_options() -> None:
    """Other tunables of glibc stay, and an earlier setting of huge pages is replaced."""
    assert with_huge_heap({"HOME": "/"}) == {"HOME": "/", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    others = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0:glibc.malloc.check=3"}
    assert with_huge_heap(others) == {"GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.hugetlb=1"}
    assert has_huge_heap(with_huge_heap(others))
    assert not has_huge_heap(others)
    assert not has_huge_heap({})


@pytest.mark.skipif(not can_huge_heap(), reason="this C library or kernel has no huge pages for a heap")
def test_the_heap_has_huge_pages() -> None:
    """Large blocks that are written to lie in them: more of the 64 MiB than without."""
    result = []
    for environment in (dict(os.environ), with_huge_heap(os.environ)):
        command = [sys.executable, "-c", HUGE]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        result.append(int(done.stdout))
    assert result[1] > result[0] + 16 * 1024  # KiB


@pytest.mark.slow
@pytest.mark.skipif(not can_huge_heap(), reason="this C library or kernel has no huge pages for a heap")
def test_a_server_asks_for_huge_pages_under_its_heap(tmp_path: Path) -> None:
    """The process that was started began anew with the option, and serves; so do its workers."""
    with serving(tmp_path, profile_with(tmp_path, huge_heap=True), "--workers", "2") as server:
        pid = server.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) >= 2
        for item in (pid, *children):
            assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in Path(f"/proc/{item}/environ").read_bytes().split(b"\0")
