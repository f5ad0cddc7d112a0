"""A Triton model repository behind our server, asked by NVIDIA's own clients."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto
from tests.servers import Server, serving, until
from tests.triton.repositories import add_and_subtract, add_model, example_repository, twice
from tritonclient.utils import InferenceServerException

from tailcut.engines.base import EngineOptions
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.triton.library import newest_of

RESHAPED = """
max_batch_size: 4
input [
  { name: "INPUT0" data_type: TYPE_INT32 dims: [ 4, 4 ] reshape { shape: [ 16 ] } },
  { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
output [ { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 2, 8 ] reshape { shape: [ 16 ] } } ]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
dynamic_batching { preferred_batch_size: [ 4 ] }
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of Triton's examples; one reshaped, one without a configuration, and four that do not load."""
    folder = example_repository(tmp_path_factory.mktemp("repository"))
    add_model(folder, "reshaped")
    (folder / "reshaped" / "config.pbtxt").write_text(RESHAPED)
    add_model(folder, "bare", versions=(1, 2))
    (folder / "bare" / "config.pbtxt").unlink()
    add_model(folder, "sequence", more="sequence_batching {}")
    add_model(folder, "other", more='backend: "python"')
    untyped = add_model(folder, "untyped") / "config.pbtxt"
    untyped.write_text(untyped.read_text().replace("TYPE_INT32", "99"))
    (folder / "empty").mkdir()
    (folder / "ensemble" / "1").mkdir(parents=True)
    (folder / "ensemble" / "config.pbtxt").write_text(twice("simple", "simple"))
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("log")
    with serving(folder, "--model-repository", repository, "--grpc-port", "0", "--no-auto") as running:
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[tritonclient.http.InferenceServerClient]:
    with tritonclient.http.InferenceServerClient(server.address) as item:
        yield item


def request_for(kind: str) -> tuple[list[tritonclient.http.InferInput], list[np.ndarray], list[np.ndarray]]:
    """Two inputs of 16 numbers as the examples make them, and the sum and the difference."""
    numbers = [np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)]
    truth = [numbers[0] + numbers[1], numbers[0] - numbers[1]]
    if kind == "BYTES":
        words = [[str(item).encode() for item in array.reshape(-1)] for array in numbers]
        numbers = [np.array(word, object).reshape(1, 16) for word in words]
    elif kind == "INT8":
        numbers = [array.astype(np.int8) for array in numbers]
    inputs = []
    for index, array in enumerate(numbers):
        inputs.append(tritonclient.http.InferInput(f"INPUT{index}", [1, 16], kind))
        inputs[-1].set_data_from_numpy(array)
    return inputs, numbers, truth


@pytest.mark.parametrize(("name", "kind"), [("simple", "INT32"), ("simple_int8", "INT8"), ("simple_string", "BYTES")])
def test_the_examples_models_answer(client: tritonclient.http.InferenceServerClient, name: str, kind: str) -> None:
    """Sums and differences, of text as text."""
    inputs, _, truth = request_for(kind)
    answer = client.infer(name, inputs)
    result = [answer.as_numpy(f"OUTPUT{place}").astype(np.int32) for place in (0, 1)]
    assert all(np.array_equal(*pair) for pair in zip(result, truth, strict=True))


def test_the_configuration_is_that_of_the_file(client: tritonclient.http.InferenceServerClient, server: Server) -> None:
    """Over HTTP and gRPC, filled in where the file says nothing; of a model without a file it is the model's own."""
    config = client.get_model_config("simple")
    assert (config["max_batch_size"], config["platform"]) == (8, "onnxruntime_onnx")
    assert config["input"][0]["dims"] == [16]
    assert config["default_model_filename"] == "model.onnx"
    assert config["version_policy"] == {"latest": {"num_versions": 1}}
    assert config["optimization"]["input_pinned_memory"] == {"enable": True}
    bare = client.get_model_config("bare")
    assert bare["max_batch_size"] == 32
    assert [item["name"] for item in bare["output"]] == ["OUTPUT0", "OUTPUT1"]
    with tritonclient.grpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as grpc:
        same = grpc.get_model_config("reshaped", as_json=True)["config"]
    assert same["dynamic_batching"]["preferred_batch_size"] == [4]
    assert same["optimization"]["output_pinned_memory"] == {"enable": True}
    assert same["input"][0]["reshape"] == {"shape": ["16"]}


