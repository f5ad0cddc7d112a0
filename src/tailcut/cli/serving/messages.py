"""The lines that `tailcut serve` logs about its models and its address; with several workers, the first logs them."""

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailcut.server.served_model import ServedModel
    from tailcut.server.sockets import ListenAddress
    from tailcut.server.workers.process import WorkerProcess

_log = logging.getLogger("tailcut")
_END_S = 1.0  # a process that nothing holds up exits within it


def where(address: "ListenAddress") -> str:
    """The addresses that the server listens on, for a log line."""
    from tailcut.server.sockets import authority, both_families

    text = f"{'https' if address.tls else 'http'}://{authority(address.host, address.port)}"
    if ":" in address.host:
        text += " (IPv6 and IPv4)" if both_families(address.host) else " (IPv6 only)"
    text += f" and {address.uds}" if address.uds else ""
    return text + (
        f", gRPC{' over TLS' if address.tls else ''} on {authority(address.host, address.grpc_port)}"
        if address.grpc_port is not None
        else ""
    )


def log_rows(models: "Sequence[ServedModel]", worker: "WorkerProcess | None") -> None:
    """Log one line per model, from the first worker only: whether its requests are batched, and why."""
    for served in models if worker is None or worker.post == 0 else []:
        _log.info("%s: %s", served.name, served.model.rows.describe())


def log_neighbours(models: "Sequence[ServedModel]", worker: "WorkerProcess | None") -> None:
    """Log a line for each profile that was tuned together with other models, and for each conflict between profiles."""
    from tailcut.machine.quota import usable_cpus
    from tailcut.runtime.thread_budget import mismatches

    if worker is not None and worker.post:
        return
    cpus = usable_cpus() if worker is None else worker.cpus
    for line in mismatches([served.profiles for served in models], cpus):
        _log.warning("%s", line)


def log_threads(served: "Sequence[ServedModel]", worker: "WorkerProcess | None") -> None:
    """Log one line, from the first process only, per model whose settings leave the number of threads open."""
    from tailcut.engines import engine_threads

    for item in served if worker is None or worker.post == 0 else []:
        if item.entry.stages():
            _log.info("%s: %s", item.name, item.entry.describe_stages())
            continue
        options = item.model.profile.settings.engine
        threads = engine_threads(options)
        if not options.threads:
            quiet = len(served) > 1 and item.alone is not None and not options.spinning
            beside = "; they do not spin because other models are loaded" if quiet else ""
            _log.info(
                "%s: engine threads: %d (instances: %d): %s%s",
                item.name,
                threads.count,
                options.instances,
                threads.reason,
                beside,
            )


def log_unended() -> None:
    """If this process has not exited after a moment, log the threads of a pipeline's file that it waits for."""

    def log() -> None:
        names = [item.name for item in threading.enumerate() if not item.daemon and item is not threading.main_thread()]
        if names:
            text = "still waiting for threads started by a pipeline's file: %s: start them with daemon=True"
            _log.warning(text, ", ".join(names))

    timer = threading.Timer(_END_S, log)
    timer.daemon = True
    timer.start()
