"""A served pipeline answers every client over every protocol, shows its stages, and reloads what has changed."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, shared_memory

from tailcut.cli.main import main
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import MemorySettings, Settings
from tests.engines.models import perceptron
from tests.pipelines.samples import truth
from tests.servers import json_request, raw_request, serving, until

NO_DEVICE = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
WORDS = [b"alpha", b"be", b"\xff\x00\xfe", b"c" * 50]


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    sources = [f"{folder}/samples.py:{name}" for name in ("pipeline", "numbers")]
    options = ["--grpc-port", "0", "--shared-memory", "/tailcut_pipelines"]
    with serving(tmp_path_factory.mktemp("server"), *sources, *options) as server:
        yield server


def text_request(*words: str) -> bytes:
    data = {"name": "text", "datatype": "BYTES", "shape": [len(words)], "data": list(words)}
    return json_request("texts", {"inputs": [data]})


def check_words(client, module, words):
    tensor = module.InferInput("text", [len(words)], "BYTES")
    tensor.set_data_from_numpy(np.array(words, object))
    answer = client.infer("texts", [tensor])
    assert answer.as_numpy("echo").tolist() == [word[::-1] for word in words]
    assert answer.as_numpy("sum").tolist() == [truth(word) for word in words]


@pytest.mark.parametrize("module", [tritonclient.http, tritonclient.grpc])
def test_tritonclient(server, module):
    """Bytes that are no text go through binary HTTP and gRPC as they are."""
    address = server.address if module is tritonclient.http else f"127.0.0.1:{server.grpc_port}"
    with module.InferenceServerClient(address) as client:
        check_words(client, module, WORDS)
        assert [output["name"] for output in _metadata(client, module)] == ["sum", "echo"]
        with pytest.raises(InferenceServerException, match="this word is refused"):
            check_words(client, module, [b"refuse"])


def _metadata(client, module):
    if module is tritonclient.http:
        return client.get_model_metadata("texts")["outputs"]
    return client.get_model_metadata("texts", as_json=True)["outputs"]


def test_json(server):
    """As curl sends it."""
    with server.connect() as wire:
        answer = wire.ask(text_request("hello", "du")).json()
    assert {output["name"]: output["data"] for output in answer["outputs"]} == {
        "sum": [truth(b"hello"), truth(b"du")],
        "echo": ["olleh", "ud"],
    }


@pytest.mark.parametrize(("word", "status"), [("refuse", 400), ("value", 400), ("break", 500), ("crash", 500)])
def test_a_fault_has_its_status(server, word, status):
    """And shows nothing of the request."""
    with server.connect() as wire:
        answer = wire.ask(text_request(word))
        assert answer.status == status
        assert b"secret" not in answer.body
        assert wire.ask(text_request("next")).status == 200


def test_a_stage_that_hangs_is_a_timeout(server):
    """The server answers others again when its process has been replaced."""
    with server.connect() as wire:
        assert wire.ask(text_request("hang")).status == 504
        assert wire.ask(text_request("next")).status == 200


def test_raw_bodies(server):
    """A stage's only input of fixed size takes them as a model does."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    with server.connect() as wire:
        answer = wire.ask(raw_request("numbers", x.tobytes()))
    head = int(answer.headers["inference-header-content-length"])
    assert answer.status == 200
    assert answer.body[head : head + 32] == (x * 2).tobytes()


