"""Kinds of model files: whether `Model.open`, `tailcut serve` and `tailcut tune` answer as the original does.

    python benchmarks/model_files.py [--budget 15s] [--kinds onnx,pt2]

Each model is a small perceptron, written by the library made for its kind: ONNX by onnx, an exported program and
TorchScript by PyTorch, OpenVINO IR by openvino. The right answers are computed by numpy. A kind whose library is not
installed is left out, and said. `scripts/make_model_files.py` has those of other frameworks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]  # its kinds are left out

from tailcut import Client, Model
from tailcut.engines.telemetry import import_openvino
from tailcut.engines.trust import trust
from tailcut.errors import TailcutError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

WIDTHS = (16, 64, 4)
SCRIPT = ("input x FP32 [-1, 16]", "output y FP32 [-1, 4]")


def weights() -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    pairs = pairwise(WIDTHS)
    return [
        (random.standard_normal((a, b)).astype(np.float32) / a**0.5, random.standard_normal(b).astype(np.float32))
        for a, b in pairs
    ]


def truth(x: np.ndarray) -> np.ndarray:
    (a, b), (c, d) = weights()
    return np.maximum(x @ a + b, 0) @ c + d


def as_onnx(folder: Path) -> Path:
    (a, b), (c, d) = weights()
    tensors = [numpy_helper.from_array(array, name) for name, array in zip("abcd", (a, b, c, d), strict=True)]
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "c", "d"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", WIDTHS[0]), ("y", WIDTHS[-1]))
    )
    graph = helper.make_graph(nodes, "mlp", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "mlp.onnx")
    return folder / "mlp.onnx"


def module() -> object:
    if torch is None:
        raise ImportError("PyTorch is not installed")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Linear(*WIDTHS[:2]), torch.nn.Linear(*WIDTHS[1:])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(torch.relu(self.one(x)))

    net = Net().eval()
    for layer, (weight, bias) in zip((net.one, net.two), weights(), strict=True):
        layer.weight.data, layer.bias.data = torch.from_numpy(weight.T.copy()), torch.from_numpy(bias)
    return net


def as_program(folder: Path) -> Path:
    net = module()
    shapes = {"x": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(net, (torch.randn(2, WIDTHS[0]),), dynamic_shapes=shapes)
    torch.export.save(exported, folder / "mlp.pt2")
    return folder / "mlp.pt2"


def as_script(folder: Path) -> Path:
    net = module()
    torch.jit.trace(net, torch.randn(2, WIDTHS[0])).save(str(folder / "mlp.pt"))
    return folder / "mlp.pt"


def as_ir(folder: Path) -> Path:
    openvino = import_openvino()
    path = as_onnx(folder)
    openvino.save_model(openvino.convert_model(str(path)), str(folder / "mlp.xml"), compress_to_fp16=False)
    path.unlink()
    return folder / "mlp.xml"


KINDS: dict[str, Callable[[Path], Path]] = {"onnx": as_onnx, "pt2": as_program, "torchscript": as_script, "ir": as_ir}


def told(answer: np.ndarray, wanted: np.ndarray) -> str:
    worst = float(np.abs(answer - wanted).max() / np.abs(wanted).max())
    return "equal" if worst < 1e-5 else f"within {100 * worst:.2g} %"


def opened(path: Path, x: np.ndarray) -> str:
    with Model.open(path, batching="on", trust=True) as model:
        return told(next(iter(model.infer_sync({model.spec.input_names[0]: x}).values())), truth(x))


def served(source: Path, x: np.ndarray) -> str:
    command = [sys.executable, "-m", "tailcut", "serve", f"mlp={source}", "--port", "0", "--json", "--batching", "on"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            ready = process.stdout.readline()
            if not ready:
                return process.stderr.read().strip().splitlines()[-1]
            address = json.loads(ready)
            with Client(f"http://{address['host']}:{address['port']}") as client:
                name = client.metadata("mlp")["inputs"][0]["name"]
                return told(next(iter(client.infer("mlp", {name: x}).values())), truth(x))
        finally:
            process.terminate()


def tuned(path: Path, x: np.ndarray, budget: str) -> str:
    np.save(path.parent / "data.npy", np.repeat(x, 8, axis=0))
    command = [sys.executable, "-m", "tailcut", "tune", str(path), "--budget", budget, "--batching", "on"]
    done = subprocess.run(
        [*command, "--data", str(path.parent / "data.npy"), "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    profile = Path(json.loads(done.stdout)["profile"])
    settings = Profile.load(profile).settings
    return f"{served(profile, x)} ({settings.engine.name}, batches of {settings.batching.max_batch_size})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default="15s")
    parser.add_argument("--kinds", default=",".join(KINDS))
    asked = parser.parse_args()
    x = np.random.default_rng(1).standard_normal((4, WIDTHS[0])).astype(np.float32)
    print("| file | `Model.open` | `serve` | `tune`, then `serve` |\n|---|---|---|---|")
    for kind in asked.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = source = KINDS[kind](Path(folder))
            except ImportError as error:
                print(f"| {kind} | not tried: {error} | | |")
                continue
            trust(path)  # in the processes below as well
            if kind == "torchscript":  # which does not say its inputs; a tune sees them in its data
                settings = Settings(batching=BatchingSettings(rows="independent"))
                profile = Profile.of_model(path, settings)
                engine = {"name": "torch", "signature": SCRIPT}
                source = path.with_suffix(".profile.toml")
                write(profile, engine, source)
            try:
                row = [opened(source, x), served(source, x), tuned(path, x, asked.budget)]
            except TailcutError as error:
                row = [str(error)]
            print(f"| {kind} | {' | '.join(row)} |", flush=True)
    os.environ.pop("TAILCUT_TRUSTED_FILES", None)


def write(profile: Profile, engine: dict[str, object], path: Path) -> None:
    changed = msgspec.structs.replace(profile.settings.engine, **engine)
    settings = msgspec.structs.replace(profile.settings, engine=changed)
    msgspec.structs.replace(profile, settings=settings).save(path)


if __name__ == "__main__":
    main()
