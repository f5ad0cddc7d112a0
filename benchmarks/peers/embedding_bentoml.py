"""The text embedding as a BentoML service: JSON in and out."""

import bentoml
from embedding import embed, session


@bentoml.service(workers=1, traffic={"timeout": 30})
class Embedding:
    """One worker."""

    def __init__(self) -> None:
        session()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)
    def infer(self, texts: list[str]) -> list[list[float]]:
        return [row.tolist() for row in embed([text.encode() for text in texts])]
