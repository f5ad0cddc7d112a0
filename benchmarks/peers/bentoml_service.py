"""A BentoML service of one ONNX model: JSON arrays, as its documentation has them. Run by compare.py."""

import os

import bentoml
import numpy as np
import onnxruntime

BATCH = int(os.environ["PEER_BATCH"])


@bentoml.service(
    workers=int(os.environ["PEER_WORKERS"]), metrics={"enabled": False}, logging={"access": {"enabled": False}}
)
class Inference:
    """One session in each worker."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        self.session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, ["CPUExecutionProvider"])

    @bentoml.api(route="/infer", batchable=BATCH > 1, max_batch_size=max(BATCH, 2), max_latency_ms=1000)
    def infer(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"x": np.asarray(x, np.float32)})[0]
