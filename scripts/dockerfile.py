"""A Dockerfile's instructions, followed without Docker: each stage is a folder, which commands enter as their root.

Known is what deploy/Dockerfile uses; anything else is refused. Needs root, and a namespace for mounts of its own.
"""

import json
import os
import re
import shlex
import shutil
import ssl
import string
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What Docker hands on to each step as well, and where pip finds packages.
_HANDED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL")
_SLIM = ("doc", "groff", "info", "linda", "lintian/overrides", "locale", "man")
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")


@dataclass(slots=True)
class Stage:
    """A root file system, and what the instructions so far have set for its processes."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "0"
    folder: PurePosixPath = field(default_factory=lambda: PurePosixPath("/"))
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def ids(self) -> tuple[str, str]:
        """The user and its group, by numbers; a user that the root does not know has the group 0."""
        for line in (self.root / "etc" / "passwd").read_text(encoding="utf-8").splitlines():
            name, _, number, group, *_ = line.split(":")
            if self.user in {name, number}:
                return number, group
        return self.user, "0"


def instructions(text: str) -> list[tuple[str, str]]:
    """Keyword and value of each instruction of a Dockerfile."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = (line.strip().partition(" ") for line in whole.splitlines() if line.strip())
    return [(keyword.upper(), value.strip()) for keyword, _, value in pairs]


class Build:
    """The stages of a Dockerfile, each in a folder of its own."""

    def __init__(self, folder: Path, mirror: str, arguments: dict[str, str]) -> None:
        self._folder = folder
        self._mirror = mirror
        self._given = arguments
        self._global: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}
        self.bases: dict[str, Path] = {}

    def run(self, text: str) -> Stage:
        """Follow all instructions; the last stage."""
        stage: Stage | None = None
        for keyword, value in instructions(text):
            print(f"{keyword} {value if len(value) < 100 else value[:97] + '...'}", flush=True)
            if keyword == "FROM":
                stage = self._from(value)
            elif keyword == "ARG":
                name, _, default = value.partition("=")
                known = self._global if stage is None else stage.arguments
                known[name] = self._given.get(name, self._global.get(name, default))
            elif stage is None:
                raise ValueError(f"{keyword} before FROM")
            else:
                self._follow(stage, keyword, value)
        if stage is None:
            raise ValueError("no FROM")
        return stage

    def _from(self, value: str) -> Stage:
        image, *rest = string.Template(value).substitute(self._global).split()
        name = rest[1] if rest and rest[0].upper() == "AS" else str(len(self._stages))
        stage = Stage(self._folder / f"stage-{name}")
        call("cp", "--archive", str(self._base(image)), str(stage.root))
        self._stages[name] = stage
        return stage

    def _base(self, image: str) -> Path:
        """What stands for `debian:SUITE-slim`."""
        match = re.fullmatch(r"debian:([a-z]+)-slim", image)
        if match is None:
            raise ValueError(f"{image}: only debian:SUITE-slim can be made here")
        if image not in self.bases:
            root = self.bases[image] = self._folder / f"base-{match[1]}"
            print(
                f"  ({image} stands for what debootstrap makes of {match[1]}, without what slim images leave out)",
                flush=True,
            )
            call("debootstrap", "--variant=minbase", match[1], str(root), self._mirror)
            _slim(root)
        return self.bases[image]

    def _follow(self, stage: Stage, keyword: str, value: str) -> None:
        expanded = string.Template(value)
        known = stage.arguments | stage.environment
        match keyword:
            case "RUN":
                with containing(stage.root, network=True):
                    call(*entered(stage, ["/bin/sh", "-c", value]), environment=_for_a_step(stage))
            case "COPY":
                self._copy(stage, shlex.split(expanded.substitute(known)))
            case "ENV":
                pairs = (item.partition("=") for item in shlex.split(expanded.substitute(known)))
                stage.environment |= {name: content for name, _, content in pairs}
            case "USER":
                stage.user = expanded.substitute(known)
            case "WORKDIR":
                stage.folder /= expanded.substitute(known)
                inside(stage.root, stage.folder).mkdir(parents=True, exist_ok=True)
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(value)
            case "CMD":
                stage.command = json.loads(value)
            case "EXPOSE":
                pass
            case _:
                raise ValueError(f"{keyword} is not known here")

    def _copy(self, stage: Stage, words: Sequence[str]) -> None:
        """Of a folder its content, as Docker does; of this repository only what .dockerignore lets through."""
        *sources, target = words
        ignore, kept, source_root = None, None, ROOT
        if sources[0].startswith("--from="):
            source_root = self._stages[sources.pop(0).removeprefix("--from=")].root
        else:
            kept, ignored = allowed((ROOT / ".dockerignore").read_text(encoding="utf-8"))
            ignore = shutil.ignore_patterns(*ignored)
        place = inside(stage.root, stage.folder / target)
        for name in sources:
            source = inside(source_root, name)
            if kept is not None and name not in kept:
                raise ValueError(f"COPY {name}: .dockerignore leaves it out")
            if source.is_dir():
                shutil.copytree(source, place, symlinks=True, ignore=ignore, dirs_exist_ok=True)
            else:
                to = place / source.name if target.endswith("/") else place
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, to)


