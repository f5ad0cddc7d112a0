"""Model files on disk: the kind of a model, what a file is that is not a model, and which files hold the weights.

Content (the first bytes of a file, the names in an archive) takes precedence over the name of the file. Nothing is
unpickled or unpacked, and no graph is parsed here.
"""

import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tailcut.engines.installed import is_installed
from tailcut.errors import MissingModelFileError, ModelFileError


@dataclass(frozen=True, slots=True)
class Traits:
    """The size of a model's weights, and an operator whose running time depends on values of a request ("": none)."""

    weight_bytes: int
    endless: str = ""


class FileKind(StrEnum):
    """The kinds of model files that are loaded; the value names one in a message."""

    ONNX = "an ONNX model"
    IR = "an OpenVINO IR"
    SAVED_MODEL = "a TensorFlow SavedModel (a directory)"
    GRAPH = "a TensorFlow graph"
    LITE = "a TensorFlow Lite model"
    PADDLE = "a Paddle model"
    PROGRAM = "a PyTorch program (torch.export)"
    SCRIPT = "a TorchScript model"


# The engines that compute each kind; the first is the default, and its answers are the reference.
ENGINES_OF: dict[FileKind, tuple[str, ...]] = {
    **dict.fromkeys(FileKind, ("openvino",)),
    FileKind.ONNX: ("onnxruntime", "openvino"),
    FileKind.PROGRAM: ("torch",),
    FileKind.SCRIPT: ("torch",),
}
_ENDINGS = {".onnx", ".xml", ".pb", ".graphdef", ".tflite", ".pdmodel", ".savedmodel", ".pt2", ".pt"}
_HEAD_BYTES = 512
_SAMPLE_BYTES = 4096
_BY_NAME = {".pb": FileKind.GRAPH, ".graphdef": FileKind.GRAPH, ".pdmodel": FileKind.PADDLE}
_SAVED_MODEL = "saved_model.pb"
_PROGRAM = "models/model.json"
_GRAPH_FOLDERS = ("", "onnx")  # where Hugging Face repositories keep their ONNX files
_LISTED = 3  # files named in a message at most
_TORCH = "export it with torch.export.save (.pt2) or torch.onnx.export"
_KERAS = "convert it with tf2onnx or model.export(format='onnx')"
_PICKLE = "convert the model with skl2onnx, onnxmltools or torch.onnx.export; pickles are never loaded"
_ARCHIVE = "unpack it and name the ONNX file in it"
_HEADS: tuple[tuple[int, bytes, str, str], ...] = (  # offset, bytes, what it is, what to do
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with git lfs pull"),
    (0, b"GGUF", "a GGUF language model", "export the original model to ONNX"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them", _KERAS),
    (4, b"ORTM", "a model in onnxruntime's own format (.ort)", "name the ONNX file that it was made from"),
    (0, b"ftrt", "a TensorRT engine", "name the ONNX file that it was built from"),
    (0, b"ptrt", "a TensorRT engine", "name the ONNX file that it was built from"),
    (0, b"CBM1", "a CatBoost model", "save it with save_model(path, format='onnx')"),
    (0, b"\x93NUMPY", "a numpy array", "name the model, and pass the array with --data"),
    (0, b"\x1f\x8b", "a gzip archive", _ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _ARCHIVE),
    (0, b"\xfd7zXZ\x00", "an xz archive", _ARCHIVE),
    (0, b"BZh", "a bzip2 archive", _ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _ARCHIVE),
    (257, b"ustar", "a tar archive", _ARCHIVE),
    (0, b"tree\nversion=", "a LightGBM model", "convert it with onnxmltools.convert_lightgbm"),
)
_DATA = re.compile(r"(.+?)(?:\.onnx)?[._]data(?:[._-]?\d+)*\Z")  # model.onnx.data, model.onnx_data, model.onnx_data_1
_SUFFIXES: dict[str, tuple[str, str]] = {  # for formats without characteristic first bytes
    ".pt": ("a PyTorch file", _TORCH),
    ".pth": ("a PyTorch file", _TORCH),
    ".ckpt": ("a checkpoint", _TORCH),
    ".pkl": ("a Python pickle", _PICKLE),
    ".pickle": ("a Python pickle", _PICKLE),
    ".joblib": ("a joblib pickle", _PICKLE),
    ".h5": ("a Keras model", _KERAS),
    ".keras": ("a Keras model", _KERAS),
    ".pb": ("a TensorFlow graph of another kind or cut short", "name a frozen graph, or a SavedModel's directory"),
    ".tflite": ("a TensorFlow Lite file of another kind or cut short", "name a .tflite file with a TFL3 head"),
    ".pdiparams": ("the weights of a Paddle model", "name the .pdmodel file beside it"),
    ".pdmodel": ("a Paddle file of another kind or cut short", "name a .pdmodel file that save_inference_model wrote"),
    ".mlmodel": ("a Core ML model", "export the original model to ONNX"),
    ".engine": ("a TensorRT engine", "name the ONNX file that it was built from"),
    ".plan": ("a TensorRT engine", "name the ONNX file that it was built from"),
    ".trt": ("a TensorRT engine", "name the ONNX file that it was built from"),
    ".safetensors": (
        "a file of weights without a graph (safetensors)",
        "export the model with optimum-cli export onnx",
    ),
    ".gguf": ("a GGUF language model", "export the original model to ONNX"),
    ".ubj": ("an XGBoost model", "convert it with onnxmltools.convert_xgboost"),
    ".json": ("a JSON file", "name the ONNX file"),
    ".npz": ("a file of numpy arrays", "name the model, and pass the arrays with --data"),
    ".csv": ("a table", "name the ONNX file"),
    ".toml": ("a TOML file", "name the ONNX file"),
}


def model_name(path: Path) -> str:
    """The default name of a model: its file's name up to the first dot, as valid text."""
    name = path.name.split(".")[0] or path.name.removesuffix(".onnx").strip(".") or "model"
    return os.fsencode(name).decode(errors="replace")  # file names need not be UTF-8, JSON has to be


def file_stem(path: Path) -> str:
    """The stem of the names of files that belong to a model: its own name without the suffix of a model file."""
    return path.stem if path.suffix in _ENDINGS else path.name


def profile_beside(path: Path) -> Path:
    """Where `tailcut tune` writes a model's profile, and where a model repository looks for it."""
    return path.with_name(f"{file_stem(path)}.profile.toml")


def kind_of(path: Path) -> FileKind:
    """The kind of a model file, by its content; ONNX where nothing indicates another kind: its parser finds out.

    Raises:
        ModelFileError: missing, unreadable, empty, not a regular file, or of an unsupported kind; says what to do.
    """
    try:
        mode = path.stat().st_mode
        head = _head(path) if stat.S_ISREG(mode) else b""
    except FileNotFoundError:
        raise MissingModelFileError(f"{path}: no such model file") from None
    except ValueError as error:  # a NUL in the path
        raise ModelFileError(f"{str(path)!r}: cannot be read: {error}") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        if (path / _SAVED_MODEL).is_file():
            return FileKind.SAVED_MODEL
        raise ModelFileError(f"{path}: {_of_folder(path)}")
    if not stat.S_ISREG(mode):
        raise ModelFileError(f"{path}: not a regular file, so not a model: name the model file")
    if not head:
        raise ModelFileError(f"{path}: the model file is empty")
    kind = _kind_by_content(path, head)
    other = _by_content(path, head) if kind is FileKind.ONNX else None
    if other is not None:
        raise ModelFileError(f"{path}: {_sentence(*other)}")
    return kind


def check_onnx(path: Path) -> None:
    """Refuse a file that cannot be an ONNX model.

    Raises:
        ModelFileError: as `kind_of`, and for a model of another kind: names the engine that computes it.
    """
    kind = kind_of(path)
    if kind is not FileKind.ONNX:
        advice = f"it needs the engine {' or '.join(ENGINES_OF[kind])}"
        raise ModelFileError(f"{path}: {_sentence(kind, advice)}")


def default_engine(path: Path) -> str:
    """The engine for a model without a profile, whose float32 answers are the reference: the first that is installed.

    If none is installed, the first of all, which says what to install when it is opened.

    Raises:
        ModelFileError: as `kind_of`.
    """
    engines = ENGINES_OF[kind_of(path)]
    return next(filter(is_installed, engines), engines[0])


def parts_of(path: Path, kind: FileKind) -> tuple[Path, list[Path]]:
    """The file with a model's graph, and those with its weights, sorted; not those of ONNX, which its graph names."""
    if kind is FileKind.SAVED_MODEL:
        return path / _SAVED_MODEL, sorted(file for file in (path / "variables").rglob("*") if file.is_file())
    beside = {FileKind.IR: ".bin", FileKind.PADDLE: ".pdiparams"}.get(kind)
    weights = [] if beside is None else [path.with_suffix(beside)]
    return path, [file for file in weights if file.is_file()]


def _kind_by_content(path: Path, head: bytes) -> FileKind:
    if head[4:8] == b"TFL3":
        return FileKind.LITE
    if head.startswith(b"PK\x03\x04"):
        names = _listed(path)
        if any(name.endswith(_PROGRAM) for name in names):
            return FileKind.PROGRAM
        if {"data.pkl", "constants.pkl"} <= {name.rpartition("/")[2] for name in names}:
            return FileKind.SCRIPT
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"<?xml", b"<net ")) and b"<net" in text:
        return FileKind.IR
    if head[:1] == b"\x0a":  # protobuf field 1 is a message; in ONNX it is a number
        return {".pb": FileKind.GRAPH, ".graphdef": FileKind.GRAPH, ".pdmodel": FileKind.PADDLE}.get(
            path.suffix, FileKind.ONNX
        )
    return FileKind.ONNX


