"""What the host takes away from a running command: memory and disk, with real limits and real processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from tests.servers import completed, json_request, raw_request, serving

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups and tmpfs")
ROOT = Path("/sys/fs/cgroup")


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


@pytest.mark.slow
def test_a_memory_limit_below_the_rows(models: Path, tmp_path: Path) -> None:
    """Under 1 GiB the rows shrink, with a warning, and it serves; two batches that cannot fit are refused by size."""
    with in_memory_group(900):
        with serving(tmp_path, models / "mlp.onnx") as server:
            with server.connect() as wire:
                assert wire.ask(raw_request("mlp", bytes(16))).status == 200
            assert server.stop() == 0
            assert "the memory limit leaves only 225 MiB" in server.stderr.read_text()
        done = completed(tmp_path, "serve", models / "big.onnx", "--port", "0", "--max-batch-size", "1024")
    assert done.returncode == 2
    assert "two batches of 1024 rows of 400000 bytes" in done.stderr


def test_a_report_that_finds_no_room(models: Path, tmp_path: Path) -> None:
    """Exit 2 and one line that names the file; the old report stays whole, and no part of the new one is left."""
    with full_disk(tmp_path / "disk", 16) as disk, serving(tmp_path, models / "mlp.onnx") as server:
        report = disk / "report.html"
        report.write_text("the old one")
        done = completed(tmp_path, "explain", server.url, "--duration", "0.2s", "--report", report)
        assert (done.returncode, [entry.name for entry in disk.iterdir()]) == (2, ["report.html"])
        assert report.read_text() == "the old one"
        assert "report.html" in done.stderr
        assert "No space left" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert server.stop() == 0


@pytest.mark.parametrize("fault", ["shrunk", "deleted"])
def test_a_shared_region_that_goes_away(models: Path, tmp_path: Path, fault: str) -> None:
    """Under a running server: 400 for requests that name it; all others, and a new region, are served as before."""
    x = np.ones((1, 4), np.float32)
    place = Path(f"/dev/shm/tailcut-host-{os.getpid()}-{fault}")
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": region}
    register = json.dumps({"key": f"/{place.name}", "offset": 0, "byte_size": 4096}).encode()
    head = (
        f"POST /v2/systemsharedmemory/region/r/register HTTP/1.1\r\nHost: x\r\nContent-Length: {len(register)}\r\n\r\n"
    )
    try:
        with serving(tmp_path, models / "mlp.onnx", "--shared-memory", "tailcut-") as server, server.connect() as wire:
            expected = wire.ask(raw_request("mlp", x.tobytes())).body[-12:]
            for _ in range(2):  # the second time with a new region in the place of the one that went
                place.write_bytes(x.tobytes().ljust(4096, b"\0"))
                assert wire.ask(head.encode() + register).status == 200
                answer = wire.ask(json_request("mlp", {"inputs": [entry]}))
                assert np.float32(answer.json()["outputs"][0]["data"]).tobytes() == expected
                if fault == "shrunk":
                    os.truncate(place, 0)
                else:
                    place.unlink()
                refused = wire.ask(json_request("mlp", {"inputs": [entry]}))
                assert refused.status == 400
                assert str(place) not in refused.json()["error"]
                assert wire.ask(raw_request("mlp", x.tobytes())).body.endswith(expected)
                unregister = b"POST /v2/systemsharedmemory/region/r/unregister HTTP/1.1\r\nHost: x\r\n\r\n"
                assert wire.ask(unregister).status == 200
            assert server.stop() == 0
    finally:
        place.unlink(missing_ok=True)
