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
    grpc_port: Annotated[
        int | None, typer.Option(help="Speak gRPC on this port too; 0 takes any free one.", min=0, max=65535)
    ] = None,
    shared_memory: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Take tensors from shared memory whose key begins so.")
    ] = None,
    allow_model_control: Annotated[
        bool, typer.Option("--allow-model-control", help="Let clients unload models, and load them again.")
    ] = False,
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
    max_buffered: Annotated[
        int, typer.Option(help="Bodies that are collected before they are read, all connections together, MiB.", min=1)
    ] = 512,
    head_timeout: Annotated[str, typer.Option(help="For a whole head, from its first byte.")] = "10s",
    body_timeout: Annotated[str, typer.Option(help="For a whole body, from the end of its head.")] = "30s",
    write_timeout: Annotated[str, typer.Option(help="For a client to read an answer.")] = "30s",
    idle_timeout: Annotated[str, typer.Option(help="Between two requests of a connection.")] = "300s",
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that requests which change the server must carry.")
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log a line for each request.")] = False,
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
        buffered_bytes=max_buffered << 20,
        head_timeout_s=parse_duration(head_timeout),
        body_timeout_s=parse_duration(body_timeout),
        write_timeout_s=parse_duration(write_timeout),
        idle_timeout_s=parse_duration(idle_timeout),
    )
    arbiter = Arbiter(usable_cpus()) if turns and len(sources) > 1 else None
    if grpc_port is not None:
        _need_grpc()
    if shared_memory is not None and not shared_memory.strip("/"):
        raise UsageError("--shared-memory needs a prefix, so that clients cannot name just any memory")
    opened = [_profile(source, max_batch) for source in sources]
    profiles = [profile for profile, _ in opened]
    names = [f"{profile.model.name}:{version}" for profile, version in opened]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two models have one name ({', '.join(names)}): rename one with NAME=FILE or NAME:VERSION=FILE"
        )
    model_limits = Limits(queue_rows=queue, hang_s=parse_duration(hang))
    served = [
        _load(profile, version, source, max_batch, model_limits, arbiter)
        for (profile, version), source in zip(opened, sources, strict=True)
    ]
    options = ServerOptions(
        address=Address(host, port, uds, grpc_port),
        limits=limits,
        direct_bytes=min(profile.settings.io.direct_bytes for profile in profiles),
        spin_us=max(profile.settings.io.spin_us for profile in profiles),
        gc_freeze=any(profile.settings.memory.gc_freeze for profile in profiles),
        shared_memory=shared_memory.lstrip("/") if shared_memory else None,
        model_control=allow_model_control,
        token=_token(token_file) if token_file is not None else None,
        access_log=access_log,
    )

    def on_ready(address: Address) -> None:
        place = f"http://{host}:{address.port}" + (f" and {uds}" if uds else "")
        place += f", gRPC on {host}:{address.grpc_port}" if address.grpc_port is not None else ""
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


def _token(path: Path) -> str:
    from tailcut.errors import UsageError

    try:
        token = path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or len(token.split()) != 1:
        raise UsageError(f"{path}: a token is one word of ASCII characters")
    return token


def _need_grpc() -> None:
    from importlib.util import find_spec

    from tailcut.errors import UsageError

    if not all(find_spec(name) for name in ("grpc", "grpc_health", "google.protobuf")):
        raise UsageError("--grpc-port needs gRPC, which is not installed: pip install 'tailcut[grpc]'")


def _profile(source: str, max_batch: int | None) -> "tuple[Profile, str]":
    """The profile of a SOURCE, and the version it is to be served as."""
    import msgspec

    from tailcut.machine.fingerprint import fingerprint
    from tailcut.machine.quota import usable_cpus
    from tailcut.runtime.fit import fit_to_machine
    from tailcut.runtime.model import open_profile

    name, equals, path = source.rpartition("=")
    name, version = _name_and_version(name)
    profile, warnings = fit_to_machine(open_profile(Path(path)), fingerprint(), usable_cpus())
    for warning in warnings:
        _log.warning("%s", warning)
    if equals and name:
        profile = msgspec.structs.replace(profile, model=msgspec.structs.replace(profile.model, name=name))
    if max_batch is not None:
        batching = msgspec.structs.replace(profile.settings.batching, max_batch=max_batch)
        settings = msgspec.structs.replace(profile.settings, batching=batching)
        profile = msgspec.structs.replace(profile, settings=settings)
    return profile, version


def _name_and_version(text: str) -> tuple[str, str]:
    """`NAME:VERSION` apart; without a version it is 1."""
    from tailcut.errors import UsageError

    name, colon, version = text.partition(":")
    if not colon:
        return name, "1"
    if not version.isdecimal() or not version.isascii() or int(version) < 1 or version != str(int(version)):
        raise UsageError(f"{version!r} is not a version: write NAME:VERSION=FILE with a whole number, 1 or more")
    return name, version


def _load(
    profile: "Profile", version: str, source: str, max_batch: int | None, limits: "Limits", arbiter: "Arbiter | None"
) -> "Served":
    from tailcut.runtime.model import Model
    from tailcut.server.served import Served

    def reload() -> Model:
        return Model.open(_profile(source, max_batch)[0], limits=limits, arbiter=arbiter)

    return Served(Model.open(profile, limits=limits, arbiter=arbiter), profile.model.name, version, reload)
