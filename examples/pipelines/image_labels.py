"""JPEG or PNG files in, labels out: Pillow decodes and scales, the digit classifier scores, the best score is named.

python make_models.py
tailcut serve image_labels.py:pipeline
"""

import io

import numpy as np
from PIL import Image

from tailcut import InvalidInputError, Model, Pipeline, stage

FORMATS = ["JPEG", "PNG"]  # of the many that Pillow reads: each decoder is code that clients can attack
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for broken files
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def decode_one(data: bytes) -> np.ndarray:
    """The picture as 8 x 8 values from 0 to 16."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        deep = picture.mode.startswith("I")  # a PNG with 16 bits of grey, which "L" would cut off at 255
        small = picture.convert("F" if deep else "L").resize((8, 8), Image.Resampling.BOX)
    except BROKEN:
        raise InvalidInputError("an image cannot be decoded: send JPEG or PNG files") from None
    return np.asarray(small, np.float32)[None] / (65535 if deep else 255) * 16


@stage(inputs={"file": "BYTES"}, outputs={"image": "FP32[1, 8, 8]"}, workers=2)
def decode(file: np.ndarray) -> np.ndarray:
    """The files of a batch of requests, as the model takes them."""
    return np.stack([decode_one(data) for data in file])


@stage(inputs={"scores": "FP32[10]"}, outputs={"label": "BYTES", "score": "FP32"}, threads=True)
def name_best(scores: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The name of the highest score, and how much of the probability it has."""
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return [NAMES[index] for index in scores.argmax(axis=1)], shares.max(axis=1) / shares.sum(axis=1)


pipeline = Pipeline("digits", [decode, "digits.onnx", name_best])

if __name__ == "__main__":
    from tailcut.models import digits_data

    data = np.load(digits_data())
    files = []
    for image in data["image"][:20, 0]:
        buffer = io.BytesIO()
        pixels = Image.fromarray((image / 16 * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
        pixels.save(buffer, "JPEG", quality=95)
        files.append(buffer.getvalue())
    with Model.open(f"{__file__}:pipeline") as model:
        labels = model.infer_sync({"file": files})["label"]
    right = sum(label.decode() == NAMES[truth] for label, truth in zip(labels, data["labels"], strict=False))
    print(f"{right} of {len(files)} JPEG files have the right label")
