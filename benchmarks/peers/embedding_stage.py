"""The text embedding as one stage of a Tailcut pipeline: all three functions in one process, as the peers have them."""

import numpy as np
from embedding import embed

from tailcut import Pipeline, stage


@stage(inputs={"text": "BYTES"}, outputs={"embedding": "FP32[16]"})
def embedding(text: np.ndarray) -> np.ndarray:
    """One vector for each text of a batch."""
    return embed(list(text))


pipeline = Pipeline("embed", [embedding])
