"""Follows deploy/Dockerfile without Docker, in roots of its own, and serves the bundled model from the result.

    sudo python scripts/image.py [--build-arg NAME=VALUE] [--starts 5] [--mirror URL]

debootstrap makes the base, without the files that Debian's slim images leave out; the instructions of the Dockerfile
are run in copies of it. The last stage is then mounted read-only and serves with its own command, user and environment,
without capabilities, and with the volumes that docs/guide/docker.md names. It must give onnxruntime's answers and
contain neither a compiler nor pip. Printed are its size and the time from start to ready: the first start has nothing
in the page cache and no compiled kernels, later ones have both.

Needs root, debootstrap, and a mirror of Debian and a package index that can be reached. All mounts and processes are in
namespaces that end with the program, in whatever way it ends.
"""

import argparse
import http.client
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import numpy as np
import onnxruntime
from dockerfile import ROOT, Build, Stage, call, containing, entered, mount

from tailcut import Client
from tailcut.machine.fingerprint import fingerprint
from tailcut.models import digits_data, digits_model
from tailcut.runtime.profile import Profile

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
ENVIRONMENT = Path("opt/tailcut")
_TOOLS = re.compile(r"(.+-)?(as|c\+\+|cc|cc1|cc1plus|clang(\+\+)?|cpp|g\+\+|gcc|ld|make|pip3?|rustc|tcc)(-?\d[\d.]*)?")
_READY_S = 120.0
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Start:
    """From the start of the process to the first answer that it is ready."""

    took_s: float
    cpu_s: float  # of all threads; what other work on the machine hardly changes


def files(folder: Path) -> Iterator[Path]:
    """All files below a folder, links among them."""
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def size_bytes(folder: Path) -> int:
    """Of all files below a folder, one that has several names once."""
    sizes = {(result.st_dev, result.st_ino): result.st_size for result in (path.lstat() for path in files(folder))}
    return sum(sizes.values())


def tools(root: Path) -> list[str]:
    """Compilers, linkers and installers among the programs of a root."""
    result = (path for path in files(root) if _TOOLS.fullmatch(path.name))
    return sorted(f"/{path.relative_to(root)}" for path in result if path.is_symlink() or os.access(path, os.X_OK))


@contextmanager
def _read_only(stage: Stage, folder: Path) -> Iterator[Stage]:
    """The stage as a container with `--read-only`, with a model, a volume for the cache, and a /tmp in memory."""
    cache, models, root = folder / "cache", folder / "models", folder / "served"
    for place in (cache, models, root):
        place.mkdir()
    shutil.chown(cache, *map(int, stage.ids()))
    model = shutil.copy(digits_model(), models / "model.onnx")
    Profile.of_model(Path(model)).save(models / "model.profile.toml")
    with ExitStack() as mounts:
        mount(mounts, root, "--bind", str(stage.root))
        call("mount", "--options", "remount,bind,ro", str(root))
        mount(mounts, root / "models", "--bind", str(models))
        call("mount", "--options", "remount,bind,ro", str(root / "models"))
        mount(mounts, root / "tmp", "--types", "tmpfs", "--options", "nosuid,nodev,noexec,mode=1777", "tmpfs")
        mount(mounts, root / stage.environment["XDG_CACHE_HOME"].lstrip("/"), "--bind", str(cache))
        with containing(root):
            yield replace(stage, root=root)


