"""The text embedding of the examples, with all steps in one process."""

import os
import sys

folder = os.environ["PEER_FOLDER"]
sys.path.append(folder)

from text_embedding import normalise, tokenize  # noqa: E402  it is in that folder

from tailcut import Pipeline  # noqa: E402

pipeline = Pipeline("embed", [tokenize, f"{folder}/encoder.onnx", normalise], processes=1)
