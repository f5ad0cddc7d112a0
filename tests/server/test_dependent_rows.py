"""Models whose rows belong together, behind real servers: each request is answered as onnxruntime answers it alone."""

import gc
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tests.cases import CASES, Arrays, check_same, save_all
from tests.effort import THOROUGH, some
from tests.engines.models import perceptron
from tests.servers import Server, json_request, raw_request, serving

from tailcut.engines.base import EngineOptions
from tailcut.lab.describe import served_spec
from tailcut.lab.load import LoadTarget
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType, Rows

CLIENTS = 12
TOGETHER = 3  # clients that ask one model
NAMED = {"softmax_over_rows", "unnamed_axes", "edges"}  # that tests below ask for
TRUTHS = {name: case.truths() for name, case in CASES.items()}
Ask = Callable[[str, Arrays], Arrays]


class RefusedError(Exception):
    """What the server answers instead."""


@pytest.fixture(scope="module", params=["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list]]:
    """A server of the cases that an engine takes, and their names; batches of 4 at most.

    OpenVINO, which compiles each of them slowly, is in `make test-all` alone. Without a server, tests/runtime has it.
    """
    engine = request.param
    folder = tmp_path_factory.mktemp(engine)
    names = list(CASES)
    if engine == "openvino":
        names = [name for name in names if not CASES[name].openvino and name in {*some(CASES), *NAMED}]
    save_all(folder, {name: CASES[name] for name in names})
    settings = Settings(engine=EngineOptions(name=engine, threads=1), batching=BatchingSettings(max_batch_size=4))
    for name in names:
        Profile.of_model(folder / f"{name}.onnx", settings).save(folder / f"{name}.profile.toml")
    profiles = [folder / f"{name}.profile.toml" for name in names]
    with serving(tmp_path_factory.mktemp("server"), *profiles, "--grpc-port", "0") as server:
        yield server, names
        assert server.stop() == 0


def asking(library: Any, client: Any, *, binary: bool | None = None) -> Ask:
    """Requests through tritonclient."""

    def ask(name: str, arrays: Arrays) -> Arrays:
        inputs = []
        how = {} if binary is None else {"binary_data": binary}
        for key, array in arrays.items():
            inputs.append(library.InferInput(key, list(array.shape), DType.of(array.dtype).value))
            inputs[-1].set_data_from_numpy(array, **how)
        outputs = [output.name for output in CASES[name].model.graph.output]
        wanted = [library.InferRequestedOutput(output, **how) for output in outputs]
        try:
            result = client.infer(name, inputs, outputs=wanted)
        except Exception as error:
            raise RefusedError(str(error)) from error
        return {output: result.as_numpy(output) for output in outputs}

    return ask


def over_json(server: Server) -> Ask:
    return asking(triton_http, triton_http.InferenceServerClient(server.address), binary=False)


def over_binary(server: Server) -> Ask:
    return asking(triton_http, triton_http.InferenceServerClient(server.address), binary=True)


def over_grpc(server: Server) -> Ask:
    return asking(triton_grpc, triton_grpc.InferenceServerClient(f"{server.host}:{server.grpc_port}"))


def raw(server: Server) -> Ask:
    """The bare bytes of the only input; the shapes of the answer stand in its JSON."""
    wire = server.connect()

    def ask(name: str, arrays: Arrays) -> Arrays:
        answer = wire.ask(raw_request(name, next(iter(arrays.values())).tobytes()))
        if answer.status != 200:
            raise RefusedError(answer.body.decode())
        size = int(answer.headers["inference-header-content-length"])
        result, at = {}, size
        for output in json.loads(answer.body[:size])["outputs"]:
            length = output["parameters"]["binary_data_size"]
            array = np.frombuffer(answer.body[at : at + length], DType(output["datatype"]).numpy)
            result[output["name"]] = array.reshape(output["shape"])
            at += length
        return result

    return ask


WAYS = {"json": over_json, "binary": over_binary, "grpc": over_grpc, "raw": raw}


def takes_raw(name: str) -> bool:
    """Whether a body of bare bytes can hold the model's requests, and its answers."""
    graph = CASES[name].model.graph
    free = sum(not dim.HasField("dim_value") for dim in graph.input[0].type.tensor_type.shape.dim)
    strings = any(value.type.tensor_type.elem_type == onnx.TensorProto.STRING for value in graph.output)
    return len(graph.input) == 1 and free == 1 and not strings


def check_all(ask: Ask, names: Sequence[str]) -> None:
    """Every request of the models."""
    for name in names:
        for request, want in zip(CASES[name].requests, TRUTHS[name], strict=True):
            if want is None:
                with pytest.raises(RefusedError):
                    ask(name, request)
            else:
                check_same(ask(name, request), want)


@pytest.mark.parametrize("way", list(WAYS))
def test_alone(served: tuple[Server, list], way: str) -> None:
    """Whichever way a request comes, with more rows than the largest batch and, where a model takes that, with none."""
    server, names = served
    check_all(WAYS[way](server), [name for name in names if way != "raw" or takes_raw(name)])


@pytest.mark.parametrize("way", list(WAYS))
def test_from_many_clients_at_once(served: tuple[Server, list], way: str) -> None:
    """Three of them on each model at the same time, and others on other models; in `make test-all`, all on all."""
    server, names = served
    names = [name for name in names if way != "raw" or takes_raw(name)]
    asks = [WAYS[way](server) for _ in range(CLIENTS)]
    faults: list[BaseException] = []
    start = threading.Barrier(CLIENTS)

    def run(first: int) -> None:
        group = first // TOGETHER
        own = [*names[group:], *names[:group]] if THOROUGH else names[group :: CLIENTS // TOGETHER]
        start.wait()
        try:
            check_all(asks[first], own)
        except BaseException as fault:  # noqa: BLE001  told by the test's own thread
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asks.clear()
    gc.collect()  # here: gevent's clients cannot be closed by another thread that happens to collect them
    assert not faults, faults[0]


def test_what_was_decided_is_shown(served: tuple[Server, list]) -> None:
    """In the log, the configuration over HTTP and gRPC, the statistics and the metrics."""
    server, names = served
    http = triton_http.InferenceServerClient(server.address)
    grpc = triton_grpc.InferenceServerClient(f"{server.host}:{server.grpc_port}")
    log = server.stderr.read_text()
    with server.connect() as wire:
        metrics = wire.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
    for name in names:
        batched = CASES[name].batched
        rows = "independent" if batched else "dependent"
        (line,) = [line for line in log.splitlines() if f"{name}: rows " in line]
        config = http.get_model_config(name)
        text = {key: value["string_value"] for key, value in config["parameters"].items()}
        assert text["rows"] == rows
        assert f"rows {rows}, " in line
        assert text["rows_reason"] in line
        assert config["max_batch_size"] == (4 if batched else 0)
        over = grpc.get_model_config(name).config
        assert {key: value.string_value for key, value in over.parameters.items()} == text
        assert over.max_batch_size == config["max_batch_size"]
        (statistics,) = http.get_inference_statistics(name)["model_stats"]
        decided = {key: value for key, value in text.items() if key.startswith("rows")}
        assert {key: statistics[key] for key in decided} == decided
        assert grpc.get_inference_statistics(name).model_stats[0].name == name
        assert f'tailcut_model_rows_info{{model="{name}",rows="{rows}",version="1"}} 1.0' in metrics


def test_a_client_learns_whether_a_model_is_batched(served: tuple[Server, list]) -> None:
    """From the configuration: shapes do not tell."""
    server, names = served
    for target in (LoadTarget(server.host, server.port), LoadTarget(server.host, server.grpc_port or 0, grpc=True)):
        for name in ("softmax_over_rows", "unnamed_axes"):
            assert name in names
            spec = served_spec(target, name)
            assert spec.batchable
            assert spec.batched == CASES[name].batched


def test_an_engines_error_costs_its_request_only(served: tuple[Server, list]) -> None:
    """500 to it, or 400 where Tailcut checks it for openvino, and the next one on the same connection is right."""
    server, names = served
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]},
        {"name": "source", "datatype": "INT64", "shape": [1], "data": [7]},
    ]
    with server.connect() as wire:
        answer = wire.ask(json_request("edges", {"inputs": inputs}))
        by_openvino = "labels" not in names
        assert answer.status == (400 if by_openvino else 500)
        inputs[1]["data"] = [1]
        assert wire.ask(json_request("edges", {"inputs": inputs})).json()["outputs"][0]["data"] == [3, 4]


