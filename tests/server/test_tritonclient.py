"""NVIDIA's own HTTP client, unchanged, against our server."""

import numpy as np
import pytest
import tritonclient.http as triton
from tests.servers import Server


@pytest.fixture
def client(server: Server) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.address)


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    """Live, ready, server, model, index and statistics."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata()["name"] == "tailcut"
    metadata = client.get_model_metadata("mlp", "1")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert {model["name"] for model in client.get_model_repository_index()} >= {"mlp", "echo", "big", "ints", "pair"}
    assert client.get_inference_statistics("mlp")["model_stats"][0]["name"] == "mlp"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    """JSON and binary both ways, several rows, with a request id."""
    x = np.random.default_rng(1).standard_normal((3, 1000)).astype(np.float32)
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
    result = client.infer("echo", [tensor], outputs=[wanted], request_id="seven")
    np.testing.assert_array_equal(result.as_numpy("y"), x)
    assert result.get_response()["id"] == "seven"


def test_two_inputs_two_outputs(client: triton.InferenceServerClient) -> None:
    """Each output carries its own numbers; one alone may be asked for."""
    metadata = client.get_model_metadata("pair")
    tensors = []
    arrays = {}
    for number, entry in enumerate(metadata["inputs"]):
        array = np.full([2, *entry["shape"][1:]], number + 1, np.float32)
        arrays[entry["name"]] = array
        tensor = triton.InferInput(entry["name"], list(array.shape), "FP32")
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    both = client.infer("pair", tensors)
    names = [entry["name"] for entry in metadata["outputs"]]
    one = client.infer("pair", tensors, outputs=[triton.InferRequestedOutput(names[1])])
    np.testing.assert_array_equal(both.as_numpy(names[1]), one.as_numpy(names[1]))
    assert one.as_numpy(names[0]) is None


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests(client: triton.InferenceServerClient, compression: str) -> None:
    """What the client compresses, the server inflates."""
    x = np.zeros((1, 1000), np.float32)
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    result = client.infer("echo", [tensor], request_compression_algorithm=compression)
    np.testing.assert_array_equal(result.as_numpy("y"), x)


def test_errors_reach_the_user(client: triton.InferenceServerClient) -> None:
    """Their exception carries our message."""
    tensor = triton.InferInput("x", [1, 5], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 5), np.float32))
    with pytest.raises(triton.InferenceServerException, match="x"):
        client.infer("mlp", [tensor])
    with pytest.raises(triton.InferenceServerException, match="none"):
        client.get_model_metadata("none")


def test_many_at_once(server: Server) -> None:
    """Concurrent requests of different content each get their own answer."""
    with triton.InferenceServerClient(server.address, concurrency=16) as client:
        pending = []
        for number in range(200):
            x = np.full((1, 1000), number, np.float32)
            tensor = triton.InferInput("x", [1, 1000], "FP32")
            tensor.set_data_from_numpy(x)
            pending.append(client.async_infer("echo", [tensor]))
        for number, request in enumerate(pending):
            assert (request.get_result().as_numpy("y") == number).all()
