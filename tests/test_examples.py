"""Each example runs as a user runs it, and prints what it says."""

import re
import runpy
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tailcut.errors import InvalidInputError

EXAMPLES = Path(__file__).parent.parent / "examples"
THREADS = "".join(rf"Thread {i} result: {0.6375 + 0.5 * i:.4f}\n".replace(".", r"\.") for i in range(8))
OUTPUT = {  # what each prints, whole, as a regular expression
    "buffer_pool.py": THREADS,
    "matmul.py": r"Result\[0\]\[0\] = 6\.0\ncannot multiply 4 x 4 by 3 x 5: 4 is not 3\n",
    "microbenchmark.py": r"built-in sum against a loop: x0\.\d{3} \(0\.\d{3} to 0\.\d{3}\): better\n",
    "pinning.py": r"\d+ CPUs on \d+ cores and \d+ nodes; \d+ usable\n(worker \d+ runs on .+\n)+",
    "serve_in_process.py": r"100 requests, (9[5-9]|100) right, fewer engine calls: True\n",
}


PIPELINES = {  # likewise, and the package that it needs
    "text_embedding.py": (r"'the cat sat on the mat' is nearer to 'a cat on a mat'\n", "tokenizers"),
    "image_labels.py": (r"20 of 20 JPEG files have the right label\n", "PIL"),
    "string_columns.py": (r"lime, apple\n", "sklearn"),  # make test-sklearn
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(name: str) -> None:
    """The example ends well, says nothing on stderr, and prints exactly what it promises."""
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    assert re.fullmatch(OUTPUT[name], done.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pipelines with their models."""
    pytest.importorskip("tokenizers", reason="tokenizers is not installed: the examples' models are made with it")
    folder = shutil.copytree(EXAMPLES / "pipelines", tmp_path_factory.mktemp("made") / "pipelines")
    _run(folder / "make_models.py", r"wrote tokenizer\.json, encoder\.onnx and digits\.onnx\n")
    return folder


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (EXAMPLES / "pipelines").glob("*.py") if path.name != "make_models.py")
)
def test_pipeline_example(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The example runs in a folder with the models that are made for it, and prints exactly what it promises."""
    output, package = PIPELINES[name]
    pytest.importorskip(package, reason=f"{package} is not installed: this example needs it")
    made = EXAMPLES / "pipelines" if package == "sklearn" else request.getfixturevalue("made")
    _run(shutil.copytree(made, tmp_path / "pipelines") / name, output)


@pytest.fixture(scope="module")
def decode() -> Callable[[bytes], np.ndarray]:
    """The example's function that decodes one file."""
    pytest.importorskip("PIL", reason="PIL is not installed: this example needs it")
    return runpy.run_path(str(EXAMPLES / "pipelines" / "image_labels.py"))["decode_one"]


def _png(header: bytes, pixels: bytes = b"") -> bytes:
    """A PNG file, of width, height, bits and kind of colour (PNG, 11.2.1), and its pixels."""
    chunks = [(b"IHDR", header + bytes(3)), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P5 2 2 255\n\0\0\0\0",
        _png(struct.pack(">IIBB", 20000, 20000, 8, 0)),
        _png(struct.pack(">IIBB", 8, 8, 8, 0)).replace(b"IDAT", b"ID\0T"),
    ],
    ids=["nothing", "another format", "400 million pixels", "a broken chunk"],
)
def test_a_file_that_is_no_image_is_refused(decode: Callable[[bytes], np.ndarray], data: bytes) -> None:
    """With the author's words, and as the client's fault."""
    with pytest.raises(InvalidInputError, match="send JPEG or PNG files"):
        decode(data)


@pytest.mark.parametrize(("bits", "value", "want"), [(8, 156, 9.79), (16, 40000, 9.77), (16, 200, 0.05)])
def test_grey_of_any_depth_is_scaled(decode: Callable[[bytes], np.ndarray], bits: int, value: int, want: float) -> None:
    """Nothing of 16 bits is cut off."""
    rows = (b"\0" + value.to_bytes(bits // 8, "big") * 16) * 16
    assert decode(_png(struct.pack(">IIBB", 16, 16, bits, 0), rows)) == pytest.approx(
        np.full((1, 8, 8), want), abs=0.01
    )


@pytest.mark.slow
def test_the_recall_of_embeddings(tmp_path: Path) -> None:
    """An encoder finds the same passages as itself; its corpus is Python's documentation."""
    pytest.importorskip("tokenizers", reason="tokenizers is not installed: this example needs it")
    for name in ("pipelines", "embeddings"):
        shutil.copytree(EXAMPLES / name, tmp_path, dirs_exist_ok=True)
    _run(tmp_path / "make_models.py", r"wrote tokenizer\.json, encoder\.onnx and digits\.onnx\n")
    files = ["tokenizer.json", "encoder.onnx"]
    _run(tmp_path / "passages.py", r"wrote passages\.npz: \d{3} passages of \d\d lengths\n", *files)
    models = ["encoder.onnx", "encoder.onnx", "passages.npz"]
    _run(tmp_path / "recall.py", r"\d{3} passages: recall@10 1\.000, cosine at least 1\.0000\n", *models)


def _run(file: Path, output: str, *arguments: str) -> None:
    command = [sys.executable, str(file), *arguments]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    assert re.fullmatch(output, done.stdout)
