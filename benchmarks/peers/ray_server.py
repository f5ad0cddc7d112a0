"""A Ray Serve deployment of one ONNX model: raw float32 bodies in and out. Run by compare.py."""

import os
import signal

import numpy as np
import onnxruntime
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

BATCH = int(os.environ["PEER_BATCH"])


@serve.deployment(
    num_replicas=int(os.environ["PEER_WORKERS"]), ray_actor_options={"num_cpus": 0.5}, max_ongoing_requests=256
)
class Inference:
    """One replica with one session."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        self.session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, ["CPUExecutionProvider"])
        self.shape = self.session.get_inputs()[0].shape[1:]

    @serve.batch(max_batch_size=max(BATCH, 2), batch_wait_timeout_s=float(os.environ["PEER_WAIT_MS"]) / 1e3)
    async def together(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.session.run(None, {"x": np.stack(rows)})[0])

    async def __call__(self, request: Request) -> Response:
        x = np.frombuffer(await request.body(), np.float32).reshape(self.shape)
        y = self.session.run(None, {"x": x[None]})[0] if BATCH == 1 else await self.together(x)
        return Response(y.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])},
        logging_config={"enable_access_log": False},
    )
    serve.run(Inference.bind(), route_prefix="/infer")  # type: ignore[attr-defined]  # of the decorator
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()
