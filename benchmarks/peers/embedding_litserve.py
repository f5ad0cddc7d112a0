"""The text embedding as a LitServe API: a text as the body, float32 bytes as the answer."""

import os
from typing import Annotated

import litserve
import numpy as np
from embedding import embed, session
from fastapi import Body, Response


class Embedding(litserve.LitAPI):
    """One worker."""

    def setup(self, device: str) -> None:
        del device
        session()

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, texts: list[bytes]) -> np.ndarray:
        return embed(texts)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    server = litserve.LitServer(Embedding(max_batch_size=32, batch_timeout=0.001, api_path="/infer"), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PEER_PORT"]), generate_client_file=False, log_level="error")
