"""Changes of Python files."""

import asyncio
import os
from pathlib import Path

import pytest

from tailcut.server import source_watch
from tailcut.server.source_watch import Sources, SourceWatch


def names(sources: Sources, folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in sources.stamps()}


def test_stamps_are_of_python_files_that_a_pipeline_may_import(tmp_path: Path) -> None:
    """Those of packages below its folder, too; not of hidden folders and of what is installed."""
    own = {"a.py", "c/d.py", "c/e/__init__.py", "my-lib/f.py"}
    others = {"b.txt", ".git/g.py", "c/__pycache__/h.py", "env/lib/python3.12/i.py", "v/site-packages/j.py"}
    for name in own | others | {"venv/k.py", "venv/pyvenv.cfg"}:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("one")
    (tmp_path / "c" / "back").symlink_to(tmp_path)
    sources = Sources([tmp_path])
    before = sources.stamps()
    assert names(sources, tmp_path) == own
    os.utime(tmp_path / "c/d.py", ns=(1, 1))
    assert sources.stamps() != before


def test_a_folder_is_listed_anew_when_its_time_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And while it may change without another time."""
    (tmp_path / "a.py").touch()
    sources = Sources([tmp_path])
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(source_watch.os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    for _ in range(2):
        sources.stamps()
    assert len(listed) == 2
    os.utime(tmp_path, ns=(1, 1))
    for _ in range(3):
        assert names(sources, tmp_path) == {"a.py"}
    assert len(listed) == 3
    (tmp_path / "b.py").touch()
    assert names(sources, tmp_path) == {"a.py", "b.py"}


def test_folders_are_looked_at_up_to_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those next to the pipeline first; one line says so."""
    monkeypatch.setattr(source_watch, "_MOST_FOLDERS", 3)
    for name in ("a/a.py", "b/b.py", "a/c/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sources = Sources([tmp_path])
    for _ in range(2):
        assert names(sources, tmp_path) == {"a/a.py", "b/b.py"}
    assert caplog.text.count("is not watched") == 1


def test_one_call_for_each_change(tmp_path: Path) -> None:
    """A file that comes, one that changes, one that goes, in a package."""

    async def calls() -> int:
        seen = 0
        result = asyncio.Event()
        (tmp_path / "parts").mkdir()
        SourceWatch(asyncio.get_running_loop(), [tmp_path], result.set)
        path = tmp_path / "parts" / "stage.py"
        for change in (path.touch, lambda: path.write_text("x"), path.unlink):
            change()
            await asyncio.wait_for(result.wait(), 20)
            result.clear()
            seen += 1
        return seen

    assert asyncio.run(calls()) == 3
