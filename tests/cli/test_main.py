"""The command line as a user meets it: real processes, exit codes, and one line for a mistake."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from tests.hidden import without
from tests.processes import killed_at_end

from tailcut.cli import main as cli
from tailcut.errors import UsageError
from tailcut.models import digits_model

SCRIPT = Path(sys.executable).with_name("tailcut")


def tailcut(*arguments: str, module: bool = False) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tailcut"] if module else [str(SCRIPT)]
    return subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def only_line(text: str) -> str:
    """The single line of a text; that there is exactly one is part of what is tested."""
    lines = text.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("tailcut: ")
    return lines[0]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Puts a command `probe` into the command line, in this process, whose body the test gives."""

    def put(function) -> None:
        function.__name__ = "probe"
        module = types.ModuleType("tailcut.cli.probe")
        module.probe = function
        module.__spec__ = types.SimpleNamespace(name=module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "probe"))

    return put


@pytest.mark.parametrize("module", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_version_is_the_installed_one(module: bool):
    """`tailcut --version` and `python -m tailcut --version` print the installed version and nothing else."""
    done = tailcut("--version", module=module)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tailcut {version('tailcut')}\n", "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]):
    """Help names every command that is there, with one line each."""
    assert cli.main(arguments) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "serve" in out
    assert "Serve models" in out


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]):
    """Each command is found under its name and explains itself."""
    for name in [name for name in cli.COMMANDS if (Path(cli.__file__).with_name(f"{name}.py")).exists()]:
        assert cli.main([name, "--help"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert f"tailcut {name}" in out


def helps(command: typer.core.TyperCommand | typer.core.TyperGroup, *path: str) -> Iterator[tuple[str, str]]:
    """The help of a command, and of all below it."""
    context = typer.Context(command, info_name=" ".join(path))
    yield " ".join(path), command.get_help(context)
    if isinstance(command, typer.core.TyperGroup):
        for name in command.list_commands(context):
            yield from helps(command.get_command(context, name), *path, name)


def test_help_names_all_memory_that_is_limited():
    """--max-buffered counts bodies, also while they are inflated, and responses that clients have not read."""
    text = " ".join(dict(helps(typer.main.get_command(cli.app), "tailcut"))["tailcut serve"].split())
    assert "bodies being received or inflated and for responses that clients have not read, in MiB" in text


def test_help_speaks_of_no_class_of_the_source():
    """Help is for users: a name such as `SomeThing` in it is no class of the source."""
    sources = (path.read_text(encoding="utf-8") for path in Path(cli.__file__).parents[1].rglob("*.py"))
    classes = {name for source in sources for name in re.findall(r"^ *class (\w+)", source, re.MULTILINE)}
    texts = dict(helps(typer.main.get_command(cli.app), "tailcut"))
    assert {"tailcut serve", "tailcut ray config"} <= texts.keys()
    for command, text in texts.items():
        assert classes.isdisjoint(re.findall(r"\b[A-Z][a-z0-9]+[A-Z]\w+", text)), command


@pytest.mark.parametrize(
    ("commands", "heavy"),
    [
        ([["serve", "--help"], ["--help"]], ["numpy", "onnxruntime", "openvino", "numba", "onnx"]),
        ([["schema", "bench"]], ["pydantic", "pydantic_core"]),  # reading a few flags needs no such library
    ],
)
def test_commands_do_not_load_heavy_libraries(commands: list[list[str]], heavy: list[str]):
    """A command starts quickly, and a server keeps no memory for what it does not use."""
    code = (
        f"import sys; from tailcut.cli.main import main; [main(command) for command in {commands}]; "
        f"print(sorted(set({heavy}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope",), ["no command named 'nope'", "serve", "--help"]),
        (("--nope",), ["--nope", "tailcut --help"]),
        (("serve",), ["SOURCE", "tailcut serve --help"]),
        (("serve", "--nope", "a.onnx"), ["--nope", "tailcut serve --help"]),
        (("serve", "--port", "many", "a.onnx"), ["--port", "tailcut serve --help"]),
        (("serve", "--port", "70000", "a.onnx"), ["--port", "tailcut serve --help"]),
        (("serve", "--json", "--max-batch-size", "0", "a.onnx"), ["--max-batch-size", "tailcut serve --help"]),
    ],
)
def test_a_bad_flag_is_one_line_on_stderr(
    arguments: tuple[str, ...], words: list[str], capfd: pytest.CaptureFixture[str]
):
    """A mistake on the command line is one line that says what to do, nothing on stdout, exit code 2."""
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert all(word in only_line(err) for word in words)