def allowed(text: str) -> tuple[set[str], list[str]]:
    """Names at the top that a .dockerignore like ours lets through, and patterns that are left out everywhere."""
    lines = text.split()
    if lines[:1] != ["*"]:
        raise ValueError(".dockerignore does not begin with *")
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    return kept, [line.removeprefix("**/") for line in lines if line.startswith("**/")]


def inside(root: Path, path: str | PurePosixPath) -> Path:
    """A path of a root, as this machine names it."""
    return root / str(path).lstrip("/")


def entered(stage: Stage, command: Sequence[str], *before: str) -> list[str]:
    """A command that runs in a stage's root and folder, as its user, behind commands that start it."""
    unshare = shutil.which("unshare")
    assert unshare is not None
    user, group = stage.ids()
    given = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *before]
    return [unshare, f"--root={stage.root}", f"--wd={stage.folder}", *given, *command]


def _for_a_step(stage: Stage) -> dict[str, str]:
    handed_on = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    given = {"DEBIAN_FRONTEND": "noninteractive", "PIP_CERT": "/run/certificates.pem"}
    return handed_on | given | stage.arguments | stage.environment


def _slim(root: Path) -> None:
    """Leave out what Debian's slim images do: now, and whenever a package is installed."""
    excluded = "".join(f"path-exclude /usr/share/{name}/*\n" for name in _SLIM)
    kept = "path-include /usr/share/doc/*/copyright\npath-include /usr/share/locale/locale.alias\n"
    (root / "etc" / "dpkg" / "dpkg.cfg.d" / "slim").write_text(excluded + kept, encoding="utf-8")
    for path in sorted((path for name in _SLIM for path in (root / "usr" / "share" / name).rglob("*")), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # it has files that are kept
                path.rmdir()
        elif path.name not in {"copyright", "locale.alias"}:
            path.unlink()
    for path in [path for name in ("lib/apt/lists", "cache/apt", "log") for path in (root / "var" / name).rglob("*")]:
        if not path.is_dir():
            path.unlink()
    for name in ("hostname", "hosts", "resolv.conf"):  # the machine's, which are mounted for each step
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).touch()


@contextmanager
def containing(root: Path, *, network: bool = False) -> Iterator[ExitStack]:
    """What every container has, and for steps of a build the machine's names of hosts and its certificates."""
    with ExitStack() as mounts:
        mount(mounts, root / "proc", "--types", "proc", "proc")
        mount(mounts, root / "sys", "--rbind", "/sys")
        mount(mounts, root / "dev", "--types", "tmpfs", "tmpfs")
        for name in _DEVICES:
            (root / "dev" / name).touch()
            mount(mounts, root / "dev" / name, "--bind", f"/dev/{name}")
        (root / "dev" / "fd").symlink_to("/proc/self/fd")
        (root / "dev" / "shm").mkdir()
        mount(mounts, root / "dev" / "shm", "--types", "tmpfs", "tmpfs")
        if network:
            mount(mounts, root / "run", "--types", "tmpfs", "tmpfs")
            authorities = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
            shutil.copy(authorities, root / "run" / "certificates.pem")
            for name in ("hosts", "resolv.conf"):
                mount(mounts, root / "etc" / name, "--bind", f"/etc/{name}")
        yield mounts


def mount(mounts: ExitStack, target: Path, *what: str) -> None:
    call("mount", *what, str(target))
    mounts.callback(call, "umount", "--recursive", str(target))


def call(*command: str, environment: dict[str, str] | None = None) -> None:
    """Run a command; its output is printed where it fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{done.stdout[-4000:]}{done.stderr[-4000:]}", file=sys.stderr)
        raise SystemExit(f"{shlex.join(command)}: exit code {done.returncode}")
