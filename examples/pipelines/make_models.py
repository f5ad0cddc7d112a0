"""Writes the small models that the pipelines beside it use: a tokenizer with an encoder, and a classifier of digits.

Yours come from training; these are made on the spot, so that the examples need no download.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tailcut.models import digits_model

FOLDER = Path(__file__).parent
TEXTS = [
    "the cat sat on the mat",
    "a dog and a cat play in the garden",
    "the train to the city leaves at noon",
    "tickets for the bus and the train",
]


def make_tokenizer() -> Tokenizer:
    """One token a word, learned from the texts; 0 fills up."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))  # noqa: S106  a token of text
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    return tokenizer


def make_encoder(words: int, width: int = 16) -> onnx.ModelProto:
    """Token ids [rows, length] to a vector for each token: a table, and a layer on it."""
    rng = np.random.default_rng(0)
    weights = {"table": rng.normal(size=(words, width)), "layer": rng.normal(size=(width, width))}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
            helper.make_node("MatMul", ["embedded", "layer"], ["mixed"]),
            helper.make_node("Tanh", ["mixed"], ["last_hidden_state"]),
        ],
        "encoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "length"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["rows", "length", width])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    tokenizer = make_tokenizer()
    tokenizer.save(str(FOLDER / "tokenizer.json"))
    onnx.save(make_encoder(tokenizer.get_vocab_size()), FOLDER / "encoder.onnx")
    shutil.copy(digits_model(), FOLDER / "digits.onnx")
    print("wrote tokenizer.json, encoder.onnx and digits.onnx")
