"""What goes wrong in a stage or its processes costs its own requests, and no client's time or stop of the server."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tailcut import Model
from tailcut.errors import EngineError, InvalidInputError, UsageError
from tests.pipelines import samples
from tests.pipelines.test_loading import HEAD
from tests.pipelines.test_serving import text_request
from tests.servers import TIMEOUT_S, Server, json_request, serving, until

ROW = json_request("p", {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]})
STAGE = '@stage(inputs={"x": "FP32"}, outputs={"y": "FP32"})\ndef f(x):\n    return x\n\n\n'
PIPELINE = "pipeline = Pipeline('p', [f])\n"


def written(folder: Path, *parts: str) -> str:
    """A pipeline's file of these parts; what it is served by."""
    (folder / "p.py").write_text("import os, sys, time\nfrom pathlib import Path\n" + "".join(parts))
    return f"{folder}/p.py:pipeline"


def wait_for(true):
    looks = threading.Event()
    end = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < end
        looks.wait(0.01)


@pytest.mark.slow
def test_a_log_that_is_not_read_delays_no_request(folder):
    """Each of these inputs has a traceback logged, which is more together than a pipe holds."""
    command = [sys.executable, "-m", "tailcut", "serve", f"{folder}/samples.py:pipeline", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = json.loads(process.stdout.readline())
        with Server(process, address["host"], address["port"], folder).connect() as wire:
            assert {wire.ask(text_request("value")).status for _ in range(300)} == {400}
            assert wire.ask(text_request("next")).status == 200
    finally:
        process.kill()
        process.communicate()


LOGGING = HEAD + (
    "import logging, warnings\nlogging.getLogger('mine').info('imported')\n"
    + STAGE.replace("return x", "warnings.warn('old'); logging.getLogger('mine').warning('called'); return 1 / 0")
    + PIPELINE
)


def test_log_lines_of_a_stage_are_the_servers(tmp_path):
    """In its format, with the traceback for the author in one line; what the process logs while it starts, too."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with serving(logs, written(tmp_path, LOGGING), "--log", "json") as server:
        with server.connect() as wire:
            assert wire.ask(ROW).status == 500
        until(lambda: "stage 'f' raised" in server.stderr.read_text(), server)
        lines = [json.loads(line) for line in server.stderr.read_text().splitlines()]
    result = {line["message"]: line["level"] for line in lines}
    assert result["stage 'f': mine: imported"] == "info"
    assert result["stage 'f': mine: called"] == "warning"
    assert any("UserWarning: old" in message for message in result)
    (raised,) = [message for message in result if message.startswith("stage 'f' raised")]
    assert "p.py" in raised
    assert raised.endswith("ZeroDivisionError: division by zero")


def test_what_a_process_logs_before_it_ends_is_not_lost(tmp_path, caplog):
    """It says why."""
    body = "import logging\n" + STAGE.replace("return x", "logging.getLogger('mine').error('cornered'); os._exit(3)")
    with Model.open(written(tmp_path, HEAD, body, PIPELINE)) as model, caplog.at_level(logging.INFO, "tailcut"):
        with pytest.raises(EngineError, match="exit code 3"):
            model.infer_sync({"x": [1.0]})
        wait_for(lambda: "stage 'f': mine: cornered" in caplog.text)


REUSED = """
import numpy as np
from tailcut import Pipeline, stage

OUT = np.empty((32, 4), np.float32)


@stage(inputs={"x": "FP32[4]"}, outputs={"y": "FP32[4]"}, threads=True)
def first(x):
    OUT[: len(x)] = x * 2
    return OUT[: len(x)]


@stage(inputs={"y": "FP32[4]"}, outputs={"z": "FP32[4]"}, threads=True, max_batch_size=1)
def second(y):
    time.sleep(0.02)
    return y


pipeline = Pipeline("p", [first, second])
"""


def test_a_function_on_a_thread_may_keep_what_it_returned(tmp_path):
    """And write its next results there: each request has its own answer."""
    with Model.open(written(tmp_path, REUSED)) as model, ThreadPoolExecutor(6) as pool:

        def ask(value):
            return model.infer_sync({"x": np.full((1, 4), value, np.float32)})["z"][0, 0]

        assert list(pool.map(ask, range(6))) == [2 * value for value in range(6)]


WHOLE = (
    REUSED[: REUSED.index("@stage")]
    + """
@stage(inputs={"x": "FP32[4]"}, outputs={"y": "FP32[4]"}, whole_requests=True, threads=THREADS)
def doubled(x):
    time.sleep(0.001)
    return np.multiply(x, 2, out=OUT[: len(x)])


pipeline = Pipeline("p", [doubled])
"""
)


@pytest.mark.parametrize("threads", [False, True])
def test_a_function_called_for_each_request_may_keep_what_it_returned(tmp_path, threads):
    """And write its next results there, while those of the same batch before it have not been sent yet."""
    with Model.open(written(tmp_path, WHOLE.replace("THREADS", str(threads)))) as model:

        async def ask():
            inputs = [np.full((1 + number % 3, 4), number, np.float32) for number in range(30)]
            answers = await asyncio.gather(*(model.infer({"x": x}) for x in inputs))
            return [np.array_equal(answer["y"], 2 * x) for answer, x in zip(answers, inputs, strict=True)]

        assert all(asyncio.run(ask()))
        assert max(model.entry.stage_batches()["doubled"]) > 1


def test_faults_beside_the_function_are_not_the_clients(tmp_path):
    """Only what the function itself raises is of the input."""
    odd = STAGE.replace('"y": "FP32"', '"y": "BYTES"').replace("return x", "return ['\\ud800'] * len(x)")
    with (
        Model.open(written(tmp_path, HEAD, odd, PIPELINE)) as model,
        pytest.raises(EngineError, match="half of a surrogate pair"),
    ):
        model.infer_sync({"x": [1.0]})
    refuses = STAGE.replace("return x", "return x.reshape(17)")
    with (
        Model.open(written(tmp_path, HEAD, refuses, PIPELINE)) as model,
        pytest.raises(InvalidInputError, match="refused the input: ValueError"),
    ):
        model.infer_sync({"x": [1.0]})


def test_a_process_that_finds_another_stage_in_the_file_does_not_serve_it(tmp_path, caplog):
    """The clients were told of other shapes; it serves again when the file fits, and says that the code has changed."""
    plain = STAGE.replace("return x", "return x + 1")
    with Model.open(written(tmp_path, HEAD, plain, PIPELINE)) as model:
        (pid,) = model.entry.steps[0].engine.pids
        other = STAGE.replace('"y": "FP32"', '"y": "FP32[3]"').replace("return x", "return x[:, None].repeat(3, 1)")
        written(tmp_path, HEAD, other, PIPELINE)
        os.kill(pid, signal.SIGKILL)
        message = "p.py:pipeline: the stage's inputs, outputs or fill have changed since it was loaded: reload it"
        wait_for(lambda: message in caplog.text)
        with pytest.raises(EngineError, match="has no process"):
            model.infer_sync({"x": [1.0]})
        assert "its file has changed" not in caplog.text
        written(tmp_path, HEAD, STAGE.replace("return x", "return x + 2"), PIPELINE)
        wait_for(lambda: model.entry.steps[0].engine.pids)
        wait_for(lambda: model.stages()["f"]["restarts"])
        assert model.infer_sync({"x": [1.0]})["y"].tolist() == [3]
    assert "its file has changed: the new process runs the new version" in caplog.text


ONLY_ONE = (
    "if 'tailcut.pipelines.child' in str(sys.orig_argv):\n"
    "    os.close(os.open(Path(__file__).with_name('taken'), os.O_CREAT | os.O_EXCL))\n"
)


def test_a_stage_of_which_only_one_process_starts_does_not_open(tmp_path):
    """The second one's fault is reported, instead of waiting forever."""
    source = written(tmp_path, HEAD, ONLY_ONE, STAGE.replace("@stage(", "@stage(workers=2, "), PIPELINE)
    with pytest.raises(UsageError, match=r"p\.py:\d+: FileExistsError"):
        Model.open(source)


HANGS = "if Path(__file__).with_name('hang').exists():\n    time.sleep(600)\n"


def test_close_does_not_wait_for_a_process_that_starts(tmp_path, caplog):
    """However long its import takes."""
    model = Model.open(written(tmp_path, HEAD, HANGS, STAGE, PIPELINE))
    (pid,) = model.entry.steps[0].engine.pids
    (tmp_path / "hang").touch()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "has exited: starting another" in caplog.text)
    began = time.monotonic()
    model.close()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "where", [pytest.param("True", marks=pytest.mark.slow), "'tailcut.pipelines.child' in str(sys.orig_argv)"]
)
def test_a_server_ends_while_a_pipeline_is_read_anew(tmp_path, where):
    """Its file is being imported by the server itself, or by a stage's process."""
    logs = tmp_path / "logs"
    logs.mkdir()
    begun = HANGS.replace("exists()", f"exists() and ({where})").replace(
        "    time", "    Path(__file__).with_name('begun').touch()\n    time"
    )
    with serving(logs, written(tmp_path, HEAD, begun, STAGE, PIPELINE), "--drain", "0s") as server:
        (tmp_path / "hang").touch()
        server.process.send_signal(signal.SIGHUP)
        until((tmp_path / "begun").exists, server)
        with server.connect() as wire:
            assert wire.ask(ROW).status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT_S) == 0


