"""Texts in, unit vectors out: a tokenizer, an encoder, and the mean over each text's tokens.

python make_models.py
tailcut serve text_embedding.py:pipeline
"""

from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tailcut import Model, Pipeline, stage


@cache  # read once in each process, and not where the file is only looked at
def tokenizer() -> Tokenizer:
    """The tokenizer."""
    return Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))


@stage(
    inputs={"text": "BYTES"},
    outputs={"input_ids": "INT64[-1]", "attention_mask": "INT64[-1]"},
    fill={"input_ids": 0, "attention_mask": 0},  # the shorter texts of a request
)
def tokenize(text: np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
    """The token ids of each text, and a mask of ones."""
    encoded = tokenizer().encode_batch([item.decode() for item in text])
    return [item.ids for item in encoded], [item.attention_mask for item in encoded]


@stage(
    inputs={"last_hidden_state": "FP32[-1, 16]", "attention_mask": "INT64[-1]"},
    outputs={"embedding": "FP32[16]"},
    threads=True,  # numpy lets go of the GIL, and a thread is cheaper to reach than a process
)
def normalise(last_hidden_state: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    """The mean over the tokens that are not filling, of length 1."""
    mask = attention_mask[:, :, None].astype(np.float32)
    mean = (last_hidden_state * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
    return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


pipeline = Pipeline("embed", [tokenize, "encoder.onnx", normalise])

if __name__ == "__main__":
    with Model.open(f"{__file__}:pipeline") as model:
        texts = ["the cat sat on the mat", "a cat on a mat", "tickets for the train to the city"]
        vectors = model.infer_sync({"text": texts})["embedding"]
        print(f"{texts[0]!r} is nearer to {texts[1 + int(np.argmax(vectors[1:] @ vectors[0]))]!r}")
