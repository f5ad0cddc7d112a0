"""pytriton, NVIDIA's Triton with a Python callable, of one ONNX model: v2 binary tensors. Run by compare.py."""

import os

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
BATCH = int(os.environ["PEER_BATCH"])


@batch
def infer(x: np.ndarray) -> list[np.ndarray]:
    return [session.run(None, {"x": x})[0]]


if __name__ == "__main__":
    port = int(os.environ["PEER_PORT"])
    config = TritonConfig(
        http_address="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2, log_verbose=0
    )
    waiting = DynamicBatcher(max_queue_delay_microseconds=int(float(os.environ["PEER_WAIT_MS"]) * 1000))
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=[infer] * int(os.environ["PEER_WORKERS"]),
            inputs=[Tensor(name="x", dtype=np.float32, shape=tuple(session.get_inputs()[0].shape[1:]))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=tuple(session.get_outputs()[0].shape[1:]))],
            config=ModelConfig(max_batch_size=max(BATCH, 1), batcher=waiting if BATCH > 1 else DynamicBatcher()),
        )
        triton.serve()
