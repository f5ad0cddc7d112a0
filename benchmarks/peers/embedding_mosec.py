"""The text embedding as a mosec worker: a text as the body, float32 bytes as the answer."""

import numpy as np
from embedding import embed, session
from mosec import Server, Worker


class Embedding(Worker):
    """One process."""

    def __init__(self) -> None:
        super().__init__()
        session()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data: list[bytes]) -> list[np.ndarray]:
        return list(embed(data))


if __name__ == "__main__":
    server = Server()
    server.append_worker(Embedding, num=1, max_batch_size=32, max_wait_time=1)
    server.run()
