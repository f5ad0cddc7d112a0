"""What the kernel says of threads that were ready and had no CPU."""

import threading
from pathlib import Path

from tailcut.machine.waiting import CpuWaiting


def task(folder: Path, number: int, waited: int) -> None:
    (folder / str(number)).mkdir(exist_ok=True)
    (folder / str(number) / "schedstat").write_text(f"1000 {waited} 5\n")


def test_the_longest_wait_since_the_last_look(tmp_path: Path) -> None:
    """Of all threads the one that waited most, counted anew each time."""
    task(tmp_path, 1, 100)
    task(tmp_path, 2, 100)
    waiting = CpuWaiting(tmp_path)
    assert waiting.longest_ns() == 0
    task(tmp_path, 1, 150)
    task(tmp_path, 2, 400)
    assert waiting.longest_ns() == 300
    assert waiting.longest_ns() == 0
    waiting.close()


def test_threads_come_and_go(tmp_path: Path) -> None:
    """A refresh takes up new threads, whose past does not count, and drops those that ended."""
    task(tmp_path, 1, 100)
    waiting = CpuWaiting(tmp_path)
    task(tmp_path, 2, 9000)
    (tmp_path / "1" / "schedstat").unlink()
    (tmp_path / "1").rmdir()
    waiting.refresh()
    assert waiting.longest_ns() == 0
    task(tmp_path, 2, 9500)
    assert waiting.longest_ns() == 500
    waiting.close()


def test_without_the_kernels_help(tmp_path: Path) -> None:
    """Where there is no such folder nothing is known, and nothing breaks."""
    waiting = CpuWaiting(tmp_path / "none")
    waiting.refresh()
    assert waiting.longest_ns() == 0
    waiting.close()


def test_this_process() -> None:
    """The real files, with a thread that is taken up and dropped again."""
    waiting = CpuWaiting()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    waiting.refresh()
    assert waiting.longest_ns() >= 0
    stop.set()
    thread.join()
    waiting.refresh()
    assert waiting.longest_ns() >= 0
    waiting.close()
