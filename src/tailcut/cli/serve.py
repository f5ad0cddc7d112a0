"""`tailcut serve`: serve tuned profiles and bare models over the Open Inference Protocol v2."""

import faulthandler
import logging
import shlex
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tailcut.cli.choices import BatchingChoice, DeviceChoice
from tailcut.cli.model_repository import ControlMode, Start, start_library

if TYPE_CHECKING:
    from tailcut.cli.bare_models import BareModels
    from tailcut.engines.base import EngineOptions
    from tailcut.runtime.limits import Limits
    from tailcut.runtime.model import Model
    from tailcut.runtime.profile import Profile, Settings
    from tailcut.server.listener import Address
    from tailcut.server.served_model import ServedModel
    from tailcut.server.workers.process import Worker
    from tailcut.server.workers.supervisor import WorkerGroup


class LogStyle(StrEnum):
    """The format of log lines."""

    TEXT = "text"
    JSON = "json"


_log = logging.getLogger("tailcut")


def serve(  # noqa: PLR0915  an option a line
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Profiles (.toml), bare models (ONNX, OpenVINO IR, ...) or pipelines (FILE.py:VARIABLE); NAME=FILE or "
            "NAME:VERSION=FILE renames.",
            show_default=False,
        ),
    ] = None,
    model_repository: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Serve Triton's model repository: DIR/NAME/VERSION/model.onnx, config.pbtxt."),
    ] = None,
    model_control_mode: Annotated[
        ControlMode,
        typer.Option(help="Models of the repository: none: all at start; explicit: on request; poll: as files change."),
    ] = ControlMode.NONE,
    repository_poll_secs: Annotated[
        float, typer.Option(help="Seconds between two looks at the repository, with mode poll.", min=0.1)
    ] = 15.0,
    load_model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="With mode explicit, load this model at start; * for all.", show_default=False
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes any free one.", min=0, max=65535)] = 8000,
    uds: Annotated[str | None, typer.Option(help="Listen on this Unix socket too.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Speak gRPC on this port too; 0 takes any free one.", min=0, max=65535)
    ] = None,
    shared_memory: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX", help='Accept shared-memory regions whose key starts with PREFIX ("/" accepts any).'
        ),
    ] = None,
    allow_model_control: Annotated[
        bool, typer.Option("--allow-model-control", help="Allow clients to unload and reload models.")
    ] = False,
    max_batch_size: Annotated[
        int | None, typer.Option(help="Largest batch (default: the profile's).", min=1, max=65536)
    ] = None,
    batching: Annotated[
        BatchingChoice | None,
        typer.Option(help="Merge and split requests: on, off, or auto, where the model's rows are independent."),
    ] = None,
    no_auto: Annotated[
        bool, typer.Option("--no-auto", help="Serve bare models with fixed settings instead of measuring at start.")
    ] = False,
    accept_model_change: Annotated[
        bool,
        typer.Option(
            "--accept-model-change",
            help="Serve a model file with another content than its profile's, if inputs and outputs are the same.",
        ),
    ] = False,
    slo: Annotated[
        str | None, typer.Option(help="Latency to keep: metrics get buckets around it, and count what is within.")
    ] = None,
    queue: Annotated[
        int, typer.Option(help="Most rows queued or computing, per model and worker.", min=1, max=1_000_000)
    ] = 1024,
    deadline: Annotated[str, typer.Option(help="Time limit for requests that set none.")] = "30s",
    engine_timeout: Annotated[str, typer.Option(help="Abandon an engine call after this long.")] = "30s",
    drain: Annotated[str, typer.Option(help="On SIGTERM, keep serving this long while readiness reports 503.")] = "5s",
    max_body: Annotated[int, typer.Option(help="Largest request body, MiB.", min=1, max=65536)] = 64,
    max_connections: Annotated[int, typer.Option(help="Most open connections.", min=1, max=1_000_000)] = 4096,
    max_buffered: Annotated[
        int, typer.Option(help="Most memory for bodies still being received, over all connections, MiB.", min=1)
    ] = 512,
    head_timeout: Annotated[str, typer.Option(help="Time to receive a request head, from its first byte.")] = "10s",
    body_timeout: Annotated[
        str, typer.Option(help="Time to receive a request body, from the end of its head.")
    ] = "30s",
    write_timeout: Annotated[str, typer.Option(help="Time for a client to read a response.")] = "30s",
    write_rate: Annotated[
        int, typer.Option(help="Slowest client: KiB per second, in addition to --write-timeout.", min=1, max=1 << 30)
    ] = 64,
    idle_timeout: Annotated[str, typer.Option(help="Time between two requests of a connection.")] = "300s",
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token required for requests that change the server.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load PyTorch programs that could run code of their own.")
    ] = False,
    device: Annotated[
        DeviceChoice | None, typer.Option(help="Where models are computed (default: the profile's, else cpu).")
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log one line per request.")] = False,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Number of server processes (default: the profile's); auto: as many as the CPUs allow.",
        ),
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(help="Give up after this many consecutive worker exits.", min=1, max=1000)
    ] = 8,
    reload: Annotated[
        bool, typer.Option("--reload", help="Reopen pipelines when their Python files change (for development).")
    ] = False,
    log: Annotated[LogStyle, typer.Option(help="Format of log lines.")] = LogStyle.TEXT,
    json: Annotated[bool, typer.Option("--json", help="When ready, print the address as one JSON object.")] = False,
) -> None:
    """Serve models over HTTP until SIGTERM."""
    import orjson

    from tailcut.cli.bare_models import BareModels
    from tailcut.cli.logs import log_to_stderr, logged_apart
    from tailcut.cli.options import parse_duration
    from tailcut.runtime.limits import Limits
    from tailcut.runtime.profile import IoSettings
    from tailcut.server.app import ServerOptions
    from tailcut.server.app import serve as run_server
    from tailcut.server.latency import LatencyHistogram
    from tailcut.server.limits import ServerLimits
    from tailcut.server.listener import Address
    from tailcut.server.workers.process import Worker

    worker = Worker.from_environment()  # pins this process before libraries that start threads are loaded
    log_to_stderr(log.value)
    faulthandler.enable()  # an engine that crashes the process leaves the threads' stacks on stderr
    _ignore_signals()
    if trust:
        _trust(sources or [])
    limits = ServerLimits(
        body_bytes=max_body << 20,
        connections=max_connections if worker is None else max(1, max_connections // worker.size),
        deadline_s=parse_duration(deadline),
        drain_s=parse_duration(drain),
        buffered_bytes=max_buffered << 20,
        head_timeout_s=parse_duration(head_timeout),
        body_timeout_s=parse_duration(body_timeout),
        write_timeout_s=parse_duration(write_timeout),
        write_rate=write_rate << 10,
        idle_timeout_s=parse_duration(idle_timeout),
    )
    sources = _sources(sources, model_repository)
    _load_allocator(sources, worker)
    if grpc_port is not None:
        _need_grpc()
    if shared_memory is not None:
        _need_shared_memory(shared_memory)
    alone = shared_memory is not None or allow_model_control or reload or grpc_port == 0
    alone = alone or model_repository is not None
    limit_ns = 0 if slo is None else _limit_ns(slo)
    size = 1 if worker or (alone and workers is None) else _count(workers, sources)
    if size > 1:
        _need_one_worker(alone)
        group = _group(size, len(sources), limits.drain_s, max_restarts)
        raise typer.Exit(_supervise(group, Address(host, port, uds, grpc_port), json=json))
    choices = _Choices(max_batch_size, batching, accept_model_change=accept_model_change, device=device)
    wished = Limits(queue_rows=queue, engine_timeout_s=parse_duration(engine_timeout))
    start = Start(model_repository, model_control_mode, load_model or [], repository_poll_secs, limit_ns)
    started = start_library(start, wished, None if batching is None else batching.value, measures=not no_auto)
    again = [partial(_profile, source, choices, worker) for source in sources]
    opened = [read() for read in again]
    profiles = [_among(profile, source, len(sources)) for (profile, _), source in zip(opened, sources, strict=True)]
    names = _own_names(opened)
    _say_neighbours(profiles, worker)
    _apply_to_process([profile.settings for profile in profiles], uds)
    measured = BareModels.among([] if no_auto else sources, max_batch_size, worker, alone=len(sources) == 1)
    named = [
        replace(one, source=source.rpartition("=")[2], latency=LatencyHistogram(limit_ns))
        for one, source in zip(_open(sources, opened, again, measured, wished), sources, strict=True)
    ]
    served = [*named, *started.models]
    profiles += [one.model.profile for one in started.models]
    names += dict.fromkeys(one.name for one in started.models)
    options = ServerOptions(
        address=Address(host, port, uds, grpc_port),
        limits=limits,
        direct_bytes=min((profile.settings.io.direct_bytes for profile in profiles), default=IoSettings().direct_bytes),
        busy_poll_us=max((profile.settings.io.busy_poll_us for profile in profiles), default=0),
        fast_path=all(profile.settings.io.fast_path for profile in profiles),
        gc_freeze=any(profile.settings.memory.gc_freeze for profile in profiles),
        shared_memory=shared_memory.lstrip("/") if shared_memory else None,
        model_control=allow_model_control or started.control,
        token=_token(token_file, worker) if token_file is not None else None,
        read_token=partial(_token, token_file) if token_file is not None else None,
        access_log=access_log,
        reload=reload,
        library=started.library,
        failed=started.failed,
        poll_s=started.poll_s,
    )

    def on_ready(address: Address) -> None:
        measured.log(named)
        _say_rows(named, worker)
        _say_threads(named, worker)
        if worker is not None:
            return
        _log.info("serving %s on %s", ", ".join(names) or "no model yet", _place(address))
        lines.flush()
        if json:
            models = [{"name": one.name, "version": one.version} for one in served]
            print(orjson.dumps(asdict(address) | {"models": models}).decode(), flush=True)

    try:
        with logged_apart() as lines:
            run_server(served, options, on_ready, worker)
    finally:
        for one in served:
            one.model.close()
    if worker is None:
        _log.info("stopped")


def _trust(sources: "Sequence[str]") -> None:
    from tailcut.engines.trust import trust
    from tailcut.runtime.model import is_profile
    from tailcut.runtime.profile import Profile

    for path in [Path(source.rpartition("=")[2]) for source in sources]:
        trust(Path(Profile.load(path).model.path) if is_profile(path) else path)


def _sources(sources: list[str] | None, repository: Path | None) -> list[str]:
    from tailcut.errors import UsageError

    if bool(sources) == (repository is not None):
        raise UsageError(
            "give either models and profiles (SOURCE...) or --model-repository DIR: see `tailcut serve --help`"
        )
    return sources or []


def _ignore_signals() -> None:
    """Ignore signals that have no meaning until the server is up, so that they do not end it."""
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _place(address: "Address") -> str:
    """Where the server listens, for a log line."""
    from tailcut.server.listener import authority, both_families

    place = f"http://{authority(address.host, address.port)}"
    if ":" in address.host:
        place += " (IPv6 and IPv4)" if both_families(address.host) else " (IPv6 only)"
    place += f" and {address.uds}" if address.uds else ""
    return place + (f", gRPC on {authority(address.host, address.grpc_port)}" if address.grpc_port is not None else "")


def _token(path: Path, worker: "Worker | None" = None) -> str:
    from tailcut.errors import UsageError

    if path.stat().st_mode & stat.S_IROTH and (worker is None or worker.post == 0):
        _log.warning(
            "%s: every user on this machine can read this token: run chmod o-r %s", path, shlex.quote(str(path))
        )
    try:
        token = path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or len(token.split()) != 1:
        raise UsageError(f"{path}: must contain one token of ASCII characters without spaces")
    return token


def _need_shared_memory(prefix: str) -> None:
    from tailcut.errors import UsageError

    if not prefix.strip("/") and prefix != "/":  # must be explicit: an unset shell variable gives an empty prefix
        raise UsageError('--shared-memory needs a prefix of the keys to accept; use "/" to accept any')
    if not Path("/dev/shm").is_dir():  # noqa: S108  shm_open(3)'s own folder
        raise UsageError("--shared-memory needs /dev/shm, which this machine does not have")
    if prefix == "/":
        _log.warning(
            "--shared-memory / accepts any key: every client of this server can make it read and write everything "
            "in /dev/shm that its user has access to"
        )


def _need_one_worker(needed: bool) -> None:
    from tailcut.errors import UsageError

    if needed:
        raise UsageError(
            "several workers share only their port: --shared-memory, --allow-model-control, --reload and "
            "--model-repository need --workers 1, and --grpc-port needs a fixed port number"
        )


def _need_grpc() -> None:
    from importlib.util import find_spec

    from tailcut.errors import UsageError

    if not all(find_spec(name) for name in ("hpack", "google", "google.protobuf")):
        raise UsageError("--grpc-port needs gRPC, which is not installed: pip install 'tailcut[grpc]'")


def _group(size: int, models: int, drain_s: float, max_restarts: int) -> "WorkerGroup":
    from tailcut.server.workers.fleet import RestartPolicy
    from tailcut.server.workers.supervisor import WorkerGroup

    return WorkerGroup(
        size, [sys.executable, "-m", "tailcut", *sys.argv[1:]], models, drain_s, RestartPolicy(limit=max_restarts)
    )


def _supervise(group: "WorkerGroup", address: "Address", *, json: bool) -> int:
    import orjson

    from tailcut.cli.logs import logged_apart
    from tailcut.server.workers.supervisor import supervise

    def on_ready(bound: "Address", models: list[dict[str, str]]) -> None:
        names = ", ".join(model["name"] for model in models)
        _log.info("serving %s on %s with %d workers", names, _place(bound), group.size)
        lines.flush()
        if json:
            print(orjson.dumps(asdict(bound) | {"models": models}).decode(), flush=True)

    with logged_apart() as lines:
        code = supervise(group, address, on_ready)
    if code == 0:
        _log.info("stopped")
    return code


def _count(workers: str | None, sources: Sequence[str]) -> int:
    """Number of processes: `--workers`, or what the profiles were measured with; auto divides the CPUs among them."""
    from tailcut.errors import UsageError
    from tailcut.machine.quota import usable_cpus

    if workers is None:
        return _profiled(sources)
    if workers.isdecimal() and 1 <= int(workers) <= 1024:
        return int(workers)
    if workers != "auto":
        raise UsageError(f"--workers must be a number from 1 to 1024 or auto, not {workers!r}")
    engines = [settings.engine for settings in _settings(sources)]  # a bare model has one engine on one CPU
    wanted = max([max(engine.threads, 1) * engine.instances for engine in engines], default=1)
    return max(1, usable_cpus() // wanted)


def _profiled(sources: Sequence[str]) -> int:
    """How many processes the profiles were measured with, no more than there are CPUs."""
    from tailcut.machine.quota import usable_cpus

    wanted = max([settings.io.workers for settings in _settings(sources)], default=1)
    if wanted > usable_cpus():
        cpus = usable_cpus()
        _log.warning("the profile was measured with %d workers: starting %d, one for each CPU", wanted, cpus)
    return max(1, min(wanted, usable_cpus()))


def _own_names(opened: "Sequence[tuple[Profile, str]]") -> list[str]:
    """The models' names, which must be distinct."""
    from tailcut.errors import UsageError

    names = [profile.model.name + (f":{version}" if version != "1" else "") for profile, version in opened]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two models have the same name ({', '.join(names)}): rename one with NAME=FILE or NAME:VERSION=FILE"
        )
    return names


def _load_allocator(sources: Sequence[str], worker: "Worker | None") -> None:
    """Restart the process on the allocator that a profile names, if it is installed and not loaded yet.

    Worker processes inherit it from the supervisor. With openvino, only the system's allocator works.
    """
    from tailcut.machine.allocator import PACKAGES, find, is_asked_for, is_loaded, restart_with

    settings = [] if worker else _settings(sources)
    wanted = {one.memory.allocator for one in settings} - {"system"}
    if wanted and any(one.engine.name == "openvino" for one in settings):
        _log.warning("openvino does not work with %s: using the system's allocator", " or ".join(sorted(wanted)))
        return
    for name in sorted(wanted)[:1]:
        library = find(name)
        if library is None:
            hint = f"on Debian, apt install {PACKAGES[name]}"
            _log.warning("%s is not installed (%s): using the system's allocator", name, hint)
        elif not is_loaded(name) and not is_asked_for(library):
            restart_with(library)
        elif not is_loaded(name):
            _log.warning("the dynamic loader could not load %s: using the system's allocator", library)
    if len(wanted) > 1:
        _log.warning(
            "the profiles name several allocators (%s), but a process has only one: using the first",
            ", ".join(sorted(wanted)),
        )


def _apply_to_process(settings: "Sequence[Settings]", uds: str | None) -> None:
    """Apply process-wide settings, and warn about those that need an option of the command line."""
    from tailcut.machine.allocator import keep_freed

    if any(one.memory.keep_freed for one in settings) and not keep_freed():
        _log.warning("memory.keep_freed has no effect: this C library has no option for it")
    if uds is None and any(one.io.socket == "unix" for one in settings):
        _log.warning("the profile was measured over a Unix socket: add --uds PATH and connect clients to it")


def _settings(sources: Sequence[str]) -> "list[Settings]":
    """The settings of those sources that are profiles."""
    from tailcut.runtime.profile import Profile

    files = [Path(source.rpartition("=")[2]) for source in sources]
    return [Profile.load(file).settings for file in files if file.suffix == ".toml"]


def _limit_ns(slo: str) -> int:
    from tailcut.cli.options import parse_duration
    from tailcut.errors import UsageError

    limit_ns = round(parse_duration(slo) * 1e9)
    if limit_ns <= 0:
        raise UsageError(f"--slo must be greater than 0, not {slo}")
    return limit_ns


@dataclass(frozen=True, slots=True)
class _Choices:
    """What the command line says of every model."""

    max_batch_size: int | None
    batching: BatchingChoice | None
    accept_model_change: bool
    device: DeviceChoice | None


def _profile(source: str, choices: _Choices, worker: "Worker | None") -> "tuple[Profile, str]":
    """The profile of a SOURCE as served alone, and the version to serve it as."""
    import msgspec

    from tailcut.machine.fingerprint import fingerprint
    from tailcut.machine.quota import usable_cpus
    from tailcut.runtime.fit import fit_to_machine
    from tailcut.runtime.profile import with_batching

    name, equals, path = source.rpartition("=")
    name, version = _name_and_version(name)
    profile = _read_profile(path, name, choices, worker)
    if choices.device is not None:
        engine = msgspec.structs.replace(profile.settings.engine, device=choices.device.value)
        profile = msgspec.structs.replace(profile, settings=msgspec.structs.replace(profile.settings, engine=engine))
    if worker is not None and not profile.settings.engine.threads:  # by default an engine would use every CPU
        settings = profile.settings
        threads = max(1, worker.cpus // settings.engine.instances)
        if worker.post == 0:
            _log.info("%s: engine threads: %d (this worker's CPUs)", profile.model.name, threads)
        profile = _with_engine(profile, msgspec.structs.replace(settings.engine, threads=threads))
    profile, warnings = fit_to_machine(profile, fingerprint(), worker.cpus if worker else usable_cpus())
    for warning in warnings if worker is None or worker.post == 0 else []:  # log it only once
        _log.warning("%s", warning)
    if equals and name:
        profile = msgspec.structs.replace(profile, model=msgspec.structs.replace(profile.model, name=name))
    if choices.max_batch_size is not None:
        sized = msgspec.structs.replace(profile.settings.batching, max_batch_size=choices.max_batch_size)
        settings = msgspec.structs.replace(profile.settings, batching=sized)
        profile = msgspec.structs.replace(profile, settings=settings)
    if choices.batching is not None:
        profile = with_batching(profile, choices.batching.value)
    return profile, version


def _read_profile(path: str, name: str, choices: _Choices, worker: "Worker | None") -> "Profile":
    """The profile of a pipeline, of a bare model, or of a file."""
    from tailcut.pipelines.model import pipeline_profile
    from tailcut.runtime.model import open_profile
    from tailcut.runtime.profile import Profile, is_pipeline

    if is_pipeline(path):
        return pipeline_profile(path)
    if not choices.accept_model_change or _is_bare(path):
        return open_profile(Path(path))
    profile, warning = Profile.load(Path(path)).accept_model(Path(path).name)
    if warning and (worker is None or worker.post == 0):
        _log.warning("%s: %s", name or profile.model.name, warning)
    return profile


def _among(profile: "Profile", source: str, models: int) -> "Profile":
    """A profile adjusted to the number of models served; one that the user wrote or tuned is unchanged."""
    from tailcut.runtime.thread_budget import beside_others

    engine = profile.settings.engine
    return _with_engine(profile, beside_others(engine, models)) if _is_bare(source) else profile


def _is_bare(source: str) -> bool:
    """Whether a SOURCE is a model without a profile, whose settings the server chooses."""
    from tailcut.runtime.model import is_bare

    return is_bare(source.rpartition("=")[2])


def _with_engine(profile: "Profile", engine: "EngineOptions") -> "Profile":
    import msgspec

    return msgspec.structs.replace(profile, settings=msgspec.structs.replace(profile.settings, engine=engine))


def _say_rows(models: "Sequence[ServedModel]", worker: "Worker | None") -> None:
    """Log one line per model, from the first worker only: whether its requests are batched, and why."""
    for served in models if worker is None or worker.post == 0 else []:
        _log.info("%s: %s", served.name, served.model.rows.describe())


def _say_neighbours(profiles: "Sequence[Profile]", worker: "Worker | None") -> None:
    """Log a line for each profile that was measured beside other models, and for each conflict between profiles."""
    from tailcut.machine.quota import usable_cpus
    from tailcut.runtime.neighbours import other_neighbours
    from tailcut.runtime.thread_budget import conflicts

    if worker is not None and worker.post:  # log it only once
        return
    cpus = usable_cpus() if worker is None else worker.cpus
    for line in [*other_neighbours(profiles), *conflicts(profiles, cpus)]:
        _log.warning("%s", line)


def _name_and_version(text: str) -> tuple[str, str]:
    """Split `NAME:VERSION`; the version defaults to 1."""
    from tailcut.errors import UsageError

    name, colon, version = text.partition(":")
    if not colon:
        return name, "1"
    if not version.isdecimal() or not version.isascii() or int(version) < 1 or version != str(int(version)):
        raise UsageError(f"{version!r} is not a version: write NAME:VERSION=FILE with a positive whole number")
    return name, version


def _open(
    sources: "Sequence[str]",
    opened: "Sequence[tuple[Profile, str]]",
    again: "Sequence[Callable[[], tuple[Profile, str]]]",
    measured: "BareModels",
    wished: "Limits",
) -> "list[ServedModel]":
    """Load and warm up all models; `again` rereads the profile of each."""
    from tailcut.machine.quota import quota
    from tailcut.runtime.limits import within_memory

    limits = within_memory(wished, quota().memory_bytes, len(opened))
    if limits.slab_bytes < wished.slab_bytes:
        _log.warning("the memory limit leaves only %d MiB for the rows of each model", limits.slab_bytes >> 20)
    share = partial(_load, measured=measured, limits=limits, models=len(sources))
    return [share(source, one, read) for source, one, read in zip(sources, opened, again, strict=True)]


def _say_threads(served: "Sequence[ServedModel]", worker: "Worker | None") -> None:
    """Log one line, from the first process only, per model whose settings leave the number of threads open."""
    from tailcut.engines import engine_threads

    for one in served if worker is None or worker.post == 0 else []:
        if one.sources is not None:
            _log.info("%s: %s", one.name, one.model.describe_stages())
            continue
        options = one.model.profile.settings.engine
        found = engine_threads(options)
        if not options.threads:
            quiet = len(served) > 1 and one.alone is not None and not options.spinning
            beside = "; they do not spin because other models are loaded" if quiet else ""
            _log.info(
                "%s: engine threads: %d (instances: %d): %s%s",
                one.name,
                found.count,
                options.instances,
                found.reason,
                beside,
            )


def _load(
    source: str,
    opened: "tuple[Profile, str]",
    again: "Callable[[], tuple[Profile, str]]",
    *,
    measured: "BareModels",
    limits: "Limits",
    models: int,
) -> "ServedModel":
    """Load one model, with a function that reloads it for another number of models."""
    from tailcut.pipelines.loading import parse_path
    from tailcut.pipelines.model import PipelineModel
    from tailcut.server.served_model import ServedModel

    if opened[0].is_of_pipeline:
        # What the server asks of a model, a pipeline has, too, except rows of a slab, which it says it has none of.
        def open_pipeline(profile: "Profile") -> "Model":
            pipeline = PipelineModel.of_profile(profile, limits=limits)
            try:
                profile.check_signature(pipeline.spec)
            except BaseException:
                pipeline.close()
                raise
            return cast("Model", pipeline)

        model = open_pipeline(opened[0])
        folder = parse_path(opened[0].model.path).file.parent
        name, version = opened[0].model.name, opened[1]
        return ServedModel(model, name, version, lambda _: open_pipeline(again()[0]), sources=folder)
    opener = partial(measured.opener(source), limits=limits)

    def load(profile: "Profile", models: int) -> "Model":
        model = opener(_among(profile, source, models))
        try:
            profile.check_signature(model.spec)
        except BaseException:
            model.close()
            raise
        return model

    def reload(models: int) -> "Model":
        return load(again()[0], models)

    profile, version = opened
    model = load(profile, models)
    # What was measured was measured for as many models as there are: only fixed settings follow their number.
    alone = profile.settings.engine if _is_bare(source) and not measured.has(source) else None
    return ServedModel(model, profile.model.name, version, reload, alone)
