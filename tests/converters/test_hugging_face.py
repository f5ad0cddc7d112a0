"""Converting folders of Hugging Face models; runs where transformers and optimum are installed."""

from pathlib import Path

import pytest

from tailcut.converters import convert
from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import UnsupportedError

SIZES = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 16}
SMALL = SIZES | {"num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.filterwarnings("ignore")
def test_a_folder_becomes_onnx(tmp_path: Path) -> None:
    """A small classifier of text that nothing was fetched for."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("optimum.exporters.onnx")
    transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)).save_pretrained(tmp_path / "bert")
    result = convert(tmp_path / "bert", tmp_path / "bert.onnx")
    assert result.right
    assert (tmp_path / "bert.onnx").is_file()


def test_a_folder_without_a_class_is_one_line(tmp_path: Path) -> None:
    """Its configuration does not say which model the weights are of."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("optimum.exporters.onnx")
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match=r"config\.json names no class of a model \(architectures\)"):
        convert(tmp_path, tmp_path / "bert.onnx")


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_sentence_transformers_has_the_outputs_of_its_class(tmp_path: Path) -> None:
    """Also where that package is installed, whose export would have others."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("optimum.exporters.onnx")
    transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "modules.json").write_text("[]")
    (tmp_path / "bert" / "config_sentence_transformers.json").write_text("{}")
    assert convert(tmp_path / "bert", tmp_path / "bert.onnx").right
    engine = open_engine(tmp_path / "bert.onnx", EngineOptions(threads=1))
    assert "last_hidden_state" in engine.spec.output_names
    engine.close()
