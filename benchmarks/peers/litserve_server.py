"""A LitServe API of one ONNX model: raw float32 bodies in, raw out. Run by compare.py in an environment of its own."""

import os
from typing import Annotated

import litserve
import numpy as np
import onnxruntime
from fastapi import Body, Response

BATCH = int(os.environ["PEER_BATCH"])


class Inference(litserve.LitAPI):
    """One worker with one session."""

    def setup(self, device: str) -> None:
        del device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        self.session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, ["CPUExecutionProvider"])
        self.shape = self.session.get_inputs()[0].shape[1:]

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> np.ndarray:
        return np.frombuffer(request, np.float32).reshape(self.shape)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        if BATCH == 1:
            return self.session.run(None, {"x": x[None]})[0][0]
        return self.session.run(None, {"x": x})[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Inference(max_batch_size=BATCH, batch_timeout=float(os.environ["PEER_WAIT_MS"]) / 1e3, api_path="/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["PEER_WORKERS"]))
    server.run(host="127.0.0.1", port=int(os.environ["PEER_PORT"]), generate_client_file=False, log_level="error")
