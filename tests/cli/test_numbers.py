"""No option takes an infinite number, one that is none, or a seed that no result can hold."""

import pytest
import typer

from tailcut.cli.main import COMMANDS, app, main


def float_options() -> list[tuple[str, ...]]:
    """Every option that takes a float, of every command."""
    result = []

    def look(command: object, *path: str) -> None:
        for name in getattr(command, "commands", {}):
            look(command.commands[name], *path, name)
        result.extend((*path, item.opts[0]) for item in command.params if item.type.name.startswith("float"))

    for name in COMMANDS:
        look(typer.main.get_command(app).get_command(None, name), name)
    return result


def test_there_are_some() -> None:
    """Those of the commands that measure, serve and plan."""
    assert {("bench", "--rate"), ("serve", "--trace-sample"), ("ray", "config", "--cpus")} <= {*float_options()}


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
@pytest.mark.parametrize("option", float_options(), ids=" ".join)
def test_a_number_is_finite(option: tuple[str, ...], value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither `min` nor `max` refuses a NaN; one line does, whatever else is missing."""
    *command, name = option
    assert main([*command, name, value, "source"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert f"Invalid value for '{name}'" in line


@pytest.mark.parametrize("command", ["tune", "bench", "microbench", "plan"])
def test_a_seed_can_be_written(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has integers of 64 bits: a larger one is refused before the run, and not once it is over."""
    assert main([command, "--seed", str(1 << 64), "source"]) == 2
    assert "Invalid value for '--seed'" in capsys.readouterr().err
