"""A stage's process: what it imports, what it leaves to the server, and what ends with it."""

import logging
import signal
import sys
import time
from pathlib import Path

import pytest

from tailcut import Model
from tailcut.errors import BatchLostError, EngineError
from tests.pipelines.test_faults import PIPELINE, STAGE, wait_for, written
from tests.pipelines.test_loading import HEAD

STANDARD = ("random", "queue", "tokenize", "tempfile")  # which tailcut, numpy or the stage import
ROW = {"x": [1.0]}


def stage_of(body: str, settings: str = "") -> str:
    """A stage whose function is this."""
    return STAGE.replace("@stage(", f"@stage({settings}").replace("return x", body) + PIPELINE


def is_running(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_files_of_the_current_folder_replace_no_standard_module(tmp_path, monkeypatch):
    """They have nothing to do with the pipeline, unless they are beside it: there, too, the library comes first."""
    (tmp_path / "p").mkdir()
    for name in STANDARD:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
        (tmp_path / "p" / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    body = f"import {', '.join(STANDARD)}; return x"
    with Model.open(written(tmp_path / "p", HEAD, stage_of(body))) as model:
        assert model.infer_sync(ROW)["y"] == [1]


def test_it_imports_what_the_program_does(tmp_path, monkeypatch):
    """The program has added a folder to its import path."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "p").mkdir()
    (tmp_path / "lib" / "added_for_child.py").write_text("FACTOR = 5\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    body = "import added_for_child; return x * added_for_child.FACTOR"
    with Model.open(written(tmp_path / "p", HEAD, stage_of(body))) as model:
        assert model.infer_sync(ROW)["y"] == [5]


@pytest.mark.parametrize(
    "start",
    [
        "import subprocess; p = subprocess.Popen(['sleep', '30'])",
        pytest.param("p = multiprocessing.Process(target=wait)", marks=pytest.mark.slow),
    ],
)
def test_programs_of_a_stage_can_be_ended(tmp_path, start):
    """By terminate(): they do not ignore the signals that a stage's process leaves to its server."""
    run = "p.start();" if "Process(" in start else ""
    body = f"{start}; {run} time.sleep(0.2); p.terminate(); p.wait(5) if hasattr(p, 'wait') else p.join(5); return x"
    head = "import multiprocessing\nmultiprocessing.set_start_method('fork', force=True)\n" if run else ""
    wait = "def wait():\n    time.sleep(30)\n\n\n"
    check = body.replace("return x", "return x * (p.returncode if hasattr(p, 'returncode') else p.exitcode)")
    with Model.open(written(tmp_path, head, HEAD, wait, stage_of(check))) as model:
        assert model.infer_sync(ROW)["y"] == [-signal.SIGTERM]


START = "import subprocess; Path(__file__).with_name('pid').write_text(str(subprocess.Popen(['sleep', '60']).pid)); "


@pytest.mark.skipif(sys.platform != "linux", reason="this test reads /proc")
@pytest.mark.parametrize(
    ("end", "error"), [("return x", None), ("time.sleep(60)", BatchLostError), ("os._exit(3)", BatchLostError)]
)
def test_programs_of_a_stage_end_with_it(tmp_path, end, error):
    """When the model is closed, when a call takes too long, and when it crashes."""
    with Model.open(written(tmp_path, HEAD, stage_of(START + end, "timeout_s=0.5, "))) as model:
        if error is None:
            model.infer_sync(ROW)
        else:
            with pytest.raises(error):
                model.infer_sync(ROW)
            wait_for(lambda: not is_running(int((tmp_path / "pid").read_text())))
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not is_running(pid))


@pytest.mark.parametrize(
    "start",
    [
        "child = os.fork(); child or (time.sleep(60), os._exit(0)); ",
        pytest.param("os.system('sleep 60 &'); ", marks=pytest.mark.slow),
        "import subprocess; subprocess.Popen(['sleep', '60'], close_fds=False, start_new_session=True); ",
    ],
)
def test_a_crash_is_noticed_although_what_it_started_goes_on(tmp_path, start):
    """At once, and not after `timeout_s`."""
    with Model.open(written(tmp_path, HEAD, stage_of(start + "os._exit(7)", "timeout_s=60, "))) as model:
        began = time.monotonic()
        with pytest.raises(EngineError, match="exit code 7"):
            model.infer_sync(ROW)
        assert time.monotonic() - began < 20


FORKS = "child = os.fork(); child and Path(__file__).with_name('pid').write_text(str(child)); "


@pytest.mark.parametrize("settings", ["", "threads=True, "])
@pytest.mark.parametrize("end", ["return x if child else -x", "return x if child else 1 / 0"])
def test_a_process_that_a_function_forks_answers_nothing(tmp_path, caplog, settings, end):
    """If it comes back from the call it is ended, and does not write to the memory from which answers are read."""
    body = stage_of(FORKS + end, settings)
    with caplog.at_level(logging.ERROR, "tailcut"), Model.open(written(tmp_path, HEAD, body)) as model:
        for _ in range(5):
            assert model.infer_sync(ROW)["y"] == [1]
            pid = int((tmp_path / "pid").read_text())
            wait_for(lambda pid=pid: not is_running(pid))
        if not settings:  # a forked server has no thread that writes its log
            wait_for(lambda: "a process that it forked returned from the call" in caplog.text)
