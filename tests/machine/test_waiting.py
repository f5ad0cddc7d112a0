"""What the kernel says of threads that were ready and had no CPU."""

import threading
from pathlib import Path

from tailcut.machine.waiting import CpuWaiting


def task(folder: Path, number: int, waited: int) -> None:
    (folder / str(number)).mkdir(exist_ok=True)
    (folder / str(number) / "schedstat").write_text(f"1000 {waited} 5\n")


def test_the_longest_wait_since_the_last_look(tmp_path: Path) -> None:
    """The main thread, and of the others the one that waited most, counted anew each time."""
    for number in (1, 2, 3):
        task(tmp_path, number, 100)
    waiting = CpuWaiting(tmp_path, main=1)
    assert waiting.longest_ns() == (0, 0)
    for number, waited in ((1, 150), (2, 400), (3, 110)):
        task(tmp_path, number, waited)
    assert waiting.longest_ns() == (50, 300)
    assert waiting.longest_ns() == (0, 0)
    waiting.close()


def test_threads_come_and_go(tmp_path: Path) -> None:
    """A refresh takes up new threads, whose past does not count, and drops those that ended."""
    task(tmp_path, 1, 100)
    waiting = CpuWaiting(tmp_path, main=1)
    task(tmp_path, 2, 9000)
    (tmp_path / "1" / "schedstat").unlink()
    (tmp_path / "1").rmdir()
    waiting.refresh()
    assert waiting.longest_ns() == (0, 0)
    task(tmp_path, 2, 9500)
    assert waiting.longest_ns() == (0, 500)
    waiting.close()


def test_without_the_kernels_help(tmp_path: Path) -> None:
    """Where there is no such folder nothing is known, and nothing breaks."""
    waiting = CpuWaiting(tmp_path / "none")
    waiting.refresh()
    assert waiting.longest_ns() == (0, 0)
    waiting.close()


def test_this_process() -> None:
    """The real files, with a thread that is taken up and dropped again."""
    waiting = CpuWaiting()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    waiting.refresh()
    assert min(waiting.longest_ns()) >= 0
    stop.set()
    thread.join()
    waiting.refresh()
    assert min(waiting.longest_ns()) >= 0
    waiting.close()
