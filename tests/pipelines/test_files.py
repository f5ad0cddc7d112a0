"""What a pipeline's file does while it is executed, and its functions on threads, leaves its server whole."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tailcut.runtime.profile import Profile
from tests.engines.models import perceptron
from tests.pipelines.test_faults import PIPELINE, ROW, STAGE, written
from tests.pipelines.test_loading import HEAD
from tests.servers import TIMEOUT_S, serving, until

THREADS = STAGE.replace("@stage(", "@stage(threads=True, ")
BAD_TEXT = "from tailcut import InvalidInputError\n" + THREADS.replace(
    "return x", "raise InvalidInputError('\\ud800: ' + 9000 * 'caf\\u00e9 ') if x[0] == 1 else KeyError('\\ud800 lost')"
)


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_message_that_is_no_text_is_answered(tmp_path, logs, style):
    """Of a stage on threads: with question marks, and cut; over HTTP, gRPC and a stream of gRPC. It is logged, too."""
    options = ["--grpc-port", "0", "--log", style]
    with serving(logs, written(tmp_path, HEAD, BAD_TEXT, PIPELINE), *options) as server:
        with server.connect() as wire:
            answer = wire.ask(ROW)
            assert answer.status == 400
            message = answer.json()["error"]
            assert message.startswith("stage 'f': ?: café café")
            assert 4000 < len(message.encode()) <= 4096
            assert wire.ask(ROW.replace(b"[1]}", b"[2]}")).status == 500
        tensor = tritonclient.grpc.InferInput("x", [1], "FP32")
        tensor.set_data_from_numpy(np.ones(1, np.float32))
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            with pytest.raises(InferenceServerException, match=r"stage 'f': .: café"):
                client.infer("p", [tensor])
            answers = []
            client.start_stream(lambda result, error: answers.append(str(error)))
            client.async_stream_infer("p", [tensor])
            until(lambda: answers, server)
            client.stop_stream()
            assert answers[0].startswith("stage 'f': ?: café")
        until(lambda: "ud800 lost" in server.stderr.read_text(), server)
        assert "Logging error" not in server.stderr.read_text()


PRINTS = (
    "print('imported', flush=True)\n"
    + HEAD
    + THREADS.replace("return x", "print('called', flush=True); os.system('echo shell'); return x")
)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_what_is_printed_does_not_spoil_the_result(tmp_path, workers):
    """Standard output has one JSON object, whatever the file and its functions print."""
    source = written(tmp_path, PRINTS, PIPELINE)
    command = [sys.executable, "-m", "tailcut", "serve", source, "--port", "0", "--json", *workers]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
    try:
        address = json.loads(process.stdout.readline())
        ask = f"http://{address['host']}:{address['port']}/v2/models/p/infer"
        body = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}'
        assert subprocess.run(["curl", "-sf", "-d", body, ask], stdout=subprocess.DEVNULL, check=False).returncode == 0
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=TIMEOUT_S)[0] == b""
        assert {"imported", "called", "shell"} <= set((tmp_path / "stderr").read_text().splitlines())
    finally:
        process.kill()
        process.communicate()


ONCE = (
    "with Path(__file__).with_name('executed').open('a') as file:\n    print(os.getpid(), file=file)\n"
    + HEAD
    + THREADS
    + PIPELINE
)


def test_a_file_is_executed_once_at_a_start_and_at_each_reload(tmp_path, logs):
    """Also where nothing has changed: it may read other files."""

    def executions():
        return (tmp_path / "executed").read_text().split()

    source = written(tmp_path, ONCE)
    with serving(logs, source) as server:
        assert executions() == [str(server.process.pid)]
        for count in (2, 3):
            server.process.send_signal(signal.SIGHUP)
            until(lambda count=count: len(executions()) == count, server)
            until(lambda count=count: server.stderr.read_text().count(": loaded") >= count - 1, server)
        assert len(executions()) == 3


MOVES = "os.chdir('/')\n" + HEAD + THREADS + PIPELINE


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_a_file_that_changes_the_working_directory(tmp_path, monkeypatch, logs, workers):
    """Paths of the command line are those of the folder that it was given in, at a reload, too."""
    (tmp_path / "sub").mkdir()
    written(tmp_path / "sub", MOVES)
    Profile.of_model(perceptron([4, 3], tmp_path / "m.onnx")).save(tmp_path / "m.profile.toml")
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    options = ["--token-file", "token", "--uds", "socket", *workers]
    with serving(logs, "sub/p.py:pipeline", "m.profile.toml", "bare=m.onnx", *options) as server:
        with server.connect() as wire:
            assert wire.ask(ROW).status == 200
        assert (tmp_path / "socket").exists()
        if not workers:
            server.process.send_signal(signal.SIGHUP)
            until(lambda: server.stderr.read_text().count(": loaded") == 3, server)
        assert "could not" not in server.stderr.read_text()


def test_a_package_below_the_folder_is_watched(tmp_path, logs):
    """Its modules are the pipeline's own."""
    (tmp_path / "parts").mkdir()
    helper = tmp_path / "parts" / "helper.py"
    helper.write_text("FACTOR = 2\n")
    function = THREADS.replace("return x", "return x * helper.FACTOR")
    with serving(logs, written(tmp_path, "from parts import helper\n", HEAD, function, PIPELINE), "--reload") as server:

        def answer():
            with server.connect() as wire:
                return wire.ask(ROW).json()["outputs"][0]["data"]

        assert answer() == [2]
        helper.write_text("FACTOR = 333\n")
        until(lambda: answer() == [333], server)
