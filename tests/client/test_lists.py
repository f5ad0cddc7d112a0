"""Lists instead of arrays: they become the model's dtypes, as in `Model.infer`, or are refused."""

from pathlib import Path

import numpy as np
import pytest
from tests.client.peers import good, peer, reply
from tests.engines.models import identity
from tests.servers import Server, serving

from tailcut.client import lists
from tailcut.errors import InputTypeError, InvalidInputError, NotFoundError, UnreachableError
from tailcut.spec import DType


def test_lists_become_the_models_dtypes(make: type, url: str) -> None:
    """Whole numbers and floats alike; beside arrays, too."""
    with make(url) as client:
        floats = client.infer("mlp", {"x": [[0.5, -1, 2, 3.25]]})["y"]
        np.testing.assert_array_equal(floats, client.infer("mlp", {"x": np.float32([[0.5, -1, 2, 3.25]])})["y"])
        assert client.infer("mlp", {"x": [[1, 2, 3, 4], (5, 6, 7, 8)]})["y"].shape == (2, 3)
        half = client.infer("half", {"x": [[1, 2.5]]})["y"]
        assert half.dtype == np.float16
        assert half.tolist() == [[1, 2.5]]
        names = [entry["name"] for entry in client.metadata("pair")["inputs"]]
        arrays = {name: np.ones(client.metadata("pair")["inputs"][0]["shape"][1:], np.float32)[None] for name in names}
        mixed = dict(arrays) | {names[0]: arrays[names[0]].tolist()}
        for name, array in client.infer("pair", arrays).items():
            np.testing.assert_array_equal(client.infer("pair", mixed)[name], array)


def test_lists_over_shared_memory(make: type, tmp_path: Path) -> None:
    """They take the same way as arrays."""
    identity(DType.FP32, (None, 2), tmp_path / "echo.onnx")
    with serving(tmp_path, tmp_path / "echo.onnx", "--shared-memory", "tailcut-lists-") as running:
        with make(running.url, shared_memory="tailcut-lists-") as client:
            for _ in range(3):
                assert client.infer("echo", {"x": [[1, 2]]})["y"].tolist() == [[1, 2]]
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("inputs", "kind", "words"),
    [
        ({"x": [[1], [1, 2]]}, InvalidInputError, "input 'x': expected FP32 [-1, 4], got lists that differ in length"),
        ({"x": []}, InvalidInputError, "input 'x'"),
        ({"x": [["a", 1, 2, 3]]}, InputTypeError, "input 'x': expected FP32 [-1, 4], got strings"),
        ({"x": [[1e39, 1, 2, 3]]}, InvalidInputError, "input 'x': expected FP32 [-1, 4]: a value is out of the range"),
        ({"x": [[1, 2, 3]]}, InvalidInputError, "input 'x'"),
        ({"z": [[1, 2, 3, 4]]}, InvalidInputError, "z"),
        ({"x": None}, InputTypeError, "input 'x': expected FP32 [-1, 4], got NoneType"),
    ],
)
def test_lists_that_do_not_fit(make: type, server: Server, inputs: dict, kind: type, words: str) -> None:
    """One line says what was expected, and the next call is answered."""
    with make(server.url) as client:
        with pytest.raises(kind) as caught:
            client.infer("mlp", inputs)
        assert words in str(caught.value)
        assert client.infer("mlp", {"x": [[1, 2, 3, 4]]})["y"].shape == (1, 3)
        with pytest.raises(NotFoundError, match="none"):
            client.infer("none", {"x": [[1]]})


def test_the_server_is_asked_once_in_a_while(make: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before each call; and again when what it said is old, since the model may have changed."""

    def model(datatype: str) -> bytes:
        return reply(200, b'{"name":"m","inputs":[{"name":"x","datatype":"%b","shape":[-1]}]}' % datatype.encode())

    with peer([model("FP32"), good(), good(), model("INT64"), good()]) as served, make(served.url) as client:
        client.infer("m", {"x": [1]})
        client.infer("m", {"x": [2]})
        monkeypatch.setattr(lists, "_KNOWN_S", 0.0)
        client.infer("m", {"x": [3]})
        assert [b"GET" in request.split(b"\r\n")[0] for request in served.requests] == [True, False, False, True, False]
        assert [b'"FP32"' in served.requests[at] for at in (1, 2, 4)] == [True, True, False]


@pytest.mark.parametrize(
    "answer", [b"{}", b"[]", b'{"inputs":[{"name":"x"}]}', b'{"inputs":[{"name":"x","datatype":"FP7","shape":[1]}]}']
)
def test_a_server_of_another_protocol(make: type, answer: bytes) -> None:
    """What it says about the model cannot be used."""
    with peer([reply(200, answer)]) as served, make(served.url) as client, pytest.raises(UnreachableError, match="v2"):
        client.infer("m", {"x": [1]})
