"""Reads the Kubernetes manifests, and runs their containers as processes on this machine."""

import os
import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.servers import TIMEOUT_S, Wire

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
START_S = 120.0


def documents(path: Path) -> list[dict[str, Any]]:
    """The manifests in one file."""
    return [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item is not None]


def manifest(name: str) -> dict[str, Any]:
    """The only manifest in a file of `deploy/`."""
    (item,) = documents(DEPLOY / name)
    return item


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    return deployment["spec"]["template"]["spec"]


def seconds(arguments: list[str], option: str) -> float:
    """The duration that `--OPTION=` is given, in seconds."""
    (text,) = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{option}=")]
    match = re.fullmatch(r"([\d.]+)(ms|s)", text)
    assert match, text
    return float(match[1]) * {"s": 1.0, "ms": 1e-3}[match[2]]


def hook_seconds(spec: dict[str, Any]) -> float:
    """The duration of a container's preStop hook, which only sleeps."""
    hook = spec["lifecycle"]["preStop"]
    assert set(hook) == {"sleep"}
    return float(hook["sleep"]["seconds"])


@dataclass
class Container:
    """The process of a container: its ports by their names in the manifest."""

    process: subprocess.Popen[bytes]
    spec: dict[str, Any]
    ports: dict[str, int]
    log: Path

    def connect(self) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.ports["http"]), TIMEOUT_S))

    def probe(self, kind: str) -> int:
        """The HTTP status that a probe of the manifest gets; 0 if nothing listens."""
        get = self.spec[kind]["httpGet"]
        numbers = {port["containerPort"]: self.ports[port["name"]] for port in self.spec["ports"]}
        scheme = get.get("scheme", "HTTP").lower()
        url = f"{scheme}://127.0.0.1:{(numbers | self.ports)[get['port']]}{get['path']}"
        limit_s = self.spec[kind].get("timeoutSeconds", 1) + TIMEOUT_S
        any_certificate = ssl._create_unverified_context() if scheme == "https" else None  # as the kubelet does
        try:
            with urllib.request.urlopen(url, timeout=limit_s, context=any_certificate) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_until_started(self) -> None:
        """Repeat the startup probe until it succeeds, as the kubelet does."""
        end = time.monotonic() + START_S
        while self.probe("startupProbe") != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)


def environment_of_the_image() -> dict[str, str]:
    """The environment that the last stage of the Dockerfile sets, without its PATH."""
    last = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").rpartition("\nFROM ")[2]
    lines = re.search(r"^ENV ((?:.*\\\n)*.*)$", last, re.MULTILINE)
    assert lines
    pairs = (item.partition("=") for item in lines[1].replace("\\\n", " ").split())
    return {name: value for name, _, value in pairs if name != "PATH"}


@contextmanager
def running(
    spec: dict[str, Any], mounts: Mapping[str, Path], folder: Path, before: Sequence[str] = ()
) -> Iterator[Container]:
    """Run a container of a manifest as a process, with its arguments, and with these folders for its mounts.

    Args:
        spec: the container.
        mounts: folders of this machine, by mount path.
        folder: folder for the log.
        before: a command that is to start the process.
    """
    ports = {}
    for port in spec["ports"]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports[port["name"]] = free.getsockname()[1]
    arguments = spec["args"]
    for port in spec["ports"]:
        arguments = [re.sub(rf"(port=){port['containerPort']}$", rf"\g<1>{ports[port['name']]}", a) for a in arguments]
    mounted = re.compile(rf"(?:^|(?<==))({'|'.join(map(re.escape, mounts))})(?=/|$)")
    arguments = [mounted.sub(lambda result: str(mounts[result[1]]), argument) for argument in arguments]
    environment = {
        name: mounted.sub(lambda result: str(mounts[result[1]]), value)
        for name, value in environment_of_the_image().items()
    }
    arguments = [argument.replace("0.0.0.0", "127.0.0.1") for argument in arguments]
    log = folder / f"container-{len(list(folder.iterdir()))}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "tailcut", *arguments],
            stdout=stderr,
            stderr=stderr,
            env=dict(os.environ) | environment,
        )
    try:
        yield Container(process, spec, ports, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(TIMEOUT_S)
