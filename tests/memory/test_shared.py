"""Regions that clients made: what may be registered, and what happens when they go away."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailcut.errors import InvalidInputError, NotFoundError, UnsupportedError
from tailcut.memory.shared import RegionSlice, SharedRegions


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[SharedRegions]:
    """Regions in a folder of their own, with one of 100 bytes, 0 to 99, registered from byte 10 on."""
    (tmp_path / "mine_a").write_bytes(bytes(range(100)))
    regions = SharedRegions("mine", tmp_path)
    regions.register("a", "/mine_a", 10, 90)
    yield regions
    regions.unregister()


def test_bytes_come_and_go_at_their_offsets(regions: SharedRegions, tmp_path: Path) -> None:
    """Offsets add up, and nothing beside the place is touched."""
    assert bytes(regions.read(RegionSlice("a", 5, 3))) == bytes([15, 16, 17])
    regions.write(RegionSlice("a", 0, 4), b"\xff\xff")
    assert (tmp_path / "mine_a").read_bytes()[9:13] == bytes([9, 255, 255, 12])


@pytest.mark.parametrize(
    "place", [RegionSlice("a", 0, 91), RegionSlice("a", 90, 1), RegionSlice("a", -1, 1), RegionSlice("b", 0, 1)]
)
def test_places_outside_are_refused(regions: SharedRegions, place: RegionSlice) -> None:
    """Past the end, before the start, or of a region that nobody registered."""
    with pytest.raises(InvalidInputError, match="region"):
        regions.read(place)
    with pytest.raises(InvalidInputError, match="region"):
        regions.write(place, b"x")


def test_data_larger_than_their_place_are_refused(regions: SharedRegions) -> None:
    """Nothing is written over what comes behind."""
    with pytest.raises(InvalidInputError, match="has 3 bytes, but its slice only 2"):
        regions.write(RegionSlice("a", 0, 2), b"abc")


def test_a_region_that_shrinks_is_found_at_its_next_use(regions: SharedRegions, tmp_path: Path) -> None:
    """An error, and no signal; and a write does not grow it again."""
    os.truncate(tmp_path / "mine_a", 50)
    assert len(regions.read(RegionSlice("a", 0, 40))) == 40
    with pytest.raises(InvalidInputError, match="smaller"):
        regions.read(RegionSlice("a", 0, 41))
    with pytest.raises(InvalidInputError, match="smaller"):
        regions.write(RegionSlice("a", 30, 20), b"x" * 20)
    assert (tmp_path / "mine_a").stat().st_size == 50


def test_a_region_that_is_deleted_is_found_at_its_next_use(regions: SharedRegions, tmp_path: Path) -> None:
    """Its memory would live on with us; nobody else could see what is written there."""
    (tmp_path / "mine_a").unlink()
    with pytest.raises(InvalidInputError, match="deleted"):
        regions.read(RegionSlice("a", 0, 1))


@pytest.mark.parametrize("key", ["other", "/", "mine/../secret", "../mine", "mine_missing", "mine\0", "mine_link", ""])
def test_keys_that_are_not_admitted(regions: SharedRegions, tmp_path: Path, key: str) -> None:
    """Another prefix, a folder, a link, or nothing there: one answer that shows no path."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "mine_link").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidInputError) as caught:
        regions.register("b", key, 0, 1)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (-1, 5), (0, 101), (100, 1), (0, 1 << 63)])
def test_sizes_that_are_not_there(regions: SharedRegions, offset: int, size: int) -> None:
    """A region lies inside its memory from the start."""
    with pytest.raises(InvalidInputError):
        regions.register("b", "mine_a", offset, size)


def test_names_are_taken_once_and_freed_often(regions: SharedRegions) -> None:
    """A second registration is refused; unregistering twice is not."""
    with pytest.raises(InvalidInputError, match="unregister it first"):
        regions.register("a", "mine_a", 0, 1)
    assert [item.name for item in regions.status()] == ["a"]
    regions.unregister("a")
    regions.unregister("a")
    assert regions.status() == []
    with pytest.raises(NotFoundError):
        regions.status("a")


