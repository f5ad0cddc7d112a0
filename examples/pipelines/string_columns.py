"""A scikit-learn classifier with string columns, whole in one stage: colour and size in, a name and its share out.

tailcut serve string_columns.py:pipeline
"""

from functools import cache

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline as Steps
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tailcut import Model, Pipeline, stage

COLUMNS = [["red", "small"], ["red", "large"], ["green", "small"], ["yellow", "large"], ["yellow", "small"]]
NAMES = ["cherry", "apple", "lime", "melon", "lemon"]


@cache  # yours is read from a file
def classifier() -> Steps:
    """Trained on the spot."""
    steps = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(C=100.0))
    return steps.fit(np.array(COLUMNS * 4, object), NAMES * 4)


@stage(inputs={"colour": "BYTES", "size": "BYTES"}, outputs={"name": "BYTES", "share": "FP32"})
def classify(colour: np.ndarray, size: np.ndarray) -> dict[str, object]:
    """The most probable name for each row, and its probability."""
    rows = np.array([[a.decode(), b.decode()] for a, b in zip(colour, size, strict=True)], object)
    shares = classifier().predict_proba(rows)
    best = shares.argmax(axis=1)
    return {"name": list(classifier().classes_[best]), "share": shares.max(axis=1).astype(np.float32)}


pipeline = Pipeline("fruit", [classify])

if __name__ == "__main__":
    with Model.open(f"{__file__}:pipeline") as model:
        answer = model.infer_sync({"colour": ["green", "red"], "size": ["small", "large"]})
        print(", ".join(name.decode() for name in answer["name"]))