def test_an_ensemble(client: tritonclient.http.InferenceServerClient, server: Server) -> None:
    """Its steps are computed inside the server, over HTTP and gRPC; its configuration is that of the file."""
    numbers = np.arange(48, dtype=np.int32).reshape(3, 16)
    for module, address in (
        (tritonclient.http, server.address),
        (tritonclient.grpc, f"{server.host}:{server.grpc_port}"),
    ):
        inputs = [module.InferInput(name, [3, 16], "INT32") for name in ("A", "B")]
        inputs[0].set_data_from_numpy(numbers)
        inputs[1].set_data_from_numpy(numbers + 5)
        with module.InferenceServerClient(address) as item:
            assert np.array_equal(item.infer("ensemble", inputs).as_numpy("TWICE"), 2 * numbers)
    with tritonclient.grpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as grpc:
        [counted] = grpc.get_inference_statistics("ensemble").model_stats
        assert counted.inference_stats.success.count == 2
    assert client.get_model_metadata("ensemble")["platform"] == "ensemble"
    config = client.get_model_config("ensemble")
    assert (config["platform"], config["max_batch_size"]) == ("ensemble", 8)
    assert [step["model_name"] for step in config["ensemble_scheduling"]["step"]] == ["simple", "simple"]


def test_reshape(client: tritonclient.http.InferenceServerClient) -> None:
    """Clients see the shapes of the configuration, and only the outputs that it lists."""
    seen = client.get_model_metadata("reshaped")
    assert [item["shape"] for item in seen["inputs"] + seen["outputs"]] == [[-1, 4, 4], [-1, 16], [-1, 2, 8]]
    inputs = [
        tritonclient.http.InferInput("INPUT0", [2, 4, 4], "INT32"),
        tritonclient.http.InferInput("INPUT1", [2, 16], "INT32"),
    ]
    numbers = np.arange(32, dtype=np.int32)
    inputs[0].set_data_from_numpy(numbers.reshape(2, 4, 4))
    inputs[1].set_data_from_numpy(numbers.reshape(2, 16))
    answer = client.infer("reshaped", inputs)
    assert np.array_equal(answer.as_numpy("OUTPUT0"), 2 * numbers.reshape(2, 2, 8))
    assert answer.as_numpy("OUTPUT1") is None


def test_the_index_lists_every_folder(client: tritonclient.http.InferenceServerClient) -> None:
    """Also those that are not served, with the reason and without a path."""
    index = {item["name"]: item for item in client.get_model_repository_index()}
    assert set(index) == {
        "bare", "empty", "ensemble", "other", "reshaped", "sequence", "simple", "simple_int8", "simple_string",
        "untyped",
    }  # fmt: skip
    assert (index["simple"]["state"], index["simple"]["version"]) == ("READY", "1")
    assert index["bare"]["version"] == "2"
    assert index["sequence"]["state"] == "UNAVAILABLE"
    assert "requests of a sequence" in index["sequence"]["reason"]
    assert "'python' is not served" in index["other"]["reason"]
    assert index["untyped"]["reason"] == "untyped/config.pbtxt: tensor 'INPUT0' has the unknown data_type 99"
    assert all("/tmp" not in item.get("reason", "") for item in index.values())
    assert index["simple"].keys() == {"name", "version", "state"}
    for name in ("sequence", "other", "untyped"):
        assert index[name].keys() == {"name", "version", "state", "reason"}
        assert index[name]["version"] == "1"
    assert index["empty"].keys() == {"name", "state", "reason"}


def test_what_means_something_else_is_logged(server: Server) -> None:
    """One line a field."""
    lines = server.stderr.read_text().splitlines()
    assert any("reshaped: config.pbtxt: preferred_batch_size [4] is not used: " in line for line in lines)
    assert any("other: not loaded: " in line for line in lines)


def test_models_are_not_loaded_on_request_by_default(client: tritonclient.http.InferenceServerClient) -> None:
    """Mode none: what was there at the start is served."""
    with pytest.raises(InferenceServerException, match="--model-control-mode explicit"):
        client.unload_model("simple")


def test_explicit_control(tmp_path: Path) -> None:
    """Nothing is loaded but what the command line and the clients ask for; a new version takes the old one's place."""
    repository = tmp_path / "repository"
    add_model(repository, "one")
    add_model(repository, "two")
    flags = ["--model-control-mode", "explicit", "--load-model", "one", "--no-auto", "--grpc-port", "0"]
    with (
        serving(tmp_path, "--model-repository", repository, *flags) as server,
        tritonclient.http.InferenceServerClient(server.address) as client,
    ):
        assert client.get_model_repository_index() == [
            {"name": "one", "version": "1", "state": "READY"},
            {"name": "two"},  # as Triton lists what was never loaded
        ]
        for name in ("two", "three"):  # as Triton answers for what is not loaded, or does not exist
            client.unload_model(name)
            with tritonclient.grpc.InferenceServerClient(f"{server.host}:{server.grpc_port}") as grpc:
                grpc.unload_model(name)
        assert [item["name"] for item in client.get_model_repository_index()] == ["one", "two"]
        client.load_model("two")
        until(lambda: "one: 2 models loaded: engine threads do not spin" in server.stderr.read_text(), server)
        assert client.is_model_ready("two")
        shutil.copytree(repository / "one" / "1", repository / "one" / "4")
        client.load_model("one")
        assert client.get_model_metadata("one")["versions"] == ["4"]
        assert not client.is_model_ready("one", "1")
        client.infer("one", request_for("INT32")[0])
        with pytest.raises(InferenceServerException, match="unload_dependents is not supported: the models of an"):
            client.unload_model("one", unload_dependents=True)
        client.unload_model("one")
        assert not client.is_model_ready("one")
        (repository / "two" / "config.pbtxt").write_text("nonsense")
        with pytest.raises(InferenceServerException, match="failed to load 'two'"):
            client.load_model("two")
        assert client.is_model_ready("two")  # as it was
        client.unload_model("two")
        with pytest.raises(InferenceServerException, match="failed to load 'two'"):
            client.load_model("two")
        reasons = {item["name"]: item["reason"] for item in client.get_model_repository_index()}
        assert reasons["one"] == "unloaded"
        assert "not a model configuration" in reasons["two"]
        with pytest.raises(InferenceServerException, match="failed to load 'three'"):
            client.load_model("three")
        assert server.stop() == 0


