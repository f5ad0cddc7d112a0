"""The calls of the CUDA driver, made to a library that has the same functions over files."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.machine import cuda_stand_in

from tailcut.errors import UnsupportedError
from tailcut.machine.cuda_driver import CudaCallError, Driver


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(str(cuda_stand_in.library(tmp_path_factory.mktemp("driver"))))


@pytest.fixture
def file() -> Iterator[Path]:
    """A hundred bytes, 0 to 99, with a name that is short enough for a handle."""
    with tempfile.NamedTemporaryFile(prefix="cuda-") as file:
        file.write(bytes(range(100)))
        file.flush()
        yield Path(file.name)


def test_a_missing_driver_is_reported() -> None:
    """In words, and not as the loader says it."""
    with pytest.raises(UnsupportedError, match="no CUDA driver is installed on this machine"):
        Driver("libcuda-that-is-not-there.so")


def test_a_driver_that_lacks_a_call_is_an_error(driver: Driver) -> None:
    """It names the call."""
    with pytest.raises(CudaCallError, match="the driver has no cuNothing"):
        driver.call("cuNothing")


def test_where_a_device_is(driver: Driver) -> None:
    """As the kernel writes it, in small letters."""
    assert [driver.bus_of(index) for index in (0, 1)] == ["0000:3b:00.0", "0000:af:00.0"]
    with pytest.raises(UnsupportedError, match="there is no CUDA device 2"):
        driver.bus_of(2)


def test_bytes_come_and_go(driver: Driver, file: Path) -> None:
    """At their offsets; the memory has the size that the driver says."""
    memory = driver.open_memory(cuda_stand_in.handle(file), 1)
    assert memory.size == 100
    buffer = bytearray(3)
    memory.read(5, memoryview(buffer))
    assert bytes(buffer) == bytes([5, 6, 7])
    memory.write(97, memoryview(b"\xff\xfe\xfd"))  # read-only memory, too
    memory.write(0, memoryview(b""))
    assert file.read_bytes()[96:] == bytes([96, 255, 254, 253])
    with pytest.raises(CudaCallError, match="CUDA_ERROR_INVALID_VALUE"):
        memory.read(98, memoryview(buffer))
    memory.close()


def test_what_is_closed_is_given_back(driver: Driver, file: Path) -> None:
    """Once, the device's context included, also where opening failed half-way."""
    memory = driver.open_memory(cuda_stand_in.handle(file), 0)
    assert (driver._library.tailcut_open(), driver._library.tailcut_retained()) == (1, 1)
    memory.close()
    memory.close()
    with pytest.raises(CudaCallError, match="CUDA_ERROR_INVALID_HANDLE"):
        driver.open_memory(bytes(64), 0)
    assert (driver._library.tailcut_open(), driver._library.tailcut_retained()) == (0, 0)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_handles_have_one_length(driver: Driver, length: int) -> None:
    """That of CUDA's structure: a longer one would be cut, a shorter one be followed by other bytes."""
    with pytest.raises(ValueError, match="has 64 bytes"):
        driver.open_memory(bytes(length), 0)
