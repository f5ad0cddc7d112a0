"""The worker processes of a `tailcut serve`: how many there are, and their supervisor's command."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tailcut.cli.serving.messages import where
from tailcut.cli.serving.needs import read_token
from tailcut.cli.serving.readiness import tell_systemd
from tailcut.cli.serving.sources import Source, files_of
from tailcut.cli.streams import print_json
from tailcut.machine.child_python import python

if TYPE_CHECKING:
    from tailcut.runtime.settings import Settings
    from tailcut.server.sockets import ListenAddress
    from tailcut.server.tls.certificates import Certificates
    from tailcut.server.workers.secrets import Secrets
    from tailcut.server.workers.supervisor import WorkerGroup

_log = logging.getLogger("tailcut")


def count(workers: str | None, settings: "Sequence[Settings]") -> int:
    """The number of processes: `--workers`, or as many as the profiles were measured with; auto divides the CPUs.

    Raises:
        UsageError: `workers` is neither a number from 1 to 1024 nor auto.
    """
    from tailcut.errors import UsageError
    from tailcut.machine.quota import usable_cpus

    if workers is None:
        return _profiled(settings)
    if workers.isdecimal() and 1 <= int(workers) <= 1024:
        return int(workers)
    if workers != "auto":
        raise UsageError(f"--workers must be a number from 1 to 1024 or auto, not {workers!r}")
    # Bare models, which have no settings yet, count as one thread.
    wanted = max([max(item.engine.threads, 1) * item.engine.instances for item in settings], default=1)
    return max(1, usable_cpus() // wanted)


def _profiled(settings: "Sequence[Settings]") -> int:
    """How many processes the profiles were measured with, at most the number of CPUs."""
    from tailcut.machine.quota import usable_cpus

    wanted = max([item.io.workers for item in settings], default=1)
    if wanted > usable_cpus():
        cpus = usable_cpus()
        _log.warning("the profile was measured with %d workers: starting %d, one for each CPU", wanted, cpus)
    return max(1, min(wanted, usable_cpus()))


def need_shareable(*, needs_one: bool) -> None:
    """Check that no option needs a single process.

    Raises:
        UsageError: one does (`needs_one`).
    """
    from tailcut.errors import UsageError

    if needs_one:
        raise UsageError(
            "several workers share only their port: --shared-memory, --allow-model-control, --reload and "
            "--model-repository need --workers 1, and --grpc-port needs a fixed port number"
        )


def shared_secrets(
    certificates: "Certificates | None", token_file: Path | None, sources: Sequence[Source], *, warns: bool = True
) -> "Secrets | None":
    """The certificate and the token, which can be reloaded without the models; None if there is neither.

    Args:
        certificates: of the ports.
        token_file: with the token.
        sources: all that the models are read from.
        warns: whether to log a warning if every user can read the token.
    """
    from tailcut.server.workers.secrets import Secrets

    if certificates is None and token_file is None:
        return None
    read = None if token_file is None else partial(read_token, token_file, warns=warns)
    return Secrets(certificates, token_file, read, partial(files_of, sources))


def worker_group(
    size: int, models: int, drain_s: float, max_restarts: int, secrets: "Secrets | None" = None
) -> "WorkerGroup":
    """Workers that run this process's own command line."""
    from tailcut.server.workers.fleet import RestartPolicy
    from tailcut.server.workers.supervisor import WorkerGroup

    command = python("-m", "tailcut", *sys.argv[1:])
    return WorkerGroup(size, command, models, drain_s, RestartPolicy(limit=max_restarts), secrets)


def run_supervisor(group: "WorkerGroup", address: "ListenAddress", result: TextIO | None) -> int:
    """Supervise the workers until they have stopped; returns the exit code.

    Args:
        group: the workers.
        address: to listen on.
        result: the stream for the address as JSON when the workers are ready; None for no output.
    """
    import orjson

    from tailcut.cli.logs import logged_apart
    from tailcut.server.workers.supervisor import supervise

    def on_ready(bound: "ListenAddress", models: list[dict[str, str]]) -> None:
        names = ", ".join(model["name"] for model in models)
        _log.info("serving %s on %s with %d workers", names, where(bound), group.size)
        lines.flush()
        tell_systemd()
        if result is not None:
            print_json(orjson.dumps(asdict(bound) | {"models": models}), file=result, flush=True)

    with logged_apart() as lines:
        code = supervise(group, address, on_ready)
    if code == 0:
        _log.info("stopped")
    return code