def test_cpus_that_there_are_not_are_named(tmp_path):
    """With the setting that names them."""
    source = written(tmp_path, HEAD, STAGE.replace("@stage(", "@stage(cpus=[4095], "), PIPELINE)
    with pytest.raises(UsageError, match=r"stage 'f': cpus=4095: its process cannot be pinned"):
        Model.open(source)


@pytest.mark.parametrize("steps", ["'a/m.onnx', 'b/m.onnx'", "'a/m.onnx', 'a/m.onnx'"])
def test_models_of_one_name_are_refused_with_a_hint(tmp_path, steps):
    """A model has no decorator that names it."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        samples.write_model(tmp_path / folder / "m.onnx")
    source = written(tmp_path, HEAD, f"pipeline = Pipeline('p', [{steps}])\n")
    with pytest.raises(UsageError, match=r"two steps are called 'm': a model has the name of its file.*m-2\.onnx"):
        Model.open(source)


@pytest.mark.slow
def test_a_thread_that_keeps_a_server_alive_is_named(tmp_path):
    """Its file has started it without daemon=True, and Python waits for it; without one, nothing is logged."""
    held = "import threading\nthreading.Thread(target=threading.Event().wait, name='poller').start()\n"
    source = written(tmp_path, HEAD, held, STAGE.replace("@stage(", "@stage(threads=True, "), PIPELINE)
    with serving(tmp_path, source, env={"PYTHONUNBUFFERED": "1"}) as server:
        server.process.send_signal(signal.SIGINT)  # without the time for load balancers
        wait_for(lambda: "still waiting for threads started by a pipeline's file: poller" in server.stderr.read_text())
        assert "INFO stopped" in server.stderr.read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_process_that_a_thread_forks_holds_no_port(tmp_path, workers):
    """Otherwise no server could be started in place of one that has ended, as long as that process lives."""
    forks = (
        "child = os.fork(); child or (time.sleep(60), os._exit(0)); Path(__file__).with_name(f'{child}.pid').touch()"
    )
    function = STAGE.replace("@stage(", "@stage(threads=True, ").replace("return x", f"{forks}; return x")
    logs = tmp_path / "logs"
    logs.mkdir()
    try:
        with serving(logs, written(tmp_path, HEAD, function, PIPELINE), "--workers", workers) as server:
            with server.connect() as wire:
                assert wire.ask(ROW).status == 200
            server.process.kill()
            wait_for(lambda: _is_free(server.port))
    finally:
        for file in tmp_path.glob("*.pid"):
            os.kill(int(file.stem), signal.SIGKILL)


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
