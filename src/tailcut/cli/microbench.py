"""`tailcut microbench`: how long a call takes, which function is faster, and what changed since a saved result."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailcut.cli.numbers import finite
from tailcut.cli.streams import print_json

if TYPE_CHECKING:
    from tailcut.lab.records import FunctionResult, MicrobenchResult

_MOST_NOISE = 0.5


def microbench(  # noqa: C901  a branch per option
    functions: Annotated[
        list[str], typer.Argument(metavar="MODULE:FUNCTION...", help="Functions that can be called without arguments.")
    ],
    seconds: Annotated[str, typer.Option(help="Sampling time per function.")] = "1s",
    warmup: Annotated[
        str, typer.Option(help="Longest warm-up per function; it ends early once the time is stable.")
    ] = "1s",
    save: Annotated[Path | None, typer.Option(help="Save the result to this file, for --against.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with a saved result; exit 1 if any function got slower.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            help="Smallest relative change that counts (default: 0.01; with --against 0.05).", min=0, callback=finite
        ),
    ] = None,
    instructions: Annotated[
        bool, typer.Option("--instructions", help="Also count instructions, with callgrind.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a pull request.")] = False,
    seed: Annotated[
        int, typer.Option(help="Seed of the sampling order and of the intervals.", min=0, max=2**63 - 1)
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Time functions side by side: warmed up, interleaved, with intervals; compare with a saved result."""
    from msgspec.structs import replace

    from tailcut.cli.outputs import check_writable, refuse_overwriting
    from tailcut.durations import parse_duration
    from tailcut.errors import UsageError
    from tailcut.lab.microbench_record import NOISE, changes, grew_slower, read_microbench, save_microbench
    from tailcut.lab.records import to_json

    if markdown and json:
        raise UsageError("--markdown and --json cannot be combined")
    if noise is not None and noise > _MOST_NOISE:
        raise UsageError(f"--noise {noise:g}: must be at most {_MOST_NOISE}, such as 0.02 for 2 %")
    check_writable(save, report)
    refuse_overwriting({"--save": save, "--report": report}, [])
    refuse_overwriting({"--report": report}, [against])
    earlier = read_microbench(against) if against else None
    seconds_s, warmup_s = parse_duration(seconds), parse_duration(warmup)
    if seconds_s <= 0:
        raise UsageError("--seconds must be greater than 0")
    callables = {name: load_function(name) for name in functions}
    record = _measure(callables, seconds_s, warmup_s, 0.01 if noise is None else noise, seed)
    if instructions:
        record = replace(record, functions=[_counted(function) for function in record.functions])
    if earlier is not None:
        record = replace(record, against=changes(record, earlier, NOISE if noise is None else noise, seed=seed))
        if not record.against:
            raise UsageError(f"{against}: contains none of the functions measured now")
    if save:
        save_microbench(save, record)
    if report:
        from tailcut.atomic import write_atomically
        from tailcut.report.html import render_microbench_html

        write_atomically(report, render_microbench_html(record))
    if json:
        print_json(to_json(record))
    elif markdown:
        from tailcut.report.markdown import microbench_markdown

        print(microbench_markdown(record))
    else:
        from tailcut.report.microbench import microbench_table

        microbench_table(record)
    if grew_slower(record.against or []):
        raise typer.Exit(1)


def load_function(name: str) -> Callable[[], Any]:
    """The function named by `module:function`, from the current folder or the installed packages.

    Raises:
        UsageError: it does not exist, cannot be imported, or cannot be called without arguments.
    """
    import inspect

    from tailcut.errors import UsageError
    from tailcut.lab.functions import import_function

    imported = import_function(name)
    try:
        inspect.signature(imported).bind()
    except TypeError as error:
        raise UsageError(f"{name} cannot be called without arguments ({error}): wrap it in a function") from None
    except ValueError:
        pass  # a builtin without a signature
    function: Callable[[], Any] = imported
    return function


def _measure(
    functions: dict[str, Callable[[], Any]], seconds: float, warmup_s: float, noise: float, seed: int
) -> "MicrobenchResult":
    from tailcut.cli.outputs import command_line
    from tailcut.errors import TailcutError, UsageError
    from tailcut.lab.microbench import benchmark
    from tailcut.lab.microbench_record import microbench_record
    from tailcut.machine.fingerprint import fingerprint

    print(f"measuring {', '.join(functions)} ...", file=sys.stderr)
    try:
        result = benchmark(functions, seconds=seconds, warmup_s=warmup_s, noise=noise, seed=seed)
    except TailcutError:
        raise
    except Exception as error:
        raise UsageError(f"a function raised while it was measured: {type(error).__name__}: {error}") from error
    return microbench_record(result, machine=fingerprint(), command=command_line())


def _counted(function: "FunctionResult") -> "FunctionResult":
    from msgspec.structs import replace

    from tailcut.lab.instructions import count_instructions

    print(f"counting the instructions of {function.name} ...", file=sys.stderr)
    return replace(function, instructions=count_instructions(function.name))
