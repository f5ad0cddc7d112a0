"""Regions that clients made: what may be registered, and what happens when they go away."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailcut.errors import InvalidInputError, NotFoundError
from tailcut.memory.shared import Place, SharedRegions


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
    assert bytes(regions.read(Place("a", 5, 3))) == bytes([15, 16, 17])
    regions.write(Place("a", 0, 4), b"\xff\xff")
    assert (tmp_path / "mine_a").read_bytes()[9:13] == bytes([9, 255, 255, 12])


@pytest.mark.parametrize("place", [Place("a", 0, 91), Place("a", 90, 1), Place("a", -1, 1), Place("b", 0, 1)])
def test_places_outside_are_refused(regions: SharedRegions, place: Place) -> None:
    """Past the end, before the start, or of a region that nobody registered."""
    with pytest.raises(InvalidInputError, match="region"):
        regions.read(place)
    with pytest.raises(InvalidInputError, match="region"):
        regions.write(place, b"x")


def test_data_larger_than_their_place_are_refused(regions: SharedRegions) -> None:
    """Nothing is written over what comes behind."""
    with pytest.raises(InvalidInputError, match="has 3 bytes, its place 2"):
        regions.write(Place("a", 0, 2), b"abc")


def test_a_region_that_shrinks_is_found_at_its_next_use(regions: SharedRegions, tmp_path: Path) -> None:
    """An error, and no signal; and a write does not grow it again."""
    os.truncate(tmp_path / "mine_a", 50)
    assert len(regions.read(Place("a", 0, 40))) == 40
    with pytest.raises(InvalidInputError, match="smaller"):
        regions.read(Place("a", 0, 41))
    with pytest.raises(InvalidInputError, match="smaller"):
        regions.write(Place("a", 30, 20), b"x" * 20)
    assert (tmp_path / "mine_a").stat().st_size == 50


def test_a_region_that_is_deleted_is_found_at_its_next_use(regions: SharedRegions, tmp_path: Path) -> None:
    """Its memory would live on with us; nobody else could see what is written there."""
    (tmp_path / "mine_a").unlink()
    with pytest.raises(InvalidInputError, match="deleted"):
        regions.read(Place("a", 0, 1))


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
    assert [one.name for one in regions.status()] == ["a"]
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
        off.read(Place("a", 0, 1))


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
