"""A classifier of scikit-learn's converter behind the server: scores as a tensor, and what their columns stand for."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http
from tests.engines.models import zipmap
from tests.servers import Server, serving

from tailcut.lab.grpc_connection import ask_grpc
from tailcut.lab.load import LoadTarget

LABELS = ["setosa", "versicolor", "vîrginica"]
OUTPUT = "output_probability"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("classes")
    sources = zipmap(folder / "iris.onnx", LABELS), zipmap(folder / "digits.onnx", [3, 8])
    with serving(folder, *sources, "--grpc-port", "0") as server:
        yield server


@pytest.mark.parametrize(("model", "classes"), [("iris", LABELS), ("digits", [3, 8])])
def test_the_classes_stand_in_the_metadata(server: Server, model: str, classes: list) -> None:
    """As a parameter of the output, and in the configuration, over HTTP and gRPC alike."""
    client = tritonclient.http.InferenceServerClient(server.address)
    label, scores = client.get_model_metadata(model)["outputs"]
    assert scores == {
        "name": OUTPUT,
        "datatype": "FP32",
        "shape": [-1, len(classes)],
        "parameters": {"classes": classes},
    }
    assert "parameters" not in label
    key = f"classes.{OUTPUT}"
    assert json.loads(client.get_model_config(model)["parameters"][key]["string_value"]) == classes
    client.close()
    grpc = LoadTarget("127.0.0.1", server.grpc_port, grpc=True)
    assert [output.name for output in ask_grpc(grpc, "ModelMetadata", name=model).outputs] == ["output_label", OUTPUT]
    config = ask_grpc(grpc, "ModelConfig", name=model).config
    assert json.loads(config.parameters[key].string_value) == classes


def test_the_scores_of_many_rows(server: Server) -> None:
    """Every row has its label, and its scores sum to one."""
    client = tritonclient.http.InferenceServerClient(server.address)
    rows = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    x = tritonclient.http.InferInput("x", rows.shape, "FP32")
    x.set_data_from_numpy(rows)
    answer = client.infer("iris", [x])
    scores, labels = answer.as_numpy(OUTPUT), answer.as_numpy("output_label")
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    assert [label.decode() for label in labels] == [LABELS[column] for column in scores.argmax(1)]
    client.close()
