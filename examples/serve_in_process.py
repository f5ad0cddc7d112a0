"""A model inside your own asyncio program: a hundred concurrent requests share a few engine calls.

python examples/serve_in_process.py
"""

import asyncio

import numpy as np

from tailcut import Model
from tailcut.models import digits_data, digits_model


async def main() -> None:
    with np.load(digits_data()) as data:
        images, labels = data["image"][:100], data["labels"][:100]
    with Model.open(digits_model()) as model:
        answers = await asyncio.gather(*(model.infer({"image": image[None]}) for image in images))
        right = sum(int(answer["scores"].argmax()) == label for answer, label in zip(answers, labels, strict=True))
        counts = model.statistics()
    together = counts["batches"] < counts["requests"]
    print(f"{counts['requests']} requests, {right} right, fewer engine calls: {together}")


if __name__ == "__main__":
    asyncio.run(main())
