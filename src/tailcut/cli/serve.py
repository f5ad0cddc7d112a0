"""`tailcut serve`: exactly what was measured, behind the Open Inference Protocol v2."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tailcut.runtime.limits import Limits
    from tailcut.runtime.profile import Profile
    from tailcut.server.app import Address
    from tailcut.server.served import Served
    from tailcut.server.worker import Worker


class LogStyle(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


_log = logging.getLogger("tailcut")


def serve(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Profiles (.toml) or bare models (.onnx); NAME=FILE renames."),
    ],
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes any free one.", min=0, max=65535)] = 8000,
    uds: Annotated[str | None, typer.Option(help="Listen on this Unix socket too.")] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Largest batch, instead of the profile's.", min=1, max=65536)
    ] = None,
    queue: Annotated[
        int, typer.Option(help="Rows that may wait or compute, for each model.", min=1, max=1_000_000)
    ] = 1024,
    deadline: Annotated[str, typer.Option(help="Time for an answer where the request names none.")] = "30s",
    drain: Annotated[str, typer.Option(help="On SIGTERM, keep accepting this long with readiness off.")] = "5s",
    max_body: Annotated[int, typer.Option(help="Largest request body, MiB.", min=1, max=65536)] = 64,
    max_connections: Annotated[int, typer.Option(help="Open connections at most.", min=1, max=1_000_000)] = 4096,
    workers: Annotated[
        str, typer.Option(metavar="N|auto", help="Processes that serve; auto: as many as the CPUs have room for.")
    ] = "1",
    max_restarts: Annotated[
        int, typer.Option(help="Give up when so many workers in a row have ended.", min=1, max=1000)
    ] = 8,
    log: Annotated[LogStyle, typer.Option(help="Log lines for people or for machines.")] = LogStyle.TEXT,
    json: Annotated[bool, typer.Option("--json", help="When ready, print one JSON object with the address.")] = False,
) -> None:
    """Serve models over HTTP until SIGTERM."""
    import orjson

    from tailcut.cli.logs import log_to_stderr
    from tailcut.cli.options import parse_duration
    from tailcut.errors import UsageError
    from tailcut.runtime.limits import Limits
    from tailcut.server.app import Address, ServerOptions
    from tailcut.server.app import serve as run_server
    from tailcut.server.limits import ServerLimits
    from tailcut.server.worker import Worker

    worker = Worker.from_environment()  # pins this process before libraries that start threads are loaded
    log_to_stderr(log.value)
    limits = ServerLimits(
        body_bytes=max_body << 20,
        connections=max_connections if worker is None else max(1, max_connections // worker.size),
        deadline_s=parse_duration(deadline),
        drain_s=parse_duration(drain),
    )
    size = 1 if worker else _count(workers, sources)
    if size > 1:
        raise typer.Exit(_supervise(size, max_restarts, Address(host, port, uds), json=json))
    profiles = [_profile(source, max_batch, worker) for source in sources]
    names = [profile.model.name for profile in profiles]
    if len(set(names)) < len(names):
        raise UsageError(f"two models have one name ({', '.join(names)}): rename one with NAME=FILE")
    served = [_load(profile, Limits(queue_rows=queue)) for profile in profiles]
    options = ServerOptions(
        address=Address(host, port, uds),
        limits=limits,
        direct_bytes=min(profile.settings.io.direct_bytes for profile in profiles),
        spin_us=max(profile.settings.io.spin_us for profile in profiles),
        gc_freeze=any(profile.settings.memory.gc_freeze for profile in profiles),
    )

    def on_ready(address: Address) -> None:
        if worker is not None:
            return
        place = f"http://{host}:{address.port}" + (f" and {uds}" if uds else "")
        _log.info("serving %s on %s", ", ".join(names), place)
        if json:
            models = [{"name": one.name, "version": one.version} for one in served]
            print(orjson.dumps(asdict(address) | {"models": models}).decode(), flush=True)

    try:
        run_server(served, options, on_ready, worker)
    finally:
        for one in served:
            one.model.close()
    if worker is None:
        _log.info("stopped")


def _supervise(size: int, max_restarts: int, address: "Address", *, json: bool) -> int:
    import orjson

    from tailcut.server.fleet import Patience
    from tailcut.server.supervisor import Crew, supervise

    def on_ready(bound: "Address", models: list[dict[str, str]]) -> None:
        place = f"http://{bound.host}:{bound.port}" + (f" and {bound.uds}" if bound.uds else "")
        names = ", ".join(model["name"] for model in models)
        _log.info("serving %s on %s with %d workers", names, place, size)
        if json:
            print(orjson.dumps(asdict(bound) | {"models": models}).decode(), flush=True)

    command = [sys.executable, "-m", "tailcut", *sys.argv[1:]]
    code = supervise(Crew(size, command, Patience(limit=max_restarts)), address, on_ready)
    if code == 0:
        _log.info("stopped")
    return code


def _count(workers: str, sources: Sequence[str]) -> int:
    """How many processes `--workers` asks for; auto leaves each the CPUs that its profiles were measured with."""
    from tailcut.errors import UsageError
    from tailcut.machine.quota import usable_cpus
    from tailcut.runtime.model import open_profile

    if workers.isdecimal() and 1 <= int(workers) <= 1024:
        return int(workers)
    if workers != "auto":
        raise UsageError(f"--workers must be a number from 1 to 1024 or auto, not {workers!r}")
    engines = [open_profile(Path(source.rpartition("=")[2])).settings.engine for source in sources]
    wanted = max(max(engine.threads, 1) * engine.instances for engine in engines)
    return max(1, usable_cpus() // wanted)


def _profile(source: str, max_batch: int | None, worker: "Worker | None") -> "Profile":
    import msgspec

    from tailcut.machine.fingerprint import fingerprint
    from tailcut.machine.quota import usable_cpus
    from tailcut.runtime.fit import fit_to_machine
    from tailcut.runtime.model import open_profile

    name, equals, path = source.rpartition("=")
    profile = open_profile(Path(path))
    if worker is not None and not profile.settings.engine.threads:  # an engine left alone would take every CPU
        settings = profile.settings
        engine = msgspec.structs.replace(settings.engine, threads=max(1, worker.cpus // settings.engine.instances))
        profile = msgspec.structs.replace(profile, settings=msgspec.structs.replace(settings, engine=engine))
    profile, warnings = fit_to_machine(profile, fingerprint(), worker.cpus if worker else usable_cpus())
    for warning in warnings if worker is None or worker.post == 0 else []:  # once is enough
        _log.warning("%s", warning)
    if equals:
        profile = msgspec.structs.replace(profile, model=msgspec.structs.replace(profile.model, name=name))
    if max_batch is not None:
        batching = msgspec.structs.replace(profile.settings.batching, max_batch=max_batch)
        settings = msgspec.structs.replace(profile.settings, batching=batching)
        profile = msgspec.structs.replace(profile, settings=settings)
    return profile


def _load(profile: "Profile", limits: "Limits") -> "Served":
    from tailcut.runtime.model import Model
    from tailcut.server.served import Served

    return Served(Model.open(profile, limits=limits), profile.model.name)