def test_a_mistake_ends_the_process_with_2():
    """As it does for a shell."""
    done = tailcut("nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no command named 'nope'" in only_line(done.stderr)


def test_an_error_of_ours_is_one_line_and_exit_code_2(command, capsys: pytest.CaptureFixture[str]):
    """A TailcutError out of a command becomes one line on stderr, whatever line breaks it holds; stdout stays empty."""

    def fail(json: bool = False) -> None:
        """Fails."""
        raise UsageError("model.onnx:\n  no such file")

    command(fail)
    assert cli.main(["probe", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert only_line(err) == "tailcut: model.onnx: no such file"


def test_what_the_host_refuses_is_named(command, capsys: pytest.CaptureFixture[str]):
    """A full disk or a missing permission is named with its file, in one line, exit code 2."""

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/report.html")

    command(fail)
    assert cli.main(["probe"]) == 2
    assert only_line(capsys.readouterr().err) == "tailcut: /tmp/report.html: No space left on device"


def test_a_thread_or_process_that_the_system_refuses(command, capsys: pytest.CaptureFixture[str]):
    """One line that names the limits, exit code 2."""

    def fail(process: bool = False) -> None:
        if process:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # as fork has it
        before = threading.stack_size(1 << 46)  # more than the address space has
        try:
            threading.Thread(target=print).start()
        finally:
            threading.stack_size(before)

    command(fail)
    limits = "see the limits of processes (ulimit -u, pids.max of the control group) and of memory (ulimit -v)"
    assert cli.main(["probe"]) == 2
    assert only_line(capsys.readouterr().err) == f"tailcut: cannot start another thread: {limits}"
    assert cli.main(["probe", "--process"]) == 2
    assert only_line(capsys.readouterr().err) == f"tailcut: Resource temporarily unavailable: {limits}"


def test_exit_codes_of_commands_pass_through(command):
    """0 for done, 1 for a no."""

    def answer(code: int) -> None:
        raise typer.Exit(code)

    command(answer)
    assert [cli.main(["probe", str(code)]) for code in (0, 1)] == [0, 1]


def test_a_fault_of_ours_is_not_a_no(command, capsys: pytest.CaptureFixture[str]):
    """An unforeseen exception keeps its traceback and an exit code of its own."""

    def fail() -> None:
        raise ZeroDivisionError

    command(fail)
    assert cli.main(["probe"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_module_that_cannot_load_does_not_break_the_others(monkeypatch: pytest.MonkeyPatch, capsys):
    """A command whose module is not there is neither listed nor in the way."""
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "not_there"))
    assert cli.main(["--help"]) == 0
    assert "not_there" not in capsys.readouterr().out
    assert cli.main(["not_there"]) == 2


def test_a_missing_package_is_named(tmp_path: Path):
    """In one line: the tuner simulates in compiled code, which needs numba."""
    command = [
        sys.executable,
        "-m",
        "tailcut",
        "tune",
        str(digits_model()),
        "--budget",
        "15s",
        "-o",
        str(tmp_path / "p.toml"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=without(tmp_path / "hidden", "numba")
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "tailcut: this needs the package numba, which is not installed"
    assert "Traceback" not in done.stderr


def test_control_c_exits_130_without_a_traceback():
    """An interrupted command leaves with 130, the shell's code for SIGINT, and no traceback."""
    code = (
        "import sys, types, signal; from tailcut.cli import main as cli\n"
        "def probe(): print('ready', flush=True); signal.pause()\n"
        "module = types.ModuleType('tailcut.cli.probe'); module.probe = probe\n"
        "module.__spec__ = types.SimpleNamespace(name='tailcut.cli.probe')\n"
        "sys.modules['tailcut.cli.probe'] = module; cli.COMMANDS += ('probe',)\n"
        "sys.argv = ['tailcut', 'probe']; cli.run()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with killed_at_end(child):
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert err == ""


def test_control_c_while_the_program_is_imported_has_no_traceback(tmp_path: Path) -> None:
    """Most of its first moments: the same exit code, and nothing to read."""
    (tmp_path / "typer.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-m", "tailcut", "tune"], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
