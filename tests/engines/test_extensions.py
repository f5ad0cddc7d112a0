"""ONNX graphs with operators of onnxruntime-extensions; `make test-text` has the package."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save
from tests.servers import json_request, serving

from tailcut import Model
from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import UnsupportedError

Tensor = tuple[str, int, list[str | int]]


def graph(
    path: Path, operator: str, given: Tensor, *made: Tensor, domain: str = "ai.onnx.contrib", **attributes: object
) -> Path:
    """One operator of the package, with an input and its outputs by name, type and shape."""
    node = helper.make_node(operator, [given[0]], [name for name, *_ in made], domain=domain, **attributes)
    ends = [[helper.make_tensor_value_info(*tensor) for tensor in tensors] for tensors in ([given], made)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    save(helper.make_model(helper.make_graph([node], operator, *ends), opset_imports=opsets, ir_version=9), path)
    return path


def upper(path: Path) -> Path:
    """text [batch] -> upper [batch]."""
    return graph(path, "StringUpper", ("text", TensorProto.STRING, ["batch"]), ("upper", TensorProto.STRING, ["batch"]))


def answers(folder: Path, path: Path, array: np.ndarray) -> tuple[dict[str, list], dict[str, list]]:
    """What `Model.open` and a server answer, each as lists."""
    with Model.open(path) as model:
        [tensor] = model.spec.inputs
        own = {name: output.tolist() for name, output in model.infer_sync({tensor.name: array}).items()}
    entry = {"name": tensor.name, "datatype": tensor.dtype, "shape": array.shape, "data": array.tolist()}
    with serving(folder, path) as server, server.connect() as wire:
        reply = wire.ask(json_request(path.stem, json.dumps({"inputs": [entry]})))
    assert reply.status == 200, reply.body
    outputs = json.loads(reply.body)["outputs"]
    return own, {item["name"]: np.reshape(item["data"], item["shape"]).tolist() for item in outputs}


def test_a_tokeniser_is_served(tmp_path: Path) -> None:
    """Text in, ids out."""
    pytest.importorskip("onnxruntime_extensions")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "tail", "##cut"]
    names = ("input_ids", "token_type_ids", "attention_mask")
    outputs = [(name, TensorProto.INT64, [f"{name}_length"]) for name in names]
    given = ("text", TensorProto.STRING, ["lines"])
    path = graph(tmp_path / "tokens.onnx", "BertTokenizer", given, *outputs, vocab_file="\n".join(words))
    expected = {"input_ids": [2, 5, 6, 7, 1, 3], "token_type_ids": [0] * 6, "attention_mask": [1] * 6}
    assert answers(tmp_path, path, np.array(["a tailcut b"], object)) == (expected, expected)


def test_an_image_decoder_is_refused(tmp_path: Path) -> None:
    """It would end the process, and with it all models, on any bytes that are not an image."""
    given, made = ("file", TensorProto.UINT8, ["bytes"]), ("pixels", TensorProto.UINT8, ["height", "width", 3])
    path = graph(tmp_path / "decode.onnx", "DecodeImage", given, made, domain="com.microsoft.extensions")
    with pytest.raises(UnsupportedError, match=r"DecodeImage .* ends the process on bytes that are not an image"):
        open_engine(path, EngineOptions(threads=1))


def test_they_are_computed_where_the_package_is(tmp_path: Path) -> None:
    """Text in, text out."""
    pytest.importorskip("onnxruntime_extensions")
    engine = open_engine(upper(tmp_path / "upper.onnx"), EngineOptions(threads=1))
    result = engine.run({"text": np.array(["ab", "c"], object)})["upper"]
    assert result.tolist() == ["AB", "C"]
    engine.close()


def test_without_the_package_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    path = upper(tmp_path / "upper.onnx")
    with pytest.raises(UnsupportedError, match=r"StringUpper come from onnxruntime-extensions.*tailcut\[text\]"):
        open_engine(path, EngineOptions(threads=1))
