"""What the host takes away from a running command: memory and disk, with real limits and real processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.servers import raw_request, serving

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups and tmpfs")
ROOT = Path("/sys/fs/cgroup")


def tailcut(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailcut", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def in_memory_group(mebibytes: int) -> Iterator[None]:
    """This process, and what it starts, in a group with that limit; skips where none can be made."""
    name, me = f"tailcut-memory-{os.getpid()}", str(os.getpid())
    v1 = ROOT / "memory"
    home, limit = (v1, "memory.limit_in_bytes") if v1.is_dir() else (ROOT, "memory.max")
    controller = "memory" if v1.is_dir() else ""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    before = next((path for _, names, path in lines if controller in names.split(",")), "/")
    group = home / name
    try:
        group.mkdir()
        (group / limit).write_text(str(mebibytes << 20))
        (group / "cgroup.procs").write_text(me)
    except OSError:
        with suppress(OSError):
            group.rmdir()
        pytest.skip("no control group with a memory limit can be made here")
    try:
        yield
    finally:
        (home / before.lstrip("/") / "cgroup.procs").write_text(me)
        group.rmdir()


@contextmanager
def full_disk(folder: Path, kibibytes: int) -> Iterator[Path]:
    """A file system with so much room; skips where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_memory_limit_below_the_rows(models: Path, tmp_path: Path) -> None:
    """Under 1 GiB the rows shrink, with a warning, and it serves; two batches that cannot fit are refused by size."""
    with in_memory_group(900):
        with serving(tmp_path, models / "mlp.onnx") as server:
            with server.connect() as wire:
                assert wire.ask(raw_request("mlp", bytes(16))).status == 200
            assert server.stop() == 0
            assert "the memory limit leaves 225 MiB" in server.stderr.read_text()
        done = tailcut("serve", models / "big.onnx", "--port", "0", "--max-batch", "1024")
    assert done.returncode == 2
    assert "two batches of 1024 rows of 400000 bytes" in done.stderr


def test_a_report_that_finds_no_room(models: Path, tmp_path: Path) -> None:
    """Exit 2 and one line that names the file; the old report stays whole, and no part of the new one is left."""
    with full_disk(tmp_path / "disk", 16) as disk, serving(tmp_path, models / "mlp.onnx") as server:
        report = disk / "report.html"
        report.write_text("the old one")
        done = tailcut("explain", server.url, "--duration", "0.2s", "--report", report)
        assert (done.returncode, [entry.name for entry in disk.iterdir()]) == (2, ["report.html"])
        assert report.read_text() == "the old one"
        assert "report.html" in done.stderr
        assert "No space left" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert server.stop() == 0