def test_shared_memory(server):
    """Inputs are read from a client's region, and outputs written there."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    region = shared_memory.create_shared_memory_region("both", f"/tailcut_pipelines_{os.getpid()}", 2 * x.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [x])
        with tritonclient.http.InferenceServerClient(server.address) as client:
            client.register_system_shared_memory("both", f"/tailcut_pipelines_{os.getpid()}", 2 * x.nbytes)
            tensor = tritonclient.http.InferInput("x", [3, 4], "FP32")
            tensor.set_shared_memory("both", x.nbytes)
            wanted = tritonclient.http.InferRequestedOutput("y")
            wanted.set_shared_memory("both", x.nbytes, offset=x.nbytes)
            client.infer("numbers", [tensor], outputs=[wanted])
            got = shared_memory.get_contents_as_numpy(region, np.float32, [3, 4], offset=x.nbytes)
            assert np.array_equal(got, x * 2)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def test_concurrent_clients_get_their_own_answers(server):
    """While some of them are refused, and a process is killed."""

    def ask(number):
        with server.connect() as wire:
            for turn in range(20):
                word = f"{number}-" + "w" * ((number * turn) % 30)
                bad = (number + turn) % 7 == 0
                answer = wire.ask(text_request("refuse" if bad else word))
                assert answer.status == (400 if bad else 200)
                if not bad:
                    assert answer.json()["outputs"][0]["data"] == [truth(word.encode())]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_stages_are_shown(server):
    """In the configuration, the statistics, the metrics and the answer about the tail."""
    with server.connect() as wire:
        wire.ask(text_request("one"))

        def get(path):
            return wire.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        names = ["tokenize", "twice", "add_up"]
        assert get("/v2/models/texts").json()["platform"] == "pipeline"
        assert get("/v2/models/texts/config").json()["parameters"]["stages"]["string_value"] == ",".join(names)
        (stats,) = get("/v2/models/texts/stats").json()["model_stats"]
        assert [stage["name"] for stage in stats["stages"]] == names
        assert stats["stages"][0]["inference_stats"]["success"]["count"] > 0
        metrics = get("/metrics").body.decode()
        for name in names:
            assert f'tailcut_stage_requests_total{{model="texts",stage="{name}",version="1"}}' in metrics
            assert f'tailcut_stage_compute_seconds_total{{model="texts",stage="{name}",version="1"}}' in metrics
            assert f'tailcut_stage_queue_oldest_seconds{{model="texts",stage="{name}",version="1"}} 0.0' in metrics
        assert [step["stage"] for step in get("/v2/models/texts/tail").json()["steps"]] == names


def test_each_stage_has_its_batch_sizes(server):
    """A request of five rows, which no step splits, in its bucket; the model as a whole has no batches."""
    with server.connect() as wire:
        before = counted(wire)
        assert wire.ask(text_request(*"abcde")).status == 200
        assert wire.ask(raw_request("numbers", bytes(5 * 16))).status == 200
        now = counted(wire)
    # Texts have no fixed length: the first step counts requests.
    for model, stage, rows in (("texts", "tokenize", 1), ("texts", "twice", 5), ("numbers", "where", 5)):
        labels = f'model="{model}",stage="{stage}",version="1"'
        name = f"tailcut_stage_batch_rows_sum{{{labels}}}"
        assert now[name] - before.get(name, 0) == rows
        for bound in (1, 2, 4, 8):
            name = f'tailcut_stage_batch_rows_bucket{{le="{bound}",{labels}}}'
            assert now[name] - before.get(name, 0) == (rows <= bound)
    assert not [name for name in now if name.startswith("tailcut_batch_rows_count{")]


def counted(wire):
    """The metrics by their names with labels."""
    text = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_explain_shows_each_stage(server, capsys):
    """With what the slowest requests spent in it."""
    stop = threading.Event()

    def load():
        with server.connect() as wire:
            while not stop.wait(0.001):  # the command that watches needs the CPUs, too
                wire.ask(text_request("load"))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert main(["explain", server.url, "--model", "texts", "--duration", "300ms"]) == 0
    finally:
        stop.set()
        thread.join()
    out = capsys.readouterr().out
    for name in ("tokenize", "twice", "add_up"):
        assert name in out


@pytest.mark.slow
def test_several_workers(folder, tmp_path):
    """Each has processes of its own, and what they count is added up."""
    with serving(tmp_path, f"{folder}/samples.py:numbers", "--workers", "2") as server:
        x = np.ones((3, 4), np.float32).tobytes()
        for _ in range(6):
            with server.connect() as wire:
                assert wire.ask(raw_request("numbers", x)).status == 200
        # Which each worker publishes four times a second.
        until(lambda: server.metric("tailcut_stage_requests_total") >= 6, server)
        assert server.metric("tailcut_stage_batch_rows_sum") == 18
        assert server.metric("tailcut_stage_batch_rows_count") == server.metric("tailcut_stage_batches_total")


def test_processes_end_with_a_server_that_is_killed(folder, tmp_path):
    """Whatever they are doing."""
    with serving(tmp_path, f"{folder}/samples.py:numbers") as server:
        with server.connect() as wire:
            answer = wire.ask(json_request("numbers", _json_row()))
        pid = next(output["data"][0] for output in answer.json()["outputs"] if output["name"] == "pid")
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(10)
        ended = threading.Event()
        for _ in range(1000):
            if not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                ended.set()
                break
            ended.wait(0.01)
        assert ended.is_set()


def _json_row():
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}


SCALED = """
from tailcut import Pipeline, stage


@stage(inputs={{"x": "FP32[4]"}}, outputs={{"y": "FP32[4]"}})
def scale(x):
    return x * {factor}


