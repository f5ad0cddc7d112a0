"""Every compiled kernel does what its numpy twin does, and lets other threads run meanwhile."""

import inspect
import threading

import numpy as np
import pytest

from tailcut.kernels import compiled, reference
from tailcut.memory.aligned import AlignedMatrix

MATMULS = ["matmul_ikj", "matmul_tiled"]
NAMES = [*MATMULS, "gather_rows", "normalize_u8", "multiply_add_chains"]


def test_every_kernel_has_a_twin() -> None:
    """The two modules hold the same kernels with the same parameters."""
    kernels = {name for name, value in vars(compiled).items() if hasattr(value, "py_func")}
    assert kernels == set(NAMES)
    for name in NAMES:
        twin = inspect.signature(getattr(reference, name))
        assert inspect.signature(getattr(compiled, name).py_func) == twin


@pytest.mark.parametrize("name", NAMES)
def test_releases_the_gil_on_one_thread(name: str) -> None:
    """Kernels release the GIL and start no threads of their own."""
    options = getattr(compiled, name).targetoptions
    assert options["nogil"]
    assert not options.get("parallel", False)


@pytest.mark.slow
@pytest.mark.parametrize("name", MATMULS)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (4, 4, 4), (5, 7, 3), (33, 65, 17), (64, 100, 300), (3, 0, 2), (130, 70, 257)]
)
def test_matmul(name: str, shape: tuple[int, int, int]) -> None:
    """Products of any shape match BLAS, on padded rows, whatever stood in out before."""
    rows, inner, cols = shape
    random = np.random.default_rng(0)
    padded = AlignedMatrix(rows, max(inner, 1)).array[:, :inner]
    padded[:] = random.standard_normal((rows, inner))
    b = random.standard_normal((inner, cols)).astype(np.float32)
    got, wanted = np.full((rows, cols), np.nan, np.float32), np.empty((rows, cols), np.float32)
    getattr(compiled, name)(padded, b, got)
    getattr(reference, name)(padded, b, wanted)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_gather_rows() -> None:
    """Rows are copied bit for bit, in the order of the indices, and may repeat."""
    source = np.random.default_rng(0).standard_normal((9, 31)).astype(np.float32)
    indices = np.array([8, 0, 0, 3, 7], np.int64)
    got, wanted = np.empty((5, 31), np.float32), np.empty((5, 31), np.float32)
    compiled.gather_rows(source, indices, got)
    reference.gather_rows(source, indices, wanted)
    assert np.array_equal(got, source[indices])
    assert np.array_equal(wanted, source[indices])


def test_normalize_u8() -> None:
    """An image of bytes becomes scaled planes, each channel by its own scale and offset."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (13, 18, 3), np.uint8)
    scale, offset = np.array([0.5, 0.01, 2], np.float32), np.array([-1, 0, 3], np.float32)
    got, wanted = np.empty((3, 13, 18), np.float32), np.empty((3, 13, 18), np.float32)
    compiled.normalize_u8(image, scale, offset, got)
    reference.normalize_u8(image, scale, offset, wanted)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    assert got[2, 0, 0] == image[0, 0, 2] * 2.0 + 3


def test_multiply_add_chains() -> None:
    """Sixteen steps a round, on every value."""
    got = np.linspace(-1, 1, 37, dtype=np.float32)
    wanted = got.copy()
    compiled.multiply_add_chains(got, np.float32(0.9), np.float32(0.25), 2)
    reference.multiply_add_chains(wanted, np.float32(0.9), np.float32(0.25), 2)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_several_threads_call_at_once() -> None:
    """Eight threads in one kernel at the same time each get their own right answer."""
    a = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    outs = [np.empty((64, 64), np.float32) for _ in range(8)]
    start = threading.Barrier(8)

    def work(index: int) -> None:
        start.wait()
        for _ in range(20):
            compiled.matmul_tiled(a * np.float32(index), a, outs[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, out in enumerate(outs):
        np.testing.assert_allclose(out, a @ a * index, rtol=1e-3, atol=1e-3)