def test_no_rows_at_all(served: tuple[Server, list]) -> None:
    """A raw body of no bytes is a request of no rows, for a model whose rows belong together; else it is refused."""
    server, _ = served
    with server.connect() as wire:
        answer = wire.ask(raw_request("softmax_over_rows", b""))
        assert answer.status == 200
        assert json.loads(answer.body)["outputs"][0]["shape"] == [0, 4]
        assert wire.ask(raw_request("unnamed_axes", b"")).status == 400


def test_strange_names_share_batches(served: tuple[Server, list]) -> None:
    """Fewer engine calls than requests, for requests that come together; a quick server may answer one at a time."""
    server, names = served
    name = "unnamed_axes"
    assert name in names
    http = triton_http.InferenceServerClient(server.address)
    before = http.get_inference_statistics(name)["model_stats"][0]
    with server.connect() as wire:
        wire.send(raw_request(name, np.ones((1, 4), np.float32).tobytes()) * 64)  # at once, on one connection
        for _ in range(64):
            assert wire.read().status == 200
    requests = batches = 64
    while batches >= requests and requests < 64 * 20:
        wires = [server.connect() for _ in range(64)]
        for wire in wires:
            wire.send(raw_request(name, np.ones((1, 4), np.float32).tobytes()))
        for wire in wires:
            assert wire.read().status == 200
            wire.sock.close()
        after = http.get_inference_statistics(name)["model_stats"][0]
        requests, batches = (after[key] - before[key] for key in ("inference_count", "execution_count"))
        assert requests % 64 == 0
    assert batches < requests


def test_the_option_is_for_all_models(tmp_path: Path) -> None:
    """`--batching off` has each request computed alone."""
    sources = [perceptron([4, 3], tmp_path / f"{name}.onnx") for name in ("one", "two")]
    with serving(tmp_path, *sources, "--batching", "off") as server:
        for name in ("one", "two"):
            spec = served_spec(LoadTarget(server.host, server.port), name)
            assert spec.rows is Rows.DEPENDENT
        log = server.stderr.read_text()
        assert log.count("turned off by the user") == 2


def test_the_option_against_the_evidence(tmp_path: Path) -> None:
    """`--batching on` is obeyed with one warning."""
    onnx.save(CASES["quantised_together"].model, tmp_path / "m.onnx")
    with serving(tmp_path, tmp_path / "m.onnx", "--batching", "on") as server:
        assert served_spec(LoadTarget(server.host, server.port), "m").batched
        log = server.stderr.read_text()
        assert log.count("answers may be wrong") == 1


def test_what_cannot_be_batched_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    """`--batching on` for a model whose shapes rule it out: one line, exit code 2."""
    onnx.save(CASES["mean_of_all"].model, tmp_path / "m.onnx")
    *_, text = refusal(tmp_path / "m.onnx", "--batching", "on").splitlines()
    assert text.startswith("tailcut: model 'm' cannot be batched: output 'y' has no axes")