def test_without_a_prefix_shared_memory_is_off(tmp_path: Path) -> None:
    """Neither registered nor read, and the message names the flag."""
    off = SharedRegions(None, tmp_path)
    with pytest.raises(InvalidInputError, match="--shared-memory"):
        off.register("a", "mine", 0, 1)
    with pytest.raises(InvalidInputError, match="--shared-memory"):
        off.read(RegionSlice("a", 0, 1))


def test_files_are_given_back(tmp_path: Path) -> None:
    """Registering and unregistering leaves no file open, refused registrations neither."""
    (tmp_path / "mine").write_bytes(b"x")
    regions = SharedRegions("mine", tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        regions.register("a", "mine", 0, 1)
        regions.unregister()
        with pytest.raises(InvalidInputError):
            regions.register("a", "mine", 0, 2)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_region_that_is_deleted_is_forgotten_with_the_next_one(regions: SharedRegions, tmp_path: Path) -> None:
    """Clients that are killed say no farewell: what they left neither holds memory nor counts against the limit."""
    (tmp_path / "mine_a").unlink()
    (tmp_path / "mine_b").write_bytes(bytes(8))
    regions.register("b", "mine_b", 0, 8)
    assert [region.name for region in regions.status()] == ["b"]


class HostMemory:
    """An allocation in the place of a device's: its handle is its content, and it may be lost."""

    def __init__(self, content: bytes) -> None:
        self.data, self.size, self.closed, self.lost = bytearray(content), len(content), 0, False

    def read(self, offset: int, buffer: memoryview) -> None:
        self._look()
        buffer[:] = self.data[offset : offset + len(buffer)]

    def write(self, offset: int, data: memoryview) -> None:
        self._look()
        self.data[offset : offset + len(data)] = data

    def close(self) -> None:
        self.closed += 1

    def _look(self) -> None:
        if self.lost or self.closed:
            raise OSError("CUDA_ERROR_ILLEGAL_ADDRESS")


class Devices:
    """Two devices, and everything that was opened on them."""

    def __init__(self) -> None:
        self.opened: list[HostMemory] = []

    def open(self, handle: bytes, index: int) -> HostMemory:
        if index not in {0, 1}:
            raise UnsupportedError(f"there is no CUDA device {index}")
        if not handle:
            raise OSError("CUDA_ERROR_INVALID_HANDLE")
        self.opened.append(HostMemory(handle))
        return self.opened[-1]


@pytest.fixture
def devices() -> Devices:
    return Devices()


@pytest.fixture
def cuda(tmp_path: Path, devices: Devices) -> SharedRegions:
    """Regions with one of 8 of 10 bytes on device 1, `d`, and one of a file, `f`."""
    (tmp_path / "mine").write_bytes(bytes(4))
    regions = SharedRegions("mine", tmp_path, devices.open)
    regions.register_cuda("d", bytes(range(10)), 1, 8)
    regions.register("f", "mine", 0, 4)
    return regions


def test_bytes_of_a_device_come_and_go(cuda: SharedRegions, devices: Devices) -> None:
    """As those of a file: a copy in, and nothing beside the place is touched."""
    result = cuda.read(RegionSlice("d", 5, 3))
    cuda.write(RegionSlice("d", 4, 4), b"\xff\xff")
    assert bytes(result) == bytes([5, 6, 7])
    assert bytes(devices.opened[0].data) == bytes([0, 1, 2, 3, 255, 255, 6, 7, 8, 9])


@pytest.mark.parametrize("place", [RegionSlice("d", 0, 9), RegionSlice("d", 8, 1), RegionSlice("d", -1, 1)])
def test_places_past_a_region_of_a_device_are_refused(cuda: SharedRegions, place: RegionSlice) -> None:
    """By what was registered, not by what the allocation has."""
    with pytest.raises(InvalidInputError, match="has 8 bytes"):
        cuda.read(place)
    with pytest.raises(InvalidInputError, match="has 8 bytes"):
        cuda.write(place, b"x")


@pytest.mark.parametrize(
    ("name", "handle", "device", "size", "words"),
    [
        ("d", b"x", 0, 1, "unregister it first"),
        ("f", b"x", 0, 1, "unregister it first"),
        ("", b"x", 0, 1, "unregister it first"),
        ("n", b"x", 2, 1, "CUDA shared memory is not available on this server: there is no CUDA device 2"),
        ("n", b"", 0, 1, "no memory of another process has this handle on device 0: CUDA_ERROR_INVALID_HANDLE"),
        ("n", b"x", 0, 2, "its memory has 1 bytes, not 2"),
        ("n", b"x", 0, 0, "1 or more"),
        ("n", b"x", 0, -1, "1 or more"),
    ],
)
def test_what_cannot_be_registered_on_a_device(  # noqa: PLR0917  a row of the table
    cuda: SharedRegions, devices: Devices, name: str, handle: bytes, device: int, size: int, words: str
) -> None:
    """A name that either kind has, no such device or memory, or a size that it does not have; nothing stays open."""
    with pytest.raises(InvalidInputError, match=words):
        cuda.register_cuda(name, handle, device, size)
    assert [item.closed for item in devices.opened[1:]] == [1] * len(devices.opened[1:])
    assert [item.name for item in cuda.status_cuda()] == ["d"]


def test_a_name_of_a_device_is_taken_for_files_too(cuda: SharedRegions) -> None:
    """A request names a region, and not its kind."""
    with pytest.raises(InvalidInputError, match="unregister it first"):
        cuda.register("d", "mine", 0, 1)


def test_each_kind_has_its_own_status(cuda: SharedRegions, devices: Devices) -> None:
    """And forgets its own regions only."""
    assert ([item.name for item in cuda.status()], [item.device for item in cuda.status_cuda("d")]) == (["f"], [1])
    with pytest.raises(NotFoundError):
        cuda.status("d")
    with pytest.raises(NotFoundError):
        cuda.status_cuda("f")
    cuda.unregister()
    assert ([item.name for item in cuda.status_cuda()], devices.opened[0].closed) == (["d"], 0)
    cuda.unregister_cuda("f")
    cuda.unregister_cuda("d")
    cuda.unregister_cuda("d")
    assert (cuda.status_cuda(), devices.opened[0].closed) == ([], 1)


def test_a_region_that_is_unregistered_in_use_fails_its_own_request(cuda: SharedRegions) -> None:
    """What was read is a copy; the answer has no place any more."""
    result = cuda.read(RegionSlice("d", 0, 2))
    cuda.close()
    assert bytes(result) == bytes([0, 1])
    with pytest.raises(InvalidInputError, match="no region 'd' is registered"):
        cuda.write(RegionSlice("d", 2, 2), b"xx")


def test_a_device_that_refuses_a_copy_fails_its_request(cuda: SharedRegions, devices: Devices) -> None:
    """In one line that names the region."""
    devices.opened[0].lost = True
    with pytest.raises(InvalidInputError, match=r"region 'd' cannot be read from its device: CUDA_ERROR"):
        cuda.read(RegionSlice("d", 0, 1))
    with pytest.raises(InvalidInputError, match=r"region 'd' cannot be written on its device: CUDA_ERROR"):
        cuda.write(RegionSlice("d", 0, 1), b"x")


def test_memory_of_devices_needs_a_prefix_and_a_driver(tmp_path: Path, devices: Devices) -> None:
    """Off is off for both kinds; without a driver, one line says so."""
    with pytest.raises(InvalidInputError, match="--shared-memory"):
        SharedRegions(None, tmp_path, devices.open).register_cuda("d", b"x", 0, 1)
    with pytest.raises(InvalidInputError, match="CUDA shared memory is not available on this server"):
        SharedRegions("mine", tmp_path).register_cuda("d", b"x", 0, 1)
    assert devices.opened == []
