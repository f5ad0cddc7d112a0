"""Where compiled kernels are kept, on hosts that leave little choice."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tailcut
from tailcut.kernels import cache

NOBODY = 54321  # has no passwd entry
ASK = """
from tailcut.kernels import cache, sockets
print(sockets.look._cache.cache_path)
"""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No answer of another test, and folders for temporary files and caches of this one."""
    known = cache.user_folder
    known.cache_clear()
    cache._not_kept.cache_clear()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    yield
    known.cache_clear()


def double(array: np.ndarray) -> None:
    for i in range(len(array)):
        array[i] *= 2


def test_a_home_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Below .cache, or where XDG_CACHE_HOME points; for this user only."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = cache.user_folder()
    assert folder == tmp_path / ".cache" / "tailcut"
    assert folder.stat().st_mode & 0o777 == 0o700
    cache.user_folder.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.user_folder() == tmp_path / "xdg" / "tailcut"


@pytest.mark.parametrize("home", ["/missing", "relative", "/dev/null", "/proc"])
def test_without_a_home_there_are_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str) -> None:
    """A home that is not there is not made."""
    monkeypatch.setenv("HOME", home)
    assert cache.user_folder() == tmp_path / f"tailcut-{os.geteuid()}"
    assert not Path(home, ".cache").exists()


@pytest.mark.parametrize("fault", ["link", "file", "open"])
def test_a_folder_that_others_can_write_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is kept is unpickled: a link, a file or an open folder in its place is refused, which is logged once."""
    monkeypatch.setenv("HOME", "/missing")
    place = tmp_path / f"tailcut-{os.geteuid()}"
    if fault == "link":
        (tmp_path / "other").mkdir()
        place.symlink_to(tmp_path / "other")
    elif fault == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o777)
    monkeypatch.setattr(logging.getLogger("tailcut"), "propagate", True)
    assert cache.user_folder() is None
    cache._not_kept()
    # By record: of a logger that did not propagate before, pytest sees each twice.
    text = {id(record) for record in caplog.records if "NUMBA_CACHE_DIR" in record.getMessage()}
    assert len(text) == 1


@pytest.mark.parametrize("place", ["beside", "user", "none"])
def test_kernels_compute_wherever_they_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    """Beside the source, in the user's folder, or nowhere."""
    monkeypatch.setattr(cache, "beside_is_writable", lambda _: place == "beside")
    monkeypatch.setattr(cache, "user_folder", lambda: tmp_path if place == "user" else None)
    array = np.ones(3, np.float32)
    compiled = cache.compiled("void(float32[::1])")(double)
    compiled(array)
    assert (array == 2).all()
    assert bool(list(tmp_path.rglob("*.nbc"))) is (place == "user")


def test_what_cannot_be_read_is_compiled_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that a full disk cut short costs a compilation, not the start."""
    monkeypatch.setattr(cache, "beside_is_writable", lambda _: False)
    monkeypatch.setattr(cache, "user_folder", lambda: tmp_path)
    cache.compiled("void(float32[::1])")(double)
    for file in [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]:
        file.write_bytes(file.read_bytes()[:10])
    array = np.ones(3, np.float32)
    cache.compiled("void(float32[::1])")(double)(array)
    assert (array == 2).all()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("home", [None, "/", "/missing"])
def test_a_user_without_a_passwd_entry_can_load_them(
    tmp_path_factory: pytest.TempPathFactory, home: str | None
) -> None:
    """From a package that cannot be written: kept among temporary files, and nothing is written anywhere else."""
    folder = tmp_path_factory.mktemp("nobody")
    shutil.copytree(Path(tailcut.__file__).parent, folder / "tailcut", ignore=shutil.ignore_patterns("__pycache__"))
    temporary = folder / "tmp"
    temporary.mkdir()
    os.chown(temporary, NOBODY, NOBODY)
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    path = os.pathsep.join([str(folder), *(entry for entry in sys.path if entry.endswith("site-packages"))])
    environment = {"PYTHONPATH": path, "TMPDIR": str(temporary)} | ({} if home is None else {"HOME": home})
    command = [shutil.which("python3", path="/usr/bin:/bin") or sys.executable, "-c", ASK]
    done = subprocess.run(  # noqa: PLW1510
        command,
        cwd=temporary,
        env=environment,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    if "No module named" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("another user cannot run this interpreter")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(temporary / f"tailcut-{NOBODY}"))
    assert [entry.name for entry in temporary.iterdir()] == [f"tailcut-{NOBODY}"]
