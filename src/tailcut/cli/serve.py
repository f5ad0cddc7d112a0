"""`tailcut serve`: serve tuned profiles and bare models over the Open Inference Protocol v2."""

import faulthandler
import logging
from dataclasses import asdict, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tailcut.cli.choices import AlsoCpuChoice, BatchingChoice, DeviceChoice
from tailcut.cli.numbers import finite
from tailcut.cli.serving.messages import log_neighbours, log_rows, log_threads, log_unended, where
from tailcut.cli.serving.model_repository import ControlMode, RepositoryStart, overrides_of, start_library
from tailcut.cli.serving.models import ModelLoader
from tailcut.cli.serving.needs import (
    check_needs,
    latency_limit_ns,
    log_certificates,
    read_certificates,
    read_token,
    tracing_settings,
)
from tailcut.cli.serving.process import EarlySignals, apply_settings, load_allocator, reserve_core, take_core
from tailcut.cli.serving.readiness import tell_systemd
from tailcut.cli.serving.sources import (
    Source,
    SourceReader,
    beside_others,
    distinct_names,
    from_folder,
    need_sources,
    trust_programs,
    working_folder,
    working_in,
)
from tailcut.cli.serving.workers import count, need_shareable, run_supervisor, shared_secrets, worker_group
from tailcut.cli.streams import print_json


class LogStyle(StrEnum):
    """The format of log lines."""

    TEXT = "text"
    JSON = "json"


_log = logging.getLogger("tailcut")


