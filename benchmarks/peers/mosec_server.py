"""A mosec server of one ONNX model, written the way its documentation recommends: raw float32 bodies in and out.

    python mosec_server.py --model FILE --workers N --batch N --wait MS --threads N -- (mosec's own options follow)

Runs in a virtual environment of its own, which benchmarks/serving.py makes.
"""

import os

import numpy as np
import onnxruntime
from mosec import Server, Worker

MODEL = os.environ["PEER_MODEL"]
THREADS = int(os.environ.get("PEER_THREADS", "1"))
WORKERS = int(os.environ.get("PEER_WORKERS", "1"))
BATCH = int(os.environ.get("PEER_BATCH", "1"))
WAIT_MS = int(os.environ.get("PEER_WAIT_MS", "1"))


class Inference(Worker):
    """One process with one session."""

    def __init__(self) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        first = self.session.get_inputs()[0]
        self.name, self.shape = first.name, [-1, *first.shape[1:]]

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32).reshape(self.shape)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data):
        if BATCH == 1:
            return self.session.run(None, {self.name: data})[0]
        return list(self.session.run(None, {self.name: np.concatenate(data)})[0])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Inference, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MS)
    server.run()