def test_polling(tmp_path: Path) -> None:
    """What comes is loaded, what changes is loaded again, and what goes is unloaded."""
    repository = tmp_path / "repository"
    add_model(repository, "one")
    flags = ["--model-control-mode", "poll", "--repository-poll-secs", "0.1", "--no-auto"]
    with (
        serving(tmp_path, "--model-repository", repository, *flags) as server,
        tritonclient.http.InferenceServerClient(server.address) as client,
    ):
        add_model(tmp_path, "two")
        (tmp_path / "two").rename(repository / "two")
        until(lambda: client.is_model_ready("two"), server)
        add_and_subtract(TensorProto.INT8, repository / "one" / "1" / "model.onnx")
        config = repository / "one" / "config.pbtxt"
        config.write_text(config.read_text().replace("TYPE_INT32", "TYPE_INT8"))
        until(lambda: client.get_model_metadata("one")["inputs"][0]["datatype"] == "INT8", server)
        client.infer("one", request_for("INT8")[0])
        shutil.rmtree(repository / "one")
        until(lambda: not client.is_model_ready("one"), server)
        with pytest.raises(InferenceServerException, match="--model-control-mode explicit"):
            client.load_model("two")
        assert server.stop() == 0


def test_a_tuned_profile_is_served(tmp_path: Path, refusal: Callable[..., str]) -> None:
    """Beside the model's file, as `tailcut tune DIR/NAME` writes it; one for another file is refused."""
    repository = tmp_path / "repository"
    file = add_model(repository, "one") / "1" / "model.onnx"
    tuned = Settings(batching=BatchingSettings(max_batch_size=64, dispatch="inline"))
    Profile.of_model(file, tuned).save(file.with_name("model.profile.toml"))
    with (
        serving(tmp_path, "--model-repository", repository) as server,
        tritonclient.http.InferenceServerClient(server.address) as client,
    ):
        assert "serving model.profile.toml" in server.stderr.read_text()
        assert client.get_model_config("one")["max_batch_size"] == 8
        client.infer("one", request_for("INT32")[0])
        assert server.stop() == 0
    add_and_subtract(TensorProto.INT8, file)
    (repository / "one" / "config.pbtxt").unlink()
    assert "none of its models could be loaded" in refusal("--model-repository", repository)


def test_profiles_that_take_each_other_the_cores_are_named(tmp_path: Path) -> None:
    """As those of the command line are; and each model says how many threads it has."""
    for name in ("one", "two", "three"):
        file = add_model(tmp_path / "repository", name) / "1" / "model.onnx"
        if name != "three":
            Profile.of_model(file, Settings(engine=EngineOptions(threads=2))).save(file.with_name("model.profile.toml"))
    with serving(tmp_path, "--model-repository", tmp_path / "repository", "--no-auto") as server:
        server.stop()
        log = server.stderr.read_text()
    assert "one, two: engine threads spin after each call" in log or "two, one: engine threads spin after" in log
    assert re.search(r"three: engine threads: \d+ .*they do not spin because other models are loaded", log)


def test_mistakes_are_one_line(tmp_path: Path, refusal: Callable[..., str]) -> None:
    """No repository, a repository and models, a model that it does not have."""
    repository = tmp_path / "repository"
    add_model(repository, "one")
    named = ["--model-repository", repository]
    for arguments, words in [
        (["--model-repository", tmp_path / "nowhere"], "no such model repository"),
        ([], "give either models and profiles"),
        (["m.onnx", *named], "give either models"),
        ([*named, "--load-model", "one"], "needs --model-control-mode explicit"),
        ([*named, "--model-control-mode", "explicit", "--load-model", "two"], "the model repository has one"),
        ([*named, "--workers", "2"], "need --workers 1"),
    ]:
        assert words in refusal(*arguments)


def test_a_model_is_tuned_where_it_lies(tmp_path: Path) -> None:
    """`tailcut tune DIR/NAME` writes the profile beside the newest version that is served."""
    add_model(tmp_path, "one", versions=(1, 2), more="dynamic_batching {}")
    path, reading = newest_of(tmp_path / "one")
    assert path == tmp_path / "one" / "2" / "model.onnx"
    assert reading.settings.batching.rows == "independent"
    assert not reading.notes