pipeline = Pipeline("scaled", [scale])
"""


def test_reload_serves_what_the_file_says_now(tmp_path):
    """A file that cannot be imported leaves the old one serving, and says where it is wrong."""
    file = tmp_path / "scaled.py"
    file.write_text(SCALED.format(factor=2))
    logs = tmp_path / "logs"
    logs.mkdir()
    with serving(logs, f"{file}:pipeline", "--reload") as server:

        def first():
            with server.connect() as wire:
                answer = wire.ask(json_request("scaled", _json_row()))
            assert answer.status == 200
            return answer.json()["outputs"][0]["data"][0]

        assert first() == 2
        file.write_text(SCALED.format(factor=3))
        until(lambda: first() == 3, server)
        file.write_text("import nothing_of_that_name\n")
        until(lambda: "scaled.py:1: ModuleNotFoundError" in server.stderr.read_text(), server)
        assert first() == 3
        file.write_text(SCALED.format(factor=4))
        until(lambda: first() == 4, server)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["serve", "samples.py:nothing"],
            "has no variable 'nothing'; there is two_processes, ",
        ),
        (["serve", "nothing.py:pipeline"], "no such file"),
    ],
)
def test_a_mistake_is_one_line(mistake, folder, command, message):
    """With the exit code for mistakes."""
    assert message in mistake(folder, *command)


def test_bench_loads_a_pipeline(server, capsys):
    """With made-up rows, as it does a model."""
    command = ["bench", server.url, "--model", "numbers", "--concurrency", "2", "--duration", "200ms", "--json"]
    assert main(command) == 0
    run = json.loads(capsys.readouterr().out)["runs"][0]
    assert (run["errors"], run["samples"] > 0) == ({}, True)


def score_profile(folder: Path, hidden: int, outputs: int = 3) -> None:
    """A profile in the folder whose model has other weights with another number of hidden units."""
    path = perceptron([4, hidden, outputs], folder / "score.onnx")
    if not (folder / "score.profile.toml").exists():
        Profile.of_model(path).with_signature().save(folder / "score.profile.toml")


SCORED = """
from tailcut import Pipeline, stage


@stage(inputs={"y": "FP32[-1]"}, outputs={"best": "INT64"}, threads=True)
def best(y):
    return y.argmax(axis=1)


pipeline = Pipeline("scored", ["score.profile.toml", best])
"""


def test_a_pipelines_model_that_has_changed_is_accepted_as_any(mistake, tmp_path):
    """With --accept-model-change, which the refusal names, and the signature is compared."""
    (tmp_path / "scored.py").write_text(SCORED)
    logs = tmp_path / "logs"
    logs.mkdir()
    score_profile(tmp_path, 8)
    score_profile(tmp_path, 9)
    source = f"{tmp_path}/scored.py:pipeline"
    assert "or serve it with --accept-model-change" in mistake(tmp_path, "serve", source, "--port", "0")
    with serving(logs, source, "--accept-model-change") as server:
        with server.connect() as wire:
            row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
            assert wire.ask(json_request("scored", {"inputs": [row]})).status == 200
        words = "score.onnx is not the file that score.profile.toml was measured on: its figures are not proven for it"
        assert words in server.stderr.read_text()
        score_profile(tmp_path, 8, outputs=5)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "its inputs and outputs are not those of the profile" in server.stderr.read_text(), server)


@pytest.mark.slow
def test_settings_of_the_command_line_are_those_of_a_pipelines_models(folder, tmp_path):
    """The largest batch, fixed settings instead of measured ones, and the device."""
    source = f"{folder}/samples.py:pipeline"
    with serving(tmp_path, source, "--max-batch-size", "3", "--no-auto") as server:
        with server.connect() as wire:
            words = [f"{letter}" for letter in "abcdefg"]
            assert wire.ask(text_request(*words)).status == 200
            metrics = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
        labels = 'model="texts",stage="twice",version="1"'
        assert f"tailcut_stage_batch_rows_sum{{{labels}}} 7.0" in metrics
        assert f"tailcut_stage_batch_rows_count{{{labels}}} 3.0" in metrics
        assert "twice: threads=" not in server.stderr.read_text()
    command = [sys.executable, "-m", "tailcut", "serve", source, "--device", "cuda", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=NO_DEVICE)
    assert done.returncode == 2
    assert "pipeline 'texts': device cuda: " in done.stderr


FROZEN = """
import gc

import numpy as np

from tailcut import Pipeline, stage


@stage(inputs={"y": "FP32[-1]"}, outputs={"frozen": "INT64"}, threads=True)
def frozen(y):
    return np.full(len(y), not gc.isenabled(), np.int64)


pipeline = Pipeline("frozen", ["score.profile.toml", frozen])
"""


def test_the_process_is_as_a_steps_profile_says(tmp_path):
    """What a model was measured with holds in a pipeline, too: here that the collector runs between batches only."""
    (tmp_path / "frozen.py").write_text(FROZEN)
    profile = Profile.of_model(perceptron([4, 4], tmp_path / "m.onnx"), Settings(memory=MemorySettings(gc_freeze=True)))
    profile.save(tmp_path / "score.profile.toml")
    with serving(tmp_path, f"{tmp_path}/frozen.py:pipeline") as server, server.connect() as wire:
        row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
        answer = wire.ask(json_request("frozen", {"inputs": [row]}))
    assert answer.json()["outputs"][0]["data"][0] > 0
