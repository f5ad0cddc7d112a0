"""Changes of Python files."""

import asyncio
import os
from pathlib import Path

from tailcut.server.source_watch import SourceWatch, stamps


def test_stamps_are_of_python_files_in_the_folder_itself(tmp_path: Path) -> None:
    """Not below it; another time or size is another stamp."""
    for name in ("a.py", "b.txt", "c/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    before = stamps([tmp_path])
    assert [path.name for path in before] == ["a.py"]
    os.utime(tmp_path / "a.py", ns=(1, 1))
    assert stamps([tmp_path]) != before


def test_one_call_for_each_change(tmp_path: Path) -> None:
    """A file that comes, one that changes, one that goes."""

    async def calls() -> int:
        seen = 0
        result = asyncio.Event()
        SourceWatch(asyncio.get_running_loop(), [tmp_path], result.set)
        path = tmp_path / "stage.py"
        for change in (path.touch, lambda: path.write_text("x"), path.unlink):
            change()
            await asyncio.wait_for(result.wait(), 20)
            result.clear()
            seen += 1
        return seen

    assert asyncio.run(calls()) == 3
