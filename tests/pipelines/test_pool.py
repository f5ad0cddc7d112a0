"""The processes of a stage: a start that fails costs no process that is there, and is repeated."""

import gc
import logging
import os
import signal
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from tailcut.errors import EngineError
from tailcut.pipelines.loading import load_pipeline, parse_path
from tailcut.pipelines.pool import ProcessPool
from tailcut.pipelines.process import StageSource
from tests.pipelines.test_faults import PIPELINE, STAGE, wait_for, written
from tests.pipelines.test_loading import HEAD


@contextmanager
def pool_of(folder, workers=1):
    path = parse_path(written(folder, HEAD, STAGE.replace("@stage(", f"@stage(workers={workers}, "), PIPELINE))
    pool = ProcessPool(StageSource(load_pipeline(path).steps[0], path, 0))
    try:
        yield pool
    finally:
        pool.close()


class Failing:
    """Fails the first calls of a function, and counts those that are left."""

    def __init__(self, function, failures, error):
        self.function = function
        self.left = failures
        self.error = error

    def __call__(self, *arguments, **settings):
        if self.left:
            self.left -= 1
            raise type(self.error)(*self.error.args)  # whose traceback nothing keeps
        return self.function(*arguments, **settings)


def fail_log_threads(monkeypatch, failures):
    """Have the system refuse threads for the log lines of processes."""
    start, error = threading.Thread.start, RuntimeError("can't start new thread")
    failing = Failing(start, failures, error)
    monkeypatch.setattr(threading.Thread, "start", lambda it: (failing if it.name.endswith("-log") else start)(it))
    return failing


def descriptors():
    return len([*Path("/dev/fd").iterdir()])


def test_a_start_without_a_thread_is_repeated(tmp_path, monkeypatch, caplog):
    """The other process serves on meanwhile."""
    with pool_of(tmp_path, workers=2) as pool, caplog.at_level(logging.WARNING, "tailcut"):
        killed, other = pool.pids
        fail_log_threads(monkeypatch, 2)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: "could not be started: RuntimeError: can't start new thread" in caplog.text)
        wait_for(lambda: pool.restarts == 1)
        assert other in pool.pids
        assert len(pool.pids) == 2
        pool.give_back(pool.take())


def test_a_call_fails_at_once_if_no_process_starts(tmp_path, monkeypatch, caplog):
    """And not after half a minute."""
    with pool_of(tmp_path) as pool, caplog.at_level(logging.WARNING, "tailcut"):
        failing = fail_log_threads(monkeypatch, 1000)
        os.kill(pool.pids[0], signal.SIGKILL)
        wait_for(lambda: failing.left < 1000)
        with pytest.raises(EngineError, match="stage 'f' has no process: its last start failed"):
            pool.take()


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (subprocess, "Popen", ValueError("embedded null byte")),
        (threading.Thread, "start", None),
        pytest.param(subprocess, "Popen", MemoryError(), marks=pytest.mark.slow),
    ],
)
def test_the_first_process_failing_to_start_is_reported(tmp_path, monkeypatch, owner, name, error):
    """With the stage, and without what was made for the process."""
    gc.collect()
    before = descriptors()
    if error is None:
        fail_log_threads(monkeypatch, 1)
        error = RuntimeError("can't start new thread")
    else:
        monkeypatch.setattr(owner, name, Failing(getattr(owner, name), 1, error))
    message = f"stage 'f': its process could not be started: {type(error).__name__}: {error}"
    with pytest.raises(EngineError) as caught, pool_of(tmp_path):
        pass
    assert str(caught.value) == message
    del caught
    gc.collect()  # a mapping has a descriptor of its own, until the traceback is gone that shows it
    assert descriptors() == before
