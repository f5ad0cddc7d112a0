"""The `tailcut` program: finds the named command, runs it, and turns errors into one line and an exit code.

Each command is in a module of its own, imported only when it is run, so that `tailcut serve` does not wait for
what `tailcut tune` needs. This is the only module of the project that ends the process.
"""

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

DONE, USER_MISTAKE, BUG, INTERRUPTED = 0, 2, 70, 130  # 70 is EX_SOFTWARE of sysexits.h; 130 is 128 + SIGINT

try:
    import typer
    from typer.core import TyperGroup

    from tailcut.cli.streams import secure_streams
    from tailcut.errors import TailcutError
except KeyboardInterrupt:  # these imports take most of the start-up time
    sys.exit(INTERRUPTED)

COMMANDS = (
    "doctor",
    "tune",
    "ladder",
    "serve",
    "convert",
    "bench",
    "explain",
    "top",
    "plan",
    "ray",
    "microbench",
    "vectorization",
    "stat",
    "schema",
    "demo",
)  # in the order of `tailcut --help`


class _Commands(TyperGroup):
    """The commands: `tailcut.cli.NAME` has a function NAME and is imported when the command is looked up.

    A command with commands of its own is a `typer.Typer` instead of a function.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if find_spec(f"tailcut.cli.{name}")]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        function = getattr(import_module(f"tailcut.cli.{cmd_name}"), cmd_name)
        if isinstance(function, typer.Typer):
            return typer.main.get_command(function)
        app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_SETTINGS)
        app.command(cmd_name)(function)
        return typer.main.get_command(app)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        names = self.list_commands(ctx)
        if args[0] not in names:
            ctx.fail(f"no command named {args[0]!r}: the commands are {', '.join(names)}")
        return super().resolve_command(ctx, args)


_LIMITS = "see the limits of processes (ulimit -u, pids.max of the control group) and of memory (ulimit -v)"
_SETTINGS = {"help_option_names": ["-h", "--help"]}
# Plain help: brackets in a help text stay as they are, and rich is not imported.
app = typer.Typer(
    cls=_Commands, add_completion=False, rich_markup_mode=None, context_settings=_SETTINGS, invoke_without_command=True
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed_version

        print(f"tailcut {installed_version('tailcut')}")
        raise typer.Exit


@app.callback()
def tailcut(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  handled by the callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Cut the latency tail of AI inference: tune a model with proof, then serve exactly what was measured."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str]) -> int:
    """Run a command line (without the program's name) and return its exit code; never raises.

    0: done; 1: done, with a negative result; 2: an error of the user or the environment, one line on stderr; 70: a bug
    in Tailcut, with its traceback; 130: interrupted.
    """
    try:
        code = typer.main.get_command(app).main(list(arguments), prog_name="tailcut", standalone_mode=False)
    except (typer.TyperException, TailcutError, OSError) as error:
        print(f"tailcut: {' '.join(_explain(error).split())}", file=sys.stderr)
        return USER_MISTAKE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as error:  # raised by typer on a closed pipe
        return error.code if isinstance(error.code, int) else BUG
    except Exception as error:  # noqa: BLE001  last resort: a bug, with its own exit code
        return _report(error)
    return code if isinstance(code, int) else DONE


def _report(error: Exception) -> int:
    """Report an unexpected error: no more threads, a missing package, or a bug."""
    if (
        isinstance(error, RuntimeError) and str(error) == "can't start new thread"
    ):  # it has no exception type of its own
        print(f"tailcut: cannot start another thread: {_LIMITS}", file=sys.stderr)
        return USER_MISTAKE
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in {"", "tailcut"}:
        print(f"tailcut: this needs the package {package}, which is not installed", file=sys.stderr)
        return USER_MISTAKE
    traceback.print_exc()
    print("tailcut: this is a bug in Tailcut: please report it with the traceback above", file=sys.stderr)
    return BUG


def run() -> None:
    """The console script."""
    secure_streams()
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:  # such as a full disk: the output is missing
        code = USER_MISTAKE
        print(f"tailcut: the output cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the rest of the output at exit
    gc.freeze()  # skips 0.16 s of garbage collection at exit
    sys.exit(code)


def _explain(error: Exception) -> str:
    if isinstance(error, typer.TyperException):  # a bad flag or argument
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "tailcut"
        return f"{error.format_message().rstrip('.')}: see `{command} --help`"
    if isinstance(error, BlockingIOError) and not error.filename:  # fork failed
        return f"{error.strerror}: {_LIMITS}"
    if isinstance(error, OSError) and error.strerror:  # from the system: no permission, disk full, port in use
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