def _start_once(stage: Stage, log: Path) -> Start:
    """Start it, compare its answers, and stop it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*stage.entrypoint, *stage.command, f"--port={port}"]
    confined = ("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            entered(stage, command, *confined), env=stage.environment, stdout=output, stderr=output
        )
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > started + _READY_S:
                raise SystemExit(f"it did not become ready:\n{log.read_text(encoding='utf-8')}")
            time.sleep(_POLL_S)
        took_s = time.monotonic() - started
        cpu_s = _cpu_s(process.pid)
        _check(process.pid, stage.ids()[0], port)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(_READY_S)
    if "WARNING" in log.read_text(encoding="utf-8").upper():
        raise SystemExit(f"it started with a warning:\n{log.read_text(encoding='utf-8')}")
    return Start(took_s, cpu_s)


def _cpu_s(pid: int) -> float:
    """The 14th and 15th field of its stat, proc(5): the first two are the number and the name, in brackets."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_READY_S)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def _check(pid: int, user: str, port: int) -> None:
    """It has the image's user and no capability, and gives onnxruntime's answers."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    assert f"\nUid:\t{user}\t{user}\t{user}\t{user}\n" in status, status
    assert "\nCapEff:\t0000000000000000\n" in status, status
    inputs = {"image": np.load(digits_data())["image"][:8]}
    session = onnxruntime.InferenceSession(str(digits_model()), providers=["CPUExecutionProvider"])
    with Client(f"http://127.0.0.1:{port}") as client:
        answer = client.infer("model", inputs)["scores"]
    np.testing.assert_allclose(answer, session.run(["scores"], inputs)[0], rtol=1e-4, atol=1e-5)


def _forget(*folders: Path) -> None:
    """Take the files of these folders out of the page cache, and no others."""
    os.sync()  # pages that are still to be written stay
    for folder in folders:
        for path in files(folder):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _build_and_serve(options: argparse.Namespace, folder: Path) -> None:
    build = Build(folder, options.mirror, dict(item.split("=", 1) for item in options.build_arg))
    final = build.run(DOCKERFILE.read_text(encoding="utf-8"))
    if result := tools(final.root):
        raise SystemExit(f"in the image: {', '.join(result)}")
    (base_root,) = build.bases.values()
    parts = [size_bytes(base_root), size_bytes(final.root), size_bytes(final.root / ENVIRONMENT)]
    with _read_only(final, folder) as served:
        _forget(final.root, folder / "models")
        cold, *warm = [_start_once(served, folder / f"start-{number}.log") for number in range(options.starts)]
    base, total, environment = (round(part / 1e6) for part in parts)
    print(f"no compiler, no pip; served read-only as the user {final.user}; the answers are onnxruntime's")
    print(f"size: {total} MB (Debian {base}, Python {total - base - environment}, /{ENVIRONMENT} {environment})")
    took_s, cpu_s = (
        statistics.median(each) for each in ([item.took_s for item in warm], [item.cpu_s for item in warm])
    )
    print(f"start to ready, cold caches: {cold.took_s:.2f} s, CPU {cold.cpu_s:.2f} s")
    print(f"start to ready, warm caches: {took_s:.2f} s, CPU {cpu_s:.2f} s (medians of {len(warm)})")
    facts = fingerprint()
    print(f"machine: {facts['cpu']}, {facts['usable_cpus']} CPUs, {facts['system']}")


def _starts(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("at least 2: one with cold caches, and one with warm ones")
    return number


def _stop(*_: int | FrameType | None) -> None:
    raise SystemExit(143)


def main() -> int:
    """0 when the image is built, and answers."""
    parser = argparse.ArgumentParser(description="Build deploy/Dockerfile without Docker, and serve from the result.")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as docker build has it")
    parser.add_argument("--starts", type=_starts, default=5, metavar="N", help="starts (default: 5)")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="of Debian (default: %(default)s)")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # the folder, in namespaces of its own
    options = parser.parse_args()
    if options.inside is not None:
        _build_and_serve(options, options.inside)
        return 0
    missing = [name for name in ("debootstrap", "unshare", "setpriv") if shutil.which(name) is None]
    if missing:
        print(f"not installed: {' '.join(missing)} (on Debian, apt install debootstrap util-linux)", file=sys.stderr)
        return 2
    if os.geteuid():
        print("only root can mount file systems: run it with sudo", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _stop)
    folder = Path(tempfile.mkdtemp(prefix="tailcut-image-"))
    folder.chmod(0o755)  # users of the image enter it
    # Processes of the namespace end with its first one, which ends with unshare, which ends with this one.
    alone = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        return subprocess.run([*alone, sys.executable, *sys.argv, f"--inside={folder}"], check=False).returncode
    finally:
        for _ in range(100):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)  # a process that was killed had it in use


if __name__ == "__main__":
    raise SystemExit(main())
