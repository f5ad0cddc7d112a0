"""Static int8 beside float32, bf16 and dynamic int8, in process, for models that other people made and for our own.

    python benchmarks/static_int8.py [--models minilm,resnet18] [--requests 40] [--rounds 20] [--threads 1] [-o FILE]

A request a call. Configurations take turns, so that a stall of the machine hits all alike; the time is the lower
quartile, and beside it stands its ratio to onnxruntime in float32. `worst` is the lowest cosine of an answer with that
of float32, `error` the largest error beside what `tailcut tune` allows at 0.999: over 1 is wrong. Half of the requests
give the ranges, the others judge. What stayed in float stands in the last column; where no copy is right, the row is
that of everything in int8, in brackets.

Images are made up: blurred noise of several sizes, brightness and contrast. They vary less than photographs, and an
error is judged beside the spread of the answers, so models of images look worse here than on their own data. Random
token ids are no sentences either. Weights of resnet18, encoder and ranker are random, as everywhere in `benchmarks/`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from model_zoo import SOURCES, Feeds, fetch
from reference_models import LAYERS, make

from tailcut.engines import Engine, EngineOptions, open_engine
from tailcut.engines.base import Form
from tailcut.errors import TailcutError
from tailcut.tuner.accuracy import Accuracy, compare
from tailcut.tuner.calibrate import CalibrationError, Calibrator, Material

ENGINES: tuple[Form, ...] = ("onnxruntime", "openvino")
MODELS = "resnet18,encoder,ranker,mtcnn_onet,mtcnn_rnet,wake_embedding,nudenet,ocr6_cls,ocr6_rec,minilm"
BOUND = 0.999
SIZES = (2, 4, 8, 16, 32)  # of the blurred noise, cells a side
SECONDS = 120.0  # to calibrate one model in
Row = tuple[str, str, Callable[[Feeds], object], str, str]  # engine, precision, call, accuracy, in float


def scene(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Three channels from 0 to 1, float32 [3, height, width]."""
    total = np.zeros((3, height, width))
    for size in SIZES:
        cells = random.standard_normal((3, min(size, height), min(size, width))) / size**0.6
        down, across = (
            np.linspace(0, limit - 1, length).round().astype(int)
            for limit, length in zip(cells.shape[1:], (height, width), strict=True)
        )
        total += cells[:, down][:, :, across]
    total = (total - total.min()) / np.ptp(total)
    return np.clip(random.uniform(0.2, 0.6) + (total - 0.5) * random.uniform(0.3, 1.0), 0, 1).astype(np.float32)


def as_scene(random: np.random.Generator, request: Feeds, low: float) -> Feeds:
    """The request with an image in place of noise; others as they are."""
    (name, array), *rest = request.items()
    if rest or array.ndim != 4 or 3 not in {array.shape[1], array.shape[3]}:
        return request
    last = array.shape[3] == 3
    image = scene(random, *(array.shape[1:3] if last else array.shape[2:4])) * (1 - low) + low
    return {name: np.array((np.moveaxis(image, 0, 2) if last else image)[None], order="C")}


def model_of(name: str, folder: Path) -> Path:
    return fetch(name) if name in SOURCES else make(name, folder)


def requests_of(name: str, count: int) -> list[Feeds]:
    random = np.random.default_rng(7)
    if name in SOURCES:
        low = 0.0 if name == "nudenet" else -1.0
        return [as_scene(random, SOURCES[name].make(random, number), low) for number in range(count)]
    if name == "encoder":
        ids = [random.integers(1, 4096, (1, (16, 32, 64)[number % 3])) for number in range(count)]
        return [{"ids": item, "mask": np.ones_like(item)} for item in ids]
    if name in LAYERS:
        return [{"x": random.standard_normal((1, LAYERS[name][0]), np.float32)} for _ in range(count)]
    return [{"x": 4 * scene(random, 224, 224)[None] - 2} for _ in range(count)]


def told(accuracy: Accuracy) -> str:
    excess = accuracy.rows[0].excess if accuracy.rows else 0.0
    return f"{accuracy.worst or 0:.5f} | {excess:.2f}"


class Comparison:
    """The configurations of one model."""

    def __init__(self, name: str, arguments: argparse.Namespace, folder: Path) -> None:
        self.path = model_of(name, folder)
        self.folder, self.threads, self.rounds = folder, arguments.threads, arguments.rounds
        requests = requests_of(name, arguments.requests)
        self.ranged, self.held_out = requests[::2], requests[1::2]
        self.rows: list[Row] = []
        engine = open_engine(self.path, EngineOptions(threads=self.threads))
        self.truth = [engine.run(request) for request in self.held_out]
        engine.close()

    def judge(self, answers: Sequence[object]) -> Accuracy:
        return compare(self.truth[: len(answers)], answers, BOUND)  # type: ignore[arg-type]

    def measure(self) -> None:
        for engine in ENGINES:
            for precision in ("f32", "bf16", "int8"):
                if (engine, precision) != ("onnxruntime", "bf16"):
                    self.add(self.path, engine, precision)
        material = Material(self.path, self.ranged, self.held_out, self.judge, lambda _: None)
        try:
            with Calibrator(material, self.folder, SECONDS) as calibrator:
                started = calibrator.start()
                for engine in ENGINES:
                    right = True
                    try:
                        copy = calibrator.copy_for(engine, started, SECONDS)
                    except CalibrationError:
                        copy, right = calibrator.attempt(engine, "minmax", 0, started), False
                    form = f"{len(copy.in_float)} of {copy.operators}, {copy.method}"
                    self.add(copy.path, engine, "int8_static", form if right else f"({form})")
        except CalibrationError as error:
            print(f"static int8: {error}")

    def add(self, path: Path, name: Form, precision: str, in_float: str = "") -> None:
        try:
            engine: Engine = open_engine(
                path,
                EngineOptions(name=name, precision=precision, threads=self.threads),  # type: ignore[arg-type]
            )
            accuracy = told(self.judge([engine.run(request) for request in self.held_out]))
        except TailcutError as error:
            print(f"{name} {precision}: {error}")
            return
        self.rows.append((name, precision, engine.run, accuracy, in_float))

    def lines(self) -> list[str]:
        times: list[list[float]] = [[] for _ in self.rows]
        for _ in range(self.rounds):
            for row, own in zip(self.rows, times, strict=True):
                began = time.perf_counter()
                row[2](self.held_out[0])
                own.append(time.perf_counter() - began)
        quick = [float(np.quantile(own, 0.25)) * 1e3 for own in times]
        return [
            f"| {self.path.stem} | {engine} | {precision} | {item:.3g} | {item / quick[0]:.2f} | {words} | {in_float} |"
            for (engine, precision, _, words, in_float), item in zip(self.rows, quick, strict=True)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    columns = ("model", "engine", "precision", "ms", "to f32", "worst", "error", "in float")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    print("\n".join(lines))
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            comparison = Comparison(name, arguments, Path(folder))
            comparison.measure()
            lines += comparison.lines()
            print("\n".join(lines[-len(comparison.rows) :]), flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
