"""Graphs in ONNX's own text, as files that OpenVINO reads, and engines and batches of them."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import openvino as ov
from onnx import parser

import tailcut
from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import Arrays, Engine
from tailcut.engines.openvino_core import core
from tailcut.errors import InvalidInputError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings


def save(path: Path, text: str) -> Path:
    """A graph such as `(float[n, 8] x) => (float[n, 8] y) { y = Relu(x) }`."""
    onnx.save(parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> g {text}'), path)
    return path


def as_ir(onnx_file: Path) -> Path:
    path = onnx_file.with_suffix(".xml")
    ov.save_model(core().read_model(str(onnx_file)), path, compress_to_fp16=False)
    return path


def opened(path: Path, name: Literal["openvino", "onnxruntime"] = "openvino", *fixed: str) -> Engine:
    """An engine of one thread."""
    return open_engine(path, EngineOptions(name=name, threads=1, fixed_dims=fixed))


def answers_together(path: Path, requests: Sequence[Arrays], times: int) -> Iterator[list[np.ndarray | str]]:
    """What a model on openvino answers to requests of one batch, so many times: the output `y`, or a refusal's text."""
    settings = Settings(
        engine=EngineOptions(name="openvino", threads=1),
        batching=BatchingSettings(max_batch_size=8, max_queue_delay_us=20_000),
    )
    together = threading.Barrier(len(requests))

    def ask(request: Arrays) -> np.ndarray | str:
        together.wait()
        try:
            return model.infer_sync(request)["y"]
        except InvalidInputError as error:
            return str(error)

    with tailcut.Model.open(Profile.of_model(path, settings)) as model, ThreadPoolExecutor(len(requests)) as pool:
        for _ in range(times):
            yield list(pool.map(ask, requests))
