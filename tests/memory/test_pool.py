"""Buffers and their pool: what is copied, who may use it, and what threads see."""

import threading

import numpy as np
import pytest
from tests.forked import fork, succeeded

from tailcut.errors import CapacityError, InvalidInputError, ReleasedError
from tailcut.memory.pool import BufferPool, TensorBuffer


def test_fill_copies_and_zeroes_the_rest() -> None:
    """A short source stands at the front; nothing of a longer one before it is left."""
    buffer = TensorBuffer(8)
    buffer.fill(np.arange(1, 9))
    buffer.fill([[1, 2], [3, 4]])
    assert buffer.array.tolist() == [1, 2, 3, 4, 0, 0, 0, 0]
    assert buffer.array.dtype == np.float32
    assert buffer.array.ctypes.data % 64 == 0
    assert buffer.capacity == 8


def test_too_long_a_source_changes_nothing() -> None:
    """A source beyond the capacity raises with both lengths, and the buffer stays as it was."""
    buffer = TensorBuffer(4)
    buffer.fill([1, 2, 3, 4])
    with pytest.raises(CapacityError, match="5 elements does not fit a buffer of 4"):
        buffer.fill(np.zeros(5))
    assert buffer.array.tolist() == [1, 2, 3, 4]


def test_a_failed_fill_of_a_recycled_buffer_shows_zeros() -> None:
    """A source that cannot be converted leaves no old bytes behind."""
    pool = BufferPool(1, 4)
    with pool.lease() as buffer:
        buffer.fill([9, 9, 9, 9])
    with pool.lease() as buffer:
        with pytest.raises(ValueError, match="could not convert"):
            buffer.fill(["no number"])
        assert buffer.array.tolist() == [0, 0, 0, 0]


def test_use_after_release() -> None:
    """A released handle is dead: every use and a second release raise, also while another has the memory."""
    pool = BufferPool(1, 4)
    buffer = pool.acquire()
    pool.release(buffer)
    other = pool.acquire()
    for use in (lambda: buffer.array, lambda: buffer.fill([1]), lambda: buffer.capacity, lambda: pool.release(buffer)):
        with pytest.raises(ReleasedError):
            use()
    other.fill([1])
    assert other.array.tolist() == [1, 0, 0, 0]


def test_recycled_memory_never_shows_old_bytes() -> None:
    """The next holder of the same memory reads zeros."""
    pool = BufferPool(1, 16)
    with pool.lease() as buffer:
        buffer.fill(np.full(16, 7))
        address = buffer.array.ctypes.data
    with pool.lease() as buffer:
        assert buffer.array.ctypes.data == address
        assert not buffer.array.any()


def test_lease_gives_back_after_an_error() -> None:
    """The buffer returns to the pool also when the block raises."""
    pool = BufferPool(1, 4)
    with pytest.raises(KeyError), pool.lease():
        raise KeyError
    assert pool.statistics().idle == 1


def test_empty_pool_makes_a_new_buffer_and_drops_beyond_the_limit() -> None:
    """Demand beyond the pool is met; what comes back beyond the limit is dropped, and both are counted."""
    pool = BufferPool(2, 4, limit=3)
    held = [pool.acquire() for _ in range(5)]
    assert len({buffer.array.ctypes.data for buffer in held}) == 5
    assert pool.statistics().idle == 0
    for buffer in held:
        pool.release(buffer)
    statistics = pool.statistics()
    assert (statistics.idle, statistics.created, statistics.dropped) == (3, 5, 2)


def test_a_foreign_buffer_is_refused() -> None:
    """A buffer of another size or dtype does not enter the pool, and stays its holder's."""
    pool = BufferPool(0, 4)
    for foreign in (TensorBuffer(5), TensorBuffer(4, np.int8)):
        with pytest.raises(InvalidInputError, match="this pool's hold 4 x float32"):
            pool.release(foreign)
        assert not foreign.array.any()


def test_wrong_sizes() -> None:
    """Counts and capacities that make no sense are refused."""
    with pytest.raises(InvalidInputError, match="at least one element"):
        TensorBuffer(0)
    with pytest.raises(InvalidInputError, match="must not be negative"):
        BufferPool(-1, 4)


def test_threads_never_share_a_buffer() -> None:
    """Eight threads that acquire, write, check and release always read their own number."""
    pool, start, wrong = BufferPool(2, 64, limit=4), threading.Barrier(8), []

    def work(number: int) -> None:
        start.wait()
        for _ in range(300):
            with pool.lease() as buffer:
                if buffer.array.any():
                    wrong.append("old bytes")
                buffer.fill(np.full(64, number))
                if not (buffer.array == number).all():
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    statistics = pool.statistics()
    assert statistics.idle == statistics.created - statistics.dropped <= 4


def test_one_buffer_released_by_many_threads_is_released_once() -> None:
    """However many threads release the same handle at once, one succeeds and the memory enters the pool once."""
    pool, start = BufferPool(0, 4), threading.Barrier(4)
    for _ in range(200):
        buffer, done = pool.acquire(), []

        def work(buffer: TensorBuffer = buffer, done: list = done) -> None:
            start.wait()
            try:
                pool.release(buffer)
            except ReleasedError:
                return
            done.append(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 1
        assert pool.statistics().idle == 1


def test_a_forked_child_gives_back_although_another_thread_did_so_then() -> None:
    """The lock of a thread that the child does not have is not waited for."""
    pool = BufferPool(1, 8)
    buffer = pool.acquire()
    with pool._returning:
        child = fork(lambda: pool.release(buffer))
    assert succeeded(child)
    pool.release(buffer)