def not_onnx(path: Path) -> ModelFileError:
    """The error for a file that no parser accepts; its name may tell what it is."""
    suffix = path.suffix.lower()
    data = _DATA.match(path.name)
    if data:
        graph = path.with_name(f"{data[1]}.onnx")
        what = "a file of weights without a graph"
        advice = f"name {graph if graph.is_file() else 'the .onnx file beside it'}"
    elif suffix == ".bin":
        ir = path.with_suffix(".xml").exists()
        what = "the weights of an OpenVINO IR" if ir else "a file of weights without a graph"
        advice = f"name {path.with_suffix('.xml')}" if ir else "export the model to ONNX"
    elif suffix in _SUFFIXES:
        what, advice = _SUFFIXES[suffix]
    else:
        return ModelFileError(f"{path}: not an ONNX model, or cut short")
    return ModelFileError(f"{path}: {_sentence(what, advice)}")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _sentence(what: str, advice: str) -> str:
    return f"{what}, not an ONNX model: {advice}"


def _by_content(path: Path, head: bytes) -> tuple[str, str] | None:
    for offset, magic, what, advice in _HEADS:
        if head[offset : offset + len(magic)] == magic:
            return what, advice
    if head.startswith(b"PK\x03\x04"):
        names = _listed(path)
        return _of_zip(path, names) if names else ("an archive that is cut short or damaged", "copy the file again")
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5:  # pickle protocols 2 to 5
        torch = head[2:12] == b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8" or path.suffix.lower() in {".pt", ".pth"}
        return ("a PyTorch file", _TORCH) if torch else ("a Python pickle", _PICKLE)
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8:
        return _SUFFIXES[".safetensors"]
    return _of_text(head.lstrip(b"\xef\xbb\xbf \t\r\n").lower())


