"""Regions of our own: what is in /dev/shm while they live, and after."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.forked import fork, succeeded

from tailcut.errors import CapacityError, InvalidInputError, UnsupportedError
from tailcut.memory.region import OwnRegion, check_prefix, sweep
from tailcut.memory.shared import RegionSlice, SharedRegions

KILLED = """
import sys
from pathlib import Path
from tailcut.memory.region import OwnRegion
region = OwnRegion("mine-", 4096, folder=Path(sys.argv[1]))
print(region.name, flush=True)
sys.stdin.read()
"""


def test_what_is_written_here_is_read_there(tmp_path: Path) -> None:
    """A server that registers the key reads our bytes, and we read its own."""
    region, server = OwnRegion("/mine-", 5000, folder=tmp_path), SharedRegions("mine-", tmp_path)
    server.register("io", region.key, 0, region.size)
    region.view[100:104] = b"here"
    assert bytes(server.read(RegionSlice("io", 100, 4))) == b"here"
    server.write(RegionSlice("io", 4000, 5), b"there")
    assert bytes(region.view[4000:4005]) == b"there"
    server.unregister()
    region.close()


def test_only_its_owner_may_open_it(tmp_path: Path) -> None:
    """Tensors are nobody else's business."""
    region = OwnRegion("mine-", 1, folder=tmp_path)
    assert (tmp_path / region.name).stat().st_mode & 0o777 == 0o600
    region.close()


def test_closed_or_forgotten_it_is_gone(tmp_path: Path) -> None:
    """By `close`, twice if you like, and with the last reference; even while a view of a part of it is open."""
    region = OwnRegion("mine-", 64, folder=tmp_path)
    part = region.view[:8]
    region.close()
    region.close()
    assert list(tmp_path.iterdir()) == []
    assert bytes(part) == bytes(8)
    region = OwnRegion("mine-", 64, folder=tmp_path)
    del region
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_an_error_when_it_is_made(tmp_path: Path) -> None:
    """Not a signal at the first write; and nothing is left."""
    with pytest.raises(CapacityError, match="no room for another"):
        OwnRegion("mine-", 1 << 62, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_there_is_no_shared_memory(tmp_path: Path) -> None:
    """As on macOS."""
    with pytest.raises(UnsupportedError, match="no shared memory can be made"):
        OwnRegion("mine-", 64, folder=tmp_path / "none")


@pytest.mark.parametrize("prefix", ["a/b", "//a", "a\0", "x" * 129])
def test_prefixes_that_cannot_be(prefix: str) -> None:
    """They name a folder, hold what nobody sees, or are too long."""
    with pytest.raises(InvalidInputError, match="prefix"):
        check_prefix(prefix)


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    """Its lock went with it. What lives, or is not of our making, stays."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        name = child.stdout.readline().strip()
        sweep("mine-", tmp_path)
        assert (tmp_path / name).exists()
        child.send_signal(signal.SIGKILL)
    assert (tmp_path / name).exists()
    (tmp_path / "mine-data").touch()
    mine, other = OwnRegion("mine-", 64, folder=tmp_path), OwnRegion("mine", 64, folder=tmp_path)
    sweep("mine-", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine-data", mine.name, other.name}
    mine.close()
    other.close()


def test_a_forked_child_leaves_it_to_its_parent(tmp_path: Path) -> None:
    """The child's copy of the object ends, the region does not."""
    region = OwnRegion("mine-", 64, folder=tmp_path)
    child = os.fork()
    if not child:
        region.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / region.name).exists()
    region.close()


def test_a_forked_child_does_not_keep_it_from_being_swept(tmp_path: Path) -> None:
    """Its maker's lock ends with its maker, although the maker's child lives on."""
    region = OwnRegion("mine-", 64, folder=tmp_path)
    ours, childs = socket.socketpair()

    def live_on() -> None:
        ours.close()
        childs.send(b"here")
        childs.recv(1)

    child = fork(live_on)
    childs.close()
    assert ours.recv(4) == b"here"
    region.forked()  # as when the maker is killed, and its descriptors are closed
    sweep("mine-", tmp_path)
    assert not (tmp_path / region.name).exists()
    ours.close()
    assert succeeded(child)
