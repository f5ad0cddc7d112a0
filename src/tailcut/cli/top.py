"""`tailcut top`: a running server in a terminal, second by second."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tailcut.live.records import Record, View
    from tailcut.report.live import Screen


def top(
    target: Annotated[str, typer.Argument(metavar="URL", help="A running server.")],
    once: Annotated[bool, typer.Option("--once", help="Show one second and exit.")] = False,
    ca: Annotated[Path | None, typer.Option(help="With https://: file of certificates (PEM) to trust.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that the server requires.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per second, one per line; with --once, only one.")
    ] = False,
) -> None:
    """Show what a running server does: rates, percentiles, queues, the slowest requests, memory. Ctrl-C ends it."""
    from tailcut.cli.options import with_access
    from tailcut.cli.serving.needs import read_token
    from tailcut.errors import UnreachableError
    from tailcut.lab.describe import parse_url
    from tailcut.lab.live import follow
    from tailcut.live.records import End
    from tailcut.report.live import Screen

    load_target, prefix = parse_url(target, allow_remote=True, command="top", grpc=False)
    load_target = with_access(load_target, ca, token_file)
    given = None if token_file is None else str(token_file)
    screen = Screen(f"tailcut top {load_target.uds or load_target.authority}{prefix.rstrip('/')}")
    reason = ""
    try:
        with _output(screen, once=once, json=json) as show:
            while not reason or reason == "renewed":
                reason = "lost"
                for record in follow(load_target, prefix, given):
                    if isinstance(record, End):
                        reason = record.reason
                    elif _take(record, screen, show) and once:
                        return
                if token_file is not None:  # the token may have been renewed
                    load_target = replace(load_target, token=read_token(token_file, warns=False))
    except KeyboardInterrupt:  # the usual end
        return
    if reason == "stopping":
        typer.echo("the server has stopped", err=True)
        return
    words = {"failed": "could not collect its figures: see its log"}
    raise UnreachableError(f"the server at {target} {words.get(reason, 'closed the connection')}")


def _take(record: "Record", screen: "Screen", show: "Callable[[View], None]") -> bool:
    """Show a view, or keep a record of another kind; whether it was a view."""
    from tailcut.live.records import About, Findings, View

    if isinstance(record, About):
        screen.about = record
    elif isinstance(record, Findings):
        screen.findings = record.checks
    elif isinstance(record, View):
        show(record)
        return True
    return False


@contextmanager
def _output(screen: "Screen", *, once: bool, json: bool) -> "Iterator[Callable[[View], None]]":
    """How views are shown: as JSON, on a screen that is redrawn each second, or as lines without a terminal."""
    import msgspec
    from rich.live import Live

    from tailcut.report.live import live_lines, live_screen
    from tailcut.report.terminal import output_console

    console = output_console()

    def drawn(view: "View") -> "RenderableType":
        screen.add(view)
        height = None if once else console.height
        return live_screen(screen, console.width, height, bars=not console.options.ascii_only)

    if json:
        yield lambda view: print_json(msgspec.json.encode(view), flush=True)
    elif once:
        yield lambda view: console.print(drawn(view))
    elif console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            yield lambda view: live.update(drawn(view), refresh=True)
    else:
        yield lambda view: print("\n".join(live_lines(view)), flush=True)
