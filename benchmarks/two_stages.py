"""A two-stage pipeline inside the server beside a client that calls two models, at 70 % of what that client gets.

    python benchmarks/two_stages.py [--rounds 8] [--seconds 8]

A model repository has a preprocessing graph (96 x 96 pixels in uint8 to normalised floats), a small convolutional
classifier, and an ensemble of both. One process sends pixels as Poisson arrivals, the same in both arms: to the
ensemble, or to the first model and then its answer to the second. Latency counts from the planned time. The arms take
turns. What the hand-over costs is told by lone requests in turns to the ensemble and to each of its models: the median
of what the one takes more than the two, with its 99 % interval. The ratio of the p99 has one over pairs of rounds.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tailcut.client.aio import AsyncClient
from tailcut.stats.bootstrap import median_interval, ratio_interval
from tailcut.stats.sample import Interval, Sample

SIDE, CLASSES, WIDTH = 96, 10, 32
CLIENTS = 8  # in flight when the capacity is measured
LOAD = 0.7
LONE = 200  # requests, one after the other
FEWEST_P99 = 459
Ask = Callable[[], Awaitable[object]]
ENSEMBLE = f"""
platform: "ensemble"
max_batch_size: 16
input [ {{ name: "pixels" data_type: TYPE_UINT8 dims: [ 3, {SIDE}, {SIDE} ] }} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ {CLASSES} ] }} ]
ensemble_scheduling {{ step [
  {{ model_name: "prepare" model_version: -1
    input_map {{ key: "pixels" value: "pixels" }} output_map {{ key: "image" value: "image" }} }},
  {{ model_name: "classify" model_version: -1
    input_map {{ key: "image" value: "image" }} output_map {{ key: "scores" value: "scores" }} }}
] }}
"""


def save(path: Path, nodes: list[onnx.NodeProto], ends: tuple[list, list], weights: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, path.parent.parent.name, *ends, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def repository(folder: Path) -> Path:
    random = np.random.default_rng(0)
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 3, SIDE, SIDE])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])
    channel = (1, 3, 1, 1)
    save(
        folder / "prepare" / "1" / "model.onnx",
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
            helper.make_node("Sub", ["scaled", "mean"], ["image"]),
        ],
        ([pixels], [image]),
        {"scale": np.full(channel, 1 / 58, np.float32), "mean": np.full(channel, 2.1, np.float32)},
    )
    nodes, weights, x = [], {}, "image"
    for layer, (low, high) in enumerate(((3, WIDTH), (WIDTH, WIDTH), (WIDTH, 2 * WIDTH))):
        weights[f"w{layer}"] = (random.standard_normal((high, low, 3, 3)) / (3 * low**0.5)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [x, f"w{layer}"], [f"c{layer}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [x := f"r{layer}"]))
    weights["head"] = (random.standard_normal((2 * WIDTH, CLASSES)) / WIDTH).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["scores"]),
    ]
    save(folder / "classify" / "1" / "model.onnx", nodes, ([image], [scores]), weights)
    for name in ("prepare", "classify"):
        (folder / name / "config.pbtxt").write_text("max_batch_size: 16\ndynamic_batching { }\n")
    (folder / "both" / "1").mkdir(parents=True)
    (folder / "both" / "config.pbtxt").write_text(ENSEMBLE)
    return folder


def arms(client: AsyncClient) -> dict[str, Ask]:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 3, SIDE, SIDE), np.uint8)

    async def ensemble() -> object:
        return (await client.infer("both", {"pixels": pixels}))["scores"]

    async def two_calls() -> object:
        image = (await client.infer("prepare", {"pixels": pixels}))["image"]
        return (await client.infer("classify", {"image": image}))["scores"]

    async def prepare() -> object:
        return await client.infer("prepare", {"pixels": pixels})

    image = np.random.default_rng(2).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)

    async def classify() -> object:
        return await client.infer("classify", {"image": image})

    return {"ensemble": ensemble, "two calls": two_calls, "prepare": prepare, "classify": classify}


async def lone_ms(asks: dict[str, Ask]) -> dict[str, np.ndarray]:
    """Milliseconds of lone requests, each way once in a turn."""
    times: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(LONE):
        for name, ask in asks.items():
            began = time.perf_counter()
            await ask()
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: np.array(values) for name, values in times.items()}


def told(interval: Interval, form: str) -> str:
    return f"{interval.point:{form}} ({interval.low:{form}} to {interval.high:{form}})"


async def capacity(ask: Ask, seconds: float) -> float:
    """Requests per second of clients that each wait for their answer."""
    end, count = time.monotonic() + seconds, 0

    async def one() -> None:
        nonlocal count
        while time.monotonic() < end:
            await ask()
            count += 1

    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return count / seconds


async def paced(ask: Ask, rate: float, seconds: float, seed: int) -> list[float]:
    """Milliseconds from each planned time to the answer."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds))
    start, late = time.monotonic() + 0.05, []

    async def one(due: float) -> None:
        await ask()
        late.append(1e3 * (time.monotonic() - due))

    tasks = []
    for due in start + np.cumsum(gaps):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(one(float(due))))
    await asyncio.gather(*tasks)
    return late


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def measure(url: str, rounds: int, seconds: float) -> None:
    async with AsyncClient(url) as client:
        asks = arms(client)
        same = np.allclose(np.asarray(await asks["ensemble"]()), np.asarray(await asks["two calls"]()), atol=1e-4)
        print(f"answers of both ways are {'equal' if same else 'DIFFERENT'}")
        await lone_ms(asks)  # the first ones load code
        lone = await lone_ms(asks)
        print(f"p50 of {LONE} lone requests, ms: ", end="")
        print(", ".join(f"{name} {np.median(values):.2f}" for name, values in lone.items()))
        more = median_interval(lone["ensemble"] - lone["prepare"] - lone["classify"])
        saved = median_interval(lone["two calls"] - lone["ensemble"])
        print(f"the ensemble takes {told(more, '+.3f')} ms more than its two models one by one")
        print(f"two calls take {told(saved, '+.3f')} ms more than the ensemble")
        rate = LOAD * await capacity(asks["two calls"], seconds)
        result: dict[str, list[float]] = {"ensemble": [], "two calls": []}
        ratios, blocks = [], {name: [] for name in result}
        for number in range(rounds):
            part = {name: await paced(asks[name], rate, seconds, number) for name in result}
            ratios.append(quantile(part["ensemble"], 0.99) / quantile(part["two calls"], 0.99))
            for name, values in part.items():
                result[name] += values
                blocks[name].append(Sample.of(values))
    print(f"at {rate:.0f} requests/s, {LOAD:.0%} of what two calls get:")
    for name, values in result.items():
        p99 = f"{quantile(values, 0.99):.1f}" if len(values) >= FEWEST_P99 else "unknown"
        print(f"  {name:9}  p50 {quantile(values, 0.5):6.2f} ms   p99 {p99:>6} ms   of {len(values)}")
    if min(map(len, result.values())) >= FEWEST_P99:
        ratio = told(ratio_interval(blocks["ensemble"], blocks["two calls"], 0.99), ".2f")
        print(f"  p99 of the ensemble to that of two calls: x{ratio}, {rounds} rounds")
    print("  round by round: " + ", ".join(f"x{ratio:.2f}" for ratio in ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tailcut", "serve", "--model-repository", str(repository(Path(folder) / "m"))]
        with subprocess.Popen(
            [*command, "--port", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            try:
                address = json.loads(process.stdout.readline())
                url = f"http://{address['host']}:{address['port']}"
                asyncio.run(measure(url, asked.rounds, asked.seconds))
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
