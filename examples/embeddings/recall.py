"""How much of a search by embeddings survives a change of the encoder: recall@10 against the unchanged model.

tailcut tune encoder.onnx --data passages.npz --metric recall:at_10 --accuracy 0.95
python recall.py encoder.onnx encoder.profile.toml passages.npz
"""

import sys

import numpy as np

from tailcut import Model

NEIGHBOURS = 10


def at_10(reference: list[dict[str, np.ndarray]], candidate: list[dict[str, np.ndarray]]) -> float:
    """The share of the ten passages nearest to each passage that the candidate's vectors find too."""
    want, got = vectors(reference), vectors(candidate)
    _, distinct = np.unique(want.round(4), axis=0, return_index=True)  # a request is sent several times
    truth, result = neighbours(want[distinct]), neighbours(got[distinct])
    return float(np.mean([np.isin(row, other).mean() for row, other in zip(result, truth, strict=True)]))


def vectors(answers: list[dict[str, np.ndarray]]) -> np.ndarray:
    """The first output's rows at length 1: [rows, width]. With a vector for each token, the mean over the tokens."""
    arrays = [next(iter(answer.values())) for answer in answers]
    rows = np.concatenate([array.mean(axis=1) if array.ndim == 3 else array for array in arrays])
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def neighbours(passages: np.ndarray) -> np.ndarray:
    """The indices of the passages nearest to each one by cosine, itself left out: [rows, 10]."""
    similarity = passages @ passages.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1)[:, : min(NEIGHBOURS, len(passages) - 1)]


def encode(source: str, data: str) -> list[dict[str, np.ndarray]]:
    """What a model or a profile makes of each passage, one request each."""
    with Model.open(source, auto=False) as model, np.load(data) as arrays:
        names = [tensor.name for tensor in model.spec.inputs]
        lengths = {name.partition("/")[2] for name in arrays}
        requests = []
        for length in sorted(lengths):
            columns = {name: arrays[f"{name}/{length}" if length else name] for name in names}
            rows = len(columns[names[0]])
            requests += [{name: column[row : row + 1] for name, column in columns.items()} for row in range(rows)]
        return [model.infer_sync(request) for request in requests]


if __name__ == "__main__":
    truth, other = (encode(source, sys.argv[3]) for source in sys.argv[1:3])
    cosines = (vectors(truth) * vectors(other)).sum(axis=1)
    print(f"{len(cosines)} passages: recall@10 {at_10(truth, other):.3f}, cosine at least {cosines.min():.4f}")
