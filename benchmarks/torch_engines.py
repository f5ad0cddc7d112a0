"""PyTorch on the CPU beside onnxruntime and openvino: the reference models and a transformer, one thread each.

    python benchmarks/torch_engines.py [--seconds 2] [--models tiny,encoder] [--compile]

The ONNX files are the reference models; for PyTorch the same architectures are exported here, with random weights:
speed does not depend on them. All engines of a model take turns in one process. Needs torch.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
except ImportError:
    print("torch_engines needs PyTorch: pip install 'tailcut[torch]'")
    sys.exit(0)  # nothing is wrong, and the other benchmarks go on
from reference_models import make
from torch import nn

from tailcut.engines import Engine, EngineOptions, open_engine
from tailcut.errors import TailcutError
from tailcut.runtime.opening.timing import time_calls

BATCH = torch.export.Dim("batch")
ARMS = {
    "onnxruntime f32": {"name": "onnxruntime"},
    "openvino f32": {"name": "openvino"},
    "openvino bf16": {"name": "openvino", "precision": "bf16"},
    "torch eager f32": {"name": "torch"},
    "torch eager bf16": {"name": "torch", "precision": "bf16"},
    "torch channels-last f32": {"name": "torch", "layout": "channels_last"},
    "torch channels-last bf16": {"name": "torch", "layout": "channels_last", "precision": "bf16"},
}
COMPILED = {
    "torch compiled f32": {"name": "torch", "compiler": "inductor"},
    "torch compiled ahead f32": {"name": "torch", "compiler": "aot_inductor"},
    "torch compiled bf16": {"name": "torch", "compiler": "inductor", "precision": "bf16"},
}


def perceptron(*sizes: int) -> nn.Module:
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(a, b, 3, stride, 1), nn.Conv2d(b, b, 3, 1, 1)
        self.short = nn.Identity() if stride == 1 and a == b else nn.Conv2d(a, b, 1, stride)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.short(x))


def resnet18() -> nn.Module:
    widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    blocks = [Block(*item) for item in [*widths, (512, 512, 1)]]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks, *head)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(4096, 384), nn.Parameter(torch.randn(512, 384) * 0.02)
        layer = nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    def forward(self, ids: Any, mask: Any) -> Any:
        hidden = self.layers(self.words(ids) + self.places[: ids.shape[1]], src_key_padding_mask=mask == 0)
        weight = mask[..., None].float()
        return (hidden * weight).sum(1) / weight.sum(1)


def images(rows: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((rows, 3, 224, 224)).astype(np.float32)}


def texts(rows: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 4096, (rows, 64))
    return {"ids": ids, "mask": np.ones_like(ids)}


def vectors(size: int) -> Callable[[int], dict[str, np.ndarray]]:
    return lambda rows: {"x": np.random.default_rng(0).standard_normal((rows, size)).astype(np.float32)}


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], dict[str, np.ndarray]]]] = {
    "tiny": (lambda: perceptron(256, 256, 64, 10), vectors(256)),
    "ranker": (lambda: perceptron(1024, 2048, 1024, 512, 1), vectors(1024)),
    "resnet18": (resnet18, images),
    "encoder": (Encoder, texts),
}


def exported(name: str, folder: Path) -> Path:
    make, inputs = MODELS[name]
    arrays = [torch.from_numpy(array) for array in inputs(2).values()]
    axes: dict[int, Any] = {0: BATCH}
    if name == "encoder":
        axes[1] = torch.export.Dim("sequence", max=512)
    module = make().eval()
    shapes = dict.fromkeys(inputs(1), axes) if name == "encoder" else (axes,)
    if name != "encoder":
        shapes = {"input": axes}
    program = torch.export.export(module, tuple(arrays), dynamic_shapes=shapes)
    torch.export.save(program, folder / f"{name}.pt2")
    return folder / f"{name}.pt2"


def call_of(engine: Engine, inputs: dict[str, np.ndarray]) -> Callable[[], object]:
    named = dict(zip(engine.spec.input_names, inputs.values(), strict=True))
    return lambda: engine.run(named)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile and AOTInductor as well, some minutes for each model"
    )
    asked = parser.parse_args()
    print("| model | engine | 1 row, ms | of onnxruntime | 8 rows, ms | of onnxruntime |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models.split(","):
            make(name, Path(folder))
        for name in asked.models.split(","):
            program = exported(name, Path(folder))
            engines: dict[str, Engine] = {}
            for label, settings in (ARMS | (COMPILED if asked.compile else {})).items():
                path = program if settings["name"] == "torch" else Path(folder) / f"{name}.onnx"
                if "channels-last" in label and name != "resnet18":
                    continue
                try:
                    engines[label] = open_engine(path, EngineOptions(threads=1, **settings))  # type: ignore[arg-type]
                except TailcutError as error:
                    print(f"| {name} | {label} | {error} | | | |")
            taken = []
            for rows in (1, 8):
                calls = [call_of(engine, MODELS[name][1](rows)) for engine in engines.values()]
                for call in calls:
                    call()
                taken.append([timing.undisturbed_ns / 1e6 for timing in time_calls(calls, asked.seconds)])
            for label, item, many in zip(engines, *taken, strict=True):
                ratios = [
                    f"{value:.3g} | x{value / base[0]:.2f}" for value, base in zip((item, many), taken, strict=True)
                ]
                print(f"| {name} | {label} | {' | '.join(ratios)} |", flush=True)
            for engine in engines.values():
                engine.close()


if __name__ == "__main__":
    main()
