"""`tailcut microbench`: how long a call takes, which of several is faster, and what changed since the last time."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

_MOST_NOISE = 0.5


def microbench(  # noqa: C901  a step for each option
    functions: Annotated[list[str], typer.Argument(metavar="MODULE:FUNCTION...", help="Without arguments to pass.")],
    seconds: Annotated[str, typer.Option(help="Of sampling, for each function.")] = "1s",
    warmup: Annotated[
        str, typer.Option(help="The longest warm-up of each; it ends when the time stands still.")
    ] = "1s",
    save: Annotated[Path | None, typer.Option(help="Write the result here, to compare with later.")] = None,
    against: Annotated[Path | None, typer.Option(help="A saved result: say what changed, exit 1 if slower.")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Share below which a change is none; 0.01, and 0.05 with --against.", min=0)
    ] = None,
    instructions: Annotated[bool, typer.Option("--instructions", help="Count instructions too, by callgrind.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    seed: Annotated[int, typer.Option(help="Of the order of the samples and of the intervals.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Time functions side by side: warmed up, interleaved, with intervals; compare with a saved result."""
    import orjson

    from tailcut.cli.options import parse_duration
    from tailcut.errors import UsageError
    from tailcut.lab.microbench_record import NOISE, changes, grew_slower, read_microbench, save_microbench

    if markdown and json:
        raise UsageError("--markdown and --json exclude each other")
    if noise is not None and noise > _MOST_NOISE:
        raise UsageError(f"--noise {noise:g}: a share, such as 0.02 for 2 %")
    earlier = read_microbench(against) if against else None
    seconds_s, warmup_s = parse_duration(seconds), parse_duration(warmup)
    if seconds_s <= 0:
        raise UsageError("--seconds must be more than nothing")
    callables = {name: load_function(name) for name in functions}
    record = _measure(callables, seconds_s, warmup_s, 0.01 if noise is None else noise, seed)
    if instructions:
        _count(record)
    if earlier is not None:
        record["against"] = changes(record, earlier, NOISE if noise is None else noise, seed=seed)
        if not record["against"]:
            raise UsageError(f"{against}: it has none of the functions that were measured now")
    if save:
        save_microbench(save, record)
    if report:
        from tailcut.report.html import render_microbench_html
        from tailcut.runtime.profile import write_atomically

        write_atomically(report, render_microbench_html(record))
    if json:
        print(orjson.dumps(record).decode())
    elif markdown:
        from tailcut.report.markdown import microbench_markdown

        print(microbench_markdown(record))
    else:
        from tailcut.report.microbench import microbench_table

        microbench_table(record)
    if grew_slower(record.get("against", [])):
        raise typer.Exit(1)


def load_function(name: str) -> Callable[[], Any]:
    """The function that `module:function` names, from the current folder or the installed packages.

    Raises:
        UsageError: it is not there, cannot be imported, or cannot be called without arguments.
    """
    import inspect

    from tailcut.errors import UsageError
    from tailcut.lab.functions import import_function

    found = import_function(name)
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise UsageError(f"{name} cannot be called without arguments ({error}): wrap it in a function") from None
    except ValueError:
        pass  # a builtin that tells no signature
    function: Callable[[], Any] = found
    return function


def _measure(
    functions: dict[str, Callable[[], Any]], seconds: float, warmup_s: float, noise: float, seed: int
) -> dict[str, Any]:
    from tailcut.errors import TailcutError, UsageError
    from tailcut.lab.microbench import benchmark
    from tailcut.lab.microbench_record import microbench_record
    from tailcut.machine.fingerprint import fingerprint

    print(f"measuring {', '.join(functions)} ...", file=sys.stderr)
    try:
        found = benchmark(functions, seconds=seconds, warmup_s=warmup_s, noise=noise, seed=seed)
    except TailcutError:
        raise
    except Exception as error:
        raise UsageError(f"a function raised while it was measured: {type(error).__name__}: {error}") from error
    return microbench_record(found, machine=fingerprint(), command=f"tailcut {shlex.join(sys.argv[1:])}")


def _count(record: dict[str, Any]) -> None:
    from tailcut.lab.instructions import count_instructions

    for one in record["functions"]:
        print(f"counting the instructions of {one['name']} ...", file=sys.stderr)
        one["instructions"] = count_instructions(one["name"])
