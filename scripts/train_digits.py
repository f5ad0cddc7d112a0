"""Train the bundled model: a small convolutional network that reads handwritten digits of 8x8 pixels.

    pip install -e '.[train]' && python scripts/train_digits.py

The data come with scikit-learn (a copy of the UCI "Optical Recognition of Handwritten Digits" test set: 1797 images,
values 0 to 16). A fifth of them, drawn by label, is never trained on; it is stored beside the model. Forward and
backward passes are numpy, with one BLAS thread and fixed seeds, so that a second run on the same machine writes the
same bytes; on another processor BLAS may round otherwise, and the accuracy is what stays.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # more threads would sum in an order of their own

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

MODELS = Path(__file__).parent.parent / "src" / "tailcut" / "models"
CHANNELS = (1, 32, 64, 96)
CLASSES = 10
WHITE = 16.0  # the brightest pixel
EPOCHS, BATCH = 24, 64
PEAK_RATE, DECAY = 2e-3, 1e-4
LABEL_SMOOTHING = 0.05
FLOOR = 0.97

Weights = dict[str, np.ndarray]


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32)
    split = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    train_images, held_images, train_labels, held_labels = split
    weights = train(train_images / WHITE, train_labels)
    scores, _ = forward(weights, held_images / WHITE)
    accuracy = float((scores.argmax(1) == held_labels).mean())
    print(f"{len(held_labels)} held-out images, {accuracy:.2%} right")
    if accuracy < FLOOR:
        raise SystemExit(f"that is below {FLOOR:.0%}: nothing is written")
    onnx.save(to_onnx(weights), MODELS / "digits.onnx")
    np.savez_compressed(MODELS / "digits.npz", image=held_images, labels=held_labels.astype(np.int64))
    for name in ("digits.onnx", "digits.npz"):
        print(f"{MODELS / name}: {(MODELS / name).stat().st_size} bytes")


def train(images: np.ndarray, labels: np.ndarray) -> Weights:
    """Adam with a cosine schedule, on images shifted by up to one pixel; the result is the weights' running mean."""
    random = np.random.default_rng(0)
    weights = initial(random)
    mean = {name: array.copy() for name, array in weights.items()}
    first = {name: np.zeros_like(array) for name, array in weights.items()}
    second = {name: np.zeros_like(array) for name, array in weights.items()}
    steps = EPOCHS * -(-len(images) // BATCH)
    step = 0
    for epoch in range(EPOCHS):
        total = 0.0
        for batch, answers in batches(images, labels, random):
            step += 1
            loss, gradients = backward(weights, batch, answers)
            total += loss * len(batch)
            rate = PEAK_RATE * 0.5 * (1 + np.cos(np.pi * step / steps)) * min(1.0, step / 50)
            for name, slope in gradients.items():
                first[name] += 0.1 * (slope - first[name])
                second[name] += 0.001 * (slope * slope - second[name])
                move = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
                weights[name] -= np.float32(rate) * (move + np.float32(DECAY) * weights[name])
                mean[name] += np.float32(max(0.01, 1 / step)) * (weights[name] - mean[name])
        print(f"epoch {epoch + 1:2d}  loss {total / len(images):.4f}")
    return mean


def initial(random: np.random.Generator) -> Weights:
    """He initialisation: https://arxiv.org/abs/1502.01852, equation 10."""
    weights = {}
    for layer, (low, high) in enumerate(itertools.pairwise(CHANNELS), 1):
        weights[f"kernel{layer}"] = random.normal(0, (2 / (9 * low)) ** 0.5, (high, low, 3, 3)).astype(np.float32)
        weights[f"bias{layer}"] = np.zeros(high, np.float32)
    weights["dense"] = random.normal(0, CHANNELS[-1] ** -0.5, (CHANNELS[-1], CLASSES)).astype(np.float32)
    weights["bias"] = np.zeros(CLASSES, np.float32)
    return weights


def batches(
    images: np.ndarray, labels: np.ndarray, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    order = random.permutation(len(images))
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for start in range(0, len(order), BATCH):
        picked = order[start : start + BATCH]
        shifts = random.integers(0, 3, (len(picked), 2))
        moved = [padded[i, :, y : y + 8, x : x + 8] for i, (y, x) in zip(picked, shifts, strict=True)]
        yield np.stack(moved), labels[picked]


def forward(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scores [n, 10] of images [n, 1, 8, 8] in 0..1, and what each layer saw, for the way back."""
    seen = []
    for layer in (1, 2, 3):
        columns = patches(x)
        y = columns @ weights[f"kernel{layer}"].reshape(CHANNELS[layer], -1).T + weights[f"bias{layer}"]
        y = np.maximum(y, 0).transpose(0, 2, 1).reshape(len(x), CHANNELS[layer], *x.shape[2:])
        seen += [columns, y]
        x = halved(y).max(-1) if layer == 2 else y
    features = x.mean((2, 3))
    seen.append(features)
    return features @ weights["dense"] + weights["bias"], seen


def backward(weights: Weights, images: np.ndarray, labels: np.ndarray) -> tuple[float, Weights]:
    """The mean cross-entropy against smoothed labels, and its gradient by every weight."""
    scores, seen = forward(weights, images)
    shifted = np.exp(scores - scores.max(1, keepdims=True))
    guess = shifted / shifted.sum(1, keepdims=True)
    wanted = np.full_like(guess, LABEL_SMOOTHING / CLASSES)
    wanted[np.arange(len(labels)), labels] += 1 - LABEL_SMOOTHING
    loss = float(-(wanted * np.log(guess + 1e-12)).sum(1).mean())
    slope = (guess - wanted) / np.float32(len(images))
    features = seen.pop()
    gradients = {"dense": features.T @ slope, "bias": slope.sum(0)}
    y = seen[-1]
    back = np.broadcast_to(
        (slope @ weights["dense"].T)[:, :, None, None] / np.float32(y.shape[2] * y.shape[3]), y.shape
    )
    for layer in (3, 2, 1):
        y, columns = seen.pop(), seen.pop()
        if layer == 2:
            back = unpooled(y, back)
        slope = np.where(y > 0, back, 0).reshape(*y.shape[:2], -1).transpose(0, 2, 1)
        gradients[f"kernel{layer}"] = np.tensordot(slope, columns, ((0, 1), (0, 1))).reshape(
            weights[f"kernel{layer}"].shape
        )
        gradients[f"bias{layer}"] = slope.sum((0, 1))
        if layer > 1:
            back = unpatched(
                slope @ weights[f"kernel{layer}"].reshape(CHANNELS[layer], -1), CHANNELS[layer - 1], y.shape[2]
            )
    return loss, gradients


def patches(x: np.ndarray) -> np.ndarray:
    """[n, c, h, w] to [n, h * w, c * 9]: what a 3x3 kernel with a border of zeros sees at each place."""
    n, c, h, w = x.shape
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, h * w, c * 9)


def unpatched(columns: np.ndarray, channels: int, side: int) -> np.ndarray:
    """The transpose of `patches`: every place gets back the sum of what it lent."""
    parts = columns.reshape(len(columns), side, side, channels, 3, 3).transpose(4, 5, 0, 3, 1, 2)
    padded = np.zeros((len(columns), channels, side + 2, side + 2), columns.dtype)
    for i in range(3):
        for j in range(3):
            padded[:, :, i : i + side, j : j + side] += parts[i, j]
    return padded[:, :, 1:-1, 1:-1]


def halved(y: np.ndarray) -> np.ndarray:
    """[n, c, h, w] to [n, c, h / 2, w / 2, 4]: the fields of a 2x2 pooling."""
    n, c, h, w = y.shape
    return y.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)


def unpooled(y: np.ndarray, back: np.ndarray) -> np.ndarray:
    """The gradient before a 2x2 maximum: each field's goes to its first largest value."""
    n, c, h, w = y.shape
    fields = halved(y)
    spread = np.where(np.arange(4) == fields.argmax(-1)[..., None], back[..., None], np.float32(0))
    return spread.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(y.shape)


def to_onnx(weights: Weights) -> onnx.ModelProto:
    """Make the file: image float32 [batch, 1, 8, 8], values 0 to 16 -> scores float32 [batch, 10]."""
    stored = dict(weights)
    stored["kernel1"] = weights["kernel1"] / np.float32(
        WHITE
    )  # the scale of the pixels costs nothing inside the weights
    convolution = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes, x = [], "image"
    for layer in (1, 2, 3):
        nodes.append(helper.make_node("Conv", [x, f"kernel{layer}", f"bias{layer}"], [f"conv{layer}"], **convolution))
        nodes.append(helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"]))
        x = f"relu{layer}"
        if layer == 2:
            nodes.append(helper.make_node("MaxPool", [x], ["pool"], kernel_shape=[2, 2], strides=[2, 2]))
            x = "pool"
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["features"]),
        helper.make_node("Gemm", ["features", "dense", "bias"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "digits", [image], [scores], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="tailcut")
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main()
