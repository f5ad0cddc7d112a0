"""ONNX graphs with operators of onnxruntime-extensions."""

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import UnsupportedError


def upper(path: Path) -> Path:
    """text [batch] -> upper [batch]."""
    node = helper.make_node("StringUpper", ["text"], ["upper"], domain="ai.onnx.contrib")
    ends = [[helper.make_tensor_value_info(name, TensorProto.STRING, ["batch"])] for name in ("text", "upper")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
    save(helper.make_model(helper.make_graph([node], "upper", *ends), opset_imports=opsets, ir_version=9), path)
    return path


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
