"""One conversion: the kind of the original, the file that its library writes, and the distance of the outputs."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tailcut.converters.comparison import Comparison, Requests, compare
from tailcut.converters.hugging_face import load_folder
from tailcut.converters.original import Original
from tailcut.converters.placing import name_after, put_beside
from tailcut.converters.torch_program import load_program
from tailcut.converters.trees import load_lightgbm, load_pickle, load_xgboost
from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.files import FileKind, kind_of
from tailcut.engines.trust import trust as trust_file
from tailcut.errors import MissingModelFileError, ModelFileError, UnsupportedError, UsageError

_TRUST = "a pickle runs whatever code it holds when it is read: add --trust if you know who made this file"
_PICKLES = {".pkl", ".pickle", ".joblib"}


@dataclass(frozen=True, slots=True)
class Conversion:
    """A finished conversion, and the distance of the ONNX model's answers from the original's.

    Args:
        source, target: the files.
        what: the kind of the original, in words.
        comparison: of the answers.
    """

    source: Path
    target: Path
    what: str
    comparison: Comparison

    @property
    def distance(self) -> float:
        """The distance between the answers."""
        return self.comparison.distance

    @property
    def right(self) -> bool:
        """Whether the answers agree."""
        return self.comparison.right


def convert(source: Path, target: Path, *, trust: bool = False, requests: Requests | None = None) -> Conversion:
    """Convert a model of another format to ONNX; it is only written if its answers stay the same.

    Args:
        source: an exported PyTorch program, a pickle of scikit-learn, XGBoost or LightGBM (.pkl, .joblib), an
            XGBoost model (.json, .ubj), a LightGBM model (.txt), or the folder of a Hugging Face model.
        target: the ONNX file; an existing one is replaced. Weights that are too large for it are written beside it, to
        a
            file named after it.
        trust: whether the file may be read even if that runs code in it: a pickle, or a program that contains one.
        requests: makes the user's requests for the signature of the ONNX model; None: generated ones are compared.

    Raises:
        UsageError: the target's name does not end in .onnx, its folder does not exist, or another model there has its
            weights in the file for those of this one.
        ModelFileError: the source is missing, of another kind, or a pickle that is not trusted.
        UnsupportedError: a library is missing, or cannot convert the model.
    """
    if target.suffix != ".onnx":
        raise UsageError(f"{target}: the result is an ONNX file: name it MODEL.onnx")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder to write {target.name} to")
    if trust:
        trust_file(source)
    original = _loader(source, trust=trust)(source)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        written = name_after(target, original.write(Path(name)))
        conversion = _compared(source, target, original, written, requests)
        if conversion.right:
            put_beside(target, written)
    return conversion


def _loader(source: Path, *, trust: bool) -> Callable[[Path], Original]:
    if source.is_dir():
        if not (source / "config.json").is_file():
            raise ModelFileError(f"{source}: a folder without a config.json: name one that save_pretrained wrote")
        return load_folder
    head, suffix = _head(source), source.suffix.lower()
    if suffix in _PICKLES or (head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5):
        if not trust:
            raise ModelFileError(f"{source}: {_TRUST}")
        return load_pickle
    if head.startswith(b"tree\nversion="):
        return load_lightgbm
    by_suffix: dict[str, Callable[[Path], Original]] = {".json": load_xgboost, ".ubj": load_xgboost}
    loader = load_program if _is_program(source, head) else by_suffix.get(suffix)
    if loader is None:
        raise ModelFileError(
            f"{source}: cannot be converted: .pt2, .pkl, .joblib, XGBoost's .json and .ubj, LightGBM's text and "
            "Hugging Face folders can"
        )
    return loader


def _head(source: Path) -> bytes:
    try:
        with source.open("rb") as file:
            return file.read(16)
    except FileNotFoundError:
        raise MissingModelFileError(f"{source}: no such model file") from None
    except OSError as error:
        raise ModelFileError(f"{source}: cannot be read: {error.strerror}") from None


def _is_program(source: Path, head: bytes) -> bool:
    """Whether it is a PyTorch program, by its content or its name."""
    if source.suffix.lower() == ".pt2" or not head.startswith(b"PK\x03\x04"):
        return source.suffix.lower() == ".pt2"
    kind = kind_of(source)
    if kind is FileKind.SCRIPT:
        raise ModelFileError(f"{source}: {kind} cannot be converted: export the module with torch.export.save")
    return kind is FileKind.PROGRAM


def _compared(source: Path, target: Path, original: Original, written: Path, requests: Requests | None) -> Conversion:
    try:
        engine = open_engine(written, EngineOptions(), target.stem)
    except ModelFileError as error:
        reason = str(error).removeprefix(f"{written}: ")
        raise UnsupportedError(f"{source}: its ONNX model is not written: {reason}") from None
    try:
        comparison = compare(original, engine, written, requests)
    except UnsupportedError as error:
        raise UnsupportedError(f"{source}: {error}") from None
    finally:
        engine.close()
    return Conversion(source, target, original.what, comparison)
