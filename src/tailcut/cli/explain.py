"""`tailcut explain`: why the slowest requests were slow, stage by stage."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailcut.cli.numbers import finite
from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from tailcut.lab.records import ExplainResult


def explain(
    target: Annotated[str, typer.Argument(metavar="URL|PROFILE", help="A running server, or a profile to load-test.")],
    duration: Annotated[str, typer.Option(help="How long to observe the server.")] = "10s",
    model: Annotated[str | None, typer.Option(help="Model to explain; required if the server has several.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="With PROFILE: requests per second (default: the rate it was tuned at).", min=0.01, callback=finite
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With PROFILE: requests to send (.npz, .npy or .jsonl; default: generated).")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML timeline of the slowest requests to this file.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write the slowest requests as trace events, for Perfetto.")
    ] = None,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Allow a server on another machine.")] = False,
    ca: Annotated[Path | None, typer.Option(help="With https://: file of certificates (PEM) to trust.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that the server requires.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Show where the slowest 1 % of requests spent their time, and which events coincided."""
    import msgspec
    import orjson

    from tailcut.atomic import write_atomically
    from tailcut.cli.options import with_access
    from tailcut.cli.outputs import check_writable, refuse_overwriting
    from tailcut.cli.termination import interrupted_once
    from tailcut.durations import parse_duration
    from tailcut.errors import UsageError
    from tailcut.lab.describe import parse_target
    from tailcut.lab.explain import only_model, trace_events, watch
    from tailcut.report.explain import explain_markdown, explain_view
    from tailcut.report.html import render_explain_html
    from tailcut.report.terminal import output_console

    length_s = parse_duration(duration)
    if length_s <= 0:
        raise UsageError("--duration must be greater than 0")
    check_writable(report, trace)
    source = Path(target) if target.endswith(".toml") else None
    refuse_overwriting({"--report": report, "--trace": trace}, [source, data, ca, token_file])
    if source is not None:
        with interrupted_once():  # else SIGTERM would leave the server's folder behind
            result = _of_profile(source, length_s, rate, data)
    else:
        for option, value in (("--rate", rate), ("--data", data)):
            if value is not None:
                raise UsageError(f"{option} needs a PROFILE: a running server has traffic of its own")
        _refuse_model(target)
        address = parse_target(target, allow_remote=allow_remote, command="explain", grpc=False)
        load_target = with_access(address, ca, token_file)
        result = watch(load_target, only_model(load_target, model), length_s)
    result = msgspec.structs.replace(result, target=target)
    if report:
        write_atomically(report, render_explain_html(result))
    if trace:
        write_atomically(trace, orjson.dumps(trace_events(result)).decode())
    if json:
        print_json(msgspec.json.encode(result))
    elif markdown:
        print(explain_markdown(result), end="")
    else:
        output_console().print(explain_view(result))


def _refuse_model(target: str) -> None:
    """Refuse a model or a pipeline, with advice on what to do instead.

    Raises:
        UsageError: the target is one.
    """
    import shlex

    from tailcut.errors import UsageError
    from tailcut.runtime.profile import is_pipeline

    if Path(target).is_file() or is_pipeline(target):
        raise UsageError(
            f"{target} is neither the address of a running server nor a profile (.toml): make a profile of it with "
            f"tailcut tune {shlex.quote(target)}, or serve it and give the server's address"
        )


def _of_profile(path: Path, length_s: float, rate: float | None, data: Path | None) -> "ExplainResult":
    """Serve the profile in a child process, load it from this process, and observe it."""
    from tailcut.cli.options import load_data
    from tailcut.errors import UsageError
    from tailcut.lab.arrivals import check_count
    from tailcut.lab.client import open_loop
    from tailcut.lab.compiled import prepare
    from tailcut.lab.explain import watch, while_doing
    from tailcut.lab.payload import encoded
    from tailcut.lab.trial import ServedProfile
    from tailcut.lab.workload import served_workload
    from tailcut.runtime.profile import Profile

    profile = Profile.load(path)
    offered = rate or profile.evidence.get("rate_offered")
    if not offered:
        raise UsageError(f"{path}: the profile has no measured rate: set requests per second with --rate")
    check_count(float(offered), length_s)
    name, arrays = profile.model.name, None if data is None else load_data(data)
    prepare()
    with ServedProfile(profile) as served:
        wire = encoded(profile.settings.io.wire)
        sent = served_workload(served.target, name, arrays, wire, seed=0, rows=1, shared=None)
        return while_doing(
            lambda: open_loop(served.target, sent.payloads, rate=float(offered), duration_s=length_s),
            lambda: watch(served.target, name, length_s),
        )
