"""Sample pipelines, like a user's: texts are tokenised, scored by a model, and labelled."""

import os
import random
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tailcut import InvalidInputError, Pipeline, stage


def write_model(path: Path) -> None:
    """Token ids [rows, length] int64, twice each plus one."""
    shape = ["rows", "length"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["ids", "ids"], ["twice"]), helper.make_node("Add", ["twice", "one"], ["more"])],
        "twice",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("more", TensorProto.INT64, shape)],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@stage(inputs={"text": "BYTES"}, outputs={"ids": "INT64[-1]", "mask": "INT64[-1]"}, timeout_s=1.5)
def tokenize(text):
    """Bytes as tokens, padded to the request's longest; some words misbehave."""
    for item in text:
        if item == b"refuse":
            raise InvalidInputError("this word is refused")
        if item == b"value":
            raise ValueError("secret text")
        if item == b"break":
            raise ZeroDivisionError("secret text")
        if item == b"leave":
            raise SystemExit(3)
        if item == b"crash":
            os._exit(7)
        if item == b"hang":
            time.sleep(600)
    length = max(1, *map(len, text))
    ids = np.zeros((len(text), length), np.int64)
    for row, item in zip(ids, text, strict=True):
        row[: len(item)] = list(item)
    return ids, (np.arange(length) < np.array([[len(item)] for item in text])).astype(np.int64)


@stage(inputs={"more": "INT64[-1]", "mask": "INT64[-1]", "text": "BYTES"}, outputs={"sum": "INT64", "echo": "BYTES"})
def add_up(more, mask, text):
    """The sum of each row's tokens without padding, and the text itself."""
    return {"echo": [item[::-1] for item in text], "sum": (more * mask).sum(axis=1)}


@stage(
    inputs={"x": "FP32[4]"},
    outputs={"y": "FP32[4]", "pid": "INT64", "rows": "INT64", "call": "FP64"},
    max_batch_size=8,
)
def where(x):
    """The input, with the process and the number of rows of this call, and a number that no other call has."""
    if np.any(x[:, 0] == 13):
        raise InvalidInputError("13 brings bad luck")
    return x * 2, np.full(len(x), os.getpid()), np.full(len(x), len(x)), np.full(len(x), random.random())


@stage(inputs={"x": "FP32[4]"}, outputs={"y": "FP32[4]", "pid": "INT64"}, threads=True)
def on_thread(x):
    """The same on a thread."""
    if np.any(x[:, 0] == 13):
        raise InvalidInputError("13 brings bad luck")
    return x * 2, np.full(len(x), os.getpid())


@stage(inputs={"score": "FP32"}, outputs={"rank": "INT64", "share": "FP32"}, max_batch_size=4, whole_requests=True)
def order(score):
    """The place of each row among those of the request, and its share (softmax)."""
    rank = np.empty(len(score), np.int64)
    rank[np.argsort(-score)] = np.arange(len(score))
    powers = np.exp(score - score.max())
    return rank, powers / powers.sum()


@stage(inputs={"score": "FP32"}, outputs={"rank": "INT64"}, threads=True, whole_requests=True)
def order_on_thread(score):
    """The place of each row among those of the request."""
    return np.argsort(np.argsort(-score))


CPU = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


@stage(inputs={"x": "FP32"}, outputs={"cpus": "BYTES", "pid": "INT64"}, workers=2, cpus=[CPU])
def pinned(x):
    """The CPUs that this process may run on."""
    time.sleep(0.05)  # so that the other process is asked, too
    return {"cpus": [repr(sorted(os.sched_getaffinity(0)))] * len(x), "pid": np.full(len(x), os.getpid())}


two_processes = Pipeline("two_processes", [pinned])
pipeline = Pipeline("texts", [tokenize, "twice.onnx", add_up])
numbers = Pipeline("numbers", [where])
threads = Pipeline("threads", [on_thread])
ranking = Pipeline("ranking", [order])
ranking_on_thread = Pipeline("ranking_on_thread", [order_on_thread])


def truth(text: bytes) -> int:
    """What `pipeline` answers for a text."""
    return sum(2 * byte + 1 for byte in text)
