"""Converting folders of Hugging Face models; runs where transformers and optimum are installed."""

from pathlib import Path

import pytest

from tailcut.converters import convert


@pytest.mark.filterwarnings("ignore")
def test_a_folder_becomes_onnx(tmp_path: Path) -> None:
    """A small classifier of text that nothing was fetched for."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("optimum.exporters.onnx")
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    result = convert(tmp_path / "bert", tmp_path / "bert.onnx")
    assert result.right
    assert (tmp_path / "bert.onnx").is_file()