def _of_text(text: bytes) -> tuple[str, str] | None:
    if text.startswith(b"{") and b'"pir"' in text:
        return (
            "a Paddle model in the format .json, which openvino does not read",
            "save it with FLAGS_enable_pir_api=0, which writes a .pdmodel file, or convert it with paddle2onnx",
        )
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page", "the download went wrong: fetch the file again"
    return ("an XML file", "name the model file") if text.startswith(b"<?xml") else None


def _of_zip(path: Path, names: Iterable[str]) -> tuple[str, str]:
    """What an archive is, judging by the names that it lists, and what to do."""
    ends = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in ends:
        return "a PyTorch file", _TORCH
    if "model.weights.h5" in ends or {"metadata.json", "config.json"} <= ends:
        return "a Keras model", _KERAS
    if all(name.endswith(".npy") for name in names):
        return _SUFFIXES[".npz"]
    if path.suffix.lower() == ".pt2":
        return "a PyTorch archive without a program, or of PyTorch 2.8 or older", "save it with torch.export.save"
    if path.suffix.lower() in {".pt", ".pth"}:
        return "a PyTorch file", _TORCH
    return "a zip archive", _ARCHIVE


def _listed(path: Path) -> list[str]:
    """The names that an archive lists; none where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return []


def _versions(path: Path) -> list[str]:
    """The folders whose names are numbers, in numerical order."""
    return sorted((folder.name for folder in path.iterdir() if folder.name.isdecimal()), key=int)


def _of_folder(path: Path) -> str:
    """What a directory holds, and which file to name instead."""
    what = "a directory"
    graphs = [path / folder / "model.onnx" for folder in _GRAPH_FOLDERS]
    graphs = [graph for graph in graphs if graph.is_file()]
    if not graphs:
        places = [path / folder for folder in _GRAPH_FOLDERS] + [path / "1"]  # 1: a version in Triton's layout
        graphs = sorted(file for folder in places for file in folder.glob("*.onnx") if file.is_file())
    if graphs:
        more = f" (or {len(graphs) - 1} more)" if len(graphs) > _LISTED else ""
        return f"{what}, not an ONNX model: name {' or '.join(map(str, graphs[:_LISTED]))}{more}"
    advice = "name a model file"
    if (path / "Manifest.json").is_file() and (path / "Data").is_dir():
        what, advice = "a Core ML package (a directory)", "export the original model to ONNX"
    elif (path / "config.json").is_file():
        what, advice = (
            "a Hugging Face model without an ONNX file (a directory)",
            "make one with optimum-cli export onnx",
        )
    elif saved := [path / version for version in _versions(path) if (path / version / _SAVED_MODEL).is_file()]:
        what, advice = "a directory with versions of a TensorFlow SavedModel", f"name {saved[-1]}"
    elif any(path.glob("*.xml")) and any(path.glob("*.bin")):
        what, advice = "a directory with an OpenVINO IR", f"name {min(path.glob('*.xml'))}"
    return _sentence(what, advice)


# Weights beside the graph.


def external_file(path: Path, name: str) -> Path:
    """The path of a model's external weights file, which lies in the model's folder or below it.

    Links are followed into that folder, into the folder of the file that the model itself is a link to, and into the
    `blobs` of a Hugging Face cache (`snapshots/REVISION/model.onnx`), which is how that cache stores every file.

    Raises:
        ModelFileError: it is missing, or lies elsewhere.
    """
    inside = os.path.normpath(name)  # lexically: links are resolved below
    if not name or "\0" in name or Path(name).is_absolute() or Path(inside).parts[:1] == (os.pardir,):
        raise ModelFileError(f"{path}: its external weights file {name!r} lies outside the model's folder")
    homes = [path.parent.resolve(), path.resolve().parent]
    files = [folder / inside for folder in (path.parent, homes[1])]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise MissingModelFileError(f"{path}: its external weights file {name!r} is missing")
    target = file.resolve()
    if target.parent != _store(path) and not any(target.is_relative_to(home) for home in homes):
        raise ModelFileError(
            f"{path}: its external weights file {name!r} is a link to a file outside the model's folder: put the file "
            "itself there"
        )
    return file


def is_beside(path: Path, name: str, *, follow_model: bool) -> bool:
    """Whether a weights file lies in the model's own folder or below it, with no link that leads out of it.

    With `follow_model`, a link may lead into the folder of the file that the model is a link to.
    """
    file = path.parent / name
    homes = [path.parent.resolve(), *([path.resolve().parent] if follow_model else [])]
    return file.is_file() and any(file.resolve().is_relative_to(home) for home in homes)


def _store(path: Path) -> Path | None:
    """The blobs of a Hugging Face cache, where the model lies below one of its snapshots."""
    folders = Path(os.path.abspath(path)).parents  # noqa: PTH100  resolve() would leave the snapshot by its link
    blobs = next((folder.parent / "blobs" for folder in folders if folder.name == "snapshots"), None)
    return None if blobs is None or blobs.is_symlink() else blobs.resolve()


def check_size(path: Path, file: Path, location: dict[str, str]) -> None:
    """Check that a weights file is long enough for a tensor's offset and length.

    Raises:
        ModelFileError: it is cut short.
    """
    offset, length, size = location.get("offset", "0"), location.get("length", "0"), file.stat().st_size
    if not (offset.isdigit() and length.isdigit() and int(offset) + int(length) <= size):
        name = location.get("location", "")
        raise ModelFileError(f"{path}: its external weights file {name!r} is cut short: it has {size} bytes")


def sampled_hash(pieces: Iterable[tuple[Path, int, int]]) -> str:
    """SHA-256 over the first and last 4 KiB of each piece (file, offset, length) and the lengths.

    Different weights differ in these bytes with near certainty, so gigabytes are compared in milliseconds.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path, offset, length in pieces:
        digest.update(f"{length}:".encode())
        with path.open("rb") as file:
            for start in sorted({offset, max(offset, offset + length - _SAMPLE_BYTES)}):
                file.seek(start)
                digest.update(file.read(min(_SAMPLE_BYTES, offset + length - start)))
    return digest.hexdigest()
