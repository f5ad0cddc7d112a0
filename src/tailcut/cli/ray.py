"""`tailcut ray`: applications of Ray Serve: their configuration, their replicas, and haproxy in front of them."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailcut.cli.numbers import finite
from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailcut.client.requests import ServerAddress

ray = typer.Typer(invoke_without_command=True, add_completion=False, rich_markup_mode=None)


@ray.callback()
def commands(context: typer.Context) -> None:
    """Ray Serve: the configuration of an application, its replicas, and haproxy in front of them."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@ray.command()
def config(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Profiles, bare models or pipelines (FILE.py:VARIABLE), by paths that exist on every node.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the application (default: the first source's).")] = "",
    route: Annotated[str, typer.Option(help="Path of the application at Serve's own proxy.")] = "/",
    slo: Annotated[
        str | None,
        typer.Option(metavar="pN=DURATION", help="Latency limit of the replicas (default: the tune's)."),
    ] = None,
    replicas: Annotated[
        str, typer.Option(metavar="N|MIN:MAX", help="Number of replicas, or a range for the autoscaler.")
    ] = "1",
    multiplex: Annotated[
        int | None,
        typer.Option(metavar="N", help="Load models on demand, at most N per replica; NAME=FILE names them.", min=1),
    ] = None,
    cpus: Annotated[
        float | None, typer.Option(help="CPUs per replica (default: from the profile).", min=0.0, callback=finite)
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs per replica (default: from the profile).", min=0.0, callback=finite)
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address that servers bind to (default: the node's).")] = None,
    drain: Annotated[str, typer.Option(help="How long a stopping replica keeps serving.")] = "5s",
    token_file: Annotated[Path | None, typer.Option(help="File with the token required for every request.")] = None,
    revision: Annotated[
        str, typer.Option(metavar="TEXT", help="A different TEXT replaces all replicas, as changed files do.")
    ] = "",
    accept_model_change: Annotated[
        bool, typer.Option("--accept-model-change", help="Serve a model file that the profile was not measured on.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Write the configuration of an application for `serve deploy`, sized by its profile."""
    import msgspec

    from tailcut.atomic import write_atomically
    from tailcut.cli.records import RayConfigResult
    from tailcut.durations import parse_duration, parse_latency
    from tailcut.errors import UsageError
    from tailcut.planning.demand import parse_limit
    from tailcut.ray.application import ACCEPT_CHANGE, make_plan
    from tailcut.ray.plan import parse_replicas, serve_config

    try:
        import yaml
    except ImportError:
        raise UsageError("PyYAML, which Ray includes, is not installed: pip install 'tailcut[ray]'") from None
    limit = None if slo is None else parse_limit(slo, lambda value: parse_latency(value, "--slo"))
    named = dict(map(_named, sources))
    if multiplex is not None and len(named) < len(sources):
        raise UsageError("two models have the same name: rename one with NAME=FILE")
    plan = make_plan(
        sources if multiplex is None else named,
        limit_ms=None if limit is None else limit.limit_ms,
        percentile="p99" if limit is None else limit.percentile,
        replicas=parse_replicas(replicas, "--replicas"),
        models_per_replica=multiplex or 1,
        cpus=cpus,
        gpus=gpus,
        host=host,
        drain_s=parse_duration(drain),
        token_file=token_file,
        revision=revision,
        options=(ACCEPT_CHANGE,) if accept_model_change else (),
    )
    called = name or next(iter(named))
    content = serve_config(called, route, plan)
    text = f"# tailcut ray config: deploy with `serve deploy FILE`\n{yaml.safe_dump(content, sort_keys=False)}"
    if output is not None:
        write_atomically(output, text)
        print(f"wrote {output}: deploy it with serve deploy {output}", file=sys.stderr)
    if json:
        result = RayConfigResult(called, None if output is None else str(output), content)
        print_json(msgspec.json.encode(result))
    elif output is None:
        print(text, end="")


@ray.command()
def replicas(
    application: Annotated[str, typer.Argument(metavar="APP", help="Application, or APP/DEPLOYMENT.")],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List the addresses of an application's replicas; exit code 1 if none is ready."""
    import msgspec

    from tailcut.cli.records import RayReplicasResult
    from tailcut.client.directory import RAY
    from tailcut.ray.membership import ReplicaDirectory

    urls: list[str] = []
    directory = ReplicaDirectory.parse(f"{RAY}{application}")
    directory.follow(lambda addresses: urls.extend(_url(address.tls, str(address)) for address in addresses))
    directory.close()
    if json:
        print_json(msgspec.json.encode(RayReplicasResult(replicas=urls)))
    else:
        print("\n".join(urls) or "no replica is ready")
    raise typer.Exit(0 if urls else 1)


@ray.command()
def haproxy(
    application: Annotated[str, typer.Argument(metavar="APP", help="Application, or APP/DEPLOYMENT.")],
    bind: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where haproxy listens.")] = "127.0.0.1:8080",
    threads: Annotated[int, typer.Option(help="Number of haproxy threads.", min=1, max=64)] = 1,
    ca: Annotated[Path | None, typer.Option(help="Certificates (PEM) to trust when replicas use TLS.")] = None,
    program: Annotated[
        Path | None,
        typer.Option("--haproxy", metavar="FILE", help="The haproxy program (default: the system's, otherwise Ray's)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the configuration for the current replicas and exit."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="When haproxy runs or the file is written, print one JSON object.")
    ] = False,
) -> None:
    """Run haproxy in front of an application's replicas, and reload it when they change."""
    import msgspec

    from tailcut.atomic import write_atomically
    from tailcut.cli.records import RayHaproxyResult
    from tailcut.client.directory import RAY
    from tailcut.ray.balancer import Balancer, find_haproxy
    from tailcut.ray.haproxy import Front, haproxy_config
    from tailcut.ray.membership import ReplicaDirectory, connect

    trusted = "" if ca is None else str(ca.resolve())

    def tell(addresses: "Sequence[ServerAddress]") -> None:
        if json:
            result = RayHaproxyResult(bind, None if output is None else str(output), list(map(str, addresses)))
            print_json(msgspec.json.encode(result), flush=True)

    directory = ReplicaDirectory.parse(f"{RAY}{application}")
    if output is not None:
        front = Front(bind, "/run/haproxy/tailcut.sock", threads, trusted)
        replicas: list[ServerAddress] = []
        directory.follow(replicas.extend)
        directory.close()
        write_atomically(output, haproxy_config(replicas, front))
        tell(replicas)
        return
    balancer = Balancer(find_haproxy(program), directory, bind, threads, trusted, _say)
    connect()  # before the handlers below, because Ray installs its own
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: balancer.stop())
    raise typer.Exit(balancer.run(tell))


def _named(source: str) -> tuple[str, str]:
    """The name and the file of a source, given as FILE or NAME=FILE."""
    from tailcut.engines.files import model_name
    from tailcut.runtime.opening.source import split_source

    name, file = split_source(source)
    return name or model_name(Path(file)), file


def _url(tls: bool, address: str) -> str:
    return f"{'https' if tls else 'http'}://{address}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