def serve(  # noqa: PLR0915  a statement per option
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
        typer.Option(
            help="When to load repository models: none (at start), explicit (on request), poll (as files change)."
        ),
    ] = ControlMode.NONE,
    repository_poll_secs: Annotated[
        float, typer.Option(help="With mode poll: seconds between checks of the repository.", min=0.1, callback=finite)
    ] = 15.0,
    load_model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="With mode explicit, load this model at start; * for all.", show_default=False
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes any free one.", min=0, max=65535)] = 8000,
    uds: Annotated[str | None, typer.Option(help="Also listen on this Unix socket.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Also serve gRPC on this port; 0 takes any free one.", min=0, max=65535)
    ] = None,
    reuse_port: Annotated[
        bool,
        typer.Option(
            "--reuse-port",
            help="Share the ports and the Unix socket with a running server, to replace it without a failed request.",
        ),
    ] = False,
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
            help="Serve a model file that differs from its profile's, if inputs and outputs are the same.",
        ),
    ] = False,
    slo: Annotated[
        str | None, typer.Option(help="Latency limit: metrics get buckets around it and count the requests within it.")
    ] = None,
    queue: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of rows queued or computing, per model and worker (default: 1024; in a model "
            "repository, max_queue_size).",
            min=1,
            max=1_000_000,
        ),
    ] = None,
    deadline: Annotated[str, typer.Option(help="Time limit for requests that set none.")] = "30s",
    engine_timeout: Annotated[str, typer.Option(help="Abandon an engine call after this long.")] = "30s",
    warm_up: Annotated[str, typer.Option(help="How long warming up may delay readiness, for each model.")] = "10s",
    drain: Annotated[str, typer.Option(help="On SIGTERM, keep serving this long while readiness reports 503.")] = "5s",
    max_body: Annotated[int, typer.Option(help="Largest request body, in MiB.", min=1, max=65536)] = 64,
    max_connections: Annotated[
        int, typer.Option(help="Maximum number of open connections.", min=1, max=1_000_000)
    ] = 4096,
    max_buffered: Annotated[
        int,
        typer.Option(
            help="Maximum memory, over all connections, for bodies being received or inflated and for responses that "
            "clients have not read, in MiB.",
            min=1,
        ),
    ] = 512,
    head_timeout: Annotated[str, typer.Option(help="Time to receive a request head, from its first byte.")] = "10s",
    body_timeout: Annotated[
        str, typer.Option(help="Time to receive a request body, from the end of its head.")
    ] = "30s",
    write_timeout: Annotated[str, typer.Option(help="Time for a client to read a response.")] = "30s",
    write_rate: Annotated[
        int,
        typer.Option(
            help="Slowest accepted client, in KiB per second, in addition to --write-timeout.", min=1, max=1 << 30
        ),
    ] = 64,
    idle_timeout: Annotated[str, typer.Option(help="Time allowed between two requests on a connection.")] = "300s",
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token required for requests that change the server.")
    ] = None,
    require_token: Annotated[
        bool,
        typer.Option("--require-token", help="Require the token for every request except health checks."),
    ] = False,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="Certificate chain (PEM): the ports then accept TLS only."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM, not encrypted).")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load TorchScript, and PyTorch programs that may execute arbitrary code.")
    ] = False,
    device: Annotated[
        DeviceChoice | None,
        typer.Option(help="Device that computes the models (default: the profile's, otherwise cpu)."),
    ] = None,
    cuda_devices: Annotated[
        str | None,
        typer.Option(
            metavar="INDICES",
            help="The visible CUDA devices, by the indices in profiles, such as 1,3 (default: their own).",
        ),
    ] = None,
    also_cpu: Annotated[
        AlsoCpuChoice | None,
        typer.Option(
            help="Load models on the CPU as well: route: each batch goes where it is expected to finish first; "
            "fallback: only batches that the device failed to compute."
        ),
    ] = None,
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Do not serve the live page at GET /.")] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log one line per request.")] = False,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Send OpenTelemetry traces to this collector over OTLP/HTTP: http://HOST:4318."
        ),
    ] = None,
    trace_sample: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Also trace this share (0 to 1) of the requests whose callers made no sampling decision.",
            min=0,
            max=1,
            callback=finite,
        ),
    ] = None,
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

    from tailcut.cli.logs import log_to_stderr, logged_apart
    from tailcut.cli.options import indices_of
    from tailcut.cli.serving.bare_models import BareModels
    from tailcut.cli.streams import keep_for_result
    from tailcut.durations import parse_duration, parse_latency
    from tailcut.runtime.limits import Limits
    from tailcut.runtime.settings import IoSettings
    from tailcut.server.app import ServerOptions
    from tailcut.server.app import serve as run_server
    from tailcut.server.latency import LatencyHistogram
    from tailcut.server.limits import ServerLimits
    from tailcut.server.sockets import ListenAddress
    from tailcut.server.workers.process import WorkerProcess

    worker = WorkerProcess.from_environment()  # pins this process before libraries that start threads are loaded
    log_to_stderr(log.value)
    faulthandler.enable()  # if an engine crashes the process, print the threads' stacks on stderr
    early = EarlySignals(worker)
    folder = working_folder()  # a pipeline's file may change it
    tls_cert, tls_key, token_file = (path and folder / path for path in (tls_cert, tls_key, token_file))
    given = [Source.parse(text) for text in sources or []]
    if trust:
        trust_programs(given, model_repository)
    limits = ServerLimits(
        body_bytes=max_body << 20,
        connections=max_connections if worker is None else max(1, max_connections // worker.size),
        deadline_s=parse_latency(deadline, "--deadline"),
        drain_s=parse_duration(drain),
        buffered_bytes=max_buffered << 20,
        head_timeout_s=parse_duration(head_timeout),
        body_timeout_s=parse_duration(body_timeout),
        write_timeout_s=parse_duration(write_timeout),
        write_rate=write_rate << 10,
        idle_timeout_s=parse_duration(idle_timeout),
    )
    need_sources(given, model_repository)
    asked = [] if worker else [settings for source in given for settings in source.settings()]
    with working_in(folder):
        load_allocator(asked)
    result = keep_for_result()
    check_needs(
        grpc=grpc_port is not None, shared_memory=shared_memory, require_token=require_token, token_file=token_file
    )
    certificates = read_certificates(tls_cert, tls_key)
    tracing = tracing_settings(otlp_endpoint, trace_sample, worker)
    uds = None if uds is None else from_folder(uds, folder)
    address = ListenAddress(host, port, uds, grpc_port, tls=certificates is not None, reuse_port=reuse_port)
    alone = shared_memory is not None or allow_model_control or reload or grpc_port == 0
    alone = alone or model_repository is not None
    limit_ns = 0 if slo is None else latency_limit_ns(slo)
    size = 1 if worker or (alone and workers is None) else count(workers, asked)
    if size > 1:
        need_shareable(needs_one=alone)
        secrets = shared_secrets(certificates, token_file, given)
        group = worker_group(size, len(given), limits.drain_s, max_restarts, secrets)
        raise typer.Exit(run_supervisor(replace(group, folder=folder), address, result if json else None))
    secrets = None
    if worker is None and model_repository is None:
        secrets = shared_secrets(certificates, token_file, given, warns=False)
    if secrets is not None:
        secrets.note()  # before any model is read
    log_certificates(certificates, worker)
    reader = SourceReader(
        worker, max_batch_size, batching, device, accept_model_change, also_cpu, indices_of(cuda_devices)
    )
    wished = Limits(
        queue_rows=queue or Limits().queue_rows,
        engine_timeout_s=parse_duration(engine_timeout),
        warm_up_s=parse_duration(warm_up),
    )
    start = RepositoryStart(model_repository, model_control_mode, load_model or [], repository_poll_secs, limit_ns)
    started = start_library(start, partial(overrides_of, reader, wished, queue=queue, measures=not no_auto))
    stored = [reader.read(source) for source in given]
    profiles = [beside_others(profile, source, len(given)) for profile, source in zip(stored, given, strict=True)]
    names = distinct_names(stored, given)
    apply_settings([profile.settings for profile in profiles], uds, shared_memory)
    reservation = reserve_core([profile.settings for profile in profiles])
    measured = BareModels.among([] if no_auto else given, max_batch_size, worker)
    loader = ModelLoader.within_memory(reader.read, measured, wished, len(given))
    loader = replace(loader, steps=reader.steps(measures=not no_auto, alone=len(given) == 1))
    loader = replace(loader, cpus=None if reservation is None else reservation.others)
    named = [replace(model, latency=LatencyHistogram(limit_ns)) for model in loader.load_all(given, stored)]
    served = [*named, *started.models]
    log_neighbours(served, worker)
    profiles += [item.model.profile for item in started.models]
    names += dict.fromkeys(item.name for item in started.models)
    options = ServerOptions(
        address=address,
        limits=limits,
        direct_bytes=min((profile.settings.io.direct_bytes for profile in profiles), default=IoSettings().direct_bytes),
        busy_poll_us=max((profile.settings.io.busy_poll_us for profile in profiles), default=0),
        fast_path=all(profile.settings.io.fast_path for profile in profiles),
        gc_freeze=any(profile.settings.memory.gc_freeze for profile in profiles),
        shared_memory=shared_memory.lstrip("/") if shared_memory else None,
        model_control=allow_model_control or started.control,
        token=read_token(token_file, warns=worker is None or worker.post == 0) if token_file is not None else None,
        read_token=partial(read_token, token_file, warns=worker is None) if token_file is not None else None,
        require_token=require_token,
        certificates=certificates,
        secrets=secrets,
        access_log=access_log,
        ui=not no_ui,
        tracing=tracing,
        reload=reload,
        hung_up=early.hung_up,
        library=started.library,
        failed=started.failed,
        poll_s=started.poll_s,
    )

    def on_ready(address: ListenAddress) -> None:
        measured.log(named)
        log_rows(named, worker)
        log_threads(served, worker)
        if worker is not None:
            return
        _log.info("serving %s on %s", ", ".join(names) or "no model yet", where(address))
        lines.flush()
        tell_systemd()
        if json:
            models = [{"name": item.name, "version": item.version} for item in served]
            print_json(orjson.dumps(asdict(address) | {"models": models}), file=result, flush=True)

    try:
        with logged_apart() as lines:
            take_core(reservation)
            run_server(served, options, on_ready, worker)
    finally:
        for item in served:
            item.model.close()
    if worker is None:
        _log.info("stopped")
    log_unended()
