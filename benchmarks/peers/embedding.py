"""The functions of a text embedding, the same for every server: those of examples/pipelines, and onnxruntime."""

import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

FOLDER = Path(os.environ["PEER_FOLDER"])  # examples/pipelines, where make_models.py has run
sys.path.insert(0, str(FOLDER))
from text_embedding import normalise, tokenize  # noqa: E402  from that folder


@cache
def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(FOLDER / "encoder.onnx", options, ["CPUExecutionProvider"])


def embed(texts: list[bytes]) -> np.ndarray:
    """One vector for each text of a batch."""
    items = np.empty(len(texts), object)
    items[:] = texts
    rows, masks = tokenize(items)
    ids, mask = (np.zeros((len(texts), max(map(len, rows))), np.int64) for _ in range(2))
    for to, row, to_mask, ones in zip(ids, rows, mask, masks, strict=True):
        to[: len(row)], to_mask[: len(row)] = row, ones
    (hidden,) = session().run(None, {"input_ids": ids})
    return normalise(hidden, mask)
