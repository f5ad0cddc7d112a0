"""`tailcut serve`: exactly what was measured, behind the Open Inference Protocol v2."""

import logging
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tailcut.runtime.arbiter import Arbiter
    from tailcut.runtime.limits import Limits
    from tailcut.runtime.profile import Profile
    from tailcut.server.served import Served


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
    hang: Annotated[str, typer.Option(help="Give an engine call up after this long.")] = "30s",
    turns: Annotated[bool, typer.Option("--turns", help="Models take turns on the cores, by compute time.")] = False,
    drain: Annotated[str, typer.Option(help="On SIGTERM, keep accepting this long with readiness off.")] = "5s",
    max_body: Annotated[int, typer.Option(help="Largest request body, MiB.", min=1, max=65536)] = 64,
    max_connections: Annotated[int, typer.Option(help="Open connections at most.", min=1, max=1_000_000)] = 4096,
    log: Annotated[LogStyle, typer.Option(help="Log lines for people or for machines.")] = LogStyle.TEXT,
    json: Annotated[bool, typer.Option("--json", help="When ready, print one JSON object with the address.")] = False,
) -> None:
    """Serve models over HTTP until SIGTERM."""
    import orjson

    from tailcut.cli.logs import log_to_stderr
    from tailcut.cli.options import parse_duration
    from tailcut.errors import UsageError
    from tailcut.machine.quota import usable_cpus
    from tailcut.runtime.arbiter import Arbiter
    from tailcut.runtime.limits import Limits
    from tailcut.server.app import Address, ServerOptions
    from tailcut.server.app import serve as run_server
    from tailcut.server.limits import ServerLimits

    log_to_stderr(log.value)
    limits = ServerLimits(
        body_bytes=max_body << 20,
        connections=max_connections,
        deadline_s=parse_duration(deadline),
        drain_s=parse_duration(drain),
    )
    profiles = [_profile(source, max_batch) for source in sources]
    names = [profile.model.name for profile in profiles]
    if len(set(names)) < len(names):
        raise UsageError(f"two models have one name ({', '.join(names)}): rename one with NAME=FILE")
    model_limits = Limits(queue_rows=queue, hang_s=parse_duration(hang))
    arbiter = Arbiter(usable_cpus()) if turns and len(profiles) > 1 else None
    served = [_load(profile, model_limits, arbiter) for profile in profiles]
    options = ServerOptions(
        address=Address(host, port, uds),
        limits=limits,
        direct_bytes=min(profile.settings.io.direct_bytes for profile in profiles),
        spin_us=max(profile.settings.io.spin_us for profile in profiles),
        gc_freeze=any(profile.settings.memory.gc_freeze for profile in profiles),
    )

    def on_ready(address: Address) -> None:
        place = f"http://{host}:{address.port}" + (f" and {uds}" if uds else "")
        _log.info("serving %s on %s", ", ".join(names), place)
        if json:
            models = [{"name": one.name, "version": one.version} for one in served]
            print(orjson.dumps(asdict(address) | {"models": models}).decode(), flush=True)

    try:
        run_server(served, options, on_ready)
    finally:
        for one in served:
            one.model.close()
    _log.info("stopped")


def _profile(source: str, max_batch: int | None) -> "Profile":
    import msgspec

    from tailcut.machine.fingerprint import fingerprint
    from tailcut.machine.quota import usable_cpus
    from tailcut.runtime.fit import fit_to_machine
    from tailcut.runtime.model import open_profile

    name, equals, path = source.rpartition("=")
    profile, warnings = fit_to_machine(open_profile(Path(path)), fingerprint(), usable_cpus())
    for warning in warnings:
        _log.warning("%s", warning)
    if equals:
        profile = msgspec.structs.replace(profile, model=msgspec.structs.replace(profile.model, name=name))
    if max_batch is not None:
        batching = msgspec.structs.replace(profile.settings.batching, max_batch=max_batch)
        settings = msgspec.structs.replace(profile.settings, batching=batching)
        profile = msgspec.structs.replace(profile, settings=settings)
    return profile


def _load(profile: "Profile", limits: "Limits", arbiter: "Arbiter | None") -> "Served":
    from tailcut.runtime.model import Model
    from tailcut.server.served import Served

    return Served(Model.open(profile, limits=limits, arbiter=arbiter), profile.model.name)
