"""What `scripts/image.py` reads of deploy/Dockerfile, and what it finds in a root; `make image` runs all of it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.servers import TIMEOUT_S

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
# In the place of debootstrap: it mounts something, has a process of its own, and does not end.
ENDLESS = """#!/bin/sh
mkdir "$3" && mount --types tmpfs tailcut-test "$3" && sleep {seconds} &
sleep {seconds}
"""
USERS = "root:x:0:0:root:/root:/bin/bash\ntailcut:x:10001:10002::/nonexistent:/usr/sbin/nologin\n"


@pytest.fixture
def dockerfile(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.delitem(sys.modules, "dockerfile", raising=False)
    import dockerfile

    return dockerfile


@pytest.fixture
def image(dockerfile: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delitem(sys.modules, "image", raising=False)
    import image

    return image


def test_it_reads_every_instruction(dockerfile: ModuleType) -> None:
    """Continued lines are one instruction, comments none; the last stage ends with its command."""
    result = dockerfile.instructions(TEXT)
    keywords = [keyword for keyword, _ in result]
    assert keywords.count("FROM") == 2
    assert [value for keyword, value in result if keyword == "RUN"][-1].endswith("/var/cache/tailcut")
    assert result[-1] == ("CMD", '["serve", "--host", "0.0.0.0", "model.profile.toml"]')
    assert not any("\\" in value or "#" in value for _, value in result)


def test_what_is_copied_is_let_through(dockerfile: ModuleType) -> None:
    """Every file of this repository that the Dockerfile names exists, and .dockerignore does not leave it out."""
    kept, everywhere = dockerfile.allowed((ROOT / ".dockerignore").read_text(encoding="utf-8"))
    copied = [value.split()[:-1] for keyword, value in dockerfile.instructions(TEXT) if keyword == "COPY"]
    names = {name for names in copied if not names[0].startswith("--from=") for name in names}
    assert names == kept
    assert all((ROOT / name).exists() for name in names)
    assert everywhere == ["__pycache__"]


def test_the_last_stage_is_what_the_file_says(dockerfile: ModuleType, tmp_path: Path) -> None:
    """All instructions but RUN, on a base of one file: variables, the user, and files from this folder and a stage."""
    base = tmp_path / "base"
    (base / "etc").mkdir(parents=True)
    (base / "etc" / "passwd").write_text(USERS)
    build = dockerfile.Build(tmp_path, "", {"EXTRAS": "openvino,grpc"})
    build.bases["debian:trixie-slim"] = base
    text = "\n".join(f"{keyword} {value}" for keyword, value in dockerfile.instructions(TEXT) if keyword != "RUN")
    made = tmp_path / "stage-build" / "opt" / "tailcut"
    text = text.replace("COPY --from=build /opt/tailcut", "COPY --from=build /src")
    stage = build.run(text)
    assert stage.ids() == ("10001", "10002")
    assert stage.environment["PATH"].startswith("/opt/tailcut/bin:/usr/local/sbin:")
    assert stage.environment["HOME"] == "/var/cache/tailcut"
    assert [*stage.entrypoint, *stage.command][:2] == ["tailcut", "serve"]
    assert str(stage.folder) == "/models"
    assert (stage.root / "models").is_dir()
    assert (stage.root / "opt" / "tailcut" / "src" / "tailcut" / "__init__.py").is_file()
    assert not made.exists()
    assert list(stage.root.rglob("__pycache__")) == []
    assert build._stages["build"].arguments == {"EXTRAS": "openvino,grpc", "PACKAGES": ""}


def test_further_packages_are_installed_with_tailcut() -> None:
    """By one pip install, which is held to the same versions, and as separate words."""
    (install,) = [line for line in TEXT.splitlines() if "pip install" in line]
    assert install.split()[-3:] == ['"/src[${EXTRAS}]"', "${PACKAGES}", "\\"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM alpine:3", "only debian:SUITE-slim"),
        ("USER 10001", "before FROM"),
        ("FROM debian:trixie-slim\nHEALTHCHECK NONE", "HEALTHCHECK is not known"),
        ("FROM debian:trixie-slim\nCOPY tests /tests", "leaves it out"),
    ],
)
def test_what_it_does_not_know_is_refused(text: str, message: str, dockerfile: ModuleType, tmp_path: Path) -> None:
    build = dockerfile.Build(tmp_path, "", {})
    build.bases["debian:trixie-slim"] = tmp_path / "base"
    build.bases["debian:trixie-slim"].mkdir()
    with pytest.raises(ValueError, match=message):
        build.run(text)


def test_it_finds_compilers_and_installers(image: ModuleType, tmp_path: Path) -> None:
    """By the names that Debian gives them, links included; what only looks like one is none."""
    programs = ["cc", "gcc-14", "x86_64-linux-gnu-g++-14", "as", "x86_64-linux-gnu-ld", "pip3", "pip3.13", "make"]
    others = ["python3.13", "ld.so", "c_rehash", "cpuset", "mawk", "asd", "pipe"]
    for name in programs[:-1] + others:
        (tmp_path / name).touch(0o755)
    (tmp_path / "make").symlink_to("/nowhere")
    (tmp_path / "cpp").touch(0o644)  # a file of data
    assert image.tools(tmp_path) == sorted(f"/{name}" for name in programs)


def test_a_size_counts_a_file_once(image: ModuleType, tmp_path: Path) -> None:
    """Under all of its names."""
    (tmp_path / "a").write_bytes(bytes(1000))
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").write_bytes(bytes(10))
    assert image.size_bytes(tmp_path) == 1010


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None,
    reason="only root can make namespaces, by unshare and setpriv",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_leaves_no_mount_and_no_process(number: signal.Signals, tmp_path: Path) -> None:
    """Killed in the middle of a build; where it can still act, no folder either."""
    seconds = f"{os.getpid()}00"
    (tmp_path / "debootstrap").write_text(ENDLESS.format(seconds=seconds))
    (tmp_path / "debootstrap").chmod(0o755)
    folders = tmp_path / "folders"
    folders.mkdir()
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(folders)}

    def sleeping() -> int:
        return sum(item.info["cmdline"] == ["sleep", seconds] for item in psutil.process_iter(["cmdline"]))

    def wait_for(count: int) -> None:
        end = time.monotonic() + 3 * TIMEOUT_S
        while sleeping() != count:
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.05)

    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, ROOT / "scripts" / "image.py"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(2)
    finally:
        process.send_signal(number)
        process.wait(TIMEOUT_S)
    wait_for(0)
    assert "tailcut-test" not in Path("/proc/mounts").read_text()
    assert (number == signal.SIGKILL) == any(folders.iterdir())
